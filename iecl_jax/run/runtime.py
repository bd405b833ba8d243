"""Settings of XLA, its compilation cache and the C library, made before JAX uses a device.

Each setting is a default: a variable or flag that the user has set keeps its value. What each one
is worth is measured in docs/performance.md.
"""

import ctypes
import gc
import hashlib
import importlib.util
import mmap
import os
import platform
from pathlib import Path

import jax

from iecl_jax.data import memory
from iecl_jax.run import programs

ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
CPU_FLAGS = (
    # Eigen's convolutions: with jaxlib 0.10.2's default, YNNPACK, the gradient with respect to a
    # kernel takes 3 to 6 times as long.
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    # Keeps `jax.lax.optimization_barrier` until fusion; the CPU compiler would drop it earlier.
    "--xla_disable_hlo_passes=cse_barrier_expander",
)
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # Constants of glibc's malloc.h.
_HUGE_PAGE = 2**21  # bytes


def configure(*, keep_programs: bool = False) -> None:
    """Makes the settings. Call it before the first JAX array exists.

    - A compilation cache, so that a program is compiled once, not once per run. It lies in
      JAX_COMPILATION_CACHE_DIR, by default in the user's cache folder, with one folder for each
      kind of processor. JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    - Python collects garbage less often.
    - If JAX only uses the CPU: CPU_FLAGS; no asynchronous dispatch, since every step that waits in
      the queue already holds its memory; and glibc keeps freed memory, in large pages, which it
      would otherwise return to the system and page in again at every step.

    Args:
      keep_programs: whether the cache also has the texts of programs, see `run.programs`.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    folder = jax.config.values["jax_compilation_cache_dir"]
    keep_programs &= jax.config.values["jax_enable_compilation_cache"]
    if keep_programs and folder and "://" not in folder:
        programs.keep_in(Path(folder).absolute() / "programs")
    # Tracing a step makes millions of objects that stay. Python would look at all of them, and at
    # those of the imported modules, again and again: a sixth of the time of tracing.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    if cpu_only():
        os.environ["XLA_FLAGS"] = with_defaults(os.environ.get("XLA_FLAGS", ""))
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        keep_freed_memory()


def cache_folder() -> Path:
    """Returns the default folder of compiled programs; JAX_COMPILATION_CACHE_DIR overrides it."""
    parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "iecl_jax" / f"xla-{platform.machine()}-{_processor_digest()}"


def cpu_only() -> bool:
    """Returns whether JAX only uses the CPU: by JAX_PLATFORMS, or since no plugin is installed."""
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if chosen:
        return set(chosen.split(",")) == {"cpu"}
    return not any(importlib.util.find_spec(name) for name in ACCELERATORS)


def with_defaults(flags: str) -> str:
    """Returns `flags`, a value of XLA_FLAGS, plus those of CPU_FLAGS that it does not set."""
    missing = [flag for flag in CPU_FLAGS if flag.partition("=")[0] not in flags]
    return " ".join([*flags.split(), *missing])


def keep_freed_memory() -> None:
    """Makes glibc keep all freed memory. Does nothing with other C libraries."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)  # Large blocks come from the heap, not from mmap.
        libc.mallopt(_M_ARENA_MAX, 1)  # One heap, so that any thread reuses what another freed.
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # The heap never shrinks.
        use_huge_pages(libc)


def use_huge_pages(libc: ctypes.CDLL) -> None:
    """Asks Linux for pages of 2 MB where the heap will grow, if it gives them only on request.

    Addresses of small pages do not fit into the processor's table of them. Compiling leaves holes
    in the heap, and the steps after it would then take a third more time.
    """
    if not _may_reserve():
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = memory.of_host() // 2  # Addresses: memory is given to them when they are written to.
    start = libc.malloc(size)
    if start:
        first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(first, start + size - first, mmap.MADV_HUGEPAGE)
        libc.free(start)


def _may_reserve() -> bool:
    """Returns whether this process may take addresses that it does not use."""
    import resource  # Windows has none.

    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    limited = any(resource.getrlimit(each)[0] != resource.RLIM_INFINITY for each in limits)
    writes = "MALLOC_PERTURB_" in os.environ or "perturb" in os.environ.get("GLIBC_TUNABLES", "")
    try:
        strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        strict = True
    return not (limited or writes or strict)


def _processor_digest() -> str:
    """Returns eight characters that identify the processor's instructions (Linux; else "any")."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "any"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:8]
