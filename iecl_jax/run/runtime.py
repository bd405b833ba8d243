"""Settings of XLA, its compilation cache and the C library, made before JAX touches a device.

Each is a default: whoever sets the variable or flag himself keeps what he set. The measured ratios
are in docs/performance.md.
"""

import ctypes
import hashlib
import importlib.util
import os
import platform
from pathlib import Path

import jax

ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
CPU_FLAGS = (
    # Eigen's convolutions: YNNPACK's take 3 to 6 times as long for the gradient of a kernel.
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    # Keeps `jax.lax.optimization_barrier`, which the CPU compiler drops, up to fusion.
    "--xla_disable_hlo_passes=cse_barrier_expander",
)
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def configure() -> None:
    """Makes the settings; to be called before the first JAX array.

    - A compilation cache in JAX_COMPILATION_CACHE_DIR, by default in the user's cache folder, one
      for each kind of processor: a program is compiled once, not once a run.
      JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    - Where JAX runs on the CPU alone: CPU_FLAGS; a step starts when the one before it is done, as
      the memory of all that wait would be taken at once; and glibc keeps freed memory, which it
      would otherwise return to the system and fault in again at every step.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    if cpu_only():
        os.environ["XLA_FLAGS"] = with_defaults(os.environ.get("XLA_FLAGS", ""))
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        keep_freed_memory()


def cache_folder() -> Path:
    """Where compiled programs are kept, unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "iecl_jax" / f"xla-{platform.machine()}-{_processor_digest()}"


def cpu_only() -> bool:
    """Whether JAX_PLATFORMS, or the lack of an accelerator's plugin, leaves JAX the CPU alone."""
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if chosen:
        return set(chosen.split(",")) == {"cpu"}
    return not any(importlib.util.find_spec(name) for name in ACCELERATORS)


def with_defaults(flags: str) -> str:
    """`flags`, a value of XLA_FLAGS, and those of CPU_FLAGS whose name is not among them."""
    missing = [flag for flag in CPU_FLAGS if flag.partition("=")[0] not in flags]
    return " ".join([*flags.split(), *missing])


def keep_freed_memory() -> None:
    """Has glibc keep all memory that is freed; other C libraries are left as they are."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def _processor_digest() -> str:
    """Eight characters that differ where the instructions of two processors do (Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "any"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:8]
