"""The loss of every method as a loop in float64, written from its paper's equation.

`CASES` has the cases on which tests/test_methods_losses.py compares each method with its loop.
"""

import math
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import assigned_losses
from loss_loops import (
    BATCH,
    PROJECTIONS,
    QUEUE,
    WIDTH,
    columns,
    info_nce,
    mean,
    product,
    squared_distance,
    unit,
)


def soft_nce(anchors, keys, temperature, negatives, smooth):
    """Light-MoCo's code: (mean loss, share of hits, mean probability of the positive).

    The k nearest negatives get mass / k each. With the strategy "thirds", a third of the mass is
    for the ranks 1, 2 to 3, and 4 to 5 each, where k is 5.
    """
    found = []
    anchors, keys, negatives = ([unit(row) for row in rows] for rows in (anchors, keys, negatives))
    for anchor, own in zip(anchors, keys, strict=True):
        others = sorted((product(anchor, row) for row in negatives), reverse=True)
        cosines = [product(anchor, own), *others]
        total = sum(math.exp(cosine / temperature) for cosine in cosines)
        log_probs = [cosine / temperature - math.log(total) for cosine in cosines]
        shares = [1 / smooth.k] * smooth.k
        if smooth.strategy == "thirds":
            shares = [1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6]
        target = [1 - smooth.mass, *(smooth.mass * share for share in shares)]
        loss = -sum(t * p for t, p in zip(target, log_probs, strict=False))
        found.append((loss, cosines[0] > others[0], math.exp(log_probs[0])))
    return tuple(mean(column) for column in zip(*found))


def _moco_v2(settings, z):
    """He et al. 2020, Eq. 1; in the symmetric form both directions are added up."""
    names = [("anchor_projection", "query_key"), ("query_projection", "anchor_key")]
    directions = [(z[q], z[k]) for q, k in names[: 2 if settings.symmetric else 1]]
    args = settings.temperature, z.get("negatives")
    measures = ["info_nce_top1"]
    if settings.smooth.mass:
        found = [soft_nce(q, k, *args, settings.smooth) for q, k in directions]
        measures.append("positive_share")
    else:
        found = [info_nce(q, k, *args) for q, k in directions]
    loss = sum(values[0] for values in found)
    return loss, {"info_nce": loss} | dict(zip(measures, found[0][1:], strict=True))


def _moco_v3(settings, z):
    """Chen, Xie & He 2021, Algorithm 1: ctr(q1, k2) + ctr(q2, k1), ctr 2 tau times InfoNCE."""
    tau = settings.temperature
    first, top1 = info_nce(z["anchor_prediction"], z["query_key"], tau)
    second, _ = info_nce(z["query_prediction"], z["anchor_key"], tau)
    terms = {"info_nce": first + second, "info_nce_top1": top1}
    return 2 * tau * first + 2 * tau * second, terms


def _nnclr(settings, z):
    """Dwibedi et al. 2021, Algorithm 1: L(nn1, p2) / 2 + L(nn2, p1) / 2."""
    first, top1 = info_nce(z["anchor_neighbor"], z["query_prediction"], settings.temperature)
    second, _ = info_nce(z["query_neighbor"], z["anchor_prediction"], settings.temperature)
    loss = mean([first, second])
    return loss, {"info_nce": loss, "info_nce_top1": top1}


def views_of(z, name):
    """The rows of all views: anchor, query, and further ones if there are any."""
    return [z[f"anchor_{name}"], z[f"query_{name}"], *z.get(f"crop_{name}", ())]


def _simclr(settings, z):
    """Chen et al. 2020, Eq. 1, the mean over all embeddings.

    With more than two views, solo-learn adds up the shares of all positives.
    """
    rows = [[unit(row) for row in view] for view in views_of(z, "projection")]
    everyone = [(i, view) for view in range(len(rows)) for i in range(BATCH)]
    found = []
    for i, view in everyone:
        cosines = {
            other: product(rows[view][i], rows[other[1]][other[0]])
            for other in everyone
            if other != (i, view)
        }
        shares = {other: math.exp(x / settings.temperature) for other, x in cosines.items()}
        own = sum(share for other, share in shares.items() if other[0] == i)
        top1 = max(cosines, key=cosines.get)[0] == i
        found.append((-math.log(own / sum(shares.values())), top1))
    loss, top1 = (mean(column) for column in zip(*found))
    return loss, {"nt_xent_top1": top1}


