"""Finds settings that the command changed and nothing reads, because another setting is off.

They are no error: a command may give one override to many configs, and earlier runs have them. But
who types `--config.optimizer.trust_clip=True` expects something of it, so it is said.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from iecl_jax.config.naming import at
from iecl_jax.config.rules import shown


class Reader(NamedTuple):
    """What must be so for some settings to be read.

    Attributes:
      settings: a pattern of their dotted names. What it captures fills the braces of `needs`.
      needs: the setting on which they depend.
      wanted: a value of it with which they are read, for the message.
      reads: whether they are read with its value.
    """

    settings: str
    needs: str
    wanted: str
    reads: Callable[[Any], bool]


def _is(value: Any) -> Callable[[Any], bool]:
    return lambda given: given == value


def _is_one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda given: given in values


def _is_not(value: Any) -> Callable[[Any], bool]:
    return lambda given: given != value


def _positive(value: Any) -> bool:
    return not isinstance(value, int | float) or value > 0


_TRAINED = r"(segmentation|detection|finetune)\."  # the jobs that train a network of their own
_ENTROPY = r"objective\.entropy\."
READERS = (
    Reader(r"train\.num_epochs", "train.num_steps", "0", _is(0)),
    Reader(
        r"optimizer\.(?:trust_clip|trust_coefficient|scaled)",
        "optimizer.name",
        "'lars'",
        _is_one_of("lars", "larc"),
    ),
    Reader(r"saib\.(?!enabled|side).+", "saib.enabled", "True", bool),
    Reader(r"objective\.saib_decay", "saib.enabled", "True", bool),
    Reader(r"objective\.kl\.(?!weight).+", "objective.kl.weight", "0.09", _positive),
    Reader(
        _ENTROPY + "(?:estimator|neighbors|kernel_scale)",
        "objective.entropy.weight",
        "0.2",
        _positive,
    ),
    Reader(
        _ENTROPY + "neighbors",
        "objective.entropy.estimator",
        "'kozachenko_leonenko'",
        _is("kozachenko_leonenko"),
    ),
    Reader(_ENTROPY + "kernel_scale", "objective.entropy.estimator", "'renyi2'", _is("renyi2")),
    Reader(r"method\.(?:enqueue|queue_start_epoch)", "method.queue_size", "4096", _positive),
    Reader(r"method\.smooth\.(?!mass).+", "method.smooth.mass", "0.1", _positive),
    Reader(r"schedule\.drop_\w+", "schedule.decay", "'drops'", _is("drops")),
    Reader(r"schedule\.end_factor", "schedule.decay", "'cosine'", _is("cosine")),
    Reader(r"method\.ema\.end", "method.ema.schedule", "'cosine'", _is("cosine")),
    Reader(r"((?:projector|method\.predictor))\.hidden_\w+", "{}.num_layers", "2", _is_not(1)),
    Reader(r"projector\.output_affine", "projector.output_bn", "True", bool),
    Reader(r"diagnostics\.(?!every_steps).+", "diagnostics.every_steps", "100", _positive),
    Reader(r"diagnostics\.lanczos_\w+", "saib.enabled", "True", bool),
    Reader(r"eval\.linear\.(?!num_epochs).+", "eval.linear.num_epochs", "20", _positive),
    Reader(r"eval\.comparison\.when", "eval.comparison.labels_per_class", "10", _positive),
    Reader(r"linear_probe\.(?:learning_rates|holdout)", "linear_probe.cached", "True", bool),
    Reader(
        r"linear_probe\.(?:learning_rate|augment\..+)", "linear_probe.cached", "False", _is(False)
    ),
    Reader(r"((?:eval\.)?few_labels)\.(?:shares|draws)", "{}.list", "''", _is("")),
    Reader(_TRAINED + r"schedule\.power", "{}.schedule.decay", "'poly'", _is("poly")),
    Reader(_TRAINED + r"schedule\.end_factor", "{}.schedule.decay", "'poly'", _is_not("drops")),
    Reader(_TRAINED + r"schedule\.drop_\w+", "{}.schedule.decay", "'drops'", _is("drops")),
    Reader(r"finetune\.num_epochs", "finetune.num_steps", "0", _is(0)),
    Reader(r"finetune\.label_share", "finetune.list", "''", _is("")),
    Reader(r"segmentation\.head_channels", "segmentation.head", "'deeplab'", _is("deeplab")),
    Reader(r"data\.(?:classes|box_origin|(?:train|test)_split)", "data.dir", "FOLDER", bool),
    Reader(r"data\.num_workers", "data.cache", "'none'", _is_one_of("none", "auto")),
    Reader(r"data\.generated", "data.dir", "''", _is("")),
    Reader(r"log\.wandb_project", "log.wandb", "'online'", _is_not("off")),
    # An operator of a view that is never applied.
    Reader(r"(.*\.\w+)\.(?!prob$)\w+", "{}.prob", "0.5", _positive),
)


def sentences(config: Any, changed: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each changed setting that has no effect.

    Args:
      config: the whole config.
      changed: {dotted name: value} of the settings that the command changed.
    """
    found = []
    for name, value in changed.items():
        for reader in READERS:
            match = re.fullmatch(reader.settings, name)
            needs = reader.needs.format(*match.groups()) if match else ""
            given = at(config, needs) if needs else None
            if given is not None and not reader.reads(given):
                found.append(
                    f"{name}={shown(value)} has no effect, since {needs}={shown(given)}: take it "
                    f"out, or set {needs}={reader.wanted}."
                )
                break
    return found
