"""The sections of the report: which curves they show, with titles, units and requirements."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from iecl_jax.run.events import Curve
from iecl_jax.tools.figures import chart

Curves = Mapping[str, Curve]


class Panel(NamedTuple):
    """A chart. `lines` has pairs (tag, name); see `chart.figure` for the other attributes."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    reference: float | None = None
    log: bool = False
    percent: bool = False

    def draw(self, curves: Curves) -> str:
        """Returns the chart of the lines that were logged, as HTML; "" if none was."""
        lines = [
            chart.Line(name, curves[tag], _error(curves, tag))
            for tag, name in self.lines
            if tag in curves
        ]
        if not lines:
            return ""
        return chart.figure(
            self.title,
            lines,
            unit=self.unit,
            reference=self.reference,
            log=self.log,
            percent=self.percent,
        )


class Section(NamedTuple):
    """Charts under one heading.

    Attributes:
      title: the heading.
      text: one or two sentences about the charts.
      panels: the charts.
      needs: config key -> whether its value allows the measurement. The report uses it to say why
        charts are missing.
    """

    title: str
    text: str
    panels: tuple[Panel, ...]
    needs: Mapping[str, Callable[[Any], bool]]


DIAGNOSTICS: dict[str, Callable[[Any], bool]] = {"diagnostics.every_steps": bool}
SAIB: dict[str, Callable[[Any], bool]] = {"saib.enabled": bool}
NATS = "nats per dimension"
LAYER_TAGS = {"conv_matrix_norm/": "as a matrix", "conv_operator_norm/": "as an operator"}

ACCURACY = Section(
    "Accuracy",
    "On the test split with the encoder as it was; the online probe is a linear classifier that "
    "is trained beside the encoder and sends it no gradient.",
    (
        Panel(
            "Test accuracy",
            "top-1 (%)",
            (("eval/knn_top1", "kNN"), ("eval/online_probe_top1", "online probe")),
            percent=True,
        ),
        Panel(
            "On training batches",
            "share of images (%)",
            (
                ("train/probe_accuracy", "online probe"),
                ("train/info_nce_top1", "InfoNCE: the own key is nearest"),
                ("train/nt_xent_top1", "NT-Xent: the other view is nearest"),
            ),
            percent=True,
        ),
    ),
    {},
)
LOSS = Section(
    "Loss",
    "The sum of Eq. 17 and its terms before their weights, means over the steps between two "
    "points. (The softmax form of the KL is in nats, not per dimension.)",
    (
        Panel("Loss", "loss", (("train/loss", "total"), ("train/method_loss", "the method's own"))),
        Panel("Entropy term", NATS, (("train/entropy", "H(Z'), maximised"),)),
        Panel("KL term", NATS, (("train/kl", "KL from the anchor"),)),
        Panel(
            "Decay of SAIB",
            "half the squared norm",
            (("train/saib_decay", "½‖W‖² of SAIB's kernels"),),
        ),
        Panel(
            "Gradient norms",
            "norm (logarithmic)",
            (
                ("train/grad_norm_online", "encoder and projector"),
                ("train/grad_norm_saib", "SAIB"),
                ("train/grad_norm_online_probe", "online probe"),
            ),
            log=True,
        ),
        Panel("Learning rate", "learning rate", (("train/learning_rate", "learning rate"),)),
    ),
    {},
)
ENTROPY = Section(
    "Entropy of the embeddings",
    "Always on the same images, by the coding rate. The gain ΔH is what of SAIB's "
    "increment the encoder keeps: the query's entropy with SAIB less that without.",
    (
        Panel(
            "Entropy",
            NATS,
            (
                ("diagnostics/entropy_anchor", "anchor"),
                ("diagnostics/entropy_query", "query without SAIB"),
                ("diagnostics/entropy_query_saib", "query with SAIB"),
            ),
        ),
        Panel("Entropy gain", NATS, (("diagnostics/entropy_gain", "ΔH, query side"),), 0.0),
    ),
    DIAGNOSTICS,
)
JACOBIAN = Section(
    "Jacobian of SAIB",
    "The change of entropy at the input is log|det J| (Eq. 12), above 0 where SAIB expands; the "
    "band is its standard error over random vectors. Lanczos quadrature only overestimates it; the "
    "gap to half of the steps says by how much. Singular values below 1 are directions that SAIB "
    "shrinks.",
    (
        Panel(
            "log|det J|",
            NATS,
            (
                ("diagnostics/log_det", "log|det J|"),
                ("diagnostics/log_det_half_depth", "with half the Lanczos steps"),
            ),
            0.0,
        ),
        Panel(
            "Extreme singular values",
            "singular value (logarithmic)",
            (("diagnostics/sigma_max", "largest"), ("diagnostics/sigma_min", "smallest")),
            1.0,
            log=True,
        ),
    ),
    DIAGNOSTICS | SAIB,
)
PRESERVATION = Section(
    "What the encoder preserves",
    "RankMe counts the directions that features use; a falling rank or deviation is collapse. "
    "Alignment is the squared distance of the two views, uniformity the log of the mean Gaussian "
    "kernel: lower is better in both.",
    (
        Panel("Effective rank", "RankMe", (("diagnostics/rank_me", "RankMe"),)),
        Panel(
            "Deviation of features",
            "standard deviation",
            (("diagnostics/feature_std", "pooled features"),),
        ),
        Panel("Alignment", "squared distance", (("diagnostics/alignment", "alignment"),)),
        Panel("Uniformity", "nats", (("diagnostics/uniformity", "uniformity"),)),
        Panel(
            "Largest norm of a convolution",
            "spectral norm (logarithmic)",
            (
                ("diagnostics/conv_matrix_norm", "as a matrix"),
                ("diagnostics/conv_operator_norm", "as an operator"),
            ),
            1.0,
            log=True,
        ),
    ),
    DIAGNOSTICS,
)
SECTIONS = (ACCURACY, LOSS, ENTROPY, JACOBIAN, PRESERVATION)
_ERRORS = {"diagnostics/log_det": "diagnostics/log_det_stderr"}


def others(curves: Curves) -> list[Panel]:
    """Returns a chart for each scalar that no section shows."""
    shown = {tag for section in SECTIONS for panel in section.panels for tag, _ in panel.lines}
    shown |= {*_ERRORS.values(), "train/epoch"}
    tables = ("eval/comparison/",)  # The results have it as a table.
    return [
        Panel(tag, "value", ((tag, tag.split("/")[-1]),))
        for tag in curves
        if tag not in shown and not tag.startswith((*LAYER_TAGS, *tables))
    ]


def layer_norms(curves: Curves) -> list[tuple[str, list[float | None]]]:
    """Returns (path of a convolution, its last norms in the order of LAYER_TAGS) for each."""
    paths = {
        tag.removeprefix(prefix): None
        for prefix in LAYER_TAGS
        for tag in curves
        if tag.startswith(prefix)
    }
    return [
        (
            path,
            [
                float(curves[prefix + path].values[-1]) if prefix + path in curves else None
                for prefix in LAYER_TAGS
            ],
        )
        for path in paths
    ]


def _error(curves: Curves, tag: str) -> np.ndarray | None:
    """Returns the standard errors of a curve, if they were logged at the same steps."""
    error = curves.get(_ERRORS.get(tag, ""))
    if error is None or not np.array_equal(error.steps, curves[tag].steps):
        return None
    return error.values
