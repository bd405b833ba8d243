"""What the loops of tests/method_losses.py are made of, in float64 without NumPy."""

import math


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def unit(x):
    length = math.sqrt(sum(v * v for v in x))
    return [v / length for v in x]


def product(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def squared_distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def cross_entropy(own, others, temperature):
    """(-log of the positive's share, whether the positive is the largest)."""
    total = sum(math.exp(cosine / temperature) for cosine in (own, *others))
    return -math.log(math.exp(own / temperature) / total), own > max(others)


def info_nce(anchors, keys, temperature, negatives=None):
    """(mean loss of anchor i at key i against the other keys or the negatives, share of hits)."""
    groups = (anchors, keys, negatives or ())
    anchors, keys, negatives = ([unit(row) for row in rows] for rows in groups)
    found = []
    for i, anchor in enumerate(anchors):
        rivals = negatives or [key for j, key in enumerate(keys) if j != i]
        others = [product(anchor, key) for key in rivals]
        found.append(cross_entropy(product(anchor, keys[i]), others, temperature))
    return tuple(mean(column) for column in zip(*found))


def columns(rows):
    """The dimensions, each minus its mean."""
    return [[x - mean(column) for x in column] for column in zip(*rows)]


def log_softmax(scores):
    total = math.log(sum(math.exp(s) for s in scores))
    return [s - total for s in scores]


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities)


def sinkhorn(scores, epsilon, iterations):
    """Caron et al. 2020, Algorithm 1, where rows are images."""
    n, k = len(scores), len(scores[0])
    q = [[math.exp(s / epsilon) for s in row] for row in scores]
    for _ in range(iterations):
        shares = [sum(row[j] for row in q) * k for j in range(k)]
        q = [[x / share for x, share in zip(row, shares, strict=True)] for row in q]
        q = [[x / (sum(row) * n) for x in row] for row in q]
    return [[x * n for x in row] for row in q]


def of_other_views(targets, scores, temperature):
    """The mean cross-entropy over the targets' views and all other views."""
    losses = []
    for i, of_view in enumerate(targets):
        for v, other in enumerate(scores):
            if v != i:
                for target, row in zip(of_view, other, strict=True):
                    losses.append(-product(target, log_softmax([s / temperature for s in row])))
    return mean(losses)
