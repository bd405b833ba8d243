"""Draws source images under each augmentation, and under SAIB at steps of its training (Fig. 2).

    python -m iecl_jax.tools.figures.augmentations --workdir=RUN [--steps=100,400] [--out=FILE.png]

It uses the checkpoints and the pretraining images of a run. Each operator is applied alone, with
probability 1, at the strength of the query view in the run's config. If the config has an operator
off, its strength is SimCLR's or the default, and its title says "not in this run".
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import data, methods
from iecl_jax.config import kinds, own_files, section
from iecl_jax.data import augment
from iecl_jax.evals.pictures import gallery
from iecl_jax.run import checkpoint
from iecl_jax.tools import arguments

_COLUMNS = 8
# Strengths for operators that are off in the config.
_SIMCLR: dict[str, dict[str, Any]] = {
    "crop": {"scale": (0.08, 1.0)},
    "jitter": {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2},
}
_TITLES = {
    "crop": "crop",
    "jitter": "colour",
    "noise": "noise",
    "rotate": "rotation",
    "blur": "blur",
}

Operator = Callable[[jax.Array, jax.Array], jax.Array]


def operators(view: ml_collections.ConfigDict, size: int) -> dict[str, Operator]:
    """Returns the operators of Fig. 2 by title, each (key, image [S, S, 3] in [0, 1]) -> image.

    Args:
      view: `config.augment.query`. An operator that is off there keeps its strength; an operator
        that is missing gets the default strength; crop and jitter get SimCLR's in both cases. The
        title then says "not in this run".
      size: S.
    """
    found: dict[str, Operator] = {}
    for name, title in _TITLES.items():
        file = kinds.load("operator", name)
        settings = section.defaults(file.Settings)
        settings.update(view.get(name, {}))
        if off := _is_off(view, name):
            settings.update(_SIMCLR.get(name, {}))
        if "prob" in settings:
            settings.prob = 1.0
        found[f"{title}\n(not in this run)" if off else title] = functools.partial(
            file.apply, settings=settings, size=size
        )
    return found


def _is_off(view: ml_collections.ConfigDict, name: str) -> bool:
    if name not in view.operators:
        return True
    if name == "crop":
        return tuple(view.crop.scale) == (1.0, 1.0)
    no_jitter = name == "jitter" and not any(view.jitter[each] for each in _SIMCLR["jitter"])
    return no_jitter or not view[name].prob


def kept_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of a run's checkpoints in increasing order; [] if there are none."""
    found = workdir.glob("checkpoints/*")
    return sorted(int(path.name) for path in found if path.name.isdigit() and path.is_dir())


def draw(workdir: pathlib.Path, steps: Sequence[int], data_dir: str = "") -> np.ndarray:
    """Draws the first images of the pretraining split, one column per image.

    SAIB runs in evaluation mode. Its output is rescaled to the mean and standard deviation of its
    input. The rows below show what SAIB added, on one scale for all steps (`gallery.separate`).

    Args:
      workdir: the folder of the run.
      steps: steps of its checkpoints, at least one. Without SAIB only the operators are drawn.
      data_dir: the folder of the data; "" = that in the config.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: a step has no whole checkpoint, or there are no data.
    """
    config, _ = checkpoint.load_for_evaluation(workdir, steps[0])
    config.data.update({"cache": "none", "dir": data_dir or config.data.dir})
    size, group = config.data.image_size, config.saib.group_size if config.saib.enabled else 1
    split = data.open_split(config.data, "pretrain")
    count = group * -(-_COLUMNS // group)
    batch = next(data.eval_batches(config.data, split, count, np.arange(count) % len(split)))
    statistics = data.statistics(config.data)
    normalized = augment.make_eval_transform(size, *statistics)(jnp.asarray(batch["image"]))
    shown = slice(None, _COLUMNS)
    images = augment.denormalize(normalized[shown], *statistics)
    rows = [("source", np.asarray(images))]
    keys = jax.random.split(jax.random.key(config.seed), _COLUMNS)
    rows += [
        (name, np.asarray(jax.jit(jax.vmap(operator))(keys, images)))
        for name, operator in operators(config.augment.query, size).items()
    ]
    if not config.saib.enabled:
        return gallery.grid(rows)
    added = {}
    transform = jax.jit(methods.make(config, total_steps=1).transform)
    for step in steps:
        _, weights = checkpoint.load_for_evaluation(workdir, step)
        transformed = transform(weights["params"], weights["method_state"], normalized)
        rescaled, added[step] = gallery.separate(
            np.asarray(normalized[shown]), np.asarray(transformed[shown])
        )
        picture = augment.denormalize(jnp.asarray(rescaled), *statistics)
        rows.append((f"SAIB, step {step}", np.asarray(picture)))
    spread = 6 * max(values.std() for values in added.values()) + 1e-6
    rows += [(f"added, step {step}", 0.5 + values / spread) for step, values in added.items()]
    return gallery.grid(rows)


def main(words: Sequence[str] | None = None) -> None:
    """Draws the figure of the run that the command line names."""
    parser = arguments.Parser(__doc__, overrides=False)
    parser.add_argument("--workdir", required=True, type=arguments.folder)
    parser.add_argument("--steps", default="", help="comma-separated; default: all that are kept")
    parser.add_argument(
        "--out",
        type=arguments.new_file,
        help="default: WORKDIR/figures/augmentations.png, with --steps",
    )
    parser.add_argument("--data_dir", default="", help="default: data.dir of the run's config")
    arguments.add_trust(parser)
    args = parser.parse(words)
    steps = {"steps": args.steps} if args.steps else {}
    path = args.out or arguments.picture(args.workdir, "augmentations", steps)
    own_files.trust_checkpoints(args.trust_checkpoint_code)
    with own_files.sentences():
        if path.suffix != ".png":
            raise ValueError(f"--out={path} must end in .png.")
        steps = _steps(args.steps, kept_steps(args.workdir), args.workdir)
        picture = draw(args.workdir, steps, args.data_dir)
        gallery.save(picture, path)
    print(path)


def _steps(text: str, kept: list[int], workdir: pathlib.Path) -> list[int]:
    """Returns the steps that --steps names in increasing order; all kept steps if it is empty."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--steps={text!r} must be numbers with commas between them.")
    if not kept:
        raise ValueError(f"{workdir} has no checkpoints: name the workdir of a pretraining run.")
    for word in words:
        if int(word) not in kept:
            raise ValueError(
                f"--steps={text!r} names step {word}, but {workdir} has "
                f"{', '.join(map(str, kept))}."
            )
    return sorted({int(word) for word in words}) or kept


if __name__ == "__main__":
    main()
