"""Measures the speed of a large matrix product, and of the convolutions of the config's ResNet.

Both are upper bounds for the speed of the step. A PyTorch program would get the same shapes, dtypes
and operations, so that utilisations can be compared.
"""

import functools
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.models import build, precision
from iecl_jax.models.encoders.resnet import ResNet
from iecl_jax.tools.benchmark import timing

CALLS = 10
MATRIX_SIDE = {"cpu": 1536}
LARGE_MATRIX_SIDE = 8192  # for platforms that MATRIX_SIDE does not list


def measure(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns {"matmul_gflops", "conv_gflops"}: 10**9 operations per second, over all devices.

    Every device does the same work at the same time, in the dtype of `train.precision` and at JAX's
    default precision for products (for float32 on NVIDIA GPUs: TF32). "conv_gflops" is the harmonic
    mean, over `conv_shapes`, of the speed of a 3x3 convolution with both gradients. It is missing
    if the encoder is no ResNet.
    """
    dtype = precision.compute_dtype(config)
    side = MATRIX_SIDE.get(jax.default_backend(), LARGE_MATRIX_SIDE)
    found = {"matmul_gflops": matmul_gflops(side, dtype)}
    shapes = conv_shapes(config, jax.device_count())
    if shapes:
        speeds = [conv_gflops(shape, dtype) for shape in shapes]
        found["conv_gflops"] = statistics.harmonic_mean(speeds)
    return found


def conv_shapes(
    config: ml_collections.ConfigDict, num_devices: int
) -> list[tuple[int, int, int, int]]:
    """Returns [b, S, S, C] of the 3x3 convolutions in each stage of a ResNet, on one device.

    Returns [] for other encoders.
    """
    encoder = build.encoder(config)
    if not isinstance(encoder, ResNet):
        return []
    images = config.train.batch_size // num_devices
    size = config.data.image_size // (1 if encoder.stem == "cifar" else 4)
    sizes = [max(1, size // 2**i) for i in range(len(encoder.stages))]
    return [(images, side, side, encoder.width * 2**i) for i, side in enumerate(sizes)]


def matmul_gflops(side: int, dtype: jnp.dtype) -> float:
    """Returns GFLOP/s over all devices; each multiplies two [side, side] matrices."""
    x, y = _normal((side, side), dtype, 0), _normal((side, side), dtype, 1)
    return _gflops(jnp.matmul, x, y, flops=2 * side**3)


def conv_gflops(shape: tuple[int, int, int, int], dtype: jnp.dtype) -> float:
    """Returns GFLOP/s over all devices; each computes a 3x3 convolution and both its gradients.

    Args:
      shape: [b, H, W, C], the shape of input and output; the padding counts as pixels.
      dtype: the dtype of input and kernel.
    """
    images, height, width, channels = shape

    def conv_and_gradients(x, kernel):
        convolve = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        output, gradients = jax.vjp(convolve, x, kernel)
        return output, gradients(x)

    x = _normal(shape, dtype, 0)
    kernel = _normal((3, 3, channels, channels), dtype, 1)
    flops = 3 * 2 * 9 * images * height * width * channels**2
    return _gflops(conv_and_gradients, x, kernel, flops=flops)


def _normal(shape: tuple[int, ...], dtype: jnp.dtype, seed: int) -> jax.Array:
    """Returns the same normal random array on each device: [D, *shape]."""
    keys = jnp.broadcast_to(jax.random.key(seed), (jax.device_count(),))
    return jax.pmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def _gflops(function: Callable[..., object], *arguments: jax.Array, flops: int) -> float:
    mapped = jax.pmap(function)
    jax.block_until_ready(mapped(*arguments))
    times = timing.durations(lambda: mapped(*arguments), jax.block_until_ready, CALLS)
    return jax.device_count() * flops / statistics.median(times) / 1e6
