"""Every test runs on two CPU devices, under strict promotion, with compiled programs cached.

The environment is set before JAX is imported, so that programs started by a test inherit it.
"""

import gc
import importlib.metadata
import os
import pathlib
import signal

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
# A third of the time of compiling; later versions of jaxlib end at a flag that they do not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".cache" / "jax")
)
# A third of the suite's time: its programs are compiled once and run a few times.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

# A shell has what it starts in the background ignore Ctrl-C, and so the programs of the tests too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import jaxtyping
import pytest

# Before these packages are imported: the shapes and types that their annotations promise are then
# checked at every call. A user's run has none of this.
jaxtyping.install_import_hook(
    ["iecl_jax.losses", "iecl_jax.models", "iecl_jax.methods"], "beartype.beartype"
)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Collecting and tracing make millions of objects that stay: Python looks at them less often.
gc.set_threshold(20_000, 20, 50)

# The two workers take the files in this order, so that neither ends with a long one alone.
LONG = (
    "test_topology",
    "test_old_runs",
    "test_jobs",
    "test_kill_and_resume",
    "test_processes",
    "test_conformance",
    "test_conformance_saib",
    "test_float16",
    "test_readings",
    "test_loop_command",
    "test_encoders",
    "test_own_kinds",
)


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """The runs that tests load may name files of the tests."""
    from iecl_jax.config import own_files

    monkeypatch.setattr(own_files, "_trusts_checkpoints", True)


def pytest_collection_modifyitems(items):
    """Sorts the files of LONG to the front. No garbage is among what was imported for them."""
    gc.freeze()
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))
