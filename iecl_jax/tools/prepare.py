"""Writes a data set as a few large ArrayRecord files: one of TFDS, or a folder of images.

    python -m iecl_jax.tools.prepare --name=cifar10 --dir=~/tensorflow_datasets
    python -m iecl_jax.tools.prepare --pack --dir=FOLDER --out=DIR [--shorter=256] [--quality=90]

`--name` is any data set of TFDS; it is downloaded and written with TensorFlow. ImageNet cannot be
downloaded automatically: first put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into
DIR/downloads/manual.

`--pack` reads FOLDER as data.name=image_folder does, and writes what data.name=packed reads. The
images whose shorter side is larger than `--shorter` are resized to it, and encoded again as JPEGs
of that quality; the others are not touched. The same command goes on if it was stopped, and checks
the sums of the files if it was not.
"""

from pathlib import Path

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.config import kinds, own_files, rules
from iecl_jax.data import packing
from iecl_jax.tools import arguments

_QUALITY = rules.Rule(lambda quality: 1 <= quality <= 100, "from 1 to 100")


def prepare(name: str, directory: str) -> None:
    """Prepares a data source in `directory`, or in TFDS's default folder if it is "".

    Raises:
      ValueError: the data set does not exist, needs no preparation, or lacks files.
    """
    source = kinds.load("data", name, key="--name")
    if not hasattr(source, "prepare"):
        raise ValueError(f"--name={name} needs no preparation.")
    source.prepare(ml_collections.ConfigDict({"name": name, "dir": directory}))


def pack(folder: str, out: Path, *, test_share: float, shorter: int, quality: int) -> None:
    """Packs a folder of images, see `packing.pack`.

    Raises:
      ValueError: a flag breaks its rule, or `packing.pack` raises it.
    """
    rules.check_value("--shorter", shorter, 256, rules.PIXELS)
    rules.check_value("--quality", quality, 90, _QUALITY)
    config = config_lib.choose(config_lib.new(), {"data.name": "image_folder"})
    config.data.update({"dir": folder, "test_share": test_share})
    config_lib.check(config, num_devices=1)
    packing.pack(config.data, out, packing.Making(shorter, quality))


def main() -> None:
    """Prepares the data set that the command line names."""
    parser = arguments.Parser(__doc__, overrides=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--name", help="the data set of TFDS")
    which.add_argument("--pack", action="store_true", help="pack a folder of images")
    parser.add_argument(
        "--dir",
        type=arguments.new_folder,
        help="where TFDS's data sets are, by default $TFDS_DATA_DIR or ~/tensorflow_datasets; with "
        "--pack, the folder of images",
    )
    parser.add_argument("--out", type=arguments.new_folder, help="the folder of the pack")
    parser.add_argument("--shorter", type=int, default=256, help="shorter side in pixels, at most")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    parser.add_argument(
        "--test_share", type=float, default=0.0, help="data.test_share of a folder without tests"
    )
    args = parser.parse()
    if args.pack and not (args.dir and args.out):
        parser.error("--pack needs --dir=FOLDER, the images, and --out=DIR, a new folder.")
    with own_files.sentences():
        if args.pack:
            flags = {name: getattr(args, name) for name in ("test_share", "shorter", "quality")}
            pack(str(args.dir), args.out, **flags)
        else:
            prepare(args.name, str(args.dir or ""))


if __name__ == "__main__":
    main()
