"""Packs a folder of images into a few large files, which `data.name=packed` reads.

A training on a folder opens a file for each image. A network drive may take longer for that than
for the bytes.
"""

import io
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from iecl_jax import console
from iecl_jax.data import class_folders, files, images, sealed
from iecl_jax.data.listing import shown
from iecl_jax.data.sources import image_folder, packed
from iecl_jax.data.split import Split

SHARD = 8192  # images in a file of records: 240 MB of ImageNet's


class Making(NamedTuple):
    """How images are made smaller.

    Attributes:
      shorter: the shorter side of those that are larger, in pixels.
      quality: of their JPEGs, 1 to 100.
    """

    shorter: int
    quality: int


def pack(data: ml_collections.ConfigDict, out: Path, how: Making) -> None:
    """Packs the splits of the folder `data.dir` into the folder `out`.

    A pack that was stopped goes on with the files that are not finished yet. It can be opened once
    all of it is written. The sums of a pack that is finished are checked again.

    Args:
      data: config.data of an `image_folder`.
      out: a folder that is new, empty, or has an unfinished pack of the same images.
      how: how images are made smaller.

    Raises:
      ValueError: `out` holds something else, or the images cannot be read.
    """
    top = Path(data.dir).expanduser()
    image_folder.check(data)
    if out.resolve().is_relative_to(top.resolve()):
        raise ValueError(f"--out={shown(out)} lies in --dir={shown(top)}: name another folder.")
    present = sorted(os.listdir(out)) if out.is_dir() else []
    if present and not {packed.INDEX, packed.UNFINISHED} & set(present):
        raise ValueError(f"--out={shown(out)} has {shown(present[0])} in it: name a new folder.")
    names = ["train", "test"] if data.test_share else class_folders.splits(top)
    splits = {name: image_folder.open_split(data, name) for name in names}
    index = _index(splits, how)
    text = json.dumps(index, indent=1)
    for name in (packed.INDEX, packed.UNFINISHED):
        if name in present and (out / name).read_text(encoding="utf-8") != text:
            raise ValueError(
                f"--out={shown(out)} holds a pack of other images, or with other flags: name a new "
                "folder, or remove that one."
            )
    if packed.INDEX not in present:
        with files.open_whole(out / packed.UNFINISHED, "w") as file:
            file.write(text)
        for name, split in splits.items():
            _write(split, index["splits"][name]["shards"], out, how, data)
        files.remove_scratch(out)
        os.replace(out / packed.UNFINISHED, out / packed.INDEX)
    shards = [file for each in index["splits"].values() for file, _ in each["shards"]]
    if wrong := sealed.check(out, [packed.INDEX, *shards, *map(packed.tsv, shards)]):
        raise ValueError(f"{wrong}: remove {shown(out)} and pack the images again.")
    size = sum((out / name).stat().st_size for name in shards)
    console.show(
        f"{sum(map(len, splits.values())):,} images, {size / 1e9:.2f} GB in {len(shards)} files: "
        f"--config.data.name=packed --config.data.dir={shown(out)}"
    )


def smaller(source: Path, how: Making) -> bytes:
    """Returns an image with a shorter side of at most `how.shorter`, encoded.

    A larger one is decoded, resized as torchvision's `Resize` does (bilinear, antialiased), and
    encoded as a JPEG, with the EXIF that it had. The others stay as they are, byte for byte, and
    so do those that no JPEG can hold: transparent ones, and those of more than 8 bits.

    Raises:
      One of `images.DECODE_ERRORS`: it cannot be decoded.
    """
    content = source.read_bytes()
    header = images.read_header(source, images.AS_IT_IS)
    image = images.open_image(content)
    if min(image.size) <= how.shorter or header.transparent or header.deep:
        image.load()
        return content
    exif = {"exif": image.info["exif"]} if "exif" in image.info else {}
    size = images.size_with_shorter(image.size, how.shorter)
    resized = images.to_rgb(image).resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=how.quality, **exif)
    return buffer.getvalue()


def _index(splits: Mapping[str, Split], how: Making) -> dict[str, Any]:
    """Returns the content of index.json."""
    train = splits["train"]
    shape = train.image_shape
    return {
        "format": packed.FORMAT,
        "classes": train.class_names,
        "shorter": how.shorter,
        "quality": how.quality,
        "image_shape": shape if shape and min(shape) <= how.shorter else None,
        "splits": {
            name: {"digest": split.facts["digest"], "shards": _shards(name, len(split))}
            for name, split in splits.items()
        },
    }


def _shards(split: str, length: int) -> list[tuple[str, int]]:
    """Returns the names of the files of a split, and how many records each has."""
    return [
        (f"{split}-{start // SHARD:05}.array_record", min(SHARD, length - start))
        for start in range(0, length, SHARD)
    ]


def _write(
    split: Split,
    shards: Sequence[tuple[str, int]],
    out: Path,
    how: Making,
    data: ml_collections.ConfigDict,
) -> None:
    """Writes the files of a split that are not there yet."""
    root = Path(data.dir).expanduser()

    def encode(index: int) -> tuple[bytes, str]:
        def make(_: int, source: images.Source) -> tuple[bytes, Path]:
            assert isinstance(source, Path)
            return smaller(source, how), source

        [(content, path)], labels = split.decode([index], make)
        return content, f"{labels[0]}\t{shown(path.relative_to(root))}\n"

    starts = itertools.accumulate((count for _, count in shards), initial=0)
    with (
        ThreadPoolExecutor(data.num_threads, thread_name_prefix="encode") as pool,
        console.progress(f"Packing {shards[0][0].partition('-')[0]}", len(split), "image") as told,
    ):
        for (name, count), start in zip(shards, starts):
            if not (out / name).exists():
                made = pool.map(encode, range(start, start + count))
                _write_shard(out / name, made, told)
            told.update(start + count)


def _write_shard(path: Path, made: Iterable[tuple[bytes, str]], told: console.Task) -> None:
    """Writes a file of records and the file of their labels, which is there before it."""
    scratch = files.scratch_of(path)
    try:
        with files.open_whole(path.with_name(packed.tsv(path.name)), "w") as lines:
            writer = ArrayRecordWriter(str(scratch), "group_size:1,uncompressed")
            for content, line in made:
                writer.write(content)
                lines.write(line)
                told.update(told.done + 1)
            writer.close()
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except RuntimeError as error:  # of the library, for what the system refuses
        raise ValueError(f"{shown(path)} cannot be written: {error}") from None
    finally:
        scratch.unlink(missing_ok=True)
