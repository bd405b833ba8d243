"""Batch normalisation in NumPy, for the tests of BN and of the MLP."""

import numpy as np

EPSILON = 1e-5


def normalise(x):
    """One set of statistics over all axes but the last: (normalised, mean, biased variance)."""
    flat = x.reshape(-1, x.shape[-1])
    mean = flat.sum(0) / len(flat)
    variance = ((flat - mean) ** 2).sum(0) / len(flat)
    return (x - mean) / np.sqrt(variance + EPSILON), mean, variance


def reference(views, group, scale=1.0, bias=0.0):
    """views [V, B, ..., C] -> (y of that shape, means [V, G, C], variances [V, G, C])."""
    y, means, variances = np.empty_like(views), [], []
    for v, view in enumerate(views):
        for start in range(0, len(view), group):
            block = slice(start, start + group)
            normalised, mean, variance = normalise(view[block])
            y[v, block] = normalised * scale + bias
            means.append(mean)
            variances.append(variance)
    shape = (len(views), -1, views.shape[-1])
    return y, np.reshape(means, shape), np.reshape(variances, shape)
