"""Turns figures into the Markdown tables of docs/performance.md."""

from collections.abc import Mapping
from typing import Any

from iecl_jax.run import markdown
from iecl_jax.tools.benchmark import timing
from iecl_jax.tools.benchmark.gpu import plan
from iecl_jax.tools.benchmark.gpu.figures import LEFT_OUT, MEASURED, Figure

PEER = "_peer_"
LONGEST_NAME = 80  # of a kernel, in a table


def tables(figures: Mapping[str, Figure]) -> str:
    """Returns all tables, what is missing and why, where it was measured, and the commands."""
    values = {
        name: figure["value"] for name, figure in figures.items() if figure["state"] == MEASURED
    }
    parts = (
        _section("Steps", _steps(values)),
        _section("The PyTorch peer", _peers(values)),
        _section("What SAIB, its terms and spectral norm cost", _costs(values)),
        _section("CIFAR-10", _trainings(values)),
        _section("Segmentation and detection", _voc(values)),
        _section("Start-up of the quick start", _startup(values)),
        *(_section(f"Kernels of {name}", _kernels(values, name)) for name in plan.STEPS),
        _section("Not measured", _missing(figures)),
        _section("Commands", _commands(figures)),
        _where(figures),
    )
    return "\n".join(part for part in parts if part)


def _section(title: str, text: str) -> str:
    return f"### {title}\n\n{text}" if text else ""


def _table(titles: list[str], rows: list[list[str]], *, text: int = 1) -> str:
    return markdown.table(titles, rows, text=text) if rows else ""


