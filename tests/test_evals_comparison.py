from typing import Any

import numpy as np
import pytest
from markdown_rows import rows

from iecl_jax.evals import comparison
from iecl_jax.evals.measures import few_labels, knn

SETTINGS: dict[str, Any] = {
    "labels_per_class": 4,
    "seed": 0,
    "knn_k": 5,
    "knn_temperature": 0.1,
    "num_classes": 3,
}


def _data(seed, num_examples):
    rng = np.random.default_rng(seed)
    labels = np.arange(num_examples) % 3
    good = np.eye(3)[labels] + 0.3 * rng.normal(size=(num_examples, 3))
    return good, rng.normal(size=(num_examples, 8)), labels


def test_compare():
    good, noise, labels = _data(0, 60)
    test_good, test_noise, test_labels = _data(1, 90)
    result = comparison.compare(
        {"noise": (noise, test_noise), "good": (good, test_good)}, labels, test_labels, **SETTINGS
    )
    assert list(result) == ["noise", "good"]
    for name, train, test in (("noise", noise, test_noise), ("good", good, test_good)):
        mean, std = few_labels.few_label_accuracy(
            train, labels, test, test_labels, labels_per_class=4, seed=0
        )
        top1 = knn.knn_accuracy(
            train, labels, test, test_labels, k=5, temperature=0.1, num_classes=3
        )
        assert result[name] == {"linear_few_mean": mean, "linear_few_std": std, "knn_top1": top1}
    assert result["good"]["linear_few_mean"] > 0.7 > 0.55 > result["noise"]["linear_few_mean"]
    with pytest.raises(ValueError, match="'good' has 59 training and 90 test features for 60"):
        comparison.compare({"good": (good[1:], test_good)}, labels, test_labels, **SETTINGS)


def test_raw_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 4, 3), dtype=np.uint8)
    pixels = comparison.raw_pixels(images)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[3, 13], images[3, 1, 0, 1] / 255, rtol=1e-6)
    assert pixels.shape == (5, 24)


def test_format_table():
    result = {
        "raw pixels": {"linear_few_mean": 0.2814, "linear_few_std": 0.0123, "knn_top1": 0.3},
        "IE-CL encoder": {"linear_few_mean": 1.0, "linear_few_std": 0.0, "knn_top1": 0.87651},
    }
    text = comparison.format_table(result, "CIFAR-10, 10 labels per class")
    assert text.startswith("CIFAR-10, 10 labels per class\n\n|")
    assert rows(text) == [
        ["representation", "few labels, linear (%)", "all labels, kNN (%)"],
        ["raw pixels", "28.1 ± 1.2", "30.0"],
        ["IE-CL encoder", "100.0 ± 0.0", "87.7"],
    ]
