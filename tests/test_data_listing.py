"""Folders as users have them: hidden and system folders, links, pipes, strays, names, damage."""

import logging
import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image
from test_data_folder import folder, write

from iecl_jax.data import eval_batches, files, open_split

pytestmark = pytest.mark.quick


@pytest.fixture
def photos(tmp_path, caplog):
    """Two classes of three images to train on, and of two to test."""
    caplog.set_level(logging.INFO, "absl")
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            for number in range(count):
                write(tmp_path / split / name / f"{number}.png", number)
    return tmp_path


def names(split) -> list[str]:
    return ["/".join(record.image.parts[-2:]) for record in split.read(range(len(split)))]


SIX = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]


def test_the_folder_in_which_one_is_has_no_other_classes(photos, caplog, monkeypatch):
    monkeypatch.chdir(photos / "train")
    split = open_split(folder("."), "train")
    assert names(split) == SIX
    assert split.class_names == ("cat", "dog")
    assert "no classes" not in caplog.text


def test_what_is_hidden_or_the_systems_is_no_class_and_no_image(photos, caplog):
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN"):
        write(photos / "train" / name / "1.png")
        write(photos / "train" / "cat" / name / "1.png")
        write(photos / name / "1.png")
    write(photos / "train" / "cat" / "._0.png")
    for name in ("Thumbs.db", "notes.TXT", "more.txt"):
        (photos / "train" / "dog" / name).write_text("")
    split = open_split(folder(photos), "train")
    assert (split.class_names, names(split)) == (("cat", "dog"), SIX)
    assert "files of other kinds: 2 .txt, 1 .db." in caplog.text
    assert "hidden or the system's" in caplog.text


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_named_and_never_opened(photos, caplog, kind, monkeypatch):
    path = photos / "train" / "cat" / "9.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("9.png")
    else:
        path.symlink_to("/dev/zero")
    assert names(open_split(folder(photos), "train")) == SIX
    assert f"no file (pipe, socket or device): {path}" in caplog.text


def test_a_folder_is_read_once_whatever_links_lead_to_it(photos, caplog):
    train = photos / "train"
    (train / "cat" / "back").symlink_to("..")
    (train / "cat" / "self").symlink_to(".")
    (train / "cat" / "up").symlink_to(photos)  # holds val, too
    (train / "again").symlink_to("dog")
    (train / "cat" / "a").symlink_to("b")
    (train / "cat" / "b").symlink_to("a")
    with pytest.raises(ValueError, match=r"The link .*/cat/a leads nowhere"):
        open_split(folder(photos), "train")
    (train / "cat" / "a").unlink()
    (train / "cat" / "b").unlink()
    assert names(open_split(folder(photos), "train")) == SIX
    for name in ("back", "self", "up", "again"):
        assert f"/{name}" in caplog.text


def test_links_to_classes_and_images_outside_are_followed(photos, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(photos / "train" / "dog", elsewhere / "x")
    (photos / "train" / "dog").symlink_to(elsewhere / "x")
    (photos / "train" / "cat" / "3.png").symlink_to("0.png")  # an image of its own
    split = open_split(folder(photos), "train")
    assert names(split) == [*SIX[:3], "cat/3.png", *SIX[3:]]
    np.testing.assert_array_equal(split.labels, [0] * 4 + [1] * 3)


@pytest.mark.parametrize("module, name", [(os, "scandir"), (files, "is_run")])
def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(photos, monkeypatch, module, name):
    """With neither the right to list it nor that to enter it; the tests may run as root."""
    function, locked = getattr(module, name), photos / "train" / "dog"

    def refuse(path):
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return function(path)

    monkeypatch.setattr(module, name, refuse)
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"train/dog cannot be read \(Permission denied\)"):
            open_split(folder(photos), split)


def test_a_class_that_leads_nowhere_is_an_error_and_an_image_is_a_broken_file(photos):
    (photos / "train" / "cat" / "7.png").symlink_to("gone.png")
    split = open_split(folder(photos), "train")
    assert split.broken.names == [str(photos / "train" / "cat" / "7.png")]
    (photos / "train" / "bird").symlink_to("/gone/bird")
    with pytest.raises(ValueError, match="bird leads nowhere"):
        open_split(folder(photos), "train")


