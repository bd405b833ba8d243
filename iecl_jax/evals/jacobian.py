"""SAIB's Jacobian on groups of images, and the norms of the encoder's convolutions."""

import functools
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from iecl_jax import methods
from iecl_jax.config.rules import COUNT, COUNT_OR_NONE
from iecl_jax.config.section import Section, key
from iecl_jax.evals.measures import jacobian
from iecl_jax.evals.parts.diagnostics import conv_layers, fixed_views
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.evals.pictures import gallery, spectrum
from iecl_jax.run import markdown

RESULTS: dict[str, str] = {}  # two tables, which it prints itself


class Job(Section):
    """Of a checkpoint."""

    num_groups = key(4, COUNT, "groups of query views, each with a Jacobian of its own")
    # running: BN divides by its running statistics, constants, as in the diagnostics;
    # batch: by those of the group, as SAIB does in training where a batch is one group
    statistics = key("running", ("running", "batch"), "of SAIB's BN; batch: as in training")
    exact_up_to = key(1536, COUNT_OR_NONE, "dimensions of a group that get all singular values")
    depth = key(64, COUNT, "Lanczos steps above that")
    num_probes = key(8, COUNT, "random vectors a group, above that")


class Settings(AtEnd, Job):
    """During training."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError where there is no SAIB, or the settings ask for more than there is."""
    config = subject.config
    if not config.saib.enabled:
        raise ValueError("the network was made with saib.enabled=False: it has no SAIB to measure.")
    group, images = config.saib.group_size, len(subject.split("pretrain"))
    if settings.num_groups * group > images:
        raise ValueError(
            f"jacobian.num_groups={settings.num_groups} of {group} images are more than the "
            f"{images} of {config.data.name}: lower it."
        )
    dimensions = 3 * group * config.data.image_size**2
    if settings.exact_up_to < dimensions < settings.depth:
        raise ValueError(
            f"jacobian.depth={settings.depth} is more than the {dimensions} dimensions of a "
            "group: lower it."
        )


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Prints two tables and leaves RUN_DIR/jacobian.png.

    Returns what `over_groups` says, "groups" (a row of `measure_groups` each) and "layers"
    (`diagnostics.conv_layers`).
    """
    config = ml_collections.ConfigDict(subject.config.to_dict())
    config.train.precision = "float32"  # whatever the run computed in
    saib, size = config.saib, config.data.image_size
    count = settings.num_groups * saib.group_size
    views = fixed_views(config, subject.split("pretrain"), count)
    groups = views[1].reshape(settings.num_groups, saib.group_size, size, size, 3)
    # One copy on one device, whether they come from a checkpoint or from the replicas of a run.
    weights = jax.device_put(jax.device_get((subject.params, subject.method_state)))
    transform = functools.partial(methods.make(config, total_steps=1).transform, *weights)
    spectra, rows = measure_groups(
        functools.partial(transform, train=settings.statistics == "batch"),
        groups,
        settings,
        subject.seed,
    )
    subject.work.images = count
    title = (
        f"SAIB ({saib.variant}, {saib.num_blocks} block(s), group {saib.group_size}), "
        f"{settings.statistics} statistics, {groups[0].size} dimensions a group"
    )
    print(f"\n{format_groups(rows, title)}", flush=True)
    if jax.process_index() == 0:
        stacked = jacobian.Spectrum(*(np.concatenate(parts) for parts in zip(*spectra)))
        gallery.save(spectrum.draw(stacked, title), Path(subject.run_dir) / "jacobian.png")
    layers = jax.device_get(jax.jit(functools.partial(conv_layers, config))(*weights))
    if layers:
        print(format_layers(layers), flush=True)
    return over_groups(rows) | {"groups": rows, "layers": layers}


def measure_groups(
    saib: jacobian.Map, groups: Any, settings: Any, seed: int
) -> tuple[list[jacobian.Spectrum], list[dict[str, float]]]:
    """(spectrum, row of the table) for each group of query views [n, g, S, S, 3].

    A row has log_det and log_det_stderr (nats per dimension; 0 where all singular values are
    computed), log_det_half_depth (with half as many Lanczos steps: how far the quadrature has
    converged), sigma_min, sigma_max and share_below_1 of the singular values.
    """

    @jax.jit
    def lanczos(images, key):
        options = {"depth": settings.depth, "num_probes": settings.num_probes}
        return jacobian.lanczos(saib, images, key, **options)

    exact = jacobian.exact(saib)
    spectra, rows = [], []
    keys = jax.random.split(jax.random.key(seed), len(groups))
    for images, probe_key in zip(groups, keys):
        if images.size <= settings.exact_up_to:
            found = half = exact(images)
        else:
            found, half = jax.device_get(lanczos(images, probe_key))
        value, error = jacobian.log_det(found)
        rows.append(
            {
                "log_det": value,
                "log_det_stderr": 0.0 if len(found.values) == 1 else error,
                "log_det_half_depth": jacobian.log_det(half)[0],
                "sigma_min": float(found.values.min()),
                "sigma_max": float(found.values.max()),
                "share_below_1": jacobian.share_below_one(found),
            }
        )
        spectra.append(found)
    return spectra, rows


def over_groups(rows: list[dict[str, float]]) -> dict[str, float]:
    """One row for all groups: means, the error of the mean, and the extreme singular values."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    errors = [row["log_det_stderr"] for row in rows]
    return mean | {
        "log_det_stderr": float(np.linalg.norm(errors)) / len(rows),
        "sigma_min": min(row["sigma_min"] for row in rows),
        "sigma_max": max(row["sigma_max"] for row in rows),
    }


def format_groups(rows: list[dict[str, float]], title: str) -> str:
    """The table of the Jacobians in Markdown.

    "error" is the standard error over probes; the last three columns are of the singular values.
    """
    formats = ("{:+.4f}", "{:.4f}", "{:+.4f}", "{:.4f}", "{:.3f}", "{:.1%}")
    named = [*((str(i), row) for i, row in enumerate(rows)), ("all", over_groups(rows))]
    cells = [
        [name, *(text.format(value) for text, value in zip(formats, row.values(), strict=True))]
        for name, row in named
    ]
    titles = ["log|det J| / n", "error", "at half depth", "smallest", "largest", "below 1"]
    return f"{title}\n\n{markdown.table(['group', *titles], cells)}"


def format_layers(layers: dict[str, dict[str, float]]) -> str:
    """The table of the convolutions' norms in Markdown; spectral normalisation bounds the first."""
    matrix, operator = layers["conv_matrix_norm"], layers["conv_operator_norm"]
    rows = [[path, f"{matrix[path]:.3f}", f"{operator[path]:.3f}"] for path in matrix]
    return markdown.table(["convolution", "norm as a matrix", "as an operator"], rows)
