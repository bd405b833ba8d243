"""Programs that a later start reads without tracing them.

JAX's cache finds a compiled program by its text. So each start traces and lowers it first, which is
seconds of Python. Here the text itself is kept, as `jax.export` writes it, and found by what it
follows from: the facts that the caller names, the types of the arguments, the Python files of this
package and of the libraries that trace, the versions, the devices and the settings of JAX. If one
of them differs, the program is traced again.
"""

import functools
import hashlib
import json
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax import export

from iecl_jax.data import files
from iecl_jax.run import workdir

_PACKAGE = Path(__file__).parents[1]
_IMPORTED = time.time()
_SECONDS_OF_IMPORTS = 10  # more than other modules were imported before
_DIGEST_BYTES = 32
# JAX does not promise that another version of it reads this one. Other versions read nothing here.
_OF_THIS_VERSION = [export.DisabledSafetyCheck.custom_call("LayoutConstraint")]
_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Has the programs of this process kept in a folder. None, as at first, keeps none.

    Args:
      folder: whoever can write there can run code here, as in the folder of JAX's own cache.
    """
    global _folder
    _folder = folder


def serializable(kind: type[Any]) -> type[Any]:
    """Registers a class of `flax.struct.dataclass`, so that programs with such values are kept.

    Its fields without arrays must be numbers, words or None.
    """
    export.register_pytree_node_serialization(
        kind,
        serialized_name=f"{kind.__module__}.{kind.__qualname__}",
        serialize_auxdata=lambda fields: json.dumps(fields).encode(),
        deserialize_auxdata=lambda text: tuple(json.loads(text.decode())),
    )
    return kind


@functools.cache
def _know_libraries() -> None:
    """Registers the states of optax, and the loss scale of flax."""
    import optax  # Here, since they take longer to import than this module.
    from flax.training.dynamic_scale import DynamicScale

    kinds = {kind for kind in vars(optax).values() if isinstance(kind, type)}
    for kind in kinds:
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            name = f"{kind.__module__}.{kind.__qualname__}"
            export.register_namedtuple_serialization(kind, serialized_name=name)
    serializable(DynamicScale)


def write(function: Any, *arguments: Any) -> bytes:
    """Returns the text of a jitted function for arguments of these types.

    Raises:
      Exception: of many kinds. It calls a function of this process, or a result's tree has a node
        whose class is not registered, see `serializable`.
    """
    _know_libraries()
    text = export.export(function, disabled_checks=_OF_THIS_VERSION)(*arguments)
    return bytes(text.serialize())


def read(content: bytes) -> export.Exported:
    """Returns what `write` wrote, to be called in a jitted function.

    Raises:
      Exception: of many kinds; the content is from elsewhere.
    """
    _know_libraries()
    found = export.deserialize(bytearray(content))
    if b"lapack" in found.mlir_module_serialized:
        # JAX finds the functions of LAPACK when it lowers a call of one.
        jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), "float32"))
    return found


class Program:
    """A function whose arguments have the same types at each call, compiled for the devices.

    Args:
      function: what `jax.jit` or `jax.pmap` returned.
      facts: all that its program follows from beside the types of the arguments and the code:
        numbers and words, nested or not. None = the program is not kept.
      **options: those of `jax.jit` with which `function` was made, or equal ones: where arguments
        and results lie, and which arguments are donated.
    """

    def __init__(self, function: Any, facts: Mapping[str, Any] | None = None, **options: Any):
        self._function, self._facts, self._options = function, facts, options
        self._call: Callable[..., Any] | None = None
        self._known: export.Exported | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function."""
        if self._call is None:
            self._call = self.compiled(*arguments) if self._is_kept() else self._function
        return self._call(*arguments)

    def shapes(self, *arguments: Any) -> Any:
        """Returns the result's tree of ShapeDtypeStruct. Compiles nothing."""
        found = self._found(*arguments) if self._is_kept() else None
        if found is None:
            return jax.eval_shape(self._function, *arguments)
        leaves = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in found.out_avals]
        return jax.tree.unflatten(found.out_tree, leaves)

    def compiled(self, *arguments: Any) -> jax.stages.Compiled:
        """Returns the compiled program. If making it took long enough, its text is kept.

        `jax_persistent_cache_min_compile_time_secs` says how long.

        Args:
          *arguments: those of the function, or their ShapeDtypeStruct.
        """
        if not self._is_kept():
            return self._function.lower(*arguments).compile()
        found = self._found(*arguments)
        began = time.monotonic()
        try:
            content = None
            if found is None:
                content = write(jax.jit(self._function, **self._options), *arguments)
                found = read(content)
            compiled = jax.jit(found.call, **self._options).lower(*arguments).compile()
        except Exception as error:  # of many kinds: what cannot be kept is compiled as it is
            logging.debug("The program is not kept: %s", error)
            return self._function.lower(*arguments).compile()
        enough = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
        path = self._path(arguments)  # Tracing may have imported more.
        if content is not None and path is not None and time.monotonic() - began >= enough:
            _keep(path, content)
        return compiled

    def _is_kept(self) -> bool:
        # Programs of several processes, and those that look for NaN, are JAX's own affair.
        wanted = _folder is not None and self._facts is not None
        settings = ("jax_debug_nans", "jax_debug_infs", "jax_disable_jit")
        looks = any(jax.config.values[name] for name in settings)
        return wanted and not looks and jax.process_count() == 1

    def _found(self, *arguments: Any) -> export.Exported | None:
        if self._known is None:
            path = self._path(arguments)
            self._known = None if path is None else _kept(path)
        return self._known

    def _path(self, arguments: Any) -> Path | None:
        """Returns the file of the program; None = the code is not certain."""
        code = None if _foreign() else _code()
        if code is None or _folder is None:
            return None
        leaves, tree = jax.tree.flatten(arguments)
        types = [str(tree), *(str(jax.typeof(leaf)) for leaf in leaves)]
        return _folder / f"{_digest([self._facts, types, code, _surroundings()])}.stablehlo"


