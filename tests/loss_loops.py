"""What the loops of tests/method_losses.py are made of, in float64 without NumPy."""

import math

BATCH, WIDTH, QUEUE = 12, 3, 5  # two devices of 6, so that slices of 4 lie across them
PROJECTIONS = ("anchor_projection", "query_projection")


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
