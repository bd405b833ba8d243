"""Changing brightness, contrast, saturation and hue, as torchvision does on float tensors."""

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import NOT_NEGATIVE, SHARE, Rule
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms
from iecl_jax.data.augment.operators.gray import luminance

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class Settings(Section):
    """Of `jitter`."""

    prob = key(0.8, SHARE, "probability")
    brightness = key(0.4, NOT_NEGATIVE, "strength")
    contrast = key(0.4, NOT_NEGATIVE, "strength")
    saturation = key(0.4, NOT_NEGATIVE, "strength")
    hue = key(0.1, Rule(lambda value: 0 <= value <= 0.5, "from 0 to 0.5"), "strength, turns")


def _blend(image: jax.Array, blend: tuple[jax.typing.ArrayLike, ...]) -> tuple[jax.Array, None]:
    """clip(f x + (1 - f) target), the form shared by three of the adjustments.

    The target is the image's mean gray (contrast), its gray (saturation) or 0 (brightness).
    """
    factor, to_mean, to_gray = blend
    gray = luminance(image)
    target = jnp.where(to_mean, gray.mean(), jnp.where(to_gray, gray, 0.0))
    return jnp.clip(factor * image + ((1 - factor) * target)[..., None], 0, 1), None


def adjust_brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """clip(factor * image): float32 [H, W, 3] in [0, 1] to the same; factor >= 0."""
    return jnp.clip(factor * image, 0, 1)


def adjust_contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Blends with the mean gray: float32 [H, W, 3] in [0, 1] to the same.

    A factor of 0 gives a flat image, 1 the image itself; above 1 it extrapolates and is clipped.
    """
    return _blend(image, (factor, True, False))[0]


def adjust_saturation(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Blends with the gray image: float32 [H, W, 3] in [0, 1] to the same.

    A factor of 0 gives a gray image, 1 the image itself; above 1 it extrapolates and is clipped.
    """
    return _blend(image, (factor, False, True))[0]


def adjust_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Adds `shift` turns to the hue of HSV: float32 [H, W, 3] in [0, 1] to the same.

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
    """The four adjustments in the given order.

    Under vmap a branch per image would compute every branch. But the first three adjustments are
    one formula, `_blend`, so every image passes three blends, the hue shift and the three blends
    again, each with factor 1 (no effect) where it is on the wrong side of the hue shift.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      order: int32 [4], a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE: 0, 1, 2, 3; the
        first entry is applied first.
      brightness, contrast, saturation: scalar factors >= 0; None leaves the adjustment out.
      hue: scalar shift in [-.5, .5]; None leaves it out of the program.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
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
      key: typed key of this image.
      brightness, contrast, saturation: strengths x >= 0: the factor is uniform in
        [max(0, 1 - x), 1 + x].
      hue: strength in [0, .5]: the shift is uniform in [-hue, hue].

    Returns:
      The order, int32 [4], uniform over the 24 permutations; and the four adjustments by name,
      float32 scalars, None where the strength is 0.
    """
    u = uniforms(key, 8)  # `apply` takes the ninth
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
    """`color_jitter` with probability `prob`, as drawn by `sample_color_jitter`.

    A strength of 0 leaves its adjustment out of the program.
    """
    names = ("brightness", "contrast", "saturation", "hue")
    order, factors = sample_color_jitter(key, **{name: settings[name] for name in names})
    jittered = color_jitter(image, order, **factors)
    return jnp.where(uniforms(key, 9)[8] < settings.prob, jittered, image)
