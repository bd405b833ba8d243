"""A transformer encoder with the layers of Vaswani et al. 2017, as PyTorch has them by default."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Key

# PyTorch draws the kernel of the queries, keys and values by Glorot, and that of any other layer
# from U(-1/sqrt(fan_in), 1/sqrt(fan_in)); biases are 0 here.
_GLOROT = nn.initializers.xavier_uniform()
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class TransformerEncoder(nn.Module):
    """Maps sequences [..., n, d] to [..., n, d], float32, by `num_layers` layers.

    A layer is self-attention of `num_heads` heads, which must divide d, then Dense(`hidden_dim`),
    ReLU, Dense(d). After each of the two, its input is added and the sum is normalised (post-norm).
    Dropout acts on the weights of the attention, on what is added, and on the hidden units; it
    needs the random key "dropout". There is no layer norm at the end, and no position is added.
    """

    num_layers: int
    num_heads: int
    hidden_dim: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*rows n d"], *, deterministic: bool
    ) -> Float32[Array, "*rows n d"]:
        for i in range(1, self.num_layers + 1):
            x = self._layer(x, f"layer{i}", deterministic)
        return x

    def _layer(self, x, name: str, deterministic: bool):
        width = x.shape[-1]

        def dense(features, part, init=_UNIFORM):
            return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=f"{name}_{part}")

        def drop(x):
            return nn.Dropout(self.dropout, deterministic=deterministic)(x)

        def added(x, change, part):
            x = x + drop(change).astype(jnp.float32)
            return nn.LayerNorm(epsilon=1e-5, name=f"{name}_{part}")(x)

        # One kernel for the three, as in PyTorch: the scaling of LARS is by kernel.
        of_heads = (*x.shape[:-1], self.num_heads, width // self.num_heads)
        qkv = jnp.split(dense(3 * width, "attention_in", _GLOROT)(x), 3, axis=-1)
        attended = nn.dot_product_attention(
            *(part.reshape(of_heads) for part in qkv),
            dropout_rng=None if deterministic or not self.dropout else self.make_rng("dropout"),
            dropout_rate=self.dropout,
            broadcast_dropout=False,
            deterministic=deterministic,
            dtype=self.dtype,
        ).reshape(x.shape)
        x = added(x, dense(width, "attention_out")(attended), "norm1")
        hidden = drop(nn.relu(dense(self.hidden_dim, "dense1")(x)))
        return added(x, dense(width, "dense2")(hidden), "norm2")


def encode_each(
    encoder: TransformerEncoder,
    params: Any,
    sequences: Float32[Array, "S b n d"],
    keys: Key[Array, "b"] | None,
) -> Float32[Array, "S b n d"]:
    """Returns the encoder's outputs for S sequences of each image, with dropout of the image's own.

    So what is dropped does not depend on the other images of the batch. Without `keys` nothing is.
    """
    if keys is None:
        return encoder.apply({"params": params}, sequences, deterministic=True)

    def of_image(key, of_each):
        rngs = {"dropout": key}
        return encoder.apply({"params": params}, of_each, deterministic=False, rngs=rngs)

    return jax.vmap(of_image, (0, 1), 1)(keys, sequences)
