"""Times calls, lets contestants take turns, and summarises times."""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from iecl_jax import console

T = TypeVar("T")


def durations(start: Callable[[], T], finish: Callable[[T], object], count: int) -> list[float]:
    """Returns `count` times in milliseconds, each from the end of one call to the end of the next.

    The next call always starts before the current one is waited for. So the device never waits for
    the host, as in training, and still each call has its own time. Where a call only returns when
    it is done (on the CPU with `runtime.configure`), the time is that of the call. The first and
    the last call are not timed: `count` + 2 calls are made.

    Args:
      start: dispatches a call and returns the argument of `finish`.
      finish: waits for the end of the call.
      count: at least 1.
    """
    stamps = []
    running = start()
    for _ in range(count + 1):
        following = start()
        finish(running)
        stamps.append(time.perf_counter())
        running = following
    finish(running)
    return gaps(stamps)


def gaps(stamps: Sequence[float]) -> list[float]:
    """Returns the milliseconds between successive values of `time.perf_counter`."""
    return [1e3 * (after - before) for before, after in itertools.pairwise(stamps)]


def alternate(
    contestants: Sequence[Callable[[], T]], rounds: int, *, what: str = "Measuring"
) -> list[list[T]]:
    """Calls each contestant once per round, every other round in reverse order.

    The console shows `what` is done, and how far it is.

    Returns:
      Their return values, [contestant][round].
    """
    results: list[list[T]] = [[] for _ in contestants]
    order = list(range(len(contestants)))
    with console.progress(what, rounds * len(order), "call") as shown:
        for _ in range(rounds):
            for i in order:
                results[i].append(contestants[i]())
                shown.update(shown.done + 1)
            order.reverse()
    return results


def median(measure: Callable[[int], Sequence[float]], count: int) -> float:
    """Returns the median of `measure(count)`."""
    return statistics.median(measure(count))


def ratios(times: Sequence[float], first: Sequence[float]) -> list[float]:
    """Returns times / first, round by round."""
    return [time_ / other for time_, other in zip(times, first, strict=True)]


def extent(values: Sequence[float]) -> dict[str, float]:
    """Returns {"median", "low", "high"} of at least one value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def spread(found: Mapping[str, float], form: str) -> str:
    """Returns `MEDIAN (LOW to HIGH)` of an `extent`; `form`, such as "{:.1f}", formats numbers."""
    median, low, high = (form.format(found[name]) for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def add_flags(parser: argparse.ArgumentParser, *, rounds: int, steps: int) -> None:
    """Adds --rounds and --steps with these defaults."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument(
        "--steps", type=int, default=steps, help="calls of each contestant per round"
    )
