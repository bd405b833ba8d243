"""Builds the networks that a config describes."""

from collections.abc import Sequence

import ml_collections
from flax import linen as nn

from iecl_jax.config import kinds
from iecl_jax.models import precision
from iecl_jax.models.heads import Parallel
from iecl_jax.models.mlp import MLP
from iecl_jax.models.saib import SAIB


def encoder(config: ml_collections.ConfigDict, axis_name: str | None = None) -> nn.Module:
    """Returns the encoder of `config.encoder`, see `models.encoders`.

    Its BN statistics, if it has any, are over the devices of `axis_name`.
    """
    return kinds.load("encoder", config.encoder.name).make(config, axis_name=axis_name)


def projector(config: ml_collections.ConfigDict, axis_name: str | None = None) -> MLP:
    """Returns the projector of `config.projector`, with the BN groups of the encoder."""
    settings = config.projector
    return MLP(
        num_layers=settings.num_layers,
        hidden_dim=settings.hidden_dim,
        output_dim=settings.output_dim,
        hidden_bn=settings.hidden_bn,
        output_bn=settings.output_bn,
        output_affine=settings.output_affine,
        activation=settings.activation,
        bn_group=config.encoder.bn_group,
        axis_name=axis_name,
        dtype=precision.compute_dtype(config),
    )


def further_heads(
    config: ml_collections.ConfigDict, widths: Sequence[int], axis_name: str | None = None
) -> Parallel | None:
    """Returns heads like the projector, of other widths; None if there are none."""
    like = projector(config, axis_name)
    return Parallel(tuple(like.copy(output_dim=width) for width in widths)) if widths else None


def predictor(config: ml_collections.ConfigDict, axis_name: str | None = None) -> MLP:
    """Returns the predictor of `config.method.predictor`, which maps projections to predictions.

    It has BN after every layer except the last, with the BN groups of the encoder.
    """
    settings = config.method.predictor
    return MLP(
        num_layers=settings.num_layers,
        hidden_dim=settings.hidden_dim,
        output_dim=config.projector.output_dim,
        output_bn=False,
        bn_group=config.encoder.bn_group,
        axis_name=axis_name,
        dtype=precision.compute_dtype(config),
    )


def saib(config: ml_collections.ConfigDict, axis_name: str | None = None) -> SAIB | None:
    """Returns the SAIB of `config.saib`, or None if it is not enabled."""
    settings = config.saib
    if not settings.enabled:
        return None
    return SAIB(
        group_size=settings.group_size,
        patch_size=settings.patch_size,
        variant=settings.variant,
        num_blocks=settings.num_blocks,
        inner_skip=settings.inner_skip,
        residual_scale=settings.residual_scale,
        conv3x3=settings.conv3x3,
        axis_name=axis_name,
        dtype=precision.compute_dtype(config),
    )
