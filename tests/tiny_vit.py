"""A tiny Vision Transformer, an encoder without batch statistics and convolutions."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from iecl_jax.config.rules import COUNT, divides
from iecl_jax.config.section import Section, key
from iecl_jax.models import precision


class Settings(Section):
    """Of the Vision Transformer."""

    patch = key(8, COUNT, "pixels, side of a patch")
    dim = key(16, COUNT, "channels of a token")
    num_heads = key(2, COUNT, "heads of the attention")
    depth = key(2, COUNT, "blocks")


def check(config, num_devices):
    """Raises ValueError if patches do not tile the image."""
    divides("encoder.patch", config.encoder.patch, "data.image_size", config.data.image_size)


def make(config, *, axis_name=None):
    """See `models.encoders`."""
    settings = config.encoder
    return VisionTransformer(
        settings.patch,
        settings.dim,
        settings.num_heads,
        settings.depth,
        dtype=precision.compute_dtype(config),
    )


class VisionTransformer(nn.Module):
    """x [B, H, W, 3] -> {"stage1": tokens [B, 1 + patches, dim], "pooled": float32 [B, dim]}."""

    patch: int
    dim: int
    num_heads: int
    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, num_views=1, running_views=1):
        b, h, w, c = x.shape
        p = self.patch
        x = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3).reshape(b, -1, p * p * c)
        x = nn.Dense(self.dim, dtype=self.dtype, name="patches")(x.astype(self.dtype))
        small = nn.initializers.normal(0.02)
        token = self.param("cls_token", small, (1, 1, self.dim)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, self.dim)), x], axis=1)
        positions = self.param("pos_embedding", small, (1, *x.shape[1:])).astype(self.dtype)
        x = x + positions
        attention = functools.partial(
            nn.MultiHeadDotProductAttention, self.num_heads, dtype=self.dtype
        )
        for i in range(self.depth):
            y = nn.LayerNorm(dtype=self.dtype, name=f"norm{i}")(x)
            x = x + attention(name=f"attention{i}")(y)
        pooled = nn.LayerNorm(dtype=jnp.float32, name="norm")(x[:, 0])
        return {"stage1": x, "pooled": pooled}
