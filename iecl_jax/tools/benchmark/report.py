"""Turns benchmark results into flat records, one per config, and into tables and JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from iecl_jax.run import markdown, workdir
from iecl_jax.tools.benchmark import timing

Record = dict[str, Any]
PARTS = ("step", "augment", "input", "loop")
BURSTS = ("input", "loop")  # Their batches come at uneven intervals.


def describe(
    config: ml_collections.ConfigDict, name: str, overrides: Sequence[str], command: str
) -> Record:
    """Returns a record of what is measured, and where.

    Returns:
      A record with config (= `name`), overrides (a list), batch_size, image_size, precision,
      num_devices, device, versions (one line), git_revision, git_dirty (both None outside a
      repository) and command.
    """
    git = workdir.git_state() or {"revision": None, "dirty": None}
    versions = workdir.versions()
    return {
        "config": name,
        "overrides": list(overrides),
        "batch_size": config.train.batch_size,
        "image_size": config.data.image_size,
        "precision": config.train.precision,
        "num_devices": jax.device_count(),
        "device": workdir.device_description(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "git_revision": git["revision"],
        "git_dirty": git["dirty"],
        "command": command,
    }


def speed(part: str, times: Sequence[Sequence[float]], batch_size: int) -> Record:
    """Returns a record of the speed of a part of training.

    Args:
      part: one of PARTS.
      times: [round][call], milliseconds per batch.
      batch_size: images per batch, over all devices.

    Returns:
      A record with PART_ms_median and PART_ms_p90 over all calls, PART_calls (their number) and
      PART_images_per_second. The latter is the rate at the median time; for the parts in BURSTS it
      is the rate over the whole time. For the step it is called images_per_second, and there is
      also step_ms, the median of each round.
    """
    every = np.concatenate([np.asarray(each) for each in times])
    median = float(np.median(every))
    milliseconds = float(every.mean()) if part in BURSTS else median
    prefix = "" if part == "step" else f"{part}_"
    record: Record = {
        f"{part}_ms_median": median,
        f"{part}_ms_p90": float(np.percentile(every, 90)),
        f"{part}_calls": every.size,
        f"{prefix}images_per_second": 1e3 * batch_size / milliseconds,
    }
    if part == "step":
        record["step_ms"] = [statistics.median(each) for each in times]
    return record


def compare(records: Sequence[Record]) -> None:
    """Adds ratio_to_first (step_ms / the first record's step_ms, per round) and its median."""
    for record in records:
        to_first = timing.ratios(record["step_ms"], records[0]["step_ms"])
        record["ratio_to_first"] = to_first
        record["ratio_to_first_median"] = statistics.median(to_first)


def utilisation(record: Mapping[str, Any]) -> Record:
    """Returns the rate of the step's products, and its share of what the devices can reach.

    Args:
      record: has images_per_second, product_flops_per_image and the values of `roofline.measure`.

    Returns:
      step_gflops, over all devices; mfu_matmul = step_gflops / matmul_gflops; and mfu_conv =
      step_gflops / conv_gflops if the record has conv_gflops.
    """
    rate = record["images_per_second"] * record["product_flops_per_image"] / 1e9
    reached = {name: f"{name}_gflops" for name in ("matmul", "conv") if f"{name}_gflops" in record}
    shares = {f"mfu_{name}": rate / record[gflops] for name, gflops in reached.items()}
    return {"step_gflops": rate} | shares


def write_json(path: Path, records: Sequence[Record]) -> None:
    """Writes the record of a single config, or the list of several, whole or not at all."""
    written = records if len(records) > 1 else records[0]
    workdir.write_atomically(path, json.dumps(written, indent=2))


def format_speeds(records: Sequence[Record]) -> str:
    """Returns a Markdown table with a row for each part of each config."""
    titles = ["config", "part", "batch", "median ms", "p90 ms", "calls", "images/s"]
    rows = []
    for i, record in enumerate(records):
        for part in PARTS:
            if f"{part}_ms_median" not in record:
                continue
            prefix = "" if part == "step" else f"{part}_"
            cells = [record["config"], part, str(record["batch_size"])]
            cells += [f"{record[f'{part}_ms_{name}']:.2f}" for name in ("median", "p90")]
            cells += [str(record[f"{part}_calls"]), f"{record[f'{prefix}images_per_second']:.1f}"]
            if len(records) > 1:
                ratio = part == "step" and i and timing.extent(record["ratio_to_first"])
                cells.append(timing.spread(ratio, "{:.3f}") if ratio else "")
            rows.append(cells)
    if len(records) > 1:
        titles.append("ratio to the first")
    return markdown.table(titles, rows, text=2) if rows else ""


FACTS = (  # key, title, factor, format
    ("compile_seconds", "first step, s", 1, "{:.1f}"),
    ("peak_memory_bytes", "peak memory, MB", 1e-6, "{:.1f}"),
    ("memory_argument_bytes", "arguments, MB", 1e-6, "{:.1f}"),
    ("memory_temporary_bytes", "temporaries, MB", 1e-6, "{:.1f}"),
    ("memory_output_bytes", "outputs, MB", 1e-6, "{:.1f}"),
    ("memory_aliased_bytes", "outputs in place of arguments, MB", 1e-6, "{:.1f}"),
    ("memory_total_bytes", "total by XLA, MB", 1e-6, "{:.1f}"),
    ("memory_half_bytes", "total if all temporaries were halved, MB", 1e-6, "{:.1f}"),
    ("flops_per_image", "GFLOP an image by XLA", 1e-9, "{:.3f}"),
    ("product_flops_per_image", "GFLOP an image in products", 1e-9, "{:.3f}"),
    ("step_gflops", "GFLOP/s", 1, "{:.1f}"),
    ("matmul_gflops", "GFLOP/s of a matrix product", 1, "{:.1f}"),
    ("conv_gflops", "GFLOP/s of convolutions", 1, "{:.1f}"),
    ("mfu_matmul", "utilisation by the matrix product", 1, "{:.3f}"),
    ("mfu_conv", "utilisation by the convolutions", 1, "{:.3f}"),
    ("collectives_all_reduce", "all-reduces a step", 1, "{}"),
    ("collectives_all_gather", "all-gathers a step", 1, "{}"),
)


def format_facts(records: Sequence[Record]) -> str:
    """Returns a Markdown table with a row for each fact and a column for each config."""
    rows = []
    for key, title, factor, form in FACTS:
        values = [record.get(key) for record in records]
        if any(value is not None for value in values):
            cells = ["" if value is None else form.format(factor * value) for value in values]
            rows.append([title, *cells])
    return markdown.table(["", *(record["config"] for record in records)], rows) if rows else ""