def _byol(settings, z):
    """Grill et al. 2020, Eq. 2 and its counterpart with the views exchanged, added up.

    With more than two views, every view predicts both targets, but none its own (solo-learn).
    """
    loss = 0.0
    for target, key in enumerate(("anchor_key", "query_key")):
        for view, predictions in enumerate(views_of(z, "prediction")):
            rows = zip(predictions, z[key], strict=True)
            if view != target:
                loss += mean(squared_distance(unit(p), unit(k)) for p, k in rows)
    return loss, {}


def _simsiam(settings, z):
    """Chen & He 2021, Eq. 2: D(p1, z2) / 2 + D(p2, z1) / 2."""
    pairs = [("anchor_prediction", "query_projection"), ("query_prediction", "anchor_projection")]
    rows = [pair for online, target in pairs for pair in zip(z[online], z[target], strict=True)]
    return mean(-product(unit(p), unit(k)) for p, k in rows), {}


def _barlow_twins(settings, z):
    """Zbontar et al. 2021, Eq. 1 and 2, with batch norm's epsilon, times the released scale."""
    standard = []
    for name in PROJECTIONS:
        centred = columns(z[name])
        roots = [math.sqrt(product(column, column) / BATCH + 1e-5) for column in centred]
        standard.append([[x / s for x in column] for column, s in zip(centred, roots)])
    on = off = 0.0
    for i, first in enumerate(standard[0]):
        for j, second in enumerate(standard[1]):
            entry = product(first, second) / BATCH
            on += (1 - entry) ** 2 if i == j else 0
            off += entry**2 if i != j else 0
    loss = settings.loss_scale * (on + settings.off_diagonal_weight * off)
    return loss, {"on_diagonal": on, "off_diagonal": off}


def _vicreg(settings, z):
    """Bardes et al. 2022, Eq. 6: lambda s + mu [v + v'] + nu [c + c'], s the mean of squares."""
    anchors, queries = (z[name] for name in PROJECTIONS)
    s = mean(squared_distance(a, b) / WIDTH for a, b in zip(anchors, queries, strict=True))
    v = c = 0.0
    for rows in (anchors, queries):
        centred = columns(rows)
        for i, first in enumerate(centred):
            for j, second in enumerate(centred):
                covariance = product(first, second) / (BATCH - 1)
                if i == j:
                    v += max(0, 1 - math.sqrt(covariance + 1e-4)) / WIDTH
                else:
                    c += covariance**2 / WIDTH
    weights = settings.invariance_weight, settings.variance_weight, settings.covariance_weight
    return product(weights, (s, v, c)), {"invariance": s, "variance": v, "covariance": c}


def _w_mse(settings, z):
    """Ermolov et al. 2021, Eq. 3 and 4. Whitening rows by the Cholesky factor of their covariance
    is, up to scale, making their dimensions orthonormal one after the other. A share of the
    identity in the covariance is that of further rows, multiples of the unit vectors."""
    losses, size, epsilon = [], settings.whitening_size, settings.whitening_epsilon
    further = math.sqrt(epsilon / (1 - epsilon) * (size - 1))
    for start in range(0, BATCH, size):
        white = []
        for name in PROJECTIONS:
            basis: list[list[float]] = []
            for j, column in enumerate(columns(z[name][start : start + size])):
                column = column + [further * (i == j) for i in range(WIDTH)]
                for known in basis:
                    share = product(column, known)
                    column = [x - share * y for x, y in zip(column, known, strict=True)]
                basis.append(unit(column))
            white.append([unit(row) for row in zip(*(column[:size] for column in basis))])
        losses += [squared_distance(a, b) for a, b in zip(*white, strict=True)]
    return mean(losses), {}


