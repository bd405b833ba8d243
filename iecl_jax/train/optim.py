"""The optimizers, the learning-rate schedule, and the masks of weight decay and LARS."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from iecl_jax.methods.parts.method import Part

PREDICTOR_SCHEDULES = ("cosine", "constant")
PLAIN = ("sgd", "adam", "adamw")
# A parameter with one of these words in its name is no kernel, even if it has several axes. In
# Flax, attention has biases [heads, d], and nn.Embed names its table "embedding".
NO_KERNEL = re.compile(r"(^|_)(bias|scale|norm|pos|position|token|embedding)(s|al)?(_|$)")


def peak_learning_rate(config: ml_collections.ConfigDict) -> float:
    """Returns `optimizer.learning_rate` * batch / 256 (Goyal et al. 2017)."""
    return config.optimizer.learning_rate * config.train.batch_size / 256


def learning_rate(
    config: ml_collections.ConfigDict, *, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """Returns the schedule: linear from 0 to the peak, then down at `total_steps`.

    With `schedule.decay="cosine"` it falls on a cosine to `schedule.end_factor` times the peak,
    which is 0 by default. With "drops" it stays at the peak, but drops by `schedule.drop_factor`
    at each of `schedule.drop_epochs` before the end (Ermolov et al. 2021, MinEnt).
    """
    settings = config.schedule
    peak, end = peak_learning_rate(config), settings.end_factor
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if settings.decay == "drops":
        drops = [total_steps - round(e * steps_per_epoch) for e in settings.drop_epochs]
        schedule = _dropping(peak, warmup, drops, settings.drop_factor)
    elif warmup:
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total_steps, end * peak)
    else:
        schedule = optax.cosine_decay_schedule(peak, total_steps, end)
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def _dropping(peak: float, warmup: int, drops: Sequence[int], factor: float) -> optax.Schedule:
    """Returns the schedule of a warm-up in `warmup` steps, and a factor from each drop on."""

    def schedule(step):
        rate = jnp.float32(peak) * (jnp.minimum(step / warmup, 1) if warmup else 1)
        return math.prod([jnp.where(step >= drop, factor, 1) for drop in drops], start=rate)

    return schedule


def decay_factor(config: ml_collections.ConfigDict, total_steps: int) -> optax.Schedule | None:
    """Returns the factor of the weight decay: from 1 on a cosine to the one at `total_steps`.

    That is `schedule.weight_decay_factor` (DINO: 10, from 0.04 to 0.4). If it is 1, the decay is
    constant, and this returns None.
    """
    end = config.schedule.weight_decay_factor
    if end == 1:
        return None
    cosine = optax.cosine_decay_schedule(1.0, total_steps, end)
    return lambda step: cosine(jnp.asarray(step, jnp.float32))


def is_kernel(path: jax.tree_util.KeyPath, leaf: jax.Array) -> bool:
    """Returns whether a parameter is a kernel: two axes or more, and no word of NO_KERNEL.

    Biases, scales of norms, positions (`pos_embedding`) and tokens (`cls_token`) are no kernels.
    """
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return leaf.ndim > 1 and NO_KERNEL.search(name) is None


def decayed(params, which: str = "kernels"):
    """Returns a mask of the parameters that `optimizer.weight_decay` decays.

    It is True for every kernel (`is_kernel`) of the online network: encoder, projector, predictor.
    If `which` is "all", it is True for every parameter of the online network. SAIB is excluded: the
    gamma term of the objective decays it.
    """

    def decays(path, leaf):
        return path[0].key == "online" and (which == "all" or is_kernel(path, leaf))

    return jax.tree_util.tree_map_with_path(decays, params)


def scaled(params, which: str = "kernels"):
    """Returns a mask of the parameters that LARS and LARC scale: kernels, and SAIB's positions.

    If `which` is "all", it is True for every parameter.
    """

    def scales(path, leaf):
        # Earlier revisions scaled SAIB's positions too; old runs with LARS must stay reproducible.
        positions = path[0].key == "saib" and leaf.ndim > 1
        return which == "all" or is_kernel(path, leaf) or positions

    return jax.tree_util.tree_map_with_path(scales, params)


def larc(
    schedule: optax.Schedule,
    *,
    trust_coefficient: float,
    clip: bool,
    weight_decay: float | optax.Schedule,
    decay_mask: Callable[[Any], Any],
    scale_mask: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """Returns LARC (NVIDIA Apex) up to momentum and the multiplication by -lr, which must follow.

    With trust = `trust_coefficient` |w| / (|g| + wd |w| + 1e-8), a gradient g becomes

        trust * (g + wd w), or with `clip`  min(trust / lr, 1) * (g + wd w),

    where wd is `weight_decay` (at the number of earlier updates) where `decay_mask(params)` is True
    and 0 elsewhere, lr = schedule(number of earlier updates), at lr = 0 the clipped factor is 1,
    and the norms are over one leaf. So a clipped update is LARS whose rate never exceeds the
    schedule's. This applies to the leaves of `scale_mask(params)` with nonzero w and g. Others of
    that mask keep their g: they do not decay. Leaves outside of it become g + wd w.
    """

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(gradients, state, params):
        rate = jnp.asarray(schedule(state.count), jnp.float32)
        decay = weight_decay(state.count) if callable(weight_decay) else weight_decay

        def scale(g, w, decays, scales):
            wd = decay if decays else 0.0
            g_norm, w_norm = jnp.linalg.norm(g.ravel()), jnp.linalg.norm(w.ravel())
            trust = trust_coefficient * w_norm / (g_norm + wd * w_norm + 1e-8)
            # trust / max(trust, rate) = min(trust / rate, 1), also at rate 0.
            ratio = trust / jnp.maximum(trust, rate) if clip else trust
            known = scales & (g_norm > 0) & (w_norm > 0)
            return jnp.where(known, ratio * (g + wd * w), g if scales else g + wd * w)

        masks = decay_mask(params), scale_mask(params)
        return jax.tree.map(scale, gradients, params, *masks), optax.ScaleByScheduleState(
            optax.safe_increment(state.count)
        )

    return optax.GradientTransformation(init, update)


def clip_each(max_norm: float) -> optax.GradientTransformation:
    """Returns the scaling of each parameter's gradient to a norm of `max_norm` at most (DINO)."""

    def clip(g, w):
        return g * jnp.minimum(1, max_norm / (jnp.linalg.norm(g.ravel()) + 1e-6))

    return optax.stateless_with_tree_map(clip)


