"""DINO (Caron et al. 2021): a student predicts the prototypes that a teacher gives another view.

    loss = mean over i, v of CE(softmax((t_i - c) / T'), softmax(s_v / T)),
           i anchor or query, v any other view

s_v and t_i are the cosines of the projections with the prototypes, in the student and in the
teacher, whose encoder, projector and prototypes are moving averages of the student's. All pairs
weigh the same. Two things keep the teacher from collapse: the centre c, a moving average of t over
images and devices, from a single prototype; the low temperature T', which rises at the start, from
equal shares for all prototypes.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Int, Key

from iecl_jax.config import section
from iecl_jax.config.rules import COUNT_OR_NONE, POSITIVE, SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.losses import assignment
from iecl_jax.methods.parts import ema, online, prototypes
from iecl_jax.methods.parts.method import Loss, Method, Outputs, Scalar, Step, Tree, Views
from iecl_jax.models import collectives

TITLE = "DINO"
# Shares of log K, beyond which the teacher says nothing of an image.
MOST_ENTROPY, LEAST_MEAN_ENTROPY = 0.99, 0.05
WEIGHT_NORMALIZED = section.with_defaults(
    prototypes.Settings.prototypes, {"normalization": "gradient"}
)


class Settings(online.Settings, ema.Settings):
    """The settings of DINO, besides those of its parts."""

    prototypes = WEIGHT_NORMALIZED
    temperature = key(0.1, POSITIVE, "temperature of the student's softmax")

    class teacher(Section):
        """The teacher's softmax."""

        temperature = key(0.07, POSITIVE, "temperature after the warm-up")
        start_temperature = key(0.04, POSITIVE, "temperature in the first epoch of the warm-up")
        warmup_epochs = key(30, COUNT_OR_NONE, "epochs in which the temperature rises linearly")
        center_momentum = key(0.9, SHARE, "coefficient of the moving average of the centre")


def make(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    axis_name: str | None = None,
    steps_per_epoch: int = 1,
) -> Method:
    """Returns DINO as a `Method`."""
    settings, teacher = config.method, config.method.teacher
    network = online.make(config, axis_name)
    heads = prototypes.make(config, steps_per_epoch=steps_per_epoch)
    follows = ("encoder", "projector", "prototypes")
    momentum = ema.make(config, axis_name, total_steps=total_steps, follows=follows)

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, state = network.init(keys[0], views)
        params = heads.init(keys[1], params)
        center = jnp.zeros(settings.prototypes.count)
        return params, momentum.init(params, state) | {"center": center}

    def forward(params: Tree, state: Tree, views: Views, *, epoch: Step) -> tuple[Outputs, Tree]:
        outputs, state = network.forward(params, state, views)
        rows = params["online"]["prototypes"]
        keys, state = momentum.forward(state, views[:2])
        given = heads.scores(state["momentum"]["params"]["prototypes"], keys)
        outputs |= {
            "scores": heads.scores(rows, prototypes.projections(outputs)),
            "teacher_scores": jax.lax.stop_gradient(given),
            "center": state["center"],
            "teacher_temperature": teacher_temperature(teacher, epoch),
        }
        mean = collectives.mean(outputs["teacher_scores"].mean((0, 1)), axis_name)
        center = ema.update(state["center"], mean, jnp.float32(teacher.center_momentum))
        return outputs, state | {"center": center}

    def loss(outputs: Outputs) -> Loss:
        centred = outputs["teacher_scores"] - outputs["center"][None, None]
        targets = jax.nn.softmax(centred / outputs["teacher_temperature"])
        value = assignment.of_other_views(targets, outputs["scores"] / settings.temperature)
        own = assignment.entropy(targets).mean()
        of_all = collectives.mean(targets.mean((0, 1)), axis_name)
        return value, {
            "teacher_entropy": own,
            "mean_teacher_entropy": assignment.entropy(of_all),
            "teacher_student_kl": value - own,  # each view of the teacher is in as many pairs
        }

    return Method(
        init,
        forward,
        loss,
        momentum.post_update,
        network.encode,
        network.embed,
        schedules={
            "ema": momentum.schedule,
            "teacher_temperature": lambda step: teacher_temperature(
                teacher, step // steps_per_epoch
            ),
        },
        reads=("epoch",),
        constrain=heads.constrain,
        optimizers=heads.optimizers,
    )


def teacher_temperature(teacher: ml_collections.ConfigDict, epoch: Int[Array, ""]) -> Scalar:
    """Returns the temperature of an epoch: it reaches its end in the last epoch of the warm-up."""
    steps = max(teacher.warmup_epochs - 1, 1)
    share = jnp.minimum(epoch.astype(jnp.float32) / steps, 1) if teacher.warmup_epochs else 1.0
    return jnp.float32(
        teacher.start_temperature + share * (teacher.temperature - teacher.start_temperature)
    )


def alarms(config: ml_collections.ConfigDict, metrics: Mapping[str, float]) -> list[str]:
    """Returns the sentences for a teacher that gives all images the same, in both ways."""
    most = math.log(config.method.prototypes.count)
    own, of_all = metrics["teacher_entropy"], metrics["mean_teacher_entropy"]
    if own > MOST_ENTROPY * most:
        return [
            f"the teacher's entropy, {own:.2f} nats, is nearly the {most:.2f} of equal shares for "
            "all prototypes: lower method.teacher.temperature and "
            "method.teacher.start_temperature."
        ]
    if of_all < LEAST_MEAN_ENTROPY * most:
        return [
            f"the teacher gives all images nearly the same prototype, with an entropy of "
            f"{of_all:.2f} nats over the batch where {most:.2f} is the most: lower "
            "method.teacher.center_momentum, or raise method.teacher.temperature and "
            "method.teacher.start_temperature."
        ]
    return []
