"""Downloads a data set and writes it as ArrayRecord files with TFDS (this needs TensorFlow).

    python -m iecl_jax.tools.prepare --name=cifar10 --dir=~/tensorflow_datasets

ImageNet cannot be downloaded: first put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into
DIR/downloads/manual.
"""

import argparse
from pathlib import Path

from iecl_jax.data import records

IMAGENET_FILES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def prepare(name: str, directory: Path) -> None:
    """Prepares one of TFDS's data sets, or `digits`, in `directory`.

    ValueError says which files of ImageNet are missing, and where they belong.
    """
    if name == "digits":
        from iecl_jax.data import digits

        digits.prepare(directory)
        return
    manual = directory / "downloads" / "manual"
    missing = [file for file in IMAGENET_FILES if not (manual / file).exists()]
    if name == "imagenet2012" and missing:
        raise ValueError(
            f"ImageNet must be downloaded by hand from https://image-net.org/download-images: put "
            f"{' and '.join(missing)} into {manual}."
        )
    import tensorflow_datasets as tfds

    tfds.builder(name, data_dir=directory, file_format="array_record").download_and_prepare()


def main() -> None:
    """Prepares the data set that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("cifar10", "cifar100", "digits", "imagenet2012", "stl10")
    parser.add_argument("--name", required=True, choices=names)
    parser.add_argument(
        "--dir", default="", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    )
    args = parser.parse_args()
    try:
        prepare(args.name, records.data_dir(args.dir))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
