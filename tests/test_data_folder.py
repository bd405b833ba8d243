"""Folders of images: formats, colour modes, layouts, broken files."""

import logging
import shutil

import ml_collections
import numpy as np
import pytest
from PIL import Image

from iecl_jax.configs import imagenet_r50
from iecl_jax.data import TrainBatches, eval_batches, open_split

pytestmark = pytest.mark.quick


def folder(path, **changes) -> ml_collections.ConfigDict:
    data = imagenet_r50.get_config().data
    data.update({"name": "image_folder", "dir": str(path), "num_threads": 2, "image_size": 16})
    data.test_share = 0.0
    data.update(changes)
    return data


def write(path, value=0, size=(40, 30), mode="RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 100, 50)).convert(mode, palette=Image.Palette.ADAPTIVE).save(
        path, **options
    )


def test_a_share_of_each_class_is_held_out(tmp_path):
    """The names decide, so an image that is added moves no other, and the splits are disjoint."""

    def names(split):
        return {record.image.relative_to(tmp_path) for record in split.read(range(len(split)))}

    for number in range(10):
        write(tmp_path / "a" / f"{number}.png", number)
        if number < 5:
            write(tmp_path / "b" / f"{number}.png", number)
    found = {}
    for name in ("pretrain", "train", "test"):
        split = open_split(folder(tmp_path, test_share=0.2), name)
        found[name] = names(split)
        assert np.bincount(split.labels).tolist() == ([2, 1] if name == "test" else [8, 4])
    assert found["pretrain"] == found["train"]
    assert not found["train"] & found["test"]
    write(tmp_path / "a" / "10.png", 10)
    assert len(names(open_split(folder(tmp_path, test_share=0.2), "test")) & found["test"]) >= 2
    with pytest.raises(ValueError, match=r"data.test_share=0.01 leaves no image .* split test"):
        open_split(folder(tmp_path, test_share=0.01), "test")
    for part in ("train", "val"):
        write(tmp_path / part / "a" / "1.png")
    for part in ("a", "b"):
        shutil.rmtree(tmp_path / part)
    with pytest.raises(ValueError, match=r"without test images, and .* has val: take it out"):
        open_split(folder(tmp_path, test_share=0.2), "train")


def test_formats_and_colour_modes(tmp_path):
    write(tmp_path / "a" / "1.png", 10)
    write(tmp_path / "a" / "2.JPG", 20, quality=95)
    write(tmp_path / "a" / "3.jpeg", 30, mode="CMYK", quality=95)
    write(tmp_path / "b" / "4.webp", 40, lossless=True)
    write(tmp_path / "b" / "5.PNG", 50, mode="L")
    write(tmp_path / "b" / "6.png", 60, mode="P")
    write(tmp_path / "b" / "7.png", 70, mode="RGBA")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    write(tmp_path / "b" / ".hidden.png", 90)
    for number, suffix in enumerate((".avif", ".bmp", ".gif", ".jp2", ".tif", ".tiff")):
        write(tmp_path / "c" / f"{number}{suffix}", 50)
    split = open_split(folder(tmp_path), "train")
    assert (len(split), split.num_classes, split.class_names) == (13, 3, ("a", "b", "c"))
    assert split.image_shape == (30, 40)
    np.testing.assert_array_equal(split.labels, [0] * 3 + [1] * 4 + [2] * 6)
    for index, value in enumerate((10, 20, 30, 40, None, 60, 70, *[50] * 6)):
        image = split.load(index)
        assert image.shape == (30, 40, 3)
        assert image.dtype == np.uint8
        colour = (value, 100, 50) if value else (image[0, 0, 0],) * 3
        assert np.abs(image.astype(int) - np.array(colour)).max() <= 3
    assert split.encoded(3) == (tmp_path / "b" / "4.webp").read_bytes()


