"""What the tests of probes share: overlapping classes, and SGD written out in float64."""

import numpy as np


def clusters(num_examples, num_classes=3, width=5, seed=0, spread=1.5):
    """Overlapping Gaussian classes, so that no probe is perfect."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, width))
    labels = rng.integers(0, num_classes, num_examples).astype(np.int32)
    features = centres[labels] + spread * rng.normal(size=(num_examples, width))
    return features.astype(np.float32), labels


def _loss_and_grad(kernel, bias, features, labels):
    logits = features @ kernel + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, features.T @ p / len(labels), p.mean(axis=0)


def numpy_sgd(params, batches, learning_rate, momentum, weight_decay):
    """torch.optim.SGD with a cosine to 0, in float64."""
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    v_kernel, v_bias, losses = np.zeros_like(kernel), np.zeros_like(bias), []
    for t, (features, labels) in enumerate(batches):
        known = labels >= 0
        loss, g_kernel, g_bias = _loss_and_grad(
            kernel, bias, features[known].astype(np.float64), labels[known]
        )
        rate = learning_rate * 0.5 * (1 + np.cos(np.pi * t / len(batches)))
        v_kernel = momentum * v_kernel + g_kernel + weight_decay * kernel
        v_bias = momentum * v_bias + g_bias
        kernel, bias = kernel - rate * v_kernel, bias - rate * v_bias
        losses.append(loss)
    return kernel, bias, losses
