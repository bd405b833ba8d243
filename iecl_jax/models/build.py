"""Networks from a config: what every method is made of."""

import ml_collections
from flax import linen as nn

from iecl_jax.config import kinds
from iecl_jax.models import precision
from iecl_jax.models.mlp import MLP
from iecl_jax.models.saib import SAIB


def encoder(config: ml_collections.ConfigDict, axis_name: str | None = None) -> nn.Module:
    """The encoder of `config.encoder.name` (see `models.encoders`); BN statistics, if it has any,
    are over the devices of `axis_name`."""
    return kinds.load("encoder", config.encoder.name).make(config, axis_name=axis_name)


def projector(config: ml_collections.ConfigDict, axis_name: str | None = None) -> MLP:
    """The projector of `config.projector`, with the BN groups of the encoder."""
    settings = config.projector
    return MLP(
        num_layers=settings.num_layers,
        hidden_dim=settings.hidden_dim,
        output_dim=settings.output_dim,
        hidden_bn=settings.hidden_bn,
        output_bn=settings.output_bn,
        bn_group=config.encoder.bn_group,
        axis_name=axis_name,
        dtype=precision.compute_dtype(config),
    )


def predictor(config: ml_collections.ConfigDict, axis_name: str | None = None) -> MLP:
    """The predictor of `config.method.predictor`, from projections to their like.

    It has BN after every layer but the last, with the BN groups of the encoder.
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
    """The blocks of `config.saib`, None where they are not enabled."""
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
        axis_name=axis_name,
        dtype=precision.compute_dtype(config),
    )