def _form(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _steps(values: Mapping[str, Any]) -> str:
    """A row for each step, with the ratio to the same one without the setting."""
    bases = {variant.of + "_" + variant.name: variant for variant in plan.VARIANTS}
    rows = []
    for name in (*plan.STEPS, *bases):
        if name not in values:
            continue
        record = values[name][0]
        variant = bases.get(name)
        base = values.get(variant.of, [None])[0] if variant else None
        ratio = record["step_ms_median"] / base["step_ms_median"] if base else None
        changed = " ".join([*variant.overrides, variant.xla_flags]).strip() if variant else ""
        rows.append(
            [
                record["config"],
                f"`{changed}`" if changed else "",
                f"{record['step_ms_median']:.2f} ({record['step_ms_p90']:.2f})",
                f"{record['images_per_second']:,.0f}",
                _form(ratio, "{:.3f}"),
                f"{record['compile_seconds']:.0f}",
                _form(_gigabytes(record), "{:.2f}"),
            ]
        )
    titles = ["config", "setting", "step, ms (90th percentile)", "images/s", "to the plain step"]
    return _table([*titles, "first step, s", "peak memory, GB"], rows, text=2)


def _gigabytes(record: Mapping[str, Any]) -> float | None:
    peak = record.get("peak_memory_bytes")
    return None if peak is None else peak / 1e9


def _peers(values: Mapping[str, Any]) -> str:
    """A row for each form of the peer, with our time divided by the peer's."""
    rows = []
    for name, value in values.items():
        if PEER not in name:
            continue
        step, form = name.split(PEER)
        ours = values.get(step, [None])[0]
        ratio = ours["step_ms_median"] / value["ms_per_step"] if ours else None
        spread = {"median": value["ms_per_step"], "low": value["ms_min"], "high": value["ms_max"]}
        rows.append(
            [
                step,
                form.replace("_", " "),
                value["torch"],
                timing.spread(spread, "{:.2f}"),
                f"{value['images_per_s']:,.0f}",
                f"{value['peak_mem_mib']:,.0f}",
                _form(ratio, "{:.2f}"),
            ]
        )
    titles = ["step", "peer", "torch", "step, ms (range)", "images/s", "peak memory, MiB"]
    return _table([*titles, "our time / its time"], rows, text=3)


def _costs(values: Mapping[str, Any]) -> str:
    """A row for each config of a method: its ratio to the plain one, of the rounds."""
    rows = [
        [
            record["config"],
            f"{record['step_ms_median']:.2f}",
            timing.spread(timing.extent(record["ratio_to_first"]), "{:.3f}") if i else "",
        ]
        for method in plan.METHODS
        for i, record in enumerate(values.get(f"cost_{method}", []))
    ]
    return _table(["config", "step, ms", "to the first of the method (range)"], rows)


def _trainings(values: Mapping[str, Any]) -> str:
    """A row for each training on CIFAR-10; accuracies only of the real images."""
    rows = []
    for name in (plan.EPOCHS, *plan.PAIR):
        if name not in values:
            continue
        value = values[name]
        shown = [_form(value.get(key), "{:.2%}") for key in ("knn_top1", "linear_top1")]
        rows.append(
            [
                name,
                f"{value['images']:,}" + ("" if value["real"] else ", generated"),
                f"{value['epochs']:,.4g}",
                f"{value['seconds_an_epoch']:.2f}",
                f"{value['images_per_second']:,.0f}",
                *(shown if value["real"] else ["", ""]),
            ]
        )
    titles = ["training", "images", "epochs", "seconds an epoch", "images/s", "kNN", "linear"]
    return _table(titles, rows, text=2)


def _voc(values: Mapping[str, Any]) -> str:
    rows = []
    for name in ("voc_segmentation", "voc_detection"):
        for record in values.get(name, []):
            step = f"{record['step_ms_median']:.2f} ({record['step_ms_p90']:.2f})"
            speed = f"{record['images_per_second']:,.1f}"
            memory = _form(_gigabytes(record), "{:.2f}")
            rows.append([record["config"], str(record["batch_size"]), step, speed, memory])
    titles = ["config", "batch", "step, ms (90th percentile)", "images/s", "peak memory, GB"]
    return _table(titles, rows)


def _startup(values: Mapping[str, Any]) -> str:
    phases = values.get("startup", {})
    rows = [[name, f"{seconds:.2f}", f"{busy:.2f}"] for name, (seconds, busy) in phases.items()]
    return _table(["phase", "seconds", "processor's seconds"], rows)


def _kernels(values: Mapping[str, Any], step: str) -> str:
    value = values.get(f"profile_{step}")
    if not value or not value["kernels"]:
        return ""
    total = value["ms_a_step"]
    rows = [
        [f"`{name[:LONGEST_NAME]}`", f"{time:.3f}", f"{time / total:.1%}", f"{calls:.1f}"]
        for name, time, calls in value["kernels"]
    ]
    sums = f"{value['kernels_a_step']:,.0f} kernels and copies a step take {total:.2f} ms."
    return _table(["kernel", "ms a step", "share", "calls a step"], rows) + f"\n{sums}\n"


def _missing(figures: Mapping[str, Figure]) -> str:
    rows = [[name, f["state"], f["why"]] for name, f in figures.items() if f["state"] != MEASURED]
    return _table(["figure", "state", "why"], rows, text=3)


def _commands(figures: Mapping[str, Figure]) -> str:
    called = [figure for figure in figures.values() if figure["state"] != LEFT_OUT]
    return "".join(f"- {each['name']}: `{each['command']}`\n" for each in called)


def _where(figures: Mapping[str, Figure]) -> str:
    """Returns the devices, revisions and versions of what was measured, once each."""
    measured = [_facts(each) for each in figures.values() if each["state"] == MEASURED]
    return "".join(f"{facts}\n" for facts in dict.fromkeys(measured))


def _facts(figure: Figure) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figure["versions"].items())
    revision = (figure["revision"] or "unknown") + (" and changes" if figure["dirty"] else "")
    smoke = "; tiny sizes, which say nothing of speed" if figure["smoke"] else ""
    where = f"{figure['device']}; revision {revision}; seed {figure['seed']}{smoke}"
    return f"{where}; {versions}"
