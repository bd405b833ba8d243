"""Whose turn it is, how long each call took, and what is said of many times."""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def durations(start: Callable[[], T], finish: Callable[[T], object], count: int) -> list[float]:
    """Milliseconds from the end of each call to the end of the next one, `count` of them.

    The next call is always started before the end of the current one is waited for, so that the
    device never waits for the host, as in training, and yet each call has its own time; where a
    call returns when it is done (`runtime.configure` on the CPU), its own is what it takes. One
    call that is not timed leads in and one leads out: `count` + 2 are made.

    Args:
      start: dispatches a call and returns what `finish` needs.
      finish: waits for the end of that call.
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
    """Milliseconds between successive times of `time.perf_counter`, in seconds."""
    return [1e3 * (after - before) for before, after in itertools.pairwise(stamps)]


def alternate(contestants: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """Calls each contestant once a round, every other round in reverse order.

    Returns:
      What they returned, [contestant][round].
    """
    results: list[list[T]] = [[] for _ in contestants]
    order = list(range(len(contestants)))
    for _ in range(rounds):
        for i in order:
            results[i].append(contestants[i]())
        order.reverse()
    return results


def median(measure: Callable[[int], Sequence[float]], count: int) -> float:
    """The median of what `measure(count)` returns."""
    return statistics.median(measure(count))


def ratios(times: Sequence[float], first: Sequence[float]) -> list[float]:
    """times / first, round by round."""
    return [time_ / other for time_, other in zip(times, first, strict=True)]


def extent(values: Sequence[float]) -> dict[str, float]:
    """{"median", "low", "high"} of at least one value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def spread(found: Mapping[str, float], form: str) -> str:
    """`MEDIAN (LOW to HIGH)` of an `extent`, each formatted by `form`, such as "{:.1f}"."""
    median, low, high = (form.format(found[name]) for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def add_flags(parser: argparse.ArgumentParser, *, rounds: int, steps: int) -> None:
    """Adds --rounds and --steps with these defaults and, after `--`, overrides of the config."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--steps", type=int, default=steps, help="calls of each in a round")
    parser.add_argument("overrides", nargs="*", help="--config.KEY=VALUE, after --")