def _network_optimizer(
    settings: ml_collections.ConfigDict, rate: optax.Schedule, factor: optax.Schedule | None
) -> optax.GradientTransformation:
    weight_decay = settings.weight_decay
    decay = weight_decay if factor is None else lambda step: weight_decay * factor(step)
    mask = functools.partial(decayed, which=settings.decay)
    if settings.name in PLAIN:
        tx = plain(settings, rate, decay, mask)
    else:
        tx = _layerwise(settings, rate, decay, mask)
    return optax.chain(clip_each(settings.clip_norm), tx) if settings.clip_norm else tx


def plain(
    settings: ml_collections.ConfigDict,
    rate: optax.Schedule,
    decay: float | optax.Schedule,
    mask: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """Returns one of PLAIN, see `make`.

    Args:
      settings: "name" and "momentum".
      rate: the learning rate.
      decay: the weight decay.
      mask: params -> a mask of those that decay.
    """
    if settings.name == "adamw":
        return optax.adamw(rate, b1=settings.momentum, weight_decay=decay, mask=mask)
    if settings.name == "adam":
        last = optax.adam(rate, b1=settings.momentum)
    else:
        last = optax.sgd(rate, settings.momentum)
    return optax.chain(optax.add_decayed_weights(decay, mask), last)


def _layerwise(
    settings: ml_collections.ConfigDict,
    rate: optax.Schedule,
    decay: float | optax.Schedule,
    mask: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """Returns lars or larc, see `make`."""
    scale_mask = functools.partial(scaled, which=settings.scaled)
    if settings.name == "larc" or settings.trust_clip:
        return optax.chain(
            larc(
                rate,
                trust_coefficient=settings.trust_coefficient,
                clip=settings.trust_clip,
                weight_decay=decay,
                decay_mask=mask,
                scale_mask=scale_mask,
            ),
            optax.sgd(rate, settings.momentum),
        )
    return optax.lars(
        rate,
        weight_decay=decay,
        weight_decay_mask=mask,
        trust_coefficient=settings.trust_coefficient,
        trust_ratio_mask=scale_mask,
        momentum=settings.momentum,
    )


def frozen(tx: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Returns `tx`, but for the first `steps` updates nothing moves: no parameter, no momentum.

    Counters go on, so that schedules are those of the run. Adam's count, which corrects its moments
    for their start at 0, begins with them.
    """

    def corrects(node):
        return isinstance(node, optax.ScaleByAdamState)

    def init(params):
        return jnp.zeros((), jnp.int32), tx.init(params)

    def update(gradients, state, params):
        count, inner = state
        updates, new = tx.update(gradients, inner, params)
        moves = count >= steps

        def kept(old, new):
            if corrects(new):
                return jax.tree.map(functools.partial(jnp.where, moves), new, old)
            return jnp.where(moves, new, old) if jnp.issubdtype(new.dtype, jnp.inexact) else new

        updates = jax.tree.map(lambda leaf: jnp.where(moves, leaf, 0), updates)
        return updates, (
            optax.safe_increment(count),
            jax.tree.map(kept, inner, new, is_leaf=corrects),
        )

    return optax.GradientTransformation(init, update)


def _part_optimizer(
    config: ml_collections.ConfigDict,
    part: Part,
    schedule: optax.Schedule,
    decay: optax.Schedule | None,
) -> optax.GradientTransformation:
    """Returns the optimizer of a `Part`: the network's, except for what the part says."""
    settings = config.optimizer.copy_and_resolve_references()
    for name in ("learning_rate", "momentum", "weight_decay"):
        if (value := getattr(part, name)) is not None:
            settings[name] = value
    ratio = settings.learning_rate / config.optimizer.learning_rate
    peak = ratio * peak_learning_rate(config)

    def rate(step):
        return peak if part.schedule == "constant" else ratio * schedule(step)

    tx = _network_optimizer(settings, rate, decay)
    return frozen(tx, part.frozen_steps) if part.frozen_steps else tx


def make(
    config: ml_collections.ConfigDict,
    schedule: optax.Schedule,
    parts: Mapping[str, Part] | None = None,
    decay: optax.Schedule | None = None,
) -> optax.GradientTransformation:
    """Returns the optimizer of `config.optimizer`.

    - sgd and adam are PyTorch's: weight decay is added to the gradient before momentum or moments.
    - adamw decouples the decay. In adam and adamw, b1 is `optimizer.momentum`.
    - lars and larc scale the parameters that `optimizer.scaled` names. lars is optax.lars, which
      multiplies u = g + wd w by the trust coefficient times |w| / |u|, as the released codes of
      SimCLR, BYOL and MoCo-v3 do; Eq. 6 of You et al. 2017 divides by |g| + wd |w| instead.
      Momentum is over the scaled updates. larc, and lars with `trust_clip`, is the function `larc`,
      with momentum over gradients.
    - `optimizer.clip_norm` limits the norm of each parameter's gradient before all of this.

    The online probe has its own SGD with momentum and a constant rate. If
    `optimizer.predictor_schedule` is "constant", the parameters under online.predictor learn at the
    peak rate at every step (SimSiam, Chen & He 2021) instead of by `schedule`.
    `parts` has the subtrees of the online network with rules of their own (`Method.optimizers`).
    `decay`, see `decay_factor`, multiplies the weight decay of the network and its parts.
    """
    settings = config.optimizer
    parts = dict(parts or {})
    if settings.predictor_schedule == "constant":
        parts["predictor"] = Part(schedule="constant")
    transforms = {
        "main": _network_optimizer(settings, schedule, decay),
        "probe": optax.sgd(settings.probe_learning_rate, settings.momentum),
        **{name: _part_optimizer(config, part, schedule, decay) for name, part in parts.items()},
    }

    def labels(params):
        found = {name: "probe" if name == "online_probe" else "main" for name in params}
        if not parts:
            return found
        online = {name: name if name in parts else "main" for name in params["online"]}
        return found | {"online": online}

    return optax.partition(transforms, labels)
