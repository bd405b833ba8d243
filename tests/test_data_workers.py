"""Worker processes decode what threads decode, bit for bit, and never outlive the process."""

import contextlib
import itertools
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from iecl_jax.configs import imagenet_r50
from iecl_jax.data import TrainBatches, open_split
from iecl_jax.data.crops import Centre
from iecl_jax.data.images import AS_IT_IS
from iecl_jax.data.train_batches import open_decoder
from iecl_jax.data.worker import Worker

ROOT = pathlib.Path(__file__).parent.parent


def write_images(folder: pathlib.Path, count: int) -> None:
    generator = np.random.default_rng(3)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 100 + 3 * number, 140 - 2 * number
        pixels = generator.integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
        Image.fromarray(pixels).resize(size).save(path)


def break_files(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    paths = sorted(folder.rglob("*.jpg"))[:count]
    for path in paths:
        path.write_bytes(path.read_bytes()[:700])
    return paths


def config_of(folder: pathlib.Path, **data):
    config = imagenet_r50.get_config("100,smoke")
    config.data.update({"name": "image_folder", "dir": str(folder), "image_size": 48})
    config.data.test_share = 0.0
    config.data.update({"cache": "none", "num_threads": 2, **data})
    config.train.batch_size = 6
    return config


def take(config, count: int, start: int = 0):
    with TrainBatches(config, open_split(config.data, "train"), start=start) as batches:
        return [jax.tree.map(np.asarray, batch) for batch in itertools.islice(batches, count)]


def assert_equal(left, right) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def is_gone(pid: int) -> bool:
    """Waits until a process has ended."""
    for _ in range(200):
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_processes_cut_what_threads_cut(tmp_path, caplog):
    """Also broken files are replaced and counted alike, and a stream goes on from any batch."""
    write_images(tmp_path, 14)
    # Broken behind the header, which `open_split` reads: only decoding finds it.
    broken = break_files(tmp_path, 2)
    seen = {}
    for workers in (0, 2):
        caplog.clear()
        seen[workers] = take(config_of(tmp_path, num_workers=workers), 5)
        warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
        assert {path for path in broken if any(str(path) in line for line in warned)}
        assert all("is broken and is skipped" in line for line in warned)
    assert_equal(seen[0], seen[2])
    assert_equal(take(config_of(tmp_path, num_workers=1), 2, start=3), seen[2][3:])
    for path in broken:
        path.unlink()
    break_files(tmp_path, 5)
    with pytest.raises(ValueError, match=r"4 of the 12 images in .* are broken, more than 3"):
        take(config_of(tmp_path, num_workers=1), 3)


def test_a_process_that_ends_is_a_sentence(tmp_path):
    write_images(tmp_path, 8)
    config = config_of(tmp_path, num_workers=2)
    split = open_split(config.data, "train")
    with contextlib.closing(open_decoder(config, split, 6)) as decoder:
        expected = decoder.decode(split, np.arange(6))
        # It ignores what ends the other process in an orderly way.
        os.kill(decoder.pids[0], signal.SIGTERM)
        os.kill(decoder.pids[0], signal.SIGINT)
        assert_equal(decoder.decode(split, np.arange(6)), expected)
        os.kill(decoder.pids[0], signal.SIGKILL)
        with pytest.raises(ValueError, match=r"ended by signal 9.* lower data.num_workers; data"):
            decoder.decode(split, np.arange(6))
        pids = decoder.pids
    assert all(map(is_gone, pids))


def test_a_process_ends_when_the_other_is_killed(tmp_path):
    """It is killed while the process is idle; nothing has a name that could be left behind."""
    code = """
import os, sys, time
from iecl_jax.data.crops import Centre
from iecl_jax.data.images import AS_IT_IS
from iecl_jax.data.worker import Worker
print(Worker(Centre(8, AS_IT_IS), [(8, 8, 3)], 2).pid, flush=True)
time.sleep(60)
"""
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as made:
        assert made.stdout is not None
        pid = int(made.stdout.readline())
        assert pathlib.Path(f"/proc/{pid}").exists()
        made.kill()
    assert is_gone(pid)
    if before:
        assert set(os.listdir("/dev/shm")) <= before


def test_a_worker_needs_no_jax():
    code = "import sys; from iecl_jax.data import crops, worker; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_an_image_that_fails_is_told_by_its_place():
    worker = Worker(Centre(8, AS_IT_IS), [(8, 8, 3)], 3)
    out = [np.zeros((3, 8, 8, 3), np.uint8)]
    pixels = np.full((8, 8, 3), 7, np.uint8)
    assert worker.cut([pixels, b"no image", pixels], 0, 0, out) == [1]
    assert (out[0][[0, 2]] == 7).all()
    worker.close()
    assert is_gone(worker.pid)
