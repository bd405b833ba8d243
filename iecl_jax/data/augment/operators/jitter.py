"""Changes brightness, contrast, saturation and hue, as torchvision does with float tensors."""

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import NOT_NEGATIVE, SHARE, Rule
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms
from iecl_jax.data.augment.operators.gray import luminance

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class Settings(Section):
    """The settings of `jitter`."""

    prob = key(0.8, SHARE, "probability that the operator changes the image")
    brightness = key(0.4, NOT_NEGATIVE, "strength x: the factor is in [max(0, 1 - x), 1 + x]")
    contrast = key(0.4, NOT_NEGATIVE, "strength, as for brightness")
    saturation = key(0.4, NOT_NEGATIVE, "strength, as for brightness")
    hue = key(
        0.1,
        Rule(lambda value: 0 <= value <= 0.5, "from 0 to 0.5"),
        "largest shift of the hue, in turns",
    )


def _blend(image: jax.Array, blend: tuple[jax.typing.ArrayLike, ...]) -> tuple[jax.Array, None]:
    """Returns clip(f x + (1 - f) target), the form that three of the adjustments share.

    The target is the mean grey of the image (contrast), its grey (saturation) or 0 (brightness).
    The signature is that of the body of a `scan`.
    """
    factor, to_mean, to_gray = blend
    gray = luminance(image)
    target = jnp.where(to_mean, gray.mean(), jnp.where(to_gray, gray, 0.0))
    return jnp.clip(factor * image + ((1 - factor) * target)[..., None], 0, 1), None


def adjust_brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns clip(factor * image), factor >= 0: float32 [H, W, 3] in [0, 1] to the same."""
    return jnp.clip(factor * image, 0, 1)


def adjust_contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Blends an image with its mean grey: float32 [H, W, 3] in [0, 1] to the same.

    A factor of 0 gives a flat image, and 1 the image itself. A factor above 1 extrapolates; the
    result is clipped.
    """
    return _blend(image, (factor, True, False))[0]


def adjust_saturation(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Blends an image with its grey version: float32 [H, W, 3] in [0, 1] to the same.

    A factor of 0 gives a grey image, and 1 the image itself. A factor above 1 extrapolates; the
    result is clipped.
    """
    return _blend(image, (factor, False, True))[0]


def adjust_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Adds `shift` turns to the hue in HSV: float32 [H, W, 3] in [0, 1] to the same.

    A channel of HSV (h, s, v) is v - v s clip(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6 and
    n = 5, 3, 1 for R, G, B (en.wikipedia.org/wiki/HSL_and_HSV, "HSV to RGB alternative").

    Args:
      image: float32 [H, W, 3] in [0, 1].
      shift: scalar in [-.5, .5].
    """
    red, green, blue = (image[..., i] for i in range(3))
    value = image.max(axis=-1)
    chroma = value - image.min(axis=-1)
    is_red, is_green = value == red, value == green
    slope = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    offset = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0)) + 6 * shift
    hue = slope / jnp.where(chroma > 0, chroma, 1.0) + offset
    k = hue[..., None] + jnp.array([5.0, 3.0, 1.0], jnp.float32).reshape(1, 1, 3)
    k = k - 6 * jnp.floor(k / 6)
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def color_jitter(
    image: jax.Array,
    order: jax.Array,
    *,
    brightness: jax.Array | None,
    contrast: jax.Array | None,
    saturation: jax.Array | None,
    hue: jax.Array | None,
) -> jax.Array:
    """Applies the four adjustments in the given order.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      order: int32 [4], a permutation of BRIGHTNESS, CONTRAST, SATURATION and HUE (0 to 3). The
        first entry is applied first.
      brightness, contrast, saturation: scalar factors >= 0. None leaves the adjustment out.
      hue: scalar shift in turns, in [-.5, .5]. None leaves the adjustment out.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    # A branch for each order would be slow: under vmap every image computes every branch. But three
    # of the adjustments are one formula, `_blend`. So every image gets three blends, the hue shift,
    # and three blends again. A blend on the wrong side of the hue shift gets factor 1, which has no
    # effect.
    places = jnp.arange(3)
    hue_place = jnp.argmax(order == HUE)
    kinds = order[places + (places >= hue_place).astype(jnp.int32)]
    given = (brightness, contrast, saturation)
    factors = jnp.stack([jnp.float32(1 if factor is None else factor) for factor in given])[kinds]

    def blends(image: jax.Array, active: jax.Array) -> jax.Array:
        if all(factor is None for factor in given):
            return image
        xs = jnp.where(active, factors, 1.0), kinds == CONTRAST, kinds == SATURATION
        return jax.lax.scan(_blend, image, xs)[0]

    if hue is None:
        return blends(image, jnp.ones(3, bool))
    image = adjust_hue(blends(image, places < hue_place), hue)
    return blends(image, places >= hue_place)


def sample_color_jitter(
    key: jax.Array, *, brightness: float, contrast: float, saturation: float, hue: float
) -> tuple[jax.Array, dict[str, jax.Array | None]]:
    """Draws the order and the factors of `color_jitter` as torchvision's `ColorJitter` does.

    Args:
      key: a typed key.
      brightness, contrast, saturation: strengths x >= 0; the factor is uniform in
        [max(0, 1 - x), 1 + x].
      hue: strength in [0, .5]; the shift is uniform in [-hue, hue] turns.

    Returns:
      (order, factors): the order, int32 [4], is uniform over the 24 permutations. The factors are
      float32 scalars by name; a factor is None if its strength is 0.
    """
    u = uniforms(key, 8)  # `apply` uses the ninth number of the same draw
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    factors: dict[str, jax.Array | None] = {}
    for place, (name, strength) in enumerate(strengths.items()):
        low, high = max(0.0, 1 - strength), 1 + strength
        factors[name] = low + (high - low) * u[place] if strength else None
    factors["hue"] = hue * (2 * u[3] - 1) if hue else None
    return jnp.argsort(u[4:]), factors


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """Applies `color_jitter` with probability `prob`, as `sample_color_jitter` draws it.

    A strength of 0 leaves its adjustment out of the program.
    """
    names = ("brightness", "contrast", "saturation", "hue")
    order, factors = sample_color_jitter(key, **{name: settings[name] for name in names})
    jittered = color_jitter(image, order, **factors)
    return jnp.where(uniforms(key, 9)[8] < settings.prob, jittered, image)
