"""Joins several processes of one run, on one machine or many, with JAX's own runtime.

A single process starts nothing and has no overhead. Of several processes, process 0 is JAX's
coordinator, and only process 0 prints and writes. Each process detects by itself that another one
has died.
"""

import contextlib
import ctypes
import json
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
HEARTBEAT_SECONDS = 30  # A process that is silent for this long counts as dead.
_LAST_WORDS = threading.Lock()  # Held by the thread that reports the end.
_joined: tuple[int, int] | None = None  # (number of this process, number of processes)
_abort_handler = None  # Keeps the C callback alive as long as abort() may call it.


def start(
    *,
    cluster: str = "auto",
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    wait_seconds: int = 300,
) -> None:
    """Joins the other processes of the run, if there are any. Call it before any JAX computation.

    Args:
      cluster: what started the processes, one of CLUSTERS. "auto" joins them if the environment of
        SLURM or Open MPI shows that there are several; "none" never joins; the others are JAX's
        names.
      coordinator_address: HOST:PORT of process 0. It, `num_processes` and `process_id` (from 0) are
        given all together or not at all. They are for processes that no known cluster started.
      wait_seconds: how long to wait for the other processes.

    Raises:
      ValueError: the three arguments do not fit together, or the others cannot be reached.
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
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  It stays open to the end.
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
    """Returns JAX's name of the launcher that started several processes, or None.

    Kubernetes is not detected: its environment does not say whether a pod runs alone.
    """
    if int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        # Open MPI 5 no longer sets the variable from which JAX reads the address of process 0.
        return "ompi" if "OMPI_MCA_orte_hnp_uri" in environ else "mpi4py"
    # The count of the step, not of the job: a batch script has no step, a shell has one task.
    return "slurm" if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 else None


def local_devices(environ: Mapping[str, str]) -> list[int] | None:
    """Returns which GPUs this process takes: [] = all that it sees, None = JAX's choice.

    Under SLURM and MPI, JAX gives each process the GPU with its number on the machine. That is
    wrong in two cases: a process that is alone on its machine should take all GPUs, and a process
    that sees only the GPUs that SLURM chose for it would get the wrong number.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environ:
        return None
    of_each_node = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    alone = re.fullmatch(r"1(\(x\d+\))?", of_each_node) is not None
    alone |= environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return [] if alone or "SLURM_GPUS_PER_TASK" in environ else None


def _meet() -> None:
    """Connects all devices at the start, when all processes arrive at the same time.

    gloo allows 30 seconds for a first connection. Later, one process could wait that long while
    another one still compiles. A broken network is also found here, before anything compiles.
    """
    ones = np.ones(jax.local_device_count(), np.float32)
    everyone = jax.pmap(lambda x: jax.lax.psum(x, "devices"), axis_name="devices")
    jax.block_until_ready(everyone(ones))
    multihost_utils.sync_global_devices("start")


def agreed(flag: bool) -> bool:
    """Returns process 0's `flag` on every process. All processes must call it at the same point."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


def gathered(text: str) -> list[str]:
    """Returns the texts of all processes, in their order. All must call it at the same point."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(mine)))
    padded = np.pad(mine, (0, max(sizes) + 1 - len(mine)))
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises the block's ValueError or OSError on every process if one process has it.

    All processes must enter the block at the same point. For a single process nothing changes.
    """
    own: Exception | None = None
    try:
        yield
    except (ValueError, OSError) as error:
        own = error
    sentences = gathered(str(own or ""))
    if own is not None:
        raise own
    for number, sentence in enumerate(sentences):
        if sentence:
            raise ValueError(f"process {number}: {sentence}")


def check_same(what: str, values: Mapping[str, Any]) -> None:
    """Raises ValueError on every process if the values of one process differ from process 0's.

    Args:
      what: what the values are, for the error message.
      values: JSON values by name.
    """
    first, *others = map(json.loads, gathered(json.dumps(dict(values), sort_keys=True)))
    for number, other in enumerate(others, 1):
        different = [
            f"{name} is {first.get(name)!r} on process 0, {other.get(name)!r} on process {number}"
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        ]
        if different:
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            raise ValueError(
                f"the processes of this run differ in their {what}: {', '.join(different[:3])}"
                f"{more}. Start all of them by the same command, from the same packages and data."
            )


@contextlib.contextmanager
def ending_the_others() -> Iterator[None]:
    """Ends this process at once if the block fails, so that the others notice within a minute.

    Without this, JAX would wait for the other processes at exit while they wait for this one. An
    orderly end (exit code 0, or the one after SIGTERM) still waits for them. For a single process
    nothing changes.
    """
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if not jax.distributed.is_initialized() or not (code == 1 or isinstance(code, str)):
            raise
        cause = error.__context__ if isinstance(error, SystemExit) else error
        if cause is not None and of_a_peer(cause):
            _leave(_peer_died(f" ({_first_line(cause)})"))
        _leave(code if isinstance(code, str) else traceback.format_exc())


def of_a_peer(error: BaseException) -> bool:
    """Returns whether the error comes from the connection to another process."""
    # JAX raises ValueError or RuntimeError, depending on the status of the collective.
    words = "gloo|nccl"
    if isinstance(error, jax.errors.JaxRuntimeError):
        words += "|coordination|socket|connect"
    return re.search(words, str(error), re.I) is not None


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
        time.sleep(60)  # Another thread is already ending the process.
    os.write(2, f"{last_words.rstrip()}\n".encode())
    if _joined and _joined[0] == 0:
        # All processes find a mistake of the user: they report it before they lose the coordinator.
        time.sleep(2)
    os._exit(1)


def _explain_abort(last_words: str) -> None:
    """Makes abort() end the process with the sentence `last_words`.

    JAX's C++ threads log the reason and call abort() if the coordinator cannot be reached, if a
    peer misses its heartbeats, or if the connection to the coordinator breaks. No `except` clause
    catches that, and a handler set with Python's `signal` would run only after abort() had ended
    the process. So the handler is set in C.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number: int) -> None:
        if _LAST_WORDS.acquire(blocking=False):
            os.write(2, f"{last_words}\n".encode())
        os._exit(1)

    global _abort_handler
    _abort_handler = handler
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
