"""Functions that the configs share: the variant argument, augmentation recipes, smaller scales.

A variant may end in a scale. `,smoke` takes a few steps of a tiny network on generated images and
only shows that everything runs. `,small` trains on CIFAR-10 in minutes on two CPU cores.
"""

from collections.abc import Mapping, Sequence

import ml_collections

from iecl_jax.config import rules, section
from iecl_jax.config.pretrain import Augment, View

SCALES = ("smoke", "small")


def split_scale(arg: str, scales: Sequence[str]) -> tuple[list[str], str]:
    """Splits `WORD,...[,SCALE]` into (words, scale); the scale "" is the paper's."""
    words = [word for word in arg.split(",") if word]
    scale = words.pop() if words and words[-1] in scales else ""
    return words, scale


def parse_arg(
    arg: str, *, default: str, choices: Sequence[str], scales: Sequence[str] = ("smoke",)
) -> tuple[str, str]:
    """Splits `VARIANT[,SCALE]` into (variant, scale); raises ValueError with the choices."""
    words, scale = split_scale(arg, scales)
    words = words or [default]
    if len(words) > 1 or words[0] not in choices:
        raise unknown_variant(arg, f"one of {', '.join(choices)}", scales, choices)
    return words[0], scale


def unknown_variant(
    arg: str, wanted: str, scales: Sequence[str], words: Sequence[str]
) -> ValueError:
    """Returns the error for an unknown variant.

    Args:
      arg: the variant.
      wanted: describes the known variants.
      scales: the scales, in which a variant may end.
      words: what variants are made of, to suggest the one that a misspelt word is most like.
    """
    known = {*words, *scales}
    misspelt = [word for word in arg.split(",") if word not in known]
    parts = [part for word in misspelt for part in word.split("+") if part not in known]
    hints = (rules.near(word, sorted(known)) for word in [*parts, *misspelt])
    hint = next(filter(None, hints), "")
    endings = " or ".join(f"',{scale}'" for scale in scales)
    return ValueError(
        f"config variant {arg!r} is unknown: {hint}use {wanted}, with or without {endings}."
    )


def view(
    *,
    crop_scale=(0.08, 1.0),
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_prob=0.8,
    gray_prob=0.2,
    blur_prob=0.5,
    solarize_prob=0.0,
) -> ml_collections.ConfigDict:
    """Returns the settings of a view: all operators, with their defaults except for these settings.

    Args:
      crop_scale: (lowest, highest) share of the image's area.
      jitter: strengths of brightness, contrast, saturation and hue.
      jitter_prob, gray_prob, blur_prob, solarize_prob: probabilities of the operators.
    """
    made = section.defaults(View)
    made.crop.scale = crop_scale
    made.jitter.prob, made.gray.prob = jitter_prob, gray_prob
    made.blur.prob, made.solarize.prob = blur_prob, solarize_prob
    names = ("brightness", "contrast", "saturation", "hue")
    made.jitter.update(dict(zip(names, jitter, strict=True)))
    return made


