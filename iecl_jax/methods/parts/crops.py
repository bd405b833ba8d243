"""Multi-crop (Caron et al. 2020): views after the second, most of them small, in the loss.

A method that can use them inherits `Settings`, and makes its network with
`online.make(..., crops=config.method.crops)`. Then `Online.forward` returns "crop_projection" and,
with a predictor, "crop_prediction" [N, b, d]; `online.of_all_views` lists those of all views. The
momentum network encodes only the first two views, and SAIB transforms none of the others.
"""

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging

from iecl_jax.config import kinds
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment import view_sizes
from iecl_jax.models import build


class Settings(Section):
    """The settings of a method that can use the views after the second."""

    crops = key(True, None, "whether the loss uses the views after the second")


class OnRequest(Settings):
    """The same, for a method that did not use these views before it had the setting."""

    crops = key(False, None, Settings.crops.text)


def check(config: ml_collections.ConfigDict) -> None:
    """Checks the views after the second, and compiles nothing.

    It warns if the package's method does not use them.

    Raises:
      ValueError: the encoder cannot take the size of a view that is used, or BN groups do not fit
        the views that share statistics.
    """
    views, method = config.augment.views, config.method
    if len(views) == 2:
        return
    if not method.get("crops", False):
        if method.name in kinds.names("method"):
            logging.warning("%s", _unused(config))
        return
    for size in sorted(set(view_sizes(config.augment, config.data.image_size)), reverse=True):
        _check_size(config, size)


def _unused(config: ml_collections.ConfigDict) -> str:
    name, further = config.method.name, ", ".join(config.augment.views[2:])
    start = f"augment.views has {further} after the first two, which method.name={name!r}"
    if "crops" in config.method:
        return f"{start} does not use: set method.crops=True, or take them out."
    able = [each for each in kinds.names("method") if _can_use(each)]
    return f"{start} cannot use: take them out, or use one of {', '.join(able)}."


def _can_use(method: str) -> bool:
    return issubclass(kinds.settings("method", method), Settings)


def _check_size(config: ml_collections.ConfigDict, size: int) -> None:
    """Raises ValueError unless the encoder that is made for `data.image_size` can take a size."""
    encoder, image_size = build.encoder(config), config.data.image_size

    def encode(side: int):
        made, given = jnp.zeros((2, image_size, image_size, 3)), jnp.zeros((2, side, side, 3))
        variables = encoder.init(jax.random.key(0), made, train=False)
        return encoder.apply(variables, given, train=False)

    jax.eval_shape(lambda: encode(image_size))  # An error of the encoder itself is shown as it is.
    try:
        jax.eval_shape(lambda: encode(size))
    except Exception as error:
        raise ValueError(
            f"encoder.name={config.encoder.name!r}, made for data.image_size={image_size}, cannot "
            f"take views of {size} px: give them another size, or set method.crops=False. "
            f"({type(error).__name__})"
        ) from error
