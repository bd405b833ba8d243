"""Several processes of one run, on one machine or many, on JAX's own runtime.

A process alone starts nothing and pays nothing. Of several, process 0 is JAX's coordinator, and it
alone prints and writes. Each of them finds out by itself when another one has died.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

CLUSTERS = ("auto", "none", "slurm", "ompi", "mpi4py", "k8s")
HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as dead
_LAST_WORDS = threading.Lock()  # taken by the thread that says why the process ends
_joined: tuple[int, int] | None = None  # this process's number, and how many there are
_abort_handler = None  # referred to as long as the process may call abort()


def start(
    *,
    cluster: str = "auto",
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    wait_seconds: int = 300,
) -> None:
    """Joins the other processes of the run, if there are any; before any JAX computation.

    Args:
      cluster: who started the processes, one of CLUSTERS. "auto" joins them where SLURM's or Open
        MPI's environment says that there are several, "none" never; the others are JAX's names.
      coordinator_address: HOST:PORT of process 0. It, `num_processes` and `process_id` (from 0) are
        given together, for processes started in any other way, or not at all.
      wait_seconds: how long to wait for the others.

    Raises:
      ValueError: the three do not go together, or the others cannot be reached.
    """
    explicit: dict[str, Any] = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if any(value is not None for value in explicit.values()):
        _check_explicit(explicit, cluster)
        method: str | None = "deactivate"
    else:
        method = {"auto": detect(os.environ), "none": None}.get(cluster, cluster)
    if method is None:
        return
    given = [f"{name}={value}" for name, value in explicit.items() if value is not None]
    failed = f"the processes of this run ({', '.join(given) or f'cluster={method}'}) did not " + (
        "come together: {}; see docs/clusters.md."
    )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    _explain_abort(
        "error: " + failed.format(f"waited {wait_seconds} s, the lines above say for what")
    )
    try:
        jax.distributed.initialize(
            **explicit,
            cluster_detection_method=method,
            local_device_ids=None if method == "deactivate" else local_devices(os.environ),
            initialization_timeout=wait_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        _meet()
    except (RuntimeError, ValueError, ImportError) as error:
        raise ValueError(failed.format(_first_line(error))) from error
    global _joined
    _joined = jax.process_index(), jax.process_count()
    _explain_abort(_peer_died(" (the lines above say which)"))
    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  As long as the process.
        logging.set_verbosity(min(logging.get_verbosity(), logging.WARNING))


def _check_explicit(explicit: Mapping[str, Any], cluster: str) -> None:
    missing = [f"--{name}" for name, value in explicit.items() if value is None]
    if missing:
        given = [f"--{name}" for name, value in explicit.items() if value is not None]
        raise ValueError(
            f"{' and '.join(given)} without {' and '.join(missing)}: give all three, "
            "or none of them where SLURM or MPI starts the processes."
        )
    if cluster != "auto":
        raise ValueError(
            f"--cluster={cluster} and --coordinator_address are two ways to say the same: use one."
        )
    address, count, number = explicit.values()
    if not re.fullmatch(r".+:\d+", address):
        raise ValueError(f"--coordinator_address={address} must be HOST:PORT.")
    if not 0 <= number < count:
        raise ValueError(
            f"--process_id={number} must be from 0 to --num_processes={count} minus 1."
        )


def detect(environ: Mapping[str, str]) -> str | None:
    """JAX's name of the launcher that says that it started several processes; None without one.

    Kubernetes cannot be told from the environment: a pod there is most often alone.
    """
    if int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        # Open MPI 5 no longer tells the address by which JAX finds process 0.
        return "ompi" if "OMPI_MCA_orte_hnp_uri" in environ else "mpi4py"
    # Of the step, not of the job: a batch script has no step, an interactive one has one task.
    return "slurm" if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 else None


def local_devices(environ: Mapping[str, str]) -> list[int] | None:
    """The GPUs of this process: [] = all it can see, None = the one of its number on the machine.

    The latter is what JAX does under SLURM and MPI. It would leave a process that is alone on its
    machine with one GPU, and one that SLURM shows only its own GPUs with the wrong one.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environ:
        return None
    of_each_node = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    alone = re.fullmatch(r"1(\(x\d+\))?", of_each_node) is not None
    alone |= environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return [] if alone or "SLURM_GPUS_PER_TASK" in environ else None


def _meet() -> None:
    """Connects all devices while the processes are in step.

    Later, one of them may still compile while another waits, and gloo allows 30 seconds for a first
    connection. A network that does not work is found here, before anything compiles.
    """
    ones = np.ones(jax.local_device_count(), np.float32)
    everyone = jax.pmap(lambda x: jax.lax.psum(x, "devices"), axis_name="devices")
    jax.block_until_ready(everyone(ones))
    multihost_utils.sync_global_devices("start")


def agreed(flag: bool) -> bool:
    """What process 0 says, on every process; all of them must ask at the same point."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


@contextlib.contextmanager
def ending_the_others() -> Iterator[None]:
    """A failure inside ends this process at once, so that the others notice within the minute.

    JAX would wait for them at exit, while they wait for this one. An orderly end, that of exit code
    0 and that after SIGTERM, waits. A process alone is left as it is.
    """
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if not jax.distributed.is_initialized() or not (code == 1 or isinstance(code, str)):
            raise
        if isinstance(code, str):
            _leave(code)
        elif isinstance(error, jax.errors.JaxRuntimeError) and _of_a_peer(error):
            _leave(_peer_died(f" ({_first_line(error)})"))
        _leave(traceback.format_exc())


def _of_a_peer(error: Exception) -> bool:
    """Whether the error is a connection's to another process."""
    return re.search("gloo|nccl|coordination|socket|connect", str(error), re.I) is not None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _peer_died(reason: str = "") -> str:
    number, count = _joined or (0, 1)
    return (
        f"error: process {number} of {count} stops, because another process of this run died or "
        f"cannot be reached{reason}. The newest checkpoint is kept: start all of them again by the "
        "same command to resume."
    )


def _leave(last_words: str) -> None:
    """Ends the process with exit code 1, without waiting for anyone."""
    sys.stdout.flush()
    if not _LAST_WORDS.acquire(blocking=False):
        time.sleep(60)  # Another thread is at it.
    os.write(2, f"{last_words.rstrip()}\n".encode())
    if _joined and _joined[0] == 0:
        # A mistake of the user is found by all: their sentence comes before the coordinator's end.
        time.sleep(2)
    os._exit(1)


def _explain_abort(last_words: str) -> None:
    """Makes abort() end the process with a sentence.

    JAX calls it, after log lines with the reason, when the coordinator cannot be reached, and later
    in a thread of C++ when a peer has missed its heartbeats or the connection to the coordinator
    broke. No `except` sees that, and a handler set by Python's `signal` would run only after
    abort() had ended the process.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number: int) -> None:
        if _LAST_WORDS.acquire(blocking=False):
            os.write(2, f"{last_words}\n".encode())
        os._exit(1)

    global _abort_handler
    _abort_handler = handler
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
