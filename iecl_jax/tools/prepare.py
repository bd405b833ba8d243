"""Downloads a data set and writes it as ArrayRecord files with TFDS, which needs TensorFlow.

    python -m iecl_jax.tools.prepare --name=cifar10 --dir=~/tensorflow_datasets

`--name` is any data set of TFDS. ImageNet cannot be downloaded automatically: first put
ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into DIR/downloads/manual.
"""

import ml_collections

from iecl_jax.config import kinds, own_files
from iecl_jax.tools import arguments


def prepare(name: str, directory: str) -> None:
    """Prepares a data source in `directory`, or in TFDS's default folder if it is "".

    Raises:
      ValueError: the data set does not exist, needs no preparation, or lacks files.
    """
    source = kinds.load("data", name, key="--name")
    if not hasattr(source, "prepare"):
        raise ValueError(f"--name={name} needs no preparation.")
    source.prepare(ml_collections.ConfigDict({"name": name, "dir": directory}))


def main() -> None:
    """Prepares the data set that the command line names."""
    parser = arguments.Parser(__doc__, overrides=False)
    parser.add_argument("--name", required=True)
    parser.add_argument(
        "--dir", type=arguments.new_folder, help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    )
    args = parser.parse()
    with own_files.sentences():
        prepare(args.name, str(args.dir or ""))


if __name__ == "__main__":
    main()
