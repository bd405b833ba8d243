"""Reads which kernels of a GPU take the time, from a profile that `--trace` wrote."""

import collections
import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MOST = 25  # kernels of a list


def read(folder: Path, steps: int) -> dict[str, Any]:
    """Returns `busiest` of the newest profile in a folder.

    Raises:
      ValueError: there is none.
    """
    found = list(folder.rglob("perfetto_trace.json.gz"))
    if not found:
        raise ValueError(f"no profile in {folder}")
    newest = max(found, key=lambda path: path.stat().st_mtime)
    with gzip.open(newest, "rt") as file:
        events = json.load(file)["traceEvents"]
    return busiest(events, steps) | {"profile": str(newest)}


def busiest(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Sums the events on the streams of GPUs, by name.

    Args:
      events: those of Chrome's trace format: times in microseconds.
      steps: training steps that the profile has.

    Returns:
      {"ms_a_step": sum of all, "kernels_a_step": their number, "kernels": [[name, ms a step, calls
      a step], ...], the MOST longest first}. The sum is 0.0 without a GPU.
    """
    events = list(events)
    names: dict[tuple[str, Any, Any], str] = {}
    for event in events:
        if event.get("ph") == "M" and event.get("name") in ("process_name", "thread_name"):
            names[event["name"], event["pid"], event.get("tid")] = event["args"]["name"]
    devices = {pid for (kind, pid, _), name in names.items() if "/device:GPU" in name}
    streams = {
        (pid, tid)
        for (kind, pid, tid), name in names.items()
        if kind == "thread_name" and pid in devices and name.startswith("Stream")
    }
    times: dict[str, float] = collections.defaultdict(float)
    calls: dict[str, int] = collections.defaultdict(int)
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in streams:
            times[event["name"]] += event["dur"] / 1e3
            calls[event["name"]] += 1
    longest = sorted(times, key=lambda name: -times[name])[:MOST]
    return {
        "ms_a_step": sum(times.values()) / steps,
        "kernels_a_step": sum(calls.values()) / steps,
        "kernels": [[name, times[name] / steps, calls[name] / steps] for name in longest],
    }
