"""Decides whether a start may continue from a checkpoint: what must be the same, and what may not.

A checkpoint counts its progress, its schedules and its place in the data in steps. A setting that
gives a step another meaning, or that only acts when a run begins, cannot change at a resume.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from iecl_jax.config import leaves

# {pattern of keys that cannot change: why}.
FIXED = {
    r"(?!eval\.)\w+\.batch_size": (
        "progress, schedules and the place in the data are counted in steps of this many images"
    ),
    r"seed": "the order of the images and all random numbers come from it",
    r"data\.name|data\.image_size": "what was learned so far is that of other images",
    r"method\.name": "what was learned so far is that of another method",
    r"method\.(queue_size|num_clusters|num_heads|predictor\..+|transformer\.(num|hidden)_.+)"
    r"|projector\..+|saib\..+|encoder\.(?!bn_group$|remat$).+|segmentation\.head(_channels)?"
    r"|detection\.(fpn_width|anchor_ratios|roi\.hidden_dim|roi\.output_size)": (
        "the checkpoint's network was built with it"
    ),
    r"(\w+\.)?optimizer\.name": "the checkpoint holds the statistics of the other optimizer",
    r"finetune\.layer_decay": "the checkpoint holds the rates",
    r"linear_probe\.feature_norm": "the classifier was trained on other features",
}


def why_fixed(name: str) -> str:
    """Returns why a key cannot change at a resume, or "" if it can."""
    return next((why for pattern, why in FIXED.items() if re.fullmatch(pattern, name)), "")


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a start trains on, to be compared with the checkpoint that it would continue from.

    Attributes:
      config: the config of this start; None accepts any.
      images: what identifies the training images, see `data.Split.identity`.
      steps_per_epoch: length of an epoch.
      in_epochs: whether the length of the training is given in epochs.
      allow_change: whether the images may have changed.
    """

    config: ml_collections.ConfigDict | None = None
    images: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps_per_epoch: int = 0
    in_epochs: bool = False
    allow_change: bool = False

    def facts(self) -> dict[str, Any]:
        """Returns what a checkpoint records, as JSON values."""
        return {"images": dict(self.images), "steps_per_epoch": self.steps_per_epoch}

    def check(self, step: int, config: ml_collections.ConfigDict, facts: Mapping[str, Any]) -> None:
        """Raises ValueError with one sentence if this start cannot continue from a checkpoint.

        Args:
          step: number of steps that the checkpoint has taken.
          config: the checkpoint's config.
          facts: what `facts` returned when it was saved; {} accepts any images.
        """
        if self.config is not None:
            _check_settings(step, leaves(config), leaves(self.config))
        self._check_images(step, facts)

    def _check_images(self, step: int, facts: Mapping[str, Any]) -> None:
        before, steps_per_epoch = facts.get("images"), facts.get("steps_per_epoch")
        if not before or not self.images or before == self.images:
            return
        changed = f"the training images changed since step {step}: {_differences(before, self)}"
        if not self.allow_change:
            raise ValueError(
                f"{changed}. Bring the images of that step back, use another --workdir, or go on "
                "with the new ones by --allow_config_change."
            )
        if self.in_epochs and steps_per_epoch != self.steps_per_epoch:
            raise ValueError(
                f"{changed}. An epoch now has {self.steps_per_epoch} steps instead of "
                f"{steps_per_epoch}, so the steps so far are another number of epochs: give the "
                "length in steps, --config.train.num_steps, or use another --workdir."
            )


def _check_settings(step: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, old in before.items():
        new = now.get(name)
        # A key of a method, encoder or source that is not chosen any more follows from its name.
        if name not in now or new == old:
            continue
        if reason := why_fixed(name):
            raise ValueError(
                f"{name} was {old!r} up to step {step} and cannot become {new!r} at a resume: "
                f"{reason}. Keep {name}={old!r}, or start anew in another --workdir."
            )


def _differences(before: Mapping[str, Any], terms: Terms) -> str:
    """Returns what is different about the images, such as "400 images then, 350 now"."""
    now = terms.images
    parts = [
        f"{name} {before.get(name)} then, {now.get(name)} now"
        for name in sorted(before.keys() | now.keys())
        if name not in ("images", "digest") and before.get(name) != now.get(name)
    ]
    if before.get("images") != now.get("images"):
        parts.insert(0, f"{before.get('images')} images then, {now.get('images')} now")
    elif before.get("digest") != now.get("digest"):
        parts.insert(0, f"{now.get('images')} images then and now, but other names or sizes")
    return ", ".join(parts)