def test_a_few_broken_files_are_skipped_in_a_small_folder(photos):
    cut = photos / "val" / "cat" / "0.png"
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    (photos / "val" / "dog" / "0.png").write_bytes(b"")
    data = folder(photos)
    split = open_split(data, "test")
    [batch] = eval_batches(data, split, 4)
    np.testing.assert_array_equal(batch["label"], [0, 0, 1, 1])
    assert len(split.broken.names) == 2
    for path in (photos / "val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"4 of the 4 images in .*val are broken, more than 3"):
        open_split(data, "test")
    shutil.rmtree(photos / "val" / "dog")
    with pytest.raises(ValueError, match=r"2 of the 2 images in .*val are broken, all of them"):
        open_split(data, "test")


def test_splits_are_found_in_any_case(photos):
    (photos / "train").rename(photos / "Train")
    (photos / "val").rename(photos / "VALIDATION")
    assert names(open_split(folder(photos), "pretrain")) == SIX
    assert len(open_split(folder(photos), "test")) == 4
    write(photos / "test" / "cat" / "1.png")  # VALIDATION goes before it
    assert len(open_split(folder(photos), "test")) == 4
    write(photos / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match=r"/Train, .*/train differ only in case"):
        open_split(folder(photos), "train")
    for name in ("train", "Train"):
        shutil.rmtree(photos / name)
    write(photos / "pictures" / "cat" / "1.png")
    with pytest.raises(ValueError, match="has VALIDATION, pictures, test, but no folder train"):
        open_split(folder(photos), "train")


def test_names_that_leave_it_open_what_is_meant_are_errors(photos):
    write(photos / "bus" / "1.png")
    assert names(open_split(folder(photos), "train")) == SIX  # val says what train is
    (photos / "val").rename(photos / "car")
    with pytest.raises(ValueError, match=r"train and beside it .* images: bus\. Put all of them"):
        open_split(folder(photos), "train")
    shutil.rmtree(photos / "bus")
    shutil.rmtree(photos / "car")
    (photos / "train").rename(photos / "train2017")
    write(photos / "test_images" / "1.png")
    with pytest.raises(ValueError, match="has test_images, train2017, but no folder train"):
        open_split(folder(photos), "train")
    write(photos / "bus" / "1.png")
    assert open_split(folder(photos), "train").num_classes == 3


def test_stray_images_do_not_drop_the_labels(photos, caplog):
    write(photos / "train" / "stray.png")
    write(photos / "val" / "stray.png")
    assert names(open_split(folder(photos), "train")) == SIX
    stray = photos / "train" / "stray.png"
    assert f"beside the folders of the classes (images: 1): {stray}." in caplog.text
    assert len(open_split(folder(photos), "test")) == 4
    for number in range(8):
        write(photos / "train" / f"{number}.png")
    split = open_split(folder(photos), "train")
    assert (len(split), split.num_classes) == (15, 0)
    assert "all are taken as unlabelled" in caplog.text
    assert (open_split(folder(photos), "test").labels == -1).all()


def test_classes_that_differ_between_the_splits_are_named(photos, caplog):
    (photos / "train" / "bird").mkdir()
    write(photos / "train" / "Cat" / "1.png")
    split = open_split(folder(photos), "train")
    assert split.class_names == ("Cat", "cat", "dog")
    assert "folders without an image, which are no classes: bird" in caplog.text
    assert "differ only in case or accents: Cat, cat" in caplog.text
    assert open_split(folder(photos), "test").labels.tolist() == [1, 1, 2, 2]
    assert "no image of the classes Cat" in caplog.text
    (photos / "val" / "dog").rename(photos / "val" / "DOG")
    with pytest.raises(ValueError, match=r"class 'DOG', which .* does not have \(it has 'dog'\)"):
        open_split(folder(photos), "test")


def test_odd_names_are_names(photos, caplog):
    odd = [os.fsdecode(b"\xff\xfe"), "two words", "new\nline", "é"]
    for name in odd:
        write(photos / "train" / name / f"{name}.png")
    (photos / "train" / odd[0] / "a.png").write_bytes(b"")
    (photos / "train" / odd[2] / f"{odd[2]}.txt").write_bytes(b"")
    deep = photos / "train" / "cat"
    for _ in range(150):
        deep /= "deeper"
    write(deep / "0.png")
    split = open_split(folder(photos), "train")
    assert split.class_names == ("cat", "dog", "new\\nline", "two words", "é", "\\udcff\\udcfe")
    assert np.bincount(split.labels).tolist() == [4, 3, 1, 1, 1, 2]  # the place of the broken one
    assert split.load(0).shape == (30, 40, 3)
    for record in caplog.records:
        assert record.getMessage().isprintable()
    (photos / "val" / "e\N{COMBINING ACUTE ACCENT}").mkdir()
    shutil.copy(photos / "val" / "cat" / "0.png", photos / "val" / "e\N{COMBINING ACUTE ACCENT}")
    with pytest.raises(ValueError, match=r"does not have \(it has 'é'\)"):
        open_split(folder(photos), "test")
