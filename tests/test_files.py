"""Files that are written whole or not at all."""

import os

import pytest

from iecl_jax.data.files import open_whole
from iecl_jax.run.workdir import write_atomically

pytestmark = pytest.mark.quick


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for before, content in ((None, b"first"), (b"first", b"second")):
        with open_whole(path) as file:
            file.write(content)
            file.flush()
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write_half():
        with open_whole(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


def test_a_failed_rename_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "file", "text")
    assert not [*tmp_path.iterdir()]


def test_two_writers_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    with open_whole(path) as first, open_whole(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # the outer block ends last
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("text", ["a\nb", "a\nb\n"])
def test_a_text_ends_its_last_line_once(tmp_path, text):
    write_atomically(tmp_path / "file", text)
    assert (tmp_path / "file").read_bytes() == b"a\nb\n"


def test_what_utf8_cannot_say_is_escaped(tmp_path):
    write_atomically(tmp_path / "file", "ü \udcff")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "ü \\udcff\n"
