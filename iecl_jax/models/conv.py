"""Convolutions, with spectral normalisation: the kernel divided by its largest singular value."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.product import product
from iecl_jax.models import initializers, winograd

WINOGRAD_CHANNELS = 64  # With fewer, the direct sum takes less time.
FEW_CHANNELS = 4  # of the input, such as the colours
Step = tuple[Float32[Array, ""], Float32[Array, "_"]]  # (sigma, new u) of a power iteration
_INIT_ITERATIONS = 15  # as in PyTorch's parametrizations.spectral_norm
_ITERATIONS_OF_A_FILE = 200  # trained kernels may have several large singular values


def power_iteration(
    matrix: Float32[Array, "m n"], u: Float32[Array, "n"], num_iterations: int = 1
) -> tuple[Float32[Array, ""], Float32[Array, "n"]]:
    """Estimates the largest singular value of a matrix, and improves the vector u.

    Args:
      matrix: the matrix M.
      u: an estimate of the leading right singular vector, of unit length. It gets no gradient.
      num_iterations: number of iterations, at least 1.

    Returns:
      (sigma, u): sigma = v' M u is the estimate, which never exceeds the true value; u is the
      improved vector. v and u are constants, so the gradient of sigma is v u', which is exact at
      convergence.

    Reference: Miyato et al. 2018, Algorithm 1.
    """
    constant = jax.lax.stop_gradient(matrix)

    def iterate(_: jax.Array | int, u: Float32[Array, "n"]) -> Float32[Array, "n"]:
        return power_iterations([constant], [u])[0][1]

    # The last iteration is written out: it alone gives sigma a gradient.
    u = jax.lax.fori_loop(1, num_iterations, iterate, u)
    return power_iterations([matrix], [u])[0]


@jax.named_scope("power_iterations")  # for profiles
def power_iterations(
    matrices: Sequence[Float32[Array, "_ _"]], us: Sequence[Float32[Array, "_"]]
) -> list[Step]:
    """Makes one step of `power_iteration` for each matrix M and its vector u.

    The step is v = M u / |M u|, x = v' M, u = x / |x|, and sigma = x u, where v and u are
    constants. Each matrix is read twice, where it lies. What is left is done for all vectors
    together, because a GPU takes as long to start a kernel as to compute hundreds of such vectors.
    """
    images = [product(matrix, u) for matrix, u in zip(matrices, us, strict=True)]
    vs = [jax.lax.stop_gradient(v) for v in _units(images)]
    xs = [product(v, matrix) for v, matrix in zip(vs, matrices, strict=True)]
    new = [jax.lax.stop_gradient(u) for u in _units(xs)]
    sigmas = (_rows(xs) * _rows(new)).sum(1)
    return [(sigmas[i], u) for i, u in enumerate(new)]


def spectral_norms(params: Any, batch_stats: Any) -> Any:
    """Makes one step of power iteration for all normalised kernels of a module together.

    Args:
      params, batch_stats: the variables of a module whose `Conv`s have `spectral_norm`.

    Returns:
      {name: (sigma, new u)} of these, nested like the modules; {} without any. See
      `power_iterations`.
    """
    found = dict(_normalised_kernels(params, batch_stats))
    matrices = [kernel.reshape(-1, kernel.shape[-1]) for kernel, _ in found.values()]
    steps = power_iterations(matrices, [u for _, u in found.values()]) if found else []
    return traverse_util.unflatten_dict(dict(zip(found, steps, strict=True)))


def _normalised_kernels(
    params: Any, batch_stats: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[jax.Array, jax.Array]]]:
    """Yields (path of the module, (kernel, u)) of every normalised kernel."""
    for name, inner in batch_stats.items():
        if "sigma" in inner:
            yield (*path, name), (jnp.asarray(params[name]["kernel"]), jnp.asarray(inner["u"]))
        elif name in params and any(isinstance(each, Mapping) for each in inner.values()):
            yield from _normalised_kernels(params[name], inner, (*path, name))


def _units(vectors: Sequence[Float32[Array, "_"]]) -> list[Float32[Array, "_"]]:
    """Divides each vector by its length."""
    scales = jax.lax.rsqrt(jnp.maximum((_rows(vectors) ** 2).sum(1), 1e-24))
    return [vector * scales[i] for i, vector in enumerate(vectors)]


def _rows(vectors: Sequence[Float32[Array, "_"]]) -> Float32[Array, "count longest"]:
    """Stacks vectors, with zeros behind those that are shorter than the longest."""
    longest = max(len(vector) for vector in vectors)
    return jnp.stack([jnp.pad(vector, (0, longest - len(vector))) for vector in vectors])


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C F"],
    *,
    stride: int = 1,
    dilation: int = 1,
) -> Float[Array, "B _ _ F"]:
    """Convolves x with a kernel; the zero padding keeps the size if the stride is 1.

    The taps of the kernel are `dilation` pixels apart. A CPU computes 3x3 convolutions of many
    channels in float32 by Winograd's algorithm, and the gradient of an input of few channels as a
    product with slices.
    """
    size, _, *channels = kernel.shape
    if size == 1:
        return _of_pixels(x, kernel[0, 0], stride)
    direct = functools.partial(_direct, stride=stride, dilation=dilation)
    fits = (size, stride, dilation, x.dtype) == (3, 1, 1, jnp.float32)
    if fits and min(channels) >= WINOGRAD_CHANNELS:
        return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=direct)
    if fits and channels[0] <= FEW_CHANNELS:
        return jax.lax.platform_dependent(x, kernel, cpu=_of_few_channels, default=direct)
    return direct(x, kernel)


def of_slices(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"]
) -> Float[Array, "B H W F"]:
    """Convolves x with a kernel of odd size: one product of its k * k shifted slices, side by side.

    The zero padding keeps the size.
    """
    size, (height, width) = len(kernel), x.shape[1:3]
    before, after = (size - 1) // 2, size // 2
    padded = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    slices = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return jnp.concatenate(slices, -1) @ kernel.reshape(-1, kernel.shape[-1])


@jax.custom_jvp
def _of_few_channels(x: Any, kernel: Any) -> Any:
    return _direct(x, kernel, stride=1, dilation=1)


@functools.partial(_of_few_channels.defjvp, symbolic_zeros=True)
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
    terms = []
    # Backwards, the first term becomes the gradient of x, and the second one that of the kernel.
    if not isinstance(x_tangent, SymbolicZero):
        terms.append(of_slices(x_tangent, kernel))
    if not isinstance(kernel_tangent, SymbolicZero):
        terms.append(_of_few_channels(x, kernel_tangent))
    return _of_few_channels(x, kernel), sum(terms)


# The barriers below make XLA compute the input, and the gradient of the output, only once. It would
# otherwise repeat the operations that make them inside each of their uses.


def _of_pixels(
    x: Float[Array, "B H W C"], matrix: Float[Array, "C F"], stride: int
) -> Float[Array, "B _ _ F"]:
    """Multiplies each pixel, or every stride-th along both axes, by a matrix."""
    x = jax.lax.optimization_barrier(x[:, ::stride, ::stride])
    y = x.reshape(-1, x.shape[-1]) @ matrix
    return jax.lax.optimization_barrier(y.reshape(*x.shape[:-1], -1))


def _direct(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"], *, stride: int, dilation: int
) -> Float[Array, "B _ _ F"]:
    size = kernel.shape[0]
    before, after = dilation * ((size - 1) // 2), dilation * (size // 2)
    y = jax.lax.conv_general_dilated(
        jax.lax.optimization_barrier(x),
        kernel,
        window_strides=(stride, stride),
        padding=[(before, after)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.lax.optimization_barrier(y)


class Conv(nn.Module):
    """A convolution without bias, with the padding of torchvision.

    If `spectral_norm` is set, the kernel is divided by its largest singular value sigma (eta = 1 of
    Eq. 17). For this it is taken as a float32 matrix [kh * kw * in, out]. The collection
    `batch_stats` holds the vector u and sigma. Every call makes one step of power iteration from u;
    a training call stores the new u and sigma, and an evaluation call does not. So evaluation
    divides by `power_iteration(matrix, u)[0]`, not by the stored sigma, which belongs to the kernel
    before the last update. Who uses the kernels elsewhere must do the same. It is PyTorch's
    `utils.spectral_norm`, not `utils.parametrizations.spectral_norm`.

    An encoder may make the steps of all its convolutions together, with `spectral_norms`, and pass
    each its `step` (sigma, new u); without it, the convolution makes its own.
    """

    features: int
    kernel_size: int
    train: bool
    stride: int = 1
    dilation: int = 1
    spectral_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], step: Step | None = None
    ) -> Float[Array, "B _ _ {self.features}"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializers.he_fan_out, shape, jnp.float32)
        if self.spectral_norm:
            kernel = kernel / self._sigma(kernel.reshape(-1, self.features), step)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return convolve(x, kernel, stride=self.stride, dilation=self.dilation)

    def _sigma(self, matrix: Float32[Array, "m n"], step: Step | None) -> Float32[Array, ""]:
        u = self.variable("batch_stats", "u", self._initial_u, matrix)
        new_sigma, new_u = power_iteration(matrix, u.value) if step is None else step
        sigma = self.variable("batch_stats", "sigma", lambda: new_sigma)
        if self.train and not self.is_initializing():
            u.value, sigma.value = new_u, jax.lax.stop_gradient(new_sigma)
        return new_sigma

    def _initial_u(self, matrix: Float32[Array, "m n"]) -> Float32[Array, "n"]:
        u = jax.random.normal(self.make_rng("params"), (self.features,))
        return power_iteration(matrix, _units([u])[0], _INIT_ITERATIONS)[1]


def folded(params: Any, batch_stats: Any) -> tuple[Any, Any]:
    """Divides every normalised kernel by its norm, as evaluation does.

    Args:
      params, batch_stats: the variables of a module whose `Conv`s have `spectral_norm`.

    Returns:
      The variables of the same module without `spectral_norm`.
    """
    return _divided(params, batch_stats, spectral_norms(params, batch_stats))


def _divided(params: Any, batch_stats: Any, norms: Any) -> tuple[Any, Any]:
    new_params, new_stats = dict(params), {}
    for name, inner in batch_stats.items():
        found = norms.get(name)
        if isinstance(found, tuple):
            kernel = jnp.asarray(params[name]["kernel"])
            new_params[name] = {**params[name], "kernel": kernel / found[0]}
        elif found is not None:
            new_params[name], new_stats[name] = _divided(params[name], inner, found)
        else:
            new_stats[name] = inner
    return new_params, new_stats


def normalised(params: Any, batch_stats: Any) -> tuple[Any, Any]:
    """Inverts `folded`, up to the scale of the kernels.

    The convolutions of the result divide by the kernels' norms. So the running statistics of each
    BN, whose name is that of its convolution with "bn" for "conv", are divided by them too. What
    the module then computes in evaluation differs by the epsilon of BN alone, and in training too.

    Args:
      params, batch_stats: the variables, on the host, of a module whose `Conv`s have no
        `spectral_norm`.

    Returns:
      The variables of the same module with `spectral_norm`.
    """
    new_stats = dict(batch_stats)
    for name, inner in params.items():
        kernel = inner.get("kernel")
        if kernel is not None and kernel.ndim == 4:
            norm, u = _norm_of(kernel)
            new_stats[name] = {"u": u, "sigma": norm}
            after = name.replace("conv", "bn")
            statistics = batch_stats[after]
            new_stats[after] = {
                "mean": statistics["mean"] / norm,
                "var": statistics["var"] / norm**2,
            }
        elif any(isinstance(each, Mapping) for each in inner.values()):
            new_stats[name] = normalised(inner, batch_stats[name])[1]
    return params, new_stats


def _norm_of(kernel: np.ndarray) -> tuple[np.float32, np.ndarray]:
    """Returns the largest singular value of a kernel as a matrix, and the right singular vector."""
    matrix = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
    gram = matrix.T @ matrix
    u: np.ndarray = np.random.default_rng(0).normal(size=len(gram))
    for _ in range(_ITERATIONS_OF_A_FILE):
        u = gram @ u
        u /= max(np.linalg.norm(u), 1e-30)
    return np.float32(np.linalg.norm(matrix @ u)), u.astype(np.float32)
