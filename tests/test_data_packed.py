"""Packed images are those of the folder: order, labels, names and pixels; damage is told."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from iecl_jax import config as config_lib
from iecl_jax.config import schema
from iecl_jax.data import TrainBatches, eval_batches, images, open_split, packing
from iecl_jax.tools import prepare

pytestmark = pytest.mark.quick

SHORTER, QUALITY = 40, 80
ANY = np.random.default_rng(5)


def save(path, size, mode="RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = ANY.integers(0, 256, (size[1] // 5, size[0] // 5, 3), np.uint8)
    Image.fromarray(coarse).resize(size).convert(mode).save(path, **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with images of many kinds, each of which is packed in files of four."""
    monkeypatch.setattr(packing, "SHARD", 4)
    top = tmp_path / "photos"
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("train", "val"):
        save(top / part / "b" / "1 wide.jpg", (121, 80))
        save(top / part / "b" / "2 tall.png", (60, 130))
        save(top / part / "a" / "3 small.jpg", (200, 40), quality=30)
        save(top / part / "a" / "4 grey.jpg", (90, 90), "L", progressive=True)
        save(top / part / "a" / "5 ink.jpg", (90, 95), "CMYK")
        save(top / part / "c" / "6 turned.jpg", (100, 80), exif=exif)
        save(top / part / "c" / "7 glass.png", (80, 90), "RGBA")
        Image.fromarray(ANY.integers(0, 65536, (70, 60), np.uint16)).save(
            top / part / "c/8 deep.png"
        )
    return top


def data_of(name: str, directory):
    config = config_lib.choose(schema.new(), {"data.name": name})
    config.data.update({"dir": str(directory), "image_size": 32, "cache": "none"})
    return config


def pack(folder, out) -> None:
    prepare.pack(str(folder), out, test_share=0.0, shorter=SHORTER, quality=QUALITY)


def encoded_again(path) -> bytes:
    """What a file becomes, by Pillow alone."""
    image = Image.open(path)
    scale = SHORTER / min(image.size)
    assert scale < 1
    size = [int(side * SHORTER / min(image.size)) for side in image.size]
    buffer = io.BytesIO()
    exif = image.info.get("exif", b"")
    small = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    small.save(buffer, "JPEG", quality=QUALITY, exif=exif)
    return buffer.getvalue()


def test_a_pack_holds_what_the_folder_holds(folder, tmp_path, capsys):
    out = tmp_path / "pack"
    pack(folder, out)
    assert "16 images" in capsys.readouterr().out
    assert json.loads((out / "index.json").read_text())["quality"] == QUALITY
    assert len(list(out.glob("*.array_record"))) == 4
    for name in ("pretrain", "train", "test"):
        files = open_split(data_of("image_folder", folder).data, name)
        split = open_split(data_of("packed", out).data, name)
        assert (split.class_names, split.is_train) == (files.class_names, files.is_train)
        np.testing.assert_array_equal(split.labels, files.labels)
        places = ANY.permutation(len(files))
        for record, original in zip(split.read(places), files.read(places), strict=True):
            path = original.image
            assert record.label == original.label
            assert record.name == str(path.relative_to(folder))
            untouched = path.name[0] in "378"
            assert record.image == (path.read_bytes() if untouched else encoded_again(path))
        for image in (split.load(place) for place in range(len(split))):
            assert min(image.shape[:2]) in (SHORTER, 60, 80)
    turned = data_of("packed", out).data
    turned.exif_rotation = True
    assert open_split(turned, "train").load(5).shape == (50, SHORTER, 3)