def _log(matrix, order):
    """The Taylor series of the logarithm at the identity, of matrices as lists of rows."""
    size = range(len(matrix))
    step = [[matrix[i][j] - (i == j) for j in size] for i in size]
    total, power = (
        [[0.0 for _ in size] for _ in size],
        [[float(i == j) for j in size] for i in size],
    )
    for k in range(1, order + 1):
        power = [[product(row, column) for column in zip(*step)] for row in power]
        total = [[t - (-1) ** k * x / k for t, x in zip(*rows)] for rows in zip(total, power)]
    return total


def _matrix_ssl(settings, z):
    """Zhang et al. 2024, Eq. 18 to 20 without their traces of Q, as the released code has them."""
    size = range(WIDTH)
    uniformity = alignment = 0.0
    for names in (("query_key", "anchor_prediction"), ("anchor_key", "query_prediction")):
        first, second = (columns([unit(row) for row in z[name]]) for name in names)

        def matrix(a, b):
            return [[product(x, y) / BATCH for y in b] for x in a]

        def shifted(c):
            return [[c[i][j] + settings.identity_weight * (i == j) for j in size] for i in size]

        cross = matrix(first, second)
        if settings.symmetric:
            cross = [[(cross[i][j] + cross[j][i]) / 2 for j in size] for i in size]
        log = _log(shifted(cross), settings.order)
        uniformity -= sum(log[i][i] for i in size) / 2
        log = _log(shifted(matrix(second, second)), settings.order)
        own = shifted(matrix(first, first))
        alignment -= sum(product(own[i], [row[i] for row in log]) for i in size) / 2
    share = 1 / WIDTH if settings.uniformity_scale == "paper" else 1
    loss = share * settings.uniformity_weight * uniformity + settings.alignment_weight * alignment
    return loss, {"uniformity": uniformity, "alignment": alignment}


def _all4one(settings, z):
    """Estepa et al. 2023: the three losses, each the mean of both directions.

    The feature loss is 10 (on / 2 + off / 2), where on and off are the roots of the mean squares
    of 1 - C_ii and of C_ij, over both of the matrices C.
    """
    args = settings.temperature, settings.centroid_temperature
    neighbor, top1 = info_nce(z["anchor_neighbor"], z["query_prediction"], args[0])
    neighbor += info_nce(z["query_neighbor"], z["anchor_prediction"], args[0])[0]
    centroid, centroid_top1 = info_nce(
        z["anchor_centroid"], z["query_centroid_prediction"], args[1]
    )
    centroid += info_nce(z["query_centroid"], z["anchor_centroid_prediction"], args[1])[0]
    on, off = [], []
    for m, q in (("anchor_key", "query_projection"), ("query_key", "anchor_projection")):
        for i, first in enumerate(zip(*z[m])):
            for j, second in enumerate(zip(*z[q])):
                cosine = product(unit(first), unit(second))
                on += [(1 - cosine) ** 2] * (i == j)
                off += [cosine**2] * (i != j)
    on, off = math.sqrt(mean(on)), math.sqrt(mean(off))
    losses = neighbor / 2, centroid / 2, 10 * (on / 2 + off / 2)
    weights = settings.neighbor_weight, settings.centroid_weight, settings.feature_weight
    terms = dict(zip(("neighbor_loss", "centroid_loss", "feature_loss"), losses, strict=True))
    terms |= {"on_diagonal": on, "off_diagonal": off}
    terms |= {"info_nce_top1": top1, "centroid_top1": centroid_top1}
    terms |= {name: mean(map(mean, z[name])) for name in NEIGHBORHOOD}
    return product(weights, losses), terms


