"""Odd images in folders: more than 8 bits, transparent, turned, huge; and a single class."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_data_folder import folder, write

from iecl_jax.data import images, open_split

pytestmark = pytest.mark.quick

BANDS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour type by the number of bands


def deep_png(values: np.ndarray, size: tuple[int, int] | None = None) -> bytes:
    """Encodes uint16 [H, W, C] as a PNG, which Pillow cannot do for colours.

    With `size`, (width, height), the header says that the image has that size.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width, bands = values.shape
    width, height = size or (width, height)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, BANDS[bands], 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_values_of_fewer_bits_fill_the_range(bands, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (6, 5, bands)).astype(np.uint16)
    how = images.AS_IT_IS._replace(bit_depth=bits, alpha="drop")
    expected = np.broadcast_to((values >> (bits - 8))[..., :3], (6, 5, 3))
    np.testing.assert_array_equal(images.decode(deep_png(values), how), expected)
    assert images.largest_value(deep_png(values)) == values.max()
    brighter = images.decode(deep_png(np.full((2, 2, bands), 65535, np.uint16)), how)
    assert brighter.min() == 255  # clipped


def test_deep_tiff():
    for kind, values in {"uint16": [0, 255, 4095], "int32": [-5, 255, 4095]}.items():
        file = io.BytesIO()
        Image.fromarray(np.array([values], kind)).save(file, "TIFF")
        how = images.AS_IT_IS._replace(bit_depth=12)
        assert images.decode(file.getvalue(), how)[0, :, 0].tolist() == [0, 15, 255]
    file = io.BytesIO()
    Image.fromarray(np.ones((2, 2), np.float32)).save(file, "TIFF")
    with pytest.raises(ValueError, match="floating-point"):
        images.decode(file.getvalue())


def test_a_low_maximum_of_deep_images_is_a_warning(tmp_path, caplog):
    for number in range(40):
        values = np.full((4, 4, 1), 100 * number, np.uint16)
        (tmp_path / f"{number:02}.png").write_bytes(deep_png(values))

    def told(bits):
        caplog.clear()
        with caplog.at_level(logging.INFO, "absl"):
            open_split(folder(tmp_path, bit_depth=bits), "train")
        [record] = [r for r in caplog.records if "more than 8 bits" in r.getMessage()]
        return record.levelno, record.getMessage()

    for bits in (16, 10):
        level, text = told(bits)
        assert level == logging.WARNING
        assert "40 images" in text
        assert "value in 14 of them is 3900" in text
        assert text.endswith("data.bit_depth=12 would fit it.")
    assert told(12)[0] == logging.INFO


def test_transparent_images_lie_on_white_or_lose_their_alpha(tmp_path, caplog):
    caplog.set_level(logging.INFO, "absl")
    bands = np.random.default_rng(0).integers(0, 256, (4, 4, 4), np.uint8)
    Image.fromarray(bands).save(tmp_path / "a.png")
    Image.fromarray(bands[..., :2]).save(tmp_path / "b.png")
    write(tmp_path / "c.png", size=(4, 4))
    dropped = open_split(folder(tmp_path, alpha="drop"), "train")
    assert "2 of 3 images are transparent and are used without their alpha" in caplog.text
    np.testing.assert_array_equal(dropped.load(0), bands[..., :3])
    np.testing.assert_array_equal(dropped.load(1), np.repeat(bands[..., :1], 3, axis=2))
    white = open_split(folder(tmp_path), "train")
    assert "laid over white (data.alpha=white)" in caplog.text
    opaque = bands[..., 3:] / 255
    over = opaque * bands[..., :3] + (1 - opaque) * 255
    np.testing.assert_allclose(white.load(0), over, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_photographs_are_turned_upright_if_asked(tmp_path, caplog, orientation, form):
    """The crops too: their boxes lie in the image as it stands upright."""
    caplog.set_level(logging.INFO, "absl")
    exif = Image.Exif()
    exif[0x0112] = orientation
    coarse = np.random.default_rng(1).integers(0, 256, (3, 4, 3), np.uint8)
    pixels = Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)
    pixels.save(tmp_path / f"a.{form}", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / f"a.{form}")).convert("RGB")
    as_it_is = open_split(folder(tmp_path), "train")
    assert as_it_is.load(0).shape == (120, 160, 3)
    turned = open_split(folder(tmp_path, exif_rotation=True), "train")
    np.testing.assert_array_equal(turned.load(0), np.asarray(upright))
    assert ("1 of 1 images lie turned" in caplog.text) == (orientation > 1)
    seen = []

    def boxes_of(*size):
        seen.append(size)
        return [(20, 10, 90, 100), (3, 5, 64, 64)]

    for how, whole in (
        (turned.reading, upright),
        (as_it_is.reading, Image.open(tmp_path / f"a.{form}")),
    ):
        source = tmp_path / f"a.{form}"
        views = images.crop_views(source, boxes_of, [16, 16], ["bilinear"] * 2, how)
        assert seen[-1] == whole.size
        exact = (
            whole.convert("RGB")
            .crop((20, 10, 110, 110))
            .resize((16, 16), Image.Resampling.BILINEAR)
        )
        assert np.abs(views[0].astype(int) - np.asarray(exact)).mean() < 3


def test_damaged_exif_is_no_damaged_image(tmp_path):
    write(tmp_path / "a.jpg", exif=b"Exif\0\0 nothing")
    for turn in (False, True):
        split = open_split(folder(tmp_path, exif_rotation=turn), "train")
        assert (split.broken.names, split.load(0).shape) == ([], (30, 40, 3))


def test_the_largest_image_is_a_setting(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png")
    (tmp_path / "huge.png").write_bytes(deep_png(np.zeros((1, 1, 1)), size=(20000, 9000)))
    split = open_split(folder(tmp_path), "train")
    assert split.broken.names == [str(tmp_path / "huge.png")]
    header = images.read_header(
        tmp_path / "huge.png", images.AS_IT_IS._replace(max_pixels=180_000_000)
    )
    assert header.size == (20000, 9000)
    with pytest.raises(ValueError, match=r"40 x 30 pixels, more than data.max_pixels=1000: raise"):
        images.decode(tmp_path / "a.png", images.AS_IT_IS._replace(max_pixels=1000))


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    for split in ("train", "val"):
        for number in range(2):
            write(tmp_path / split / "all" / f"{number}.png")
    split = open_split(folder(tmp_path), "train")
    assert (split.class_names, split.num_classes) == (("all",), 0)
