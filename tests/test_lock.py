"""One workdir, one process at work: the second is refused, a dead one is no hindrance."""

import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from iecl_jax.data import files
from iecl_jax.run import lock

pytestmark = pytest.mark.quick

HOLD = """
import sys, time
from iecl_jax.run import lock
with lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout.readline() == "held\n"
        sentence = rf"{folder} is in use by process {first.pid} on {socket.gethostname()} since "
        with pytest.raises(ValueError, match=sentence), lock.held(folder):
            pass
        assert files.is_run(folder)
        first.send_signal(signal.SIGKILL)
    assert (folder / files.LOCK).exists()
    with lock.held(folder):
        (folder / "result").write_text("")
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_what_leaves_nothing_leaves_no_folder(tmp_path):
    (tmp_path / "kept").mkdir()
    with pytest.raises(RuntimeError), lock.held(tmp_path / "kept" / "new" / "run"):
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.held(tmp_path):
        assert not [*tmp_path.iterdir()]
    assert "has no file locks" in caplog.text


def test_a_folder_that_cannot_be_written_names_itself(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), lock.held(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize(
    "names, expected",
    [
        (["config.json"], False),
        (["config.json", "provenance.json"], True),
        (["config.json", "checkpoints"], True),
        ([files.LOCK], True),
        (["checkpoints"], False),
    ],
)
def test_the_folder_of_a_run_is_known(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).write_text("")
    assert files.is_run(tmp_path) == expected