def same_for_both(of_each: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a `config.augment` with the same operators for the anchor and the query."""
    augment = section.defaults(Augment)
    augment.anchor, augment.query = of_each, of_each.copy_and_resolve_references()
    return augment


def add_views(
    augment: ml_collections.ConfigDict, views: Mapping[str, ml_collections.ConfigDict]
) -> None:
    """Adds views by name to a `config.augment`, in place. Each is a copy."""
    augment.views = (*augment.views, *views)
    for name, added in views.items():
        augment[name] = added.copy_and_resolve_references()


def mocov2_augment() -> ml_collections.ConfigDict:
    """Returns MoCo-v2's augmentation: crops of 0.2 to 1, weak jitter, blur in half of the views."""
    return same_for_both(view(crop_scale=(0.2, 1.0)))


def simclr_small_augment() -> ml_collections.ConfigDict:
    """Returns SimCLR's augmentation for CIFAR: crops of 0.08 to 1, jitter strength 1/2, no blur."""
    return same_for_both(view(blur_prob=0.0))


def at_scale(config: ml_collections.ConfigDict, scale: str) -> ml_collections.ConfigDict:
    """Changes a pretraining config to the scale smoke or small (""= no change), and returns it."""
    if scale:
        {"smoke": _make_smoke, "small": _make_small}[scale](config)
    return config


def _make_smoke(config: ml_collections.ConfigDict) -> None:
    """A few steps of a tiny network on generated images."""
    config.data.update({"name": "generated", "image_size": 32, "num_threads": 2})
    config.train.update({"batch_size": 16, "num_steps": 4, "num_epochs": 1, "log_every_steps": 2})
    _shrink_encoder(config)
    _shrink_heads(config, hidden_dim=32, output_dim=16)
    config.saib.update({"group_size": 4, "patch_size": 4})
    config.schedule.warmup_epochs = 0.0
    _drop_before_end(config, 0.12)
    config.eval.update({"every_epochs": 1, "batch_size": 16})
    config.eval.knn.k, config.eval.linear.num_epochs = 5, 2
    config.diagnostics.update({"every_steps": 2, "num_images": 16, "lanczos_depth": 4})
    config.checkpoint.every_steps = 2
    _shrink_method(config, queue_size=32, prototypes=8)
    if "transformer" in config.method:
        config.method.transformer.num_layers = 1
    if config.method.get("whitening_size"):
        config.method.whitening_size = 16
        config.projector.output_dim = 8


def _make_small(config: ml_collections.ConfigDict) -> None:
    """Gives every method the same images, views, steps and widths; keeps its other settings."""
    config.data.update({"name": "cifar10", "image_size": 16, "num_threads": 2})
    config.train.update({"batch_size": 128, "num_steps": 1000, "log_every_steps": 50})
    _shrink_encoder(config)
    _shrink_heads(config, hidden_dim=256, output_dim=64)
    config.saib.update({"group_size": 32, "patch_size": 4})
    config.schedule.warmup_epochs = 0.05
    _drop_before_end(config, 0.128)
    config.augment = simclr_small_augment()
    config.eval.update({"every_epochs": 0, "batch_size": 500})
    config.eval.knn.update({"k": 20, "temperature": 0.07})
    config.eval.linear.num_epochs = 20
    config.diagnostics.update({"every_steps": 500, "num_images": 256, "lanczos_depth": 32})
    config.checkpoint.update({"every_steps": 500, "keep": 1, "keep_best": 0})
    _shrink_method(config, queue_size=4096, prototypes=64)


def _drop_before_end(config: ml_collections.ConfigDict, epochs: float) -> None:
    """Lets the rate drop at so many epochs, and half as many, before the end, if it drops."""
    if config.schedule.decay == "drops":
        config.schedule.drop_epochs = (epochs, epochs / 2)


def _shrink_encoder(config: ml_collections.ConfigDict) -> None:
    """Makes a ResNet the smallest one; another encoder stays as it is."""
    if config.encoder.name.startswith("resnet"):
        config.encoder.update({"name": "resnet10", "stem": "cifar", "width": 8})


def _shrink_method(config: ml_collections.ConfigDict, *, queue_size: int, prototypes: int) -> None:
    """Shortens a queue, leaves few prototypes, and lets what waits for later epochs begin soon."""
    method = config.method
    if method.get("queue_size"):
        method.queue_size = queue_size
    if "queue_start_epoch" in method:
        method.queue_start_epoch = 0
    if "prototypes" in method:
        method.prototypes.update({"count": prototypes, "frozen_epochs": 0.05})
    if "num_clusters" in method:
        method.num_clusters = prototypes
    if "first_epoch" in method:  # So short a run may have no other.
        method.first_epoch = "encode"


def _shrink_heads(config: ml_collections.ConfigDict, *, hidden_dim: int, output_dim: int) -> None:
    """Narrows the heads. Others keep their width relative to the projector's output.

    A predictor has `hidden_dim` units at most; of further heads, each width is there once.
    """
    if "predictor" in config.method:
        predictor = config.method.predictor
        proportional = predictor.hidden_dim * output_dim // config.projector.output_dim
        predictor.hidden_dim = min(hidden_dim, proportional)
    for name in ("further_heads", "levels"):
        if name in config.method:
            widths = (w * output_dim // config.projector.output_dim for w in config.method[name])
            config.method[name] = tuple(dict.fromkeys(max(width, 2) for width in widths))
    if "transformer" in config.method:
        transformer = config.method.transformer
        transformer.hidden_dim = min(transformer.hidden_dim, hidden_dim)
    config.projector.update({"hidden_dim": hidden_dim, "output_dim": output_dim})
