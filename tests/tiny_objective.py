"""The ImageNet config shrunk for the tests of the objective."""

from iecl_jax import methods
from iecl_jax.configs import imagenet_r50
from iecl_jax.methods.parts import objective


def get_config(**settings):
    """Embeddings of 6 dimensions, all terms on; `settings` are overrides by dotted key."""
    config = imagenet_r50.get_config("100,smoke")
    config.data.image_size = 8
    config.encoder.update({"width": 4, "spectral_norm": False})
    config.projector.update({"num_layers": 2, "hidden_dim": 8, "output_dim": 6})
    config.saib.group_size = 2
    config.method.temperature = 0.3
    config.objective.saib_decay = 0.02
    config.objective.kl.weight = 0.7
    config.objective.entropy.update(
        {"weight": 0.4, "epsilon": 0.4, "neighbors": 2, "kernel_scale": 1.5}
    )
    config.update_from_flattened_dict(settings)
    return config


def get_objective(config, axis_name=None):
    """The objective of a config around its method's loss."""
    method = methods.make(config, total_steps=10, axis_name=axis_name)
    return objective.make(config, method.loss, axis_name=axis_name)
