"""Measures how many images per second `TrainBatches` delivers. No model runs.

    python -m iecl_jax.tools.benchmark.reading [--images=DIR] [--cifar10=DIR] [--json=FILE]

It uses all cores that the process may use (choose them with `taskset`), in these cases:

  cached  50,000 images of 32 px, decoded once and kept on the host (data.cache='host')
  jpeg    JPEGs with a shorter side of 256 px: read, decoded, and cropped twice to 224 px on the
          host, in as many threads as cores
  jpeg in processes
          the same in as many worker processes (data.num_workers)

`--images=DIR` names a folder of photographs of any size. They are resized and encoded again in a
temporary folder. Without it, images that resemble photographs are drawn. `--cifar10=DIR` is TFDS's
folder. Without it, the cached images are random.

There are two rates: images per second of wall time, and images per second of CPU time, summed over
threads and processes. The second rate does not depend on what else the cores do. `own` is the CPU
time of this process alone: with worker processes, it bounds what all of them can be fed with.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import PIL
from PIL import Image

from iecl_jax import config as config_lib
from iecl_jax.config import own_files
from iecl_jax.data import images, open_split
from iecl_jax.data.listing import list_images
from iecl_jax.data.split import Indices, Record, Split
from iecl_jax.data.train_batches import TrainBatches
from iecl_jax.run import markdown, workdir
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import timing

NUM_CACHED, CACHED_SIZE = 50_000, 32
NUM_DRAWN, ASPECT = 256, 4 / 3  # number of drawn images; their width / height
QUALITY = 90  # JPEG quality
IN_PROCESSES = "jpeg in processes"
UNITS = ("second", "cpu_second", "own_cpu_second")
AMPLITUDE = 0.14  # of the drawn noise: its JPEGs have about 2.8 bits per pixel, like ImageNet


class Rate(NamedTuple):
    """Images per second of wall time, of CPU time, and of the CPU time of this process alone."""

    wall: float
    cpu: float
    own: float


class Case(NamedTuple):
    """What is read: a pretraining config, its split, and the number of batches in a round."""

    config: ml_collections.ConfigDict
    split: Split
    batches: int


def measure(case: Case) -> Rate:
    """Returns the rates of a new `TrainBatches` over `case.batches`, after the prefetched ones."""
    with TrainBatches(case.config, case.split) as batches:
        jax.block_until_ready(list(itertools.islice(batches, 2 * case.config.data.prefetch + 1)))
        begun = time.perf_counter(), time.process_time(), cpu_seconds_of_children()
        for batch in itertools.islice(batches, case.batches):
            jax.block_until_ready(batch)
        wall, own = time.perf_counter() - begun[0], time.process_time() - begun[1]
        every = own + cpu_seconds_of_children() - begun[2]
    count = case.batches * case.config.train.batch_size
    return Rate(count / wall, count / every, count / own)


def cpu_seconds_of_children() -> float:
    """Returns the CPU time of the processes that this one has started, in seconds (Linux)."""
    ticks = 0
    for line in Path("/proc/self/task").glob("*/children"):
        for pid in line.read_text().split():
            # Field 2, the name in brackets, may contain spaces, so fields are counted from its end:
            # user and system time (14 and 15) have the indices 11 and 12.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Returns the name of the processor, or of its architecture if the name is unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def draw_photograph(seed: int, width: int, height: int) -> Image.Image:
    """Returns RGB noise whose amplitude grows with the wavelength, as in photographs.

    Its JPEG has about as many bytes as that of a photograph of the same size.
    """
    generator = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128.0)
    for octave in range(8):
        shape = (2 + (height >> octave), 2 + (width >> octave), 3)
        grid = np.rint(np.clip(generator.normal(128, 40, shape), 0, 255)).astype(np.uint8)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(layer) - 128.0) * AMPLITUDE * 2 ** (octave / 2)
    return Image.fromarray(np.clip(np.rint(total), 0, 255).astype(np.uint8))


def write_jpegs(folder: Path, pictures: Iterable[Image.Image], shorter: int) -> None:
    """Writes RGB pictures to `folder` as JPEGs with that shorter side (0: not resized)."""
    for number, picture in enumerate(pictures):
        if shorter:
            scale = shorter / min(picture.size)
            width, height = (round(side * scale) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:06}.jpg", quality=QUALITY)


def open_jpegs(
    config: ml_collections.ConfigDict, folder: Path, source: str, *, shorter: int, limit: int
) -> Split:
    """Fills `folder` with JPEGs and opens it as a data set.

    Args:
      config: a pretraining config; its `data` section is changed to read the folder.
      folder: an empty folder.
      source: a folder with images, also in subfolders; "" draws them.
      shorter: the shorter side of the JPEGs in pixels; 0 keeps the sizes of `source`.
      limit: the largest number of images; the first ones in the order of their paths are taken.

    Raises:
      ValueError: `source` has no images, or `open_split` raises it.
    """
    if source:
        paths = list_images(Path(source).expanduser()).images[:limit]
        if not paths:
            raise ValueError(f"--images={source} holds no image: name a folder of photographs.")
        pictures = (images.to_rgb(images.open_image(path)) for path in paths)
    else:
        height = shorter or 375
        size = round(height * ASPECT), height
        pictures = (draw_photograph(seed, *size) for seed in range(min(limit, NUM_DRAWN)))
    write_jpegs(folder, pictures, shorter)
    config.data = config_lib.choose(config, {"data.name": "image_folder"}).data
    config.data.update({"dir": str(folder), "cache": "none"})
    return open_split(config.data, "train")


def open_cached(config: ml_collections.ConfigDict, directory: str) -> Split:
    """Opens CIFAR-10 in TFDS's folder `directory`, or random images of that size if it is "".

    The `data` section of `config` is changed to read them.

    Raises:
      ValueError: CIFAR-10 is not in `directory`.
    """
    config.data.update({"image_size": CACHED_SIZE, "cache": "host", "dir": directory})
    if directory:
        config.data.name = "cifar10"
        return open_split(config.data, "train")
    shape = (NUM_CACHED, CACHED_SIZE, CACHED_SIZE, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def read(indices: Indices) -> list[Record]:
        return [Record(pixels[index], -1) for index in indices]

    return Split("random", (), shape[1:3], NUM_CACHED, read, lambda: np.full(NUM_CACHED, -1))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what is read and how often."""
    parser.add_argument("--config", default="configs/imagenet_r50.py", help="FILE[:VARIANT]")
    parser.add_argument("--images", default="", help="a folder of photographs")
    parser.add_argument("--shorter", type=int, default=256, help="side in pixels; 0: as they are")
    parser.add_argument("--limit", type=int, default=1000, help="photographs at most")
    parser.add_argument("--cifar10", default="", help="TFDS's folder with prepared CIFAR-10")
    parser.add_argument("--cached_batch", type=int, default=256, help="batch size of `cached`")
    parser.add_argument("--cached_batches", type=int, default=1000, help="batches per round")
    parser.add_argument("--jpeg_batch", type=int, default=64, help="batch size of `jpeg`")
    parser.add_argument("--jpeg_batches", type=int, default=16, help="batches per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--json", type=arguments.new_file, help="also write the results to this file"
    )


