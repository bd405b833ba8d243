"""The names of a run's numbers and pictures in TensorBoard.

Everywhere else a number is called GROUP/NAME and a picture NAME. TensorBoard sorts groups by their
names and opens on the first. So its groups are numbered, and the first has only what matters most.
"""

EVENT_FILES = "events.out.tfevents.*"  # the names of TensorBoard's files

_FIRST = ("loss", "probe_accuracy")
_TRAIN, _DETAILS, _LAYERS, _TABLES = "1_train/", "3_details/", "5_layers/", "6_tables/"
_GROUPS = {"eval/": "2_eval/", "diagnostics/": "4_diagnostics/", "probe/": "1_probe/"}
_PICTURES = {"gallery": "2_eval/gallery", "jacobian_spectrum": "4_diagnostics/jacobian_spectrum"}


def number_in_tensorboard(name: str) -> str:
    """Returns the tag of the number GROUP/NAME.

    A group of layers becomes a part of one group, and so do the tables of evaluations, whose
    numbers are called eval/TABLE/ROW/NAME.
    """
    group, slash, rest = name.partition("/")
    if not slash:
        return name
    if group == "train":
        return (_TRAIN if rest in _FIRST else _DETAILS) + rest
    if group == "eval" and "/" in rest:
        return _TABLES + rest
    return _GROUPS.get(group + slash, _LAYERS + group + slash) + rest


def picture_in_tensorboard(name: str) -> str:
    """Returns the tag of a picture."""
    return _PICTURES.get(name, name)


def from_tensorboard(tag: str) -> str:
    """Returns the name of what has this tag; also of a tag that an earlier revision wrote."""
    for name, known in _PICTURES.items():
        if tag == known:
            return name
    inverse = {new: old for old, new in _GROUPS.items()}
    inverse |= {_TRAIN: "train/", _DETAILS: "train/", _LAYERS: "", _TABLES: "eval/"}
    group, slash, rest = tag.partition("/")
    return inverse.get(group + slash, group + slash) + rest
