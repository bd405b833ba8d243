"""Measures SAIB's Jacobian on groups of images, and the norms of the encoder's convolutions."""

import functools
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from iecl_jax import console, methods
from iecl_jax.config.rules import COUNT, COUNT_OR_NONE
from iecl_jax.config.section import Section, key
from iecl_jax.evals.measures import jacobian
from iecl_jax.evals.parts.diagnostics import conv_layers, fixed_views
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.evals.pictures import gallery, spectrum
from iecl_jax.run import markdown

RESULTS: dict[str, str] = {}  # `measure` prints its two tables itself.


class Job(Section):
    """The settings on a checkpoint."""

    num_groups = key(4, COUNT, "number of groups of query views; each has its own Jacobian")
    # running: BN uses its running statistics, which are constants, as in the diagnostics.
    # batch: BN uses the statistics of the group, as in training with one group per batch.
    statistics = key(
        "running", ("running", "batch"), "statistics that SAIB's BN uses; batch: as in training"
    )
    exact_up_to = key(
        1536,
        COUNT_OR_NONE,
        "largest dimension of a group for which all singular values are computed",
    )
    depth = key(64, COUNT, "Lanczos steps for larger groups")
    num_probes = key(8, COUNT, "random vectors per group, for larger groups")


class Settings(AtEnd, Job):
    """The settings during training."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if there is no SAIB, or the settings exceed the images or dimensions."""
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
    """Measures, prints two tables and writes RUN_DIR/jacobian.png.

    Returns:
      The values of `over_groups`, "groups" (the rows of `measure_groups`) and "layers" (see
      `diagnostics.conv_layers`).
    """
    config = ml_collections.ConfigDict(subject.config.to_dict())
    config.train.precision = "float32"  # Whatever precision the run used.
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
    over = over_groups(rows)
    console.show(f"\n{format_groups(rows, title)}")
    if jax.process_index() == 0:
        stacked = jacobian.Spectrum(*(np.concatenate(parts) for parts in zip(*spectra)))
        picture = spectrum.draw(stacked, title, (over["log_det"], over["log_det_stderr"]))
        gallery.save(picture, Path(subject.run_dir) / "jacobian.png")
    layers = jax.device_get(jax.jit(functools.partial(conv_layers, config))(*weights))
    if layers:
        console.show(format_layers(layers))
    return over | {"groups": rows, "layers": layers}


def measure_groups(
    saib: jacobian.Map, groups: Any, settings: Any, seed: int
) -> tuple[list[jacobian.Spectrum], list[dict[str, float]]]:
    """Returns the spectrum and the table row of each group.

    Args:
      saib: maps a group of images [g, S, S, 3] to SAIB's output.
      groups: query views float32 [n, g, S, S, 3].
      settings: see `Job`.
      seed: seed of the random vectors.

    Returns:
      (n spectra, n rows). A row has "log_det" (nats per dimension); "log_det_stderr", its standard
      error (0 if all singular values are computed); "log_det_half_depth", the value with half as
      many Lanczos steps, which shows how far the quadrature has converged; and "sigma_min",
      "sigma_max" and "share_below_1" of the singular values.
    """

    @jax.jit
    def lanczos(images, key):
        options = {"depth": settings.depth, "num_probes": settings.num_probes}
        return jacobian.lanczos(saib, images, key, **options)

    exact = jacobian.exact(saib)
    spectra, rows = [], []
    keys = jax.random.split(jax.random.key(seed), len(groups))
    for number, (images, probe_key) in enumerate(zip(groups, keys), 1):
        with console.progress("Measuring the Jacobian", len(groups), "group") as shown:
            shown.update(number)
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
    """Returns one row for all groups: means, the mean's standard error, extreme singular values."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    errors = [row["log_det_stderr"] for row in rows]
    return mean | {
        "log_det_stderr": float(np.linalg.norm(errors)) / len(rows),
        "sigma_min": min(row["sigma_min"] for row in rows),
        "sigma_max": max(row["sigma_max"] for row in rows),
    }


def format_groups(rows: list[dict[str, float]], title: str) -> str:
    """Returns the Markdown table of the Jacobians.

    The column "error" is the standard error over the random vectors. The last three columns
    describe the singular values.
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
    """Returns the Markdown table of the convolutions' norms.

    Spectral normalisation bounds the norm as a matrix by 1, not the norm as an operator.
    """
    matrix, operator = layers["conv_matrix_norm"], layers["conv_operator_norm"]
    rows = [[path, f"{matrix[path]:.3f}", f"{operator[path]:.3f}"] for path in matrix]
    return markdown.table(["convolution", "norm as a matrix", "as an operator"], rows)
