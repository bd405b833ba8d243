"""The study of docs/findings.md: each open reading of the paper changed alone, at a small scale.

    python -m iecl_jax.tools.study --workdir=runs/study

runs all SETTINGS with three seeds. The command for a single run is

    python -m iecl_jax.main --config=configs/study.py:row7-anchor --config.seed=0

The scale suits a CPU: CIFAR-10 at 16 pixels, a ResNet-10 of width 8, 250 steps at batch 128.
"""

import ml_collections

from iecl_jax.configs import common, resnet18

# Setting -> overrides of the default reading of IE-CL. The number in a name is that of the reading
# in docs/paper.md.
SETTINGS: dict[str, dict[str, object]] = {
    "ie-cl": {},
    "no-saib": {"saib.enabled": False, "objective.kl.weight": 0.0, "objective.entropy.weight": 0.0},
    "no-saib-but-terms": {"saib.enabled": False},
    "row3-one-skip": {"saib.inner_skip": False},
    "row6-expansive": {"saib.variant": "expansive"},
    "row7-anchor": {"objective.kl.stop_gradient": "anchor"},
    "row7-none": {"objective.kl.stop_gradient": "none"},
    "row8-eq16": {"objective.kl.form": "eq16"},
    "row8-softmax": {"objective.kl.form": "softmax"},
    "row9-gaussian": {"objective.entropy.estimator": "gaussian_diagonal"},
    "row9-kozachenko": {"objective.entropy.estimator": "kozachenko_leonenko"},
    "row9-renyi2": {"objective.entropy.estimator": "renyi2"},
    "row10-symmetric": {"method.symmetric": True},
    "row12-adamw": {"optimizer.name": "adamw"},
    "row12-lars": {"optimizer.name": "lars"},
    "row14-cosine": {"method.ema.schedule": "cosine"},
}


def get_config(arg: str = "ie-cl") -> ml_collections.ConfigDict:
    name, scale = common.parse_arg(arg, default="ie-cl", choices=list(SETTINGS))
    config = resnet18.get_config("cifar10")
    config.data.update({"image_size": 16, "num_threads": 2})
    config.train.update({"batch_size": 128, "num_steps": 250, "log_every_steps": 50})
    config.encoder.update({"name": "resnet10", "width": 8})
    config.projector.update({"hidden_dim": 256, "output_dim": 64})
    config.schedule.warmup_epochs = 0.05
    config.eval.update({"every_epochs": 0, "batch_size": 500})
    config.eval.knn.k, config.eval.linear.num_epochs = 20, 20
    config.diagnostics.update({"every_steps": 250, "lanczos_depth": 48})
    config.checkpoint.update({"every_steps": 250, "keep": 1, "keep_best": 0})
    config.update_from_flattened_dict(SETTINGS[name])
    return common.at_scale(config, scale)
