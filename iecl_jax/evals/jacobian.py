"""The job `jacobian`: SAIB's Jacobian and the encoder's convolutions, measured on a checkpoint."""

import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from iecl_jax import data, methods
from iecl_jax.config import load as config_lib
from iecl_jax.evals.diagnostics import conv_layers, fixed_views
from iecl_jax.evals.jobs import load_encoder
from iecl_jax.evals.measures import jacobian
from iecl_jax.evals.pictures import gallery, spectrum
from iecl_jax.methods import Method
from iecl_jax.run import workdir
from iecl_jax.run.seal import digest


def run_jacobian(
    config: ml_collections.ConfigDict, run_dir: str, *, allow_config_change: bool = False
) -> dict[str, Any]:
    """Prints two tables, leaves RUN_DIR/jacobian.png and results.json, which it returns.

    Raises:
      ValueError: the config is impossible, or the checkpoint has no SAIB.
    """
    started = time.monotonic()
    config_lib.check(config, 1)
    pretrain, _, params, method_state = load_encoder(config)
    pretrain.train.precision = "float32"  # whatever the run computed in
    method = methods.make(pretrain, total_steps=1)
    if not pretrain.saib.enabled:
        raise ValueError(
            f"{config.checkpoint} was trained with saib.enabled=False: it has no SAIB to measure."
        )
    settings, saib = config.jacobian, pretrain.saib
    split = data.open_split(pretrain.data, "pretrain")
    count = settings.num_groups * saib.group_size
    if count > len(split):
        raise ValueError(
            f"jacobian.num_groups={settings.num_groups} of {saib.group_size} images are more than "
            f"the {len(split)} of {pretrain.data.name}: lower it."
        )
    workdir.prepare(run_dir, config, command=sys.argv, allow_change=allow_config_change)
    groups = fixed_views(pretrain, split, count)[1].reshape(
        settings.num_groups, saib.group_size, *[pretrain.data.image_size] * 2, 3
    )
    spectra, rows = measure_groups(config, method, params, method_state, groups)
    title = (
        f"SAIB ({saib.variant}, {saib.num_blocks} block(s), group {saib.group_size}), "
        f"{settings.statistics} statistics, {groups[0].size} dimensions a group"
    )
    print(f"\n{format_groups(rows, title)}\n", flush=True)
    stacked = jacobian.Spectrum(*(np.concatenate(parts) for parts in zip(*spectra)))
    gallery.save(spectrum.draw(stacked, title), Path(run_dir) / "jacobian.png")

    layers = jax.device_get(jax.jit(functools.partial(conv_layers, pretrain))(params, method_state))
    print(f"{format_layers(layers)}\n", flush=True)
    metrics = over_groups(rows)
    seconds = time.monotonic() - started
    return workdir.write_results(
        run_dir,
        job="jacobian",
        metrics=metrics | {"groups": rows, "layers": layers},
        steps=0,
        seconds=seconds,
        images_per_second=count / seconds,
        seed=config.seed,
        params_digest=digest(params),
    )


def measure_groups(
    config: ml_collections.ConfigDict, method: Method, params: Any, method_state: Any, groups: Any
) -> tuple[list[jacobian.Spectrum], list[dict[str, float]]]:
    """(spectrum, row of the table) for each group of query views [n, g, S, S, 3].

    A row has log_det and log_det_stderr (nats per dimension; 0 where all singular values are
    computed), log_det_half_depth (with half as many Lanczos steps: how far the quadrature has
    converged), sigma_min, sigma_max and share_below_1 of the singular values.
    """
    settings = config.jacobian
    train = settings.statistics == "batch"

    def saib(images):
        return method.transform(params, method_state, images, train=train)

    @jax.jit
    def lanczos(images, key):
        options = {"depth": settings.depth, "num_probes": settings.num_probes}
        return jacobian.lanczos(saib, images, key, **options)

    exact = jacobian.exact(saib)

    spectra, rows = [], []
    keys = jax.random.split(jax.random.key(config.seed), len(groups))
    for images, key in zip(groups, keys):
        if images.size <= settings.exact_up_to:
            found = half = exact(images)
        else:
            found, half = jax.device_get(lanczos(images, key))
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
    lines = [
        title,
        "",
        "| group | log\\|det J\\| / n | error | at half depth | smallest | largest | below 1 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    formats = ("{:+.4f}", "{:.4f}", "{:+.4f}", "{:.4f}", "{:.3f}", "{:.1%}")
    for name, row in [*((str(i), row) for i, row in enumerate(rows)), ("all", over_groups(rows))]:
        cells = [text.format(value) for text, value in zip(formats, row.values(), strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_layers(layers: dict[str, dict[str, float]]) -> str:
    """The table of the convolutions' norms in Markdown; spectral normalisation bounds the first."""
    matrix, operator = layers["conv_matrix_norm"], layers["conv_operator_norm"]
    lines = ["| convolution | norm as a matrix | as an operator |", "|---|---:|---:|"]
    lines += [f"| {path} | {matrix[path]:.3f} | {operator[path]:.3f} |" for path in matrix]
    return "\n".join(lines)