PREDICTED = (*PROJECTIONS, "anchor_prediction", "query_prediction")
CROPS = ("crop_projection", "crop_prediction")
KEYS = ("query_key", "anchor_key")
CLUSTERS = ("labels", "prototypes")
TOP_LAYER = ("labels", "weights", "kernel", "bias")
NEIGHBORS = ("anchor_neighbor", "query_neighbor")
HEADS = ("anchor_head1", "query_head1")
LEVELS = ("anchor_level0", "query_level0", "anchor_level1", "query_level1")
CENTROIDS = ("anchor_centroid", "query_centroid")
CENTROIDS += tuple(f"{name}_prediction" for name in CENTROIDS)
NEIGHBORHOOD = ("neighbor_cosine", "neighbor_overlap")
ASSIGNED = ("scores", "assigned_scores", "counted")
TAUGHT = ("scores", "teacher_scores", "center", "teacher_temperature")
# What depends on the parameters.
TRAINED = (*PREDICTED, *CROPS, *CENTROIDS, *HEADS, *LEVELS, "scores", "kernel", "bias")
# The outputs that are not a row for each image: BATCH is the axis of the images of a device.
SHAPES: dict[str, tuple[int, ...]] = {
    "negatives": (QUEUE, WIDTH),
    **dict.fromkeys(CROPS, (2, BATCH, WIDTH)),
    "scores": (3, BATCH, WIDTH),
    "assigned_scores": (2, BATCH + QUEUE, WIDTH),
    "counted": (BATCH + QUEUE,),
    "teacher_scores": (2, BATCH, WIDTH),
    "center": (WIDTH,),
    "teacher_temperature": (),
    "labels": (BATCH, 2),
    "prototypes": (2, WIDTH, WIDTH),
    "weights": (WIDTH,),
    "kernel": (WIDTH, WIDTH),
    "bias": (WIDTH,),
}


class Case(NamedTuple):
    """A method with settings other than its recipe's; `outputs` are those of its `forward`."""

    method: str
    reference: Callable[[Any, Any], tuple[float, dict[str, float]]]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = types.MappingProxyType({})
    constant: tuple[str, ...] = ()  # trained, but held constant by the loss


def _moco(**settings):
    views = slice(2 if settings["symmetric"] else 1)
    negatives = ("negatives",) if settings["queue_size"] else ()
    outputs = (*PROJECTIONS[views], *KEYS[views], *negatives)
    return Case("moco_v2", _moco_v2, outputs, settings)


def _minent_case(**settings):
    return Case(
        "minent",
        assigned_losses.minent,
        PROJECTIONS + HEADS,
        {"further_heads": (WIDTH,)} | settings,
    )


def _s3oc_case(**settings):
    return Case("s3oc", assigned_losses.s3oc, LEVELS, {"levels": (WIDTH, WIDTH)} | settings)


