"""Counts the floating-point operations of matrix products and convolutions in a traced program."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend import core


def product_flops(jaxpr: core.Jaxpr) -> float:
    """Returns two FLOPs for each multiplication in dots and convolutions; nothing else counts.

    For a convolution that is 2 * batch * height * width * kernel height * kernel width * in * out,
    with the height and width of the output. Zeros that pad the input count as pixels. Zeros that
    dilate the input (in the gradient of a strided convolution) do not count. A convolution and its
    two gradients therefore have equal counts. Papers and PyTorch's FlopCounterMode use the same
    convention. XLA's own analysis leaves out the padding and counts every elementwise operation.

    The body of a scan counts once per iteration, that of a while loop once. Of the branches of a
    cond the largest counts. What `jax.checkpoint` recomputes counts again. Inside `jax.shard_map`
    the shapes, and so the result, are those of one device.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        else:
            inner = [product_flops(body) for body in _bodies(equation.params.values())]
            repeats = equation.params["length"] if name == "scan" else 1
            total += max(inner, default=0.0) if name == "cond" else repeats * sum(inner)
    return total


def _bodies(values: Iterable[Any]) -> Iterator[core.Jaxpr]:
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _bodies(value)


def _dot(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(left[i] for i in contracted)


def _convolution(equation: core.JaxprEqn) -> float:
    kernel = _shape(equation.invars[1])
    _, in_features, *window = equation.params["dimension_numbers"].rhs_spec
    multiplications = kernel[in_features] * math.prod(kernel[i] for i in window)
    outputs = math.prod(_shape(equation.outvars[0]))
    return 2.0 * outputs * multiplications / math.prod(equation.params["lhs_dilation"])


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
