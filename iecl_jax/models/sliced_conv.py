"""Convolutions as products with shifted slices of their input, for few channels on a large plane.

cuDNN may be slow at the gradient of such a kernel (openxla/xla issue 34273: over 30 times PyTorch's
time). The product needs no choice among its algorithms, but it writes and reads the input once for
each pixel of the kernel.
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from iecl_jax.models.conv import convolve, of_slices

FORMS = ("conv", "gradient", "slices")


def convolve_as(
    form: str, x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"]
) -> Float[Array, "B H W F"]:
    """Convolves x with a kernel of odd size, without stride, in one of FORMS.

    The results and their derivatives are the same up to rounding.

    Args:
      form: "conv": as `convolve`. "slices": as one product of the k * k shifted slices, side by
        side, with the kernel, and so are both gradients. "gradient": as `convolve`, but for the
        gradient of the kernel, which is the product of the slices with the gradient of the output.
      x: the input.
      kernel: the kernel; the zero padding keeps the size.
    """
    forms: dict[str, Any] = {"conv": convolve, "slices": _sliced, "gradient": _sliced_gradient}
    return forms[form](x, kernel)


# The slices are k * k times as large as the input. So the backward pass makes them again.
_sliced = jax.checkpoint(of_slices)


@jax.custom_jvp
def _sliced_gradient(x: Any, kernel: Any) -> Any:
    return convolve(x, kernel)


@_sliced_gradient.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
    # Backwards, the first term becomes the gradient of x, and the second one that of the kernel.
    tangent = convolve(x_tangent, kernel) + _sliced(x, kernel_tangent)
    return _sliced_gradient(x, kernel), tangent
