"""Which augmentation settings make sense."""

import math

import ml_collections

from iecl_jax.data.augment.crop import INTERPOLATIONS


def _require(condition: bool, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r} but must be {wanted}.")


def _is_range(values: tuple[float, ...], high: float) -> bool:
    return len(values) == 2 and 0 < values[0] <= values[1] <= high and math.isfinite(values[1])


def check(augment: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a setting of `config.augment` out of range, naming it and the range."""
    for view in ("anchor", "query"):
        check_view(augment[view], f"augment.{view}")


def check_view(ops: ml_collections.ConfigDict, path: str) -> None:
    """Raises ValueError for an operator's setting out of range, naming it as `path`.NAME."""
    for name in (name for name in ops if name.endswith("_prob")):
        _require(0 <= ops[name] <= 1, f"{path}.{name}", ops[name], "a probability in [0, 1]")
    for name, high, wanted in (
        ("crop_scale", 1, "(low, high) with 0 < low <= high <= 1"),
        ("crop_ratio", math.inf, "(low, high) with 0 < low <= high"),
        ("blur_sigma", math.inf, "(low, high) with 0 < low <= high, in pixels"),
    ):
        _require(_is_range(ops[name], high), f"{path}.{name}", ops[name], wanted)
    _require(
        ops.crop_interpolation in INTERPOLATIONS,
        f"{path}.crop_interpolation",
        ops.crop_interpolation,
        f"one of {', '.join(INTERPOLATIONS)}",
    )
    for name in ("brightness", "contrast", "saturation", "rotate_degrees", "noise_std"):
        _require(0 <= ops[name] < math.inf, f"{path}.{name}", ops[name], "at least 0")
    _require(0 <= ops.hue <= 0.5, f"{path}.hue", ops.hue, "in [0, 0.5]")
