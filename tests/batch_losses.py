"""The losses of Matrix-SSL, MinEnt and S3OC as loops in float64, for tests/method_losses.py."""

import math

from loss_loops import columns, cross_entropy, entropy, mean, product, sinkhorn, unit


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


def matrix_ssl(settings, z):
    """Zhang et al. 2024, Eq. 18 to 20 without their traces of Q, as the released code has them."""
    size = range(len(z["query_key"][0]))
    uniformity = alignment = 0.0
    for names in (("query_key", "anchor_prediction"), ("anchor_key", "query_prediction")):
        first, second = (columns([unit(row) for row in z[name]]) for name in names)

        def matrix(a, b):
            return [[product(x, y) / len(x) for y in b] for x in a]

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
    share = 1 / len(size) if settings.uniformity_scale == "paper" else 1
    loss = share * settings.uniformity_weight * uniformity + settings.alignment_weight * alignment
    return loss, {"uniformity": uniformity, "alignment": alignment}


def labels(scores, normalization):
    """The place of each image's largest score, each class normalised over the images."""
    if normalization == "sinkhorn":
        normal = sinkhorn(scores, 0.05, 3)
    else:
        normal = []
        for column in zip(*scores):
            exponentials = [math.exp(s) for s in column]
            centred = [s - mean(column) for s in column]
            deviation = math.sqrt(mean(c * c for c in centred) + 1e-5)
            normal.append(
                {
                    "bn": [c / deviation for c in centred],
                    "softmax": [e / sum(exponentials) for e in exponentials],
                    "l2": unit(column),
                    "none": column,
                }[normalization]
            )
        normal = list(zip(*normal))
    return [list(row).index(max(row)) for row in normal]


def _swapped(scores, normalization, temperature):
    """(loss, terms) of one classifier of two views: CE(g1, t2) / 2 + CE(g2, t1) / 2."""
    classes = [labels(view, normalization) for view in scores]
    losses, entropies = [], []
    for view, other in zip(scores, classes[::-1], strict=True):
        for row, label in zip(view, other, strict=True):
            others = row[:label] + row[label + 1 :]
            losses.append(cross_entropy(row[label], others, temperature)[0])
    for given in classes:
        entropies.append(entropy(given.count(label) / len(given) for label in set(given)))
    used = mean(len(set(given)) for given in classes)
    return mean(losses), {"classes": used, "entropy": mean(entropies)}


def _of_heads(names, normalization, temperature, z):
    """(losses, terms) of several classifiers."""
    losses, terms = [], {}
    for i, name in enumerate(names):
        scores = [z[f"{side}_{name}"] for side in ("anchor", "query")]
        loss, found = _swapped(scores, normalization, temperature)
        losses.append(loss)
        terms |= {f"head{i}_{term}": value for term, value in ({"loss": loss} | found).items()}
    return losses, terms


def minent(settings, z):
    """Li et al. 2023: the mean over heads, and the scores as they are."""
    losses, terms = _of_heads(("projection", "head1"), settings.normalization, 1.0, z)
    return mean(losses), terms


def s3oc(settings, z):
    """Our reading of Li et al. 2024: the sum over levels."""
    names = ("level0", "level1")
    losses, terms = _of_heads(names, settings.normalization, settings.temperature, z)
    return sum(losses), terms
