"""The measurement of the input path, on a few images, and the peer's crops against ours."""

import json

import numpy as np
import pytest
from markdown_rows import rows
from PIL import Image

from iecl_jax.data import crops, images
from iecl_jax.data.listing import list_images
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import reading as speed
from iecl_jax.tools.benchmark import torch_input

TINY = [
    "--limit=16",
    "--cached_batch=32",
    "--cached_batches=3",
    "--jpeg_batch=4",
    "--jpeg_batches=2",
    "--rounds=2",
]


def test_the_command_prints_rates_and_writes_them(tmp_path, capsys):
    speed.main([*TINY, f"--json={tmp_path / 'speed.json'}"])
    written = json.loads((tmp_path / "speed.json").read_text())
    table = {case: shown for case, *shown in rows(capsys.readouterr().out)}
    for case in ("cached", "jpeg", speed.IN_PROCESSES):
        for unit, shown in zip(speed.UNITS, table[case], strict=True):
            rates = written[f"{case}_images_per_{unit}"]
            assert len(rates) == 2
            assert min(rates) > 0
            median = written[f"{case}_images_per_{unit}_median"]
            assert median == pytest.approx(sum(rates) / 2)
            assert shown.startswith(f"{median:.0f} (")
    assert written["cores"] == speed.num_cores() > 0
    assert written["cpu"]
    assert written["versions"]["pillow"]


def test_the_rate_counts_the_images_of_a_round(tmp_path, monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    cpu = iter([1.0, 3.0])
    monkeypatch.setattr(speed.time, "process_time", lambda: next(cpu))
    parser = arguments.Parser("")
    speed.add_flags(parser)
    with speed.open_cases(parser.parse(TINY)) as cases:
        assert speed.measure(cases["cached"]) == (3 * 32 / 4, 3 * 32 / 2, 3 * 32 / 2)


def test_photographs_are_resized_and_encoded_again(tmp_path):
    source, target = tmp_path / "source" / "class", tmp_path / "target"
    source.mkdir(parents=True)
    target.mkdir()
    Image.new("L", (640, 512), 200).save(source / "grey.png")
    speed.draw_photograph(1, 100, 300).save(source / "tall.jpg")
    config = speed.config_lib.load("configs/imagenet_r50.py")
    split = speed.open_jpegs(config, target, str(source.parent), shorter=256, limit=5)
    assert len(split) == 2
    written = [images.open_image(path) for path in sorted(target.iterdir())]
    assert [image.size for image in written] == [(320, 256), (256, 768)]
    assert {image.format for image in written} == {"JPEG"}
    assert (config.data.name, config.data.cache) == ("image_folder", "none")


def test_no_photograph_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="holds no image: name a folder of photographs"):
        speed.main([*TINY, f"--images={tmp_path}"])


def test_drawn_photographs_take_the_bytes_of_real_ones(tmp_path):
    speed.write_jpegs(tmp_path, [speed.draw_photograph(seed, 341, 256) for seed in range(3)], 0)
    for path in list_images(tmp_path).images:
        assert 2 < 8 * path.stat().st_size / (341 * 256) < 3.6  # ImageNet at quality 90: 2.8


def test_the_peer_cuts_the_same_crops(tmp_path):
    speed.write_jpegs(tmp_path, [speed.draw_photograph(0, 341, 256)], 0)
    peer = torch_input.TwoCrops(tmp_path, 224, (0.2, 1.0), (3 / 4, 4 / 3))
    with Image.open(peer.paths[0]) as image:
        picture = image.convert("RGB")
    boxes = [(11, 7, 300, 240), (90, 60, 120, 100)]  # one is made smaller, one larger
    views = images.crop_views(peer.paths[0], lambda *_: boxes, [224] * 2, ["bilinear"] * 2)
    for view, (left, top, width, height) in zip(views, boxes):
        box = left, top, left + width, top + height
        np.testing.assert_array_equal(torch_input.crop(picture, box, 224), view)


def test_the_peer_draws_boxes_as_we_do():
    scale, ratio, size = (0.2, 1.0), (3 / 4, 4 / 3), (341, 256)
    theirs = np.array([torch_input.sample_box(*size, scale, ratio) for _ in range(3000)])
    generator = np.random.default_rng(0)
    ours = np.array([crops.sample_box(generator, *size, scale, ratio) for _ in range(3000)])
    ours[:, 2:] += ours[:, :2]
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 3000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4.5 * error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.15)
