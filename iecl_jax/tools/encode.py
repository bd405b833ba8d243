"""Encodes the images of a folder with a trained encoder, and writes their features to a file.

    python -m iecl_jax.tools.encode PHOTOS --checkpoint=RUN --out=features.npz

The file has these arrays, with a row for each image that can be read:

    features  float32 [N, F]; with --output, what that output is
    files     the path of each image below PHOTOS
    labels    int32 [N], the place of its folder's name in `classes`; -1 = unlabelled
    classes   the names of the classes; none = unlabelled
    about     JSON: the checkpoint, the output, and the images that cannot be read with the reason

`numpy.load("features.npz")` reads it. The folders that are classes, and those of the splits, are
found as for `data.name=image_folder`, and the images of all splits are encoded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from iecl_jax import console
from iecl_jax.config import own_files
from iecl_jax.data import class_folders, files
from iecl_jax.data.listing import shown
from iecl_jax.evals.parts import frozen
from iecl_jax.tools import arguments


def encode(encoder: frozen.Encoder, folder: Path, output: str = "pooled") -> dict[str, Any]:
    """Returns the arrays of the file by name, see above, without `about`, and `broken`.

    Args:
      encoder: the encoder.
      folder: the folder of the images.
      output: a name in `encoder.shapes`, or "projection".

    Returns:
      The arrays, and in `broken` {path below the folder: why it cannot be read}.

    Raises:
      ValueError: there is no such output, no image, or none that can be read; or it is unclear
        which folders are the splits.
    """
    if output not in (*encoder.shapes, frozen.PROJECTION):
        known = ", ".join((*encoder.shapes, frozen.PROJECTION))
        raise ValueError(f"--output={output} is no output of this network: name one of {known}.")
    splits = [class_folders.find(folder, split) for split in class_folders.splits(folder)]
    paths = [path for split in splits for path in split.paths]
    labels = np.array([label for split in splits for label in split.labels], np.int32)
    broken: dict[int, str] = {}
    if output == frozen.PROJECTION:
        features = encoder.embed(paths, broken=broken)
    else:
        features = encoder.features(paths, output, broken=broken)
    names = [path.relative_to(folder).as_posix() for path in paths]
    for place, reason in broken.items():
        logging.warning("%s is broken and is left out: %s", shown(paths[place]), reason)
    if len(broken) == len(paths):
        raise ValueError(f"none of the {len(paths)} images in {shown(folder)} can be read.")
    kept = np.setdiff1d(np.arange(len(paths)), list(broken))
    return {
        "features": features,
        "files": np.array(names)[kept],
        "labels": labels[kept],
        "classes": np.array(splits[0].class_names, np.str_),
        "broken": {names[place]: reason for place, reason in broken.items()},
    }


def main(words: Sequence[str] | None = None) -> None:
    """Encodes the folder that the command line names."""
    parser = arguments.Parser(__doc__, overrides=False)
    parser.add_argument("folder", type=arguments.folder, metavar="PHOTOS")
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a run, one of its checkpoints/STEP, or a file of weights",
    )
    parser.add_argument("--out", required=True, type=arguments.new_file, help="a new file .npz")
    parser.add_argument(
        "--output",
        default="pooled",
        help="pooled (the default), a map stage1, stage2, ..., or projection",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="take the checkpoint of the best kNN instead of the last",
    )
    parser.add_argument(
        "--batch_size", type=int, default=256, help="images encoded at once; default: 256"
    )
    arguments.add_trust(parser)
    args = parser.parse(words)
    if args.out.suffix != ".npz":
        parser.error(f"--out={args.out} must end in .npz")
    if args.out.exists():
        parser.error(f"--out={args.out} exists: name another file, or remove it")
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is not a folder")
    own_files.trust_checkpoints(args.trust_checkpoint_code)
    with own_files.sentences():
        with console.waiting(f"Reading {args.checkpoint}"):
            encoder = frozen.of_checkpoint(
                args.checkpoint, best=args.best, batch_size=args.batch_size
            )
        found = encode(encoder, args.folder, args.output)
        about = {
            "checkpoint": args.checkpoint,
            "output": args.output,
            "folder": str(args.folder),
            "broken": found.pop("broken"),
        }
        with files.open_whole(args.out) as file:
            np.savez(file, about=json.dumps(about), **found)
    shape, classes = list(found["features"].shape), len(found["classes"])
    left_out = f"; left out because broken: {len(about['broken'])}" if about["broken"] else ""
    console.show(
        f"{args.out}: float32 {shape} of {shape[0]:,} images, "
        f"{f'{classes} classes' if classes else 'unlabelled'}{left_out}"
    )


if __name__ == "__main__":
    main()
