"""The tiny run with a method that counts, per epoch, how often it saw each image."""

import jax
import jax.numpy as jnp
import tiny_run

from iecl_jax.config.section import Section, key
from iecl_jax.methods.parts.method import NewEpoch, Part
from iecl_jax.models import collectives


class Settings(Section):
    """Whether the features of all images are needed."""

    temperature = key(0.2, None, "of the logits")
    encodes = key(False, None, "read the features of all images")


def get_config():
    config = tiny_run.get_config()
    config.method = {"name": "tests/tiny_epochs.py", "temperature": 0.2, "encodes": False}
    config.train.update({"num_steps": 0, "num_epochs": 3, "log_every_steps": 1})
    config.checkpoint.update({"every_steps": 5, "keep": 100})
    return config


def make(config, *, total_steps, axis_name=None, steps_per_epoch=1, num_images=1):
    """The tiny method, which notes what it reads."""
    method = tiny_run.make(config, total_steps=total_steps, axis_name=axis_name)

    def init(key, views):
        params, state = method.init(key, views)
        names = ("now", "before", "features")
        return params, state | {
            "counts": {name: jnp.zeros(num_images) for name in names},
            "begun": jnp.zeros(()),
            "drawn": jnp.zeros(()),
        }

    def forward(params, state, views, *, index, step, epoch, keys):
        outputs, new = method.forward(params, state, views)
        places = collectives.gather(index, axis_name)
        counts = state["counts"] | {"now": state["counts"]["now"].at[places].add(1.0)}
        noise = collectives.gather(jax.vmap(jax.random.uniform)(keys), axis_name)
        outputs["read"] = {
            "step": step.astype(jnp.float32),
            "late": state["begun"] - epoch.astype(jnp.float32) - 1,
            "most": counts["now"].max(),
            "before": counts["before"].sum(),
            "features": counts["features"].sum(),
            "noise": noise.sum(),
            "drawn": state["drawn"],
        }
        return outputs, state | new | {"counts": counts}

    def loss(outputs):
        value, terms = method.loss(outputs)
        return value, terms | outputs["read"]

    def begin(params, state, key, features):
        counts = state["counts"]
        seen = counts["features"] if features is None else features.sum(1)
        counts = {"now": 0 * counts["now"], "before": counts["now"], "features": seen}
        drawn = jax.random.uniform(key)
        return params, state | {"counts": counts, "begun": state["begun"] + 1, "drawn": drawn}

    return method._replace(
        init=init,
        forward=forward,
        loss=loss,
        reads=("index", "step", "epoch", "keys"),
        new_epoch=NewEpoch(begin, config.method.encodes, "Counting"),
        optimizers={"projector": Part(learning_rate=0.01, schedule="constant", frozen_steps=3)},
        constrain=lambda params: params | {"online": params["online"]},
    )


def alarms(config, metrics):
    """Complains when an epoch begins late."""
    return [f"late={metrics['late']:g}."] if metrics.get("late") else []