OF_ALL4ONE = PREDICTED + KEYS + NEIGHBORS + CENTROIDS + NEIGHBORHOOD
VICREG_WEIGHTS = {"invariance_weight": 3.0, "variance_weight": 5.0, "covariance_weight": 7.0}
CASES = {
    "moco_v2": _moco(symmetric=False, queue_size=0),
    "moco_v2 symmetric": _moco(symmetric=True, queue_size=0, temperature=0.4),
    "moco_v2 queue": _moco(symmetric=False, queue_size=QUEUE, temperature=0.4),
    "moco_v2 symmetric, queue": _moco(symmetric=True, queue_size=QUEUE),
    "moco_v2 smooth": _moco(
        symmetric=True, queue_size=QUEUE, temperature=0.15, smooth={"mass": 0.2, "k": 2}
    ),
    "moco_v2 smooth in thirds": _moco(
        symmetric=False,
        queue_size=QUEUE,
        smooth={"mass": 0.5, "k": 5, "strategy": "thirds"},
    ),
    "moco_v3": Case("moco_v3", _moco_v3, PREDICTED + KEYS),
    "moco_v3 warm": Case("moco_v3", _moco_v3, PREDICTED + KEYS, {"temperature": 0.4}),
    "nnclr": Case("nnclr", _nnclr, PREDICTED + NEIGHBORS),
    "nnclr warm": Case("nnclr", _nnclr, PREDICTED + NEIGHBORS, {"temperature": 0.4}),
    "all4one": Case("all4one", _all4one, OF_ALL4ONE),
    "all4one reweighted": Case(
        "all4one",
        _all4one,
        OF_ALL4ONE,
        {
            "temperature": 0.4,
            "centroid_temperature": 0.3,
            "neighbor_weight": 0.7,
            "centroid_weight": 0.2,
            "feature_weight": 0.1,
        },
    ),
    "simclr": Case("simclr", _simclr, PROJECTIONS),
    "simclr warm": Case("simclr", _simclr, PROJECTIONS, {"temperature": 0.4}),
    "simclr crops": Case("simclr", _simclr, PROJECTIONS + CROPS[:1], {"crops": True}),
    "byol": Case("byol", _byol, PREDICTED + KEYS),
    "byol crops": Case("byol", _byol, PREDICTED + CROPS + KEYS, {"crops": True}),
    "simsiam": Case("simsiam", _simsiam, PREDICTED, constant=PROJECTIONS),
    "barlow_twins": Case("barlow_twins", _barlow_twins, PROJECTIONS),
    "barlow_twins heavy": Case(
        "barlow_twins", _barlow_twins, PROJECTIONS, {"loss_scale": 0.3, "off_diagonal_weight": 0.6}
    ),
    "vicreg": Case("vicreg", _vicreg, PROJECTIONS),
    "vicreg reweighted": Case("vicreg", _vicreg, PROJECTIONS, VICREG_WEIGHTS),
    "deepcluster": Case("deepcluster", assigned_losses.deepcluster, PROJECTIONS[:1] + TOP_LAYER),
    "deepcluster symmetric": Case(
        "deepcluster", assigned_losses.deepcluster, PROJECTIONS + TOP_LAYER, {"symmetric": True}
    ),
    "deepcluster_v2": Case(
        "deepcluster_v2", assigned_losses.deepcluster_v2, PROJECTIONS + CLUSTERS
    ),
    "deepcluster_v2 warm": Case(
        "deepcluster_v2",
        assigned_losses.deepcluster_v2,
        PROJECTIONS + CLUSTERS,
        {"temperature": 0.4},
    ),
    "w_mse one slice": Case("w_mse", _w_mse, PROJECTIONS, {"whitening_size": BATCH}),
    "w_mse shrunk, query constant": Case(
        "w_mse",
        _w_mse,
        PROJECTIONS,
        {"whitening_size": 6, "whitening_epsilon": 0.2, "stop_gradient": "query"},
        constant=("query_projection",),
    ),
    "w_mse": Case("w_mse", _w_mse, PROJECTIONS, {"whitening_size": 4}),
    "matrix_ssl": Case("matrix_ssl", _matrix_ssl, PREDICTED + KEYS),
    "matrix_ssl of the paper, reweighted": Case(
        "matrix_ssl",
        _matrix_ssl,
        PREDICTED + KEYS,
        {
            "uniformity_scale": "paper",
            "uniformity_weight": 2.0,
            "alignment_weight": 0.5,
            "identity_weight": 0.8,
            "order": 3,
            "symmetric": True,
        },
    ),
    "minent": _minent_case(),
    "minent softmax": _minent_case(normalization="softmax"),
    "minent l2": _minent_case(normalization="l2"),
    "minent none": _minent_case(normalization="none"),
    "s3oc": _s3oc_case(),
    "s3oc warm, balanced": _s3oc_case(temperature=0.5, normalization="sinkhorn"),
    "swav": Case("swav", assigned_losses.swav, ASSIGNED, {"queue_size": QUEUE}),
    "swav soft": Case(
        "swav",
        assigned_losses.swav,
        ASSIGNED,
        {"queue_size": QUEUE, "temperature": 0.4, "epsilon": 0.5, "iterations": 1},
    ),
    "dino": Case("dino", assigned_losses.dino, TAUGHT),
    "dino warm": Case("dino", assigned_losses.dino, TAUGHT, {"temperature": 0.4}),
}
