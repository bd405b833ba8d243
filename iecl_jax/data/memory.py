"""How much memory this machine and its devices have."""

import os
from pathlib import Path

import jax


def of_host() -> int:
    """Returns the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_of_host() -> int | None:
    """Returns the bytes of memory that this process may still take; None if nobody knows.

    It is Linux's MemAvailable, or what the limit of the control group (a container's) leaves.
    """
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    except OSError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            found.append(of_host())
    try:
        limit, used = (
            Path("/sys/fs/cgroup", f"memory.{x}").read_text() for x in ("max", "current")
        )
        found += [int(limit) - int(used)] if limit.strip() != "max" else []
    except OSError:
        pass
    return min(found, default=None)


def of_device(device: jax.Device) -> int | None:
    """Returns the bytes that JAX may take of a device; None for a CPU, which takes the host's."""
    return (device.memory_stats() or {}).get("bytes_limit")


def free_of_device(device: jax.Device) -> int | None:
    """Returns the bytes of `of_device` that are not in use; None if there is no limit."""
    limit = of_device(device)
    return None if limit is None else limit - (device.memory_stats() or {}).get("bytes_in_use", 0)
