"""Compiled programs that a later start reads without tracing them.

JAX's cache finds a program by its lowered text. So each start traces and lowers it first, which is
seconds of Python. Here it is found by what the text follows from: the facts that the caller names,
the types of the arguments, the files of this package, the versions, the devices and the settings of
JAX. If one of them differs, the program is traced, and found by its text: a changed comment costs
seconds, but compiles nothing.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from iecl_jax.data import files
from iecl_jax.run import workdir

READ = "/iecl_jax/program_read"  # the event of `jax.monitoring` with the seconds
_PACKAGE = Path(__file__).parents[1]
_IMPORTED = time.time()
_SECONDS_OF_IMPORTS = 10  # more than other modules were imported before
_DIGEST_BYTES = 32
_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Has the programs of this process kept in a folder. None, as at first, keeps none.

    Args:
      folder: only for processors of the same kind. Whoever can write there can run code here, as in
        the folder of JAX's own cache.
    """
    global _folder
    _folder = folder


class Program:
    """A jitted function whose arguments have the same types at each call.

    Args:
      function: what `jax.jit` or `jax.pmap` returned. It decides where its arguments lie.
      facts: all that its program follows from beside the types of the arguments and the code:
        numbers and words, nested or not. None = the program is not kept.
    """

    def __init__(self, function: Any, facts: Mapping[str, Any] | None = None):
        self._function, self._facts = function, facts
        self._call: Callable[..., Any] | None = None
        self._known: jax.stages.Compiled | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function."""
        if self._call is None:
            self._call = self.compiled(*arguments) if self._is_kept() else self._function
        return self._call(*arguments)

    def shapes(self, *arguments: Any) -> Any:
        """Returns the result's tree of ShapeDtypeStruct. Compiles nothing."""
        found = self._found(*arguments) if self._is_kept() else None
        return jax.eval_shape(self._function, *arguments) if found is None else found.out_info

    def compiled(self, *arguments: Any) -> jax.stages.Compiled:
        """Returns the program: read, or compiled and, if that took long enough, kept.

        `jax_persistent_cache_min_compile_time_secs` says how long.

        Args:
          *arguments: those of the function, or their ShapeDtypeStruct.
        """
        if not self._is_kept():
            return self._function.lower(*arguments).compile()
        found = self._found(*arguments)
        if found is not None:
            return found
        began = time.monotonic()
        lowered = self._function.lower(*arguments)
        text, trees = lowered.as_text(), (lowered.in_tree, lowered.out_tree)
        if not _can_be_written(text, trees):
            return lowered.compile()
        by_text = _digest([text, *map(str, trees), _machine()])
        found = _read(by_text)
        if found is None:
            # What JAX reads from its own cache cannot be written again on a CPU.
            with _without_jax_cache():
                found = lowered.compile()
            if time.monotonic() - began < _setting("jax_persistent_cache_min_compile_time_secs"):
                return found
            _write(by_text, found, lapack="lapack" in text)
        link = self._link(arguments)
        if link is not None:
            with contextlib.suppress(OSError), files.open_whole(link, "w") as file:
                file.write(by_text)
        return found

    def _is_kept(self) -> bool:
        # Programs of several processes, and those that look for NaN, are JAX's own affair.
        wanted = _folder is not None and self._facts is not None
        looks = map(_setting, ("jax_debug_nans", "jax_debug_infs", "jax_disable_jit"))
        return wanted and not any(looks) and jax.process_count() == 1

    def _found(self, *arguments: Any) -> jax.stages.Compiled | None:
        link = self._link(arguments)
        if self._known is None and link is not None:
            with contextlib.suppress(OSError, ValueError):  # also what is no text
                self._known = _read(link.read_text())
        return self._known

    def _link(self, arguments: Any) -> Path | None:
        """Returns the file with the digest of the lowered text; None = the code is not certain."""
        leaves, tree = jax.tree.flatten(arguments)
        types = [str(tree), *(str(jax.typeof(leaf)) for leaf in leaves)]
        code = _code()
        if code is None or _folder is None:
            return None
        return _folder / f"{_digest([self._facts, types, code, _machine()])}.text"


@functools.cache
def _code() -> str | None:
    """Returns a digest of the package's files; None if one may have changed since its import."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(_PACKAGE, followlinks=True):  # configs is a link
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(folder, name)
                if path.stat().st_mtime > _IMPORTED - _SECONDS_OF_IMPORTS:
                    return None
                digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _machine() -> list[Any]:
    """Returns what a compiled program depends on beside its text."""
    devices = jax.devices()
    settings = {
        name: repr(value)
        for name, value in sorted(jax.config.values.items())
        if "cache" not in name and "log" not in name
    }
    return [
        workdir.versions(),
        [f"{device} {device.device_kind}" for device in devices],
        devices[0].client.platform_version,
        os.environ.get("XLA_FLAGS", ""),
        settings,
    ]


def _setting(name: str) -> Any:
    return jax.config.values[name]


def _digest(values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _read(name: str) -> jax.stages.Compiled | None:
    """Returns a kept program, or None if there is none that is whole."""
    assert _folder is not None
    began = time.monotonic()
    try:
        content = (_folder / f"{name}.program").read_bytes()
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("it is damaged")
        numbers, lapack, (program, in_tree, out_tree) = pickle.loads(content)
        if lapack:
            _find_lapack()
        devices = [device for device in jax.local_devices() if device.id in numbers]
        found = serialize_executable.deserialize_and_load(
            program, in_tree, out_tree, execution_devices=devices
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # of many kinds; what cannot be read is compiled again
        logging.debug("The kept program %s: %s", name, error)
        return None
    jax.monitoring.record_event_duration_secs(READ, time.monotonic() - began)
    return found


def _can_be_written(text: str, trees: Any) -> bool:
    """Returns whether other processes can run a program, from its lowered text and its trees."""
    if "callback" in text:  # a call of a function in this process
        return False
    try:
        pickle.dumps(trees)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return False
    return True


@functools.cache
def _find_lapack() -> None:
    """Finds the functions of LAPACK. JAX does it when it lowers a call of one."""
    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), "float32"))


def _write(name: str, compiled: jax.stages.Compiled, *, lapack: bool) -> None:
    """Keeps a program, if it can be kept. `lapack` says whether it calls LAPACK."""
    assert _folder is not None
    try:
        executable: Any = compiled.runtime_executable()
        numbers = {device.id for device in executable.local_devices()}
        content = pickle.dumps((numbers, lapack, serialize_executable.serialize(compiled)))
        with files.open_whole(_folder / f"{name}.program") as file:
            file.write(hashlib.sha256(content).digest() + content)
    except Exception as error:  # a full disk, or a device whose programs cannot be kept
        logging.debug("The program %s is not kept: %s", name, error)


@contextlib.contextmanager
def _without_jax_cache() -> Iterator[None]:
    """A context in which JAX neither reads nor writes its own cache."""
    before = _setting("jax_enable_compilation_cache")
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX looks at the setting once.
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
