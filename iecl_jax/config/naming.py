"""Names what a config trains, for a reader: "IE-CL", "MoCo-v2 + SAIB", "BYOL"."""

from typing import Any

from iecl_jax.config import kinds

# What IE-CL adds to momentum contrast without a queue: (words, key). It is in a config whose value
# is True or above 0.
_PARTS = (
    ("SAIB", "saib.enabled"),
    ("KL", "objective.kl.weight"),
    ("entropy", "objective.entropy.weight"),
    ("spectral norm", "encoder.spectral_norm"),
)


def trained(config: Any) -> str:
    """Returns the name of what a pretraining config trains; "" if it names no method.

    IE-CL is `moco_v2` without a queue, with SAIB, the KL and entropy terms and spectral
    normalisation, and Light-MoCo is `moco_v2` with a smoothed loss. Any other config has the name
    of its method and of those parts that it has.

    Args:
      config: a ConfigDict or nested mappings, complete or not.
    """
    method = at(config, "method.name")
    if not isinstance(method, str) or not method:
        return ""
    has = [words for words, key in _PARTS if _is_on(at(config, key))]
    ours = method == "moco_v2" and not at(config, "method.queue_size")
    if ours and len(has) == len(_PARTS):
        name = "IE-CL"
    else:
        smooth = method == "moco_v2" and _is_on(at(config, "method.smooth.mass"))
        title = "Light-MoCo" if smooth else _title(method)
        name = " + ".join([f"{title} without a queue" if ours else title, *has])
    return name + _variant(config) if "SAIB" in has else name


def at(config: Any, path: str) -> Any:
    """Returns the value at a dotted path of nested mappings; None if there is none."""
    for key in path.split("."):
        config = config.get(key) if hasattr(config, "get") else None
    return config


def _title(method: str) -> str:
    """Returns the TITLE in the file of a method of the package, or else the file's name."""
    if method not in kinds.names("method"):  # The code of an own file is not run for its name.
        return kinds.stem(method)
    return getattr(kinds.load("method", method), "TITLE", method)


def _is_on(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _variant(config: Any) -> str:
    """Returns how SAIB differs from the paper's, such as " (SAIB: expansive, 2 in a row)"."""
    variant, blocks = at(config, "saib.variant"), at(config, "saib.num_blocks")
    words = [str(variant)] if variant not in (None, "paper") else []
    if isinstance(blocks, int) and blocks > 1:
        words.append(f"{blocks} in a row")
    return f" (SAIB: {', '.join(words)})" if words else ""