@contextlib.contextmanager
def open_cases(args: argparse.Namespace) -> Iterator[dict[str, Case]]:
    """A context with the cases of this file's docstring; it removes the JPEGs at the end.

    Raises:
      ValueError: see `config.load`, `open_cached` and `open_jpegs`.
    """
    threads = f"--config.data.num_threads={num_cores()}"
    cached, jpeg = (
        config_lib.load(
            args.config, [threads, f"--config.train.batch_size={batch}", *args.overrides]
        )
        for batch in (args.cached_batch, args.jpeg_batch)
    )
    with tempfile.TemporaryDirectory() as folder:
        split = open_jpegs(jpeg, Path(folder), args.images, shorter=args.shorter, limit=args.limit)
        in_processes = jpeg.copy_and_resolve_references()
        in_processes.data.num_workers = num_cores()
        yield {
            "cached": Case(cached, open_cached(cached, args.cifar10), args.cached_batches),
            "jpeg": Case(jpeg, split, args.jpeg_batches),
            IN_PROCESSES: Case(in_processes, split, args.jpeg_batches),
        }


def summarize(rates: Mapping[str, Sequence[Rate]]) -> dict[str, Any]:
    """Returns one flat JSON object with the rates of all cases.

    For each case it has NAME_images_per_UNIT for each of UNITS (lists with a value per round) and
    their medians, NAME_..._median. It also has cores, cpu, python and versions.
    """
    result: dict[str, Any] = {}
    for name, rounds in rates.items():
        for unit, values in zip(UNITS, zip(*rounds, strict=True), strict=True):
            result[f"{name}_images_per_{unit}"] = values
            result[f"{name}_images_per_{unit}_median"] = statistics.median(values)
    return result | {
        "cores": num_cores(),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "versions": workdir.versions() | {"pillow": PIL.__version__},
    }


def describe(result: Mapping[str, Any]) -> str:
    """Returns the processor and the versions in a result of `summarize`, as one line."""
    packages = ("numpy", "pillow", "grain", "jax")
    used = ", ".join(f"{name} {result['versions'][name]}" for name in packages)
    return f"{result['cores']} cores of {result['cpu']}; Python {result['python']}, {used}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures all cases, prints the table, and writes the JSON."""
    argv = sys.argv[1:] if argv is None else argv
    parser = arguments.Parser(__doc__)
    add_flags(parser)
    args = parser.parse(argv)
    with own_files.sentences(), open_cases(args) as cases:
        rates = {name: [measure(case) for _ in range(args.rounds)] for name, case in cases.items()}
    result = summarize(rates)
    if args.json:
        workdir.write_atomically(args.json, json.dumps(result, indent=2))
    rows = [
        [name, *(timing.spread(timing.extent(of_unit), "{:.0f}") for of_unit in zip(*rounds))]
        for name, rounds in rates.items()
    ]
    print(markdown.table(["case", "images/s", "images per CPU second", "of this process"], rows))
    print(describe(result))
    print(shlex.join(["python", "-m", "iecl_jax.tools.benchmark.reading", *argv]))


if __name__ == "__main__":
    main()
