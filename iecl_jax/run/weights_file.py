"""Files of named arrays from and for other programs: .safetensors and .npz, and no pickles."""

import json
import shlex
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

READ = (".safetensors", ".npz")
_PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")
# Plain torch and safetensors, which the user of such a file has; a run's file nests its weights.
_CONVERT = (
    "import torch; from safetensors.torch import save_file; "
    "d = torch.load({source!r}, map_location='cpu', weights_only=True); "
    "d = d.get('state_dict', d.get('model', d)); "
    "d = {{k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}}; "
    "save_file(d, {target!r})"
)


def is_weights(path: Path) -> bool:
    """Returns whether a path is or looks like a file of weights, of any kind; it may be missing."""
    return path.is_file() or (path.suffix in READ + _PICKLED and not path.is_dir())


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a .safetensors or .npz file by name; float16 and such become float32.

    Raises:
      ValueError: there is no such file, it is of another kind, or it is damaged.
    """
    if path.suffix in _PICKLED:
        words = _CONVERT.format(source=str(path), target=str(path.with_suffix(".safetensors")))
        quoted = shlex.quote(words) if set('"$`!\\') & set(words) else f'"{words}"'
        raise ValueError(
            f"{path} is a pickle, which could run any code, and is not read: convert it where you "
            f"have torch and safetensors, python -c {quoted}"
        )
    if not path.exists():
        raise ValueError(f"there is no file {path}: name one with weights.")
    if path.suffix not in READ:
        raise ValueError(
            f"{path} is no file of weights: name one that ends in .safetensors or .npz."
        )
    try:
        if path.suffix == ".npz":
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            arrays = safetensors.numpy.load_file(path)
    except (
        safetensors.SafetensorError,
        zipfile.BadZipFile,
        zlib.error,
        TypeError,  # what np.load returns for a single array cannot be opened
        EOFError,
        KeyError,
        OSError,
        ValueError,
    ) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{path} cannot be read as {path.suffix} ({why}): it is damaged or was not written to "
            "its end; copy or convert it again."
        ) from error
    return {name: _single(values) for name, values in arrays.items()}


def to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns the content of a .safetensors file."""
    # Programs of torch look for this word.
    return safetensors.numpy.save(dict(arrays), metadata={"format": "pt"})


def read_facts(path: Path) -> dict[str, Any]:
    """Returns what a JSON file says about a file of weights beside it; {} if there is none.

    Raises:
      ValueError: the file is no JSON object.
    """
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): repair it, or take it away.") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} is no JSON object: repair it, or take it away.")
    return facts


def _single(values: np.ndarray) -> np.ndarray:
    """Returns floating-point numbers of any type as float32, and others as they are."""
    return values if values.dtype.kind in "iub" else values.astype(np.float32)