def test_views_of_a_pack_are_read_in_threads_and_processes(folder, tmp_path):
    pack(folder, tmp_path / "pack")
    seen = []
    for workers in (0, 1):
        config = data_of("packed", tmp_path / "pack")
        config.data.num_workers = workers
        config.train.batch_size = 4
        with TrainBatches(config, open_split(config.data, "train")) as batches:
            seen.append([np.asarray(next(batches)["image"][0]) for _ in range(2)])
        [batch] = eval_batches(config.data, open_split(config.data, "test"), 8)
        seen[-1].append(batch["image"])
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_pack_that_was_stopped_goes_on(folder, tmp_path, monkeypatch):
    out, whole = tmp_path / "pack", tmp_path / "whole"
    made, smaller = [], packing.smaller

    def stops(path, how):
        made.append(path)
        if len(made) > 6:
            raise KeyboardInterrupt
        return smaller(path, how)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "smaller", stops)
        with pytest.raises(KeyboardInterrupt):
            pack(folder, out)
    with pytest.raises(ValueError, match="unfinished pack: the command that began it goes on"):
        open_split(data_of("packed", out).data, "train")
    first = (out / "train-00000.array_record").stat().st_mtime_ns
    pack(folder, out)
    pack(folder, whole)
    assert (out / "train-00000.array_record").stat().st_mtime_ns == first
    assert sorted(os.listdir(out)) == sorted(os.listdir(whole))
    assert (out / "SHA256SUMS").read_bytes() == (whole / "SHA256SUMS").read_bytes()


def test_broken_files_are_replaced_as_in_the_folder(folder, tmp_path):
    path = folder / "train" / "a" / "4 grey.jpg"
    path.write_bytes(path.read_bytes()[:900])
    pack(folder, tmp_path / "pack")
    split = open_split(data_of("packed", tmp_path / "pack").data, "train")
    files = open_split(data_of("image_folder", folder).data, "train")
    assert len(split) == len(files) == 8
    names = [record.name for record in split.read(range(8))]
    assert names[1] == names[2] == "train/a/5 ink.jpg"


def test_wrong_packs_are_refused(folder, tmp_path):
    out = tmp_path / "pack"
    with pytest.raises(ValueError, match=r"holds no packed images: write them with .*--pack"):
        open_split(data_of("packed", tmp_path).data, "train")
    with pytest.raises(ValueError, match=r"needs data\.dir"):
        open_split(data_of("packed", "").data, "train")
    with pytest.raises(ValueError, match=r"--quality=101 must be from 1 to 100"):
        prepare.pack(str(folder), out, test_share=0.0, shorter=SHORTER, quality=101)
    with pytest.raises(ValueError, match=r"lies in --dir"):
        pack(folder, folder / "train" / "pack")
    with pytest.raises(ValueError, match=r"has photos in it: name a new folder"):
        pack(folder, tmp_path)
    pack(folder, out)
    with pytest.raises(ValueError, match="other images, or with other flags"):
        prepare.pack(str(folder), out, test_share=0.0, shorter=SHORTER, quality=81)
    pack(folder / "train", tmp_path / "alone")
    with pytest.raises(ValueError, match="without test images: pack one that has them"):
        open_split(data_of("packed", tmp_path / "alone").data, "test")
    shard = out / "train-00001.array_record"
    content = bytearray(shard.read_bytes())
    content[70_000:70_100] = bytes(100)
    for place in range(100, 3000):
        content[place] ^= 255
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-00001\.array_record is damaged.*remove .*--pack"):
        open_split(data_of("packed", out).data, "train").read(range(8))
    with pytest.raises(ValueError, match=r"train-00001\.array_record does not have its sum"):
        pack(folder, out)
    shard.unlink()
    with pytest.raises(ValueError, match=r"there is no such file"):
        open_split(data_of("packed", out).data, "train")
    (out / "train-00000.tsv").write_text("0\tx\n")
    with pytest.raises(ValueError, match=r"train-00000\.tsv does not have its sum"):
        open_split(data_of("packed", out).data, "train")


def test_images_of_one_small_size_may_be_kept_in_memory(tmp_path):
    for number in range(4):
        save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", (32, 24))
    pack(tmp_path / "photos", tmp_path / "pack")
    split = open_split(data_of("packed", tmp_path / "pack").data, "train")
    assert split.image_shape == (24, 32)
    files = open_split(data_of("image_folder", tmp_path / "photos").data, "train")
    np.testing.assert_array_equal(split.pixels[0], files.pixels[0])
    assert images.decode(split.read([2])[0].image).shape == (24, 32, 3)
