"""The operations of a program, counted by hand, and the roofline that they are held against."""

import jax
import jax.numpy as jnp
import pytest

from iecl_jax import config as config_lib
from iecl_jax.models import conv
from iecl_jax.models.encoders.resnet import ARCHITECTURES, ResNet
from iecl_jax.tools.benchmark import flops, program, roofline


def conv_multiplications(side, stride, kernel, in_features, features):
    """(padding counted as pixels, padding left out) of a square convolution as ResNets have it."""
    pad, out = (kernel - 1) // 2, -(-side // stride)
    inside = sum(0 <= stride * i + k - pad < side for i in range(out) for k in range(kernel))
    return (out * kernel) ** 2 * in_features * features, inside**2 * in_features * features


def resnet18_multiplications(side, width=64):
    """(with padding, without) an image of ResNet-18 with the CIFAR stem, layer by layer."""
    layers = [conv_multiplications(side, 1, 3, 3, width)]
    for stage in range(4):
        out = width * 2**stage
        into = out if stage == 0 else out // 2
        stride = 1 if stage == 0 else 2
        layers.append(conv_multiplications(side, stride, 3, into, out))
        if stage:
            layers.append(conv_multiplications(side, stride, 1, into, out))
        side //= stride
        layers += [conv_multiplications(side, 1, 3, out, out)] * 3
    return [sum(each) for each in zip(*layers)]


@pytest.mark.parametrize("by_winograd", [False, True])
def test_the_flops_of_resnet18_are_those_counted_by_hand(by_winograd, monkeypatch):
    """Products exactly; XLA's of direct sums within 2 %: without padding, with additions and BN."""
    if not by_winograd:
        monkeypatch.setattr(conv, "WINOGRAD_CHANNELS", 10**9)
    model = ResNet(*ARCHITECTURES["resnet18"], stem="cifar")
    pictures = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), pictures)

    def pooled(params, stats, x):
        outputs = model.apply({"params": params, "batch_stats": stats}, x, train=False)
        return outputs["pooled"].sum()

    arguments = variables["params"], variables["batch_stats"], pictures
    padded, inside = resnet18_multiplications(32)
    traced = jax.jit(pooled).trace(*arguments)
    found = program.arithmetic(traced.jaxpr.jaxpr, traced.lower(), images=2)
    assert found["product_flops_per_image"] == 2 * padded
    if by_winograd:  # on a CPU, fewer than the direct sums that count as products
        assert found["flops_per_image"] < 1.5 * inside
    else:
        assert found["flops_per_image"] == pytest.approx(2 * inside, rel=0.02)
    assert found["flops_per_image"] < 0.9 * found["product_flops_per_image"]

    both = jax.jit(jax.grad(pooled)).trace(*arguments).jaxpr.jaxpr
    stem, _ = conv_multiplications(32, 1, 3, 3, 64)
    assert flops.product_flops(both) == 2 * 2 * (3 * padded - stem)  # no gradient by the pixels


def test_products_inside_of_other_functions_count():
    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)

    def repeated(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, None, length=5)[0]

    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    for function, products in ((repeated, 5), (either, 2), (jax.checkpoint(jax.jit(repeated)), 5)):
        assert flops.product_flops(jax.make_jaxpr(function)(x).jaxpr) == products * 2 * 4**3


def test_the_roofline_is_of_the_shapes_of_the_network():
    config = config_lib.load("configs/imagenet_r50.py")
    stages = [(32, 56, 56, 64), (32, 28, 28, 128), (32, 14, 14, 256), (32, 7, 7, 512)]
    assert roofline.conv_shapes(config, num_devices=8) == stages
    tiny = config_lib.load(
        "configs/resnet18.py:cifar10,simclr,smoke",
        ["--config.encoder.width=4", "--config.data.image_size=16"],
    )
    assert roofline.conv_shapes(tiny, num_devices=2)[3] == (8, 2, 2, 32)


def test_the_roofline_counts_the_work_of_all_devices(monkeypatch):
    """Were a call to take a second, a device would do just its FLOPs in it."""
    monkeypatch.setattr(roofline.timing, "durations", lambda start, finish, count: [1e3] * count)
    assert roofline.matmul_gflops(8, jnp.bfloat16) == pytest.approx(2 * 2 * 8**3 / 1e9)
    products = 2 * 3 * 2 * 5 * 4 * 4 * 9 * 6 * 6
    assert roofline.conv_gflops((5, 4, 4, 6), jnp.float32) == pytest.approx(products / 1e9)