@functools.cache
def _code() -> str | None:
    """Returns a digest of the Python files; None if one may have changed since its import."""
    import flax
    import optax

    digest = hashlib.sha256()
    try:
        for start in (_PACKAGE, *(library.__path__[0] for library in (jax, flax, optax))):
            for path in _python_files(start):
                times = path.stat()
                newest = max(times.st_mtime, times.st_ctime)  # A copy may keep the former.
                if newest > _IMPORTED - _SECONDS_OF_IMPORTS:
                    return None
                digest.update(f"{path}\n".encode() + path.read_bytes())
    except OSError:  # A file is just being replaced, or nobody may read it.
        return None
    return digest.hexdigest()


def _python_files(start: str | Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(start, followlinks=True):  # configs is a link
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("."):  # .#a.py is a lock of Emacs
                yield Path(folder, name)


def _foreign() -> bool:
    """Returns whether a module was imported that is of no package with a version."""
    known = [str(_PACKAGE), str((_PACKAGE / "configs").resolve())]
    known += [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    known += [each for each in sys.path if any(Path(each).glob("*.dist-info"))]
    folders = tuple(f"{folder}{os.sep}" for folder in known)
    paths = [getattr(module, "__file__", None) for module in [*sys.modules.values()]]
    return any(path and not path.startswith(folders) for path in paths)


def _surroundings() -> list[Any]:
    """Returns what the text of a program depends on beside the code."""
    settings = {
        name: repr(value)
        for name, value in sorted(jax.config.values.items())
        if "cache" not in name and "log" not in name
    }
    of_flax = {name: value for name, value in os.environ.items() if name.startswith("FLAX_")}
    devices = [f"{device} {device.device_kind}" for device in jax.devices()]
    return [workdir.versions(), devices, settings, sorted(of_flax.items())]


def _digest(values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _kept(path: Path) -> export.Exported | None:
    """Returns a kept program, or None if there is none that is whole."""
    try:
        if not path.is_file():
            return None
        content = path.read_bytes()
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if _seal(path, content) != digest:
            raise ValueError("it is damaged")
        return read(content)
    except Exception as error:  # of many kinds; what cannot be read is traced again
        logging.debug("The kept program %s: %s", path, error)
        return None


def _keep(path: Path, content: bytes) -> None:
    try:
        with files.open_whole(path) as file:
            file.write(_seal(path, content) + content)
    except OSError as error:  # a full disk
        logging.debug("The program %s is not kept: %s", path, error)


def _seal(path: Path, content: bytes) -> bytes:
    """Returns a digest of the content and its name."""
    return hashlib.sha256(path.name.encode() + content).digest()
