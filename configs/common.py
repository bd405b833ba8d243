"""What configs share: the variant argument, augmentation recipes, the tiny `,smoke` version."""

from collections.abc import Sequence

import ml_collections

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def parse_arg(arg: str, *, default: str, choices: Sequence[str]) -> tuple[str, bool]:
    """Splits `VARIANT[,smoke]` into (variant, smoke); ValueError names the choices."""
    words = [word for word in arg.split(",") if word]
    smoke = "smoke" in words
    words = [word for word in words if word != "smoke"] or [default]
    if len(words) > 1 or words[0] not in choices:
        raise ValueError(
            f"config variant {arg!r} is unknown: use one of {', '.join(choices)}, "
            "with or without ',smoke'."
        )
    return words[0], smoke


def view(
    *, crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_prob=0.5
) -> ml_collections.ConfigDict:
    """One view's operators in their order; an operator with probability 0 is not compiled."""
    ops = ml_collections.ConfigDict()
    ops.crop_scale = crop_scale  # share of the image's area
    ops.crop_ratio = (3 / 4, 4 / 3)  # width / height
    ops.crop_interpolation = "bilinear"  # bilinear | bicubic, both antialiased
    ops.flip_prob = 0.5
    ops.rotate_prob = 0.0
    ops.rotate_degrees = 90.0  # largest angle either way
    ops.jitter_prob = 0.8
    ops.brightness, ops.contrast, ops.saturation, ops.hue = jitter
    ops.gray_prob = 0.2
    ops.blur_prob = blur_prob
    ops.blur_sigma = (0.1, 2.0)  # pixels
    ops.solarize_prob = 0.0
    ops.noise_prob = 0.0
    ops.noise_std = 0.1  # of values in [0, 1]
    return ops


def same_for_both(
    ops: ml_collections.ConfigDict, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> ml_collections.ConfigDict:
    """`config.augment` with the same operators for the anchor and the query."""
    augment = ml_collections.ConfigDict()
    augment.mean, augment.std = mean, std  # per channel of values in [0, 1]
    augment.anchor, augment.query = ops, ops.copy_and_resolve_references()
    return augment


def mocov2_augment() -> ml_collections.ConfigDict:
    """MoCo-v2's recipe: crops of .2 to 1, weak jitter, blur in half of the views."""
    return same_for_both(view(crop_scale=(0.2, 1.0)), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def simclr_small_augment(mean, std) -> ml_collections.ConfigDict:
    """SimCLR's recipe for CIFAR: crops of .08 to 1, jitter of strength one half, no blur."""
    return same_for_both(view(blur_prob=0.0), mean=mean, std=std)


def crop_and_flip() -> ml_collections.ConfigDict:
    """Random resized crop and horizontal flip alone, for linear probes."""
    ops = view(blur_prob=0.0)
    ops.update({"jitter_prob": 0.0, "gray_prob": 0.0})
    return ops


def make_smoke(config: ml_collections.ConfigDict) -> None:
    """Shrinks a pretraining config to a few steps of a tiny network on generated images."""
    config.data.update({"name": "generated", "cache": "host", "image_size": 32, "num_threads": 2})
    config.train.update({"batch_size": 16, "num_steps": 4, "num_epochs": 1, "log_every_steps": 2})
    config.encoder.update({"name": "resnet10", "stem": "cifar", "width": 8})
    config.projector.update({"hidden_dim": 32, "output_dim": 16})
    config.saib.update({"group_size": 4, "patch_size": 4})
    config.schedule.warmup_epochs = 0.0
    config.eval.update({"every_epochs": 1, "batch_size": 16, "knn_k": 5})
    config.diagnostics.update({"every_steps": 2, "num_images": 16, "lanczos_depth": 4})
    config.checkpoint.every_steps = 2
    if config.method.queue_size:
        config.method.queue_size = 32
