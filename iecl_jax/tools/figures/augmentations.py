"""Source images under each augmentation, and under SAIB along its training (Fig. 2).

    python -m iecl_jax.tools.figures.augmentations --workdir=RUN [--steps=100,400] [--out=FILE.png]

Drawn from the checkpoints of a run and its pretraining images. Each operator is applied alone and
always, at the query view's strength in the run's config; where the config has it off, at SimCLR's.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import data, methods
from iecl_jax.data import augment
from iecl_jax.evals.pictures import gallery
from iecl_jax.run import checkpoint

_COLUMNS = 8
_SIMCLR_CROP = (0.08, 1.0)
_SIMCLR_JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}

Operator = Callable[[jax.Array, jax.Array], jax.Array]


def operators(ops: ml_collections.ConfigDict, size: int) -> dict[str, Operator]:
    """The operators of Fig. 2, each as (key, image [S, S, 3] in [0, 1]) -> the same.

    Args:
      ops: `config.augment.query`. The strengths of noise, rotation and blur are in it even if their
        probability is 0; a missing crop or jitter is replaced by SimCLR's, with a word in its name.
      size: S.
    """
    crop_off = tuple(ops.crop_scale) == (1.0, 1.0)
    jitter = {name: ops[name] for name in _SIMCLR_JITTER}
    jitter_off = not ops.jitter_prob or not any(jitter.values())

    def named(name: str, off: bool) -> str:
        return f"{name}\n(not in this run)" if off else name

    return {
        named("crop", crop_off): functools.partial(
            augment.random_resized_crop,
            size=size,
            scale=_SIMCLR_CROP if crop_off else tuple(ops.crop_scale),
            ratio=tuple(ops.crop_ratio),
            interpolation=ops.crop_interpolation,
        ),
        named("colour", jitter_off): functools.partial(
            augment.random_color_jitter, prob=1.0, **(_SIMCLR_JITTER if jitter_off else jitter)
        ),
        named("noise", not ops.noise_prob): functools.partial(
            augment.random_add_noise, prob=1.0, std=ops.noise_std
        ),
        named("rotation", not ops.rotate_prob): functools.partial(
            augment.random_rotate, prob=1.0, degrees=ops.rotate_degrees
        ),
        named("blur", not ops.blur_prob): functools.partial(
            augment.random_gaussian_blur, prob=1.0, sigma=tuple(ops.blur_sigma)
        ),
    }


def kept_steps(workdir: pathlib.Path) -> list[int]:
    """The steps of a run's checkpoints, rising; [] if there are none."""
    found = workdir.glob("checkpoints/*")
    return sorted(int(path.name) for path in found if path.name.isdigit() and path.is_dir())


def draw(workdir: pathlib.Path, steps: Sequence[int], data_dir: str = "") -> np.ndarray:
    """Draws the first images of the pretraining split, a column each.

    SAIB's output is shown in evaluation mode, with the mean and deviation of its input; below, on
    one scale for all steps, what it added (`gallery.separate`).

    Args:
      workdir: of the run.
      steps: of its checkpoints, at least one; without SAIB only the operators are drawn.
      data_dir: where its data are; "" = where the config says.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: there is no whole checkpoint of a step, or no data.
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the figure of the run that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--steps", default="", help="with commas between them; default: all kept")
    parser.add_argument("--out", default="", help="default: WORKDIR/figures/augmentations.png")
    parser.add_argument("--data_dir", default="", help="default: data.dir of the run's config")
    args = parser.parse_args(arguments)
    path = pathlib.Path(args.out or args.workdir / "figures" / "augmentations.png")
    try:
        if path.suffix != ".png":
            raise ValueError(f"--out={path} must end in .png.")
        steps = _steps(args.steps, kept_steps(args.workdir), args.workdir)
        picture = draw(args.workdir, steps, args.data_dir)
        gallery.save(picture, path)
    except ValueError as error:
        parser.error(str(error))
    print(path)


def _steps(text: str, kept: list[int], workdir: pathlib.Path) -> list[int]:
    """The steps that --steps names, rising; all kept ones if it is empty."""
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