def test_layouts(tmp_path):
    flat, nested, both = tmp_path / "flat", tmp_path / "nested", tmp_path / "both"
    for number in range(3):
        write(flat / f"{number}.png", number)
        write(nested / f"class{number}" / "x" / "y.png", number, (20 + number, 20))
    for number in range(4):
        write(both / "train" / f"class{number}" / "a.png", number)
        write(both / "val" / f"class{3 - number % 2}" / f"{number}.png", number)
    split = open_split(folder(flat), "pretrain")
    assert split.num_classes == 0
    np.testing.assert_array_equal(split.labels, [-1, -1, -1])
    split = open_split(folder(nested), "train")
    assert split.image_shape is None
    np.testing.assert_array_equal(split.labels, [0, 1, 2])
    with pytest.raises(ValueError, match="has no test images"):
        open_split(folder(nested), "test")
    assert len(open_split(folder(both), "train")) == 4
    test = open_split(folder(both), "test")
    assert test.class_names == ("class0", "class1", "class2", "class3")
    np.testing.assert_array_equal(test.labels, [2, 2, 3, 3])

    write(both / "val" / "stranger" / "1.png")
    with pytest.raises(ValueError, match="class 'stranger'"):
        open_split(folder(both), "test")
    shutil.rmtree(both / "val")
    shutil.copytree(both / "train" / "class0", both / "test" / "class0")
    assert len(open_split(folder(both), "test")) == 1


def test_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match="not a folder"):
        open_split(folder(tmp_path / "nowhere"), "train")
    (tmp_path / "phone.HEIC").touch()
    with pytest.raises(ValueError, match=r"holds no image .* files of other kinds: 1 \.heic\."):
        open_split(folder(tmp_path), "train")
    with pytest.raises(ValueError, match=r"needs data\.dir"):
        open_split(folder(""), "train")


@pytest.fixture
def damaged(tmp_path):
    """300 images in three classes; one is no image, one is cut off after its header."""
    for number in range(300):
        write(tmp_path / f"c{number // 100}" / f"{number:03}.png", number % 256, (12, 12))
    (tmp_path / "c0" / "099.png").write_bytes(b"this is no image")
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    cut = tmp_path / "c2" / "299.png"
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:150])
    return tmp_path


@pytest.mark.parametrize("cache", ["none", "host"])
def test_broken_files_give_their_place_to_the_next(damaged, cache, caplog):
    caplog.set_level(logging.WARNING, "absl")
    data = folder(damaged, cache=cache)
    split = open_split(data, "train")
    assert split.broken is not None
    assert split.broken.names == [str(damaged / "c0" / "099.png")]
    assert (len(split), split.labels[99]) == (300, 1)
    np.testing.assert_array_equal(split.load(99), split.load(100))
    np.testing.assert_array_equal(split.load(299), split.load(0))
    assert split.broken.names[1:] == [str(damaged / "c2" / "299.png")]
    labels = np.concatenate([batch["label"] for batch in eval_batches(data, split, 100)])
    assert (labels[99], labels[298], labels[299]) == (1, 2, 0)
    assert sum("is broken and is skipped" in record.message for record in caplog.records) == 2


def test_training_labels_follow_the_replacement(damaged):
    config = imagenet_r50.get_config("100,smoke")
    config.data = folder(damaged)
    config.train.batch_size = 300
    batches = []
    for cache in ("none", "host"):
        config.data.cache = cache
        with TrainBatches(config, open_split(config.data, "train")) as train:
            batches.append(next(train))
    for name in ("image", "label"):
        np.testing.assert_array_equal(batches[0][name], batches[1][name])
    np.testing.assert_array_equal(np.bincount(batches[0]["label"].ravel()), [100, 101, 99])


def test_more_than_one_percent_broken_is_an_error(damaged):
    for number in (5, 6, 7):
        (damaged / "c0" / f"{number:03}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"4 of the 300 images .* more than 1 %.*\.png"):
        open_split(folder(damaged), "train")


def test_too_many_cut_files_are_an_error_while_decoding(damaged):
    cut = (damaged / "c2" / "299.png").read_bytes()
    for number in (100, 101, 102):
        (damaged / "c1" / f"{number}.png").write_bytes(cut)
    data = folder(damaged)
    split = open_split(data, "train")
    with pytest.raises(ValueError, match="of the 300 images"):
        list(eval_batches(data, split, 100))
