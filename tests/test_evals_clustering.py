"""k-means on frozen features: its agreement with the classes, by loops and all matchings."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from frozen_subject import FrozenSubject, settings
from probe_reference import clusters

from iecl_jax.evals import clustering as job
from iecl_jax.evals.measures import clustering, few_labels

pytestmark = pytest.mark.quick


def entropy(values):
    return -sum(n / len(values) * math.log(n / len(values)) for n in Counter(values).values())


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_that_of_all_matchings_and_pairs(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    found = np.where(rng.uniform(size=60) < 0.5, (labels + 1) % 4, rng.integers(0, 4, 60))
    got = clustering.agreement(found, labels)
    best = max(
        sum(order[c] == label for c, label in zip(found, labels, strict=True))
        for order in itertools.permutations(range(4))
    )
    assert got["accuracy"] == best / 60
    both = entropy([*zip(found.tolist(), labels.tolist(), strict=True)])
    of_each = entropy(found.tolist()), entropy(labels.tolist())
    np.testing.assert_allclose(got["nmi"], (sum(of_each) - both) / (sum(of_each) / 2))
    pairs = [*itertools.combinations(range(60), 2)]
    same = [(found[i] == found[j], labels[i] == labels[j]) for i, j in pairs]
    in_both = sum(a and b for a, b in same)
    in_a, in_b = (sum(each[k] for each in same) for k in (0, 1))
    chance = in_a * in_b / len(pairs)
    np.testing.assert_allclose(got["ari"], (in_both - chance) / ((in_a + in_b) / 2 - chance))


def test_clusters_that_are_not_all_used_still_match():
    got = clustering.agreement(np.array([0, 0, 0, 0]), np.array([2, 2, 1, 0]))
    assert got["accuracy"] == 0.5
    assert got["nmi"] == 0


def test_separate_directions_are_found_whatever_their_length():
    labels = np.arange(60) % 3
    rng = np.random.default_rng(0)
    features = np.eye(3)[labels] * rng.uniform(0.1, 9, (60, 1)) + 0.01 * rng.normal(size=(60, 3))
    features[0] = 0  # has no direction
    found = clustering.k_means(features.astype(np.float32), 3, seed=0, starts=3)
    assert clustering.agreement(found[1:], labels[1:])["ari"] == 1


def test_the_evaluation_is_the_mean_over_runs():
    test = clusters(80, width=6, seed=1)
    test[1][:10] = -1
    subject = FrozenSubject(clusters(30, width=6), test, seed=7)
    asked = settings(job, runs=3, starts=1)
    job.check(subject, asked)
    found = job.measure(subject, asked)
    assert found == job.measure(subject, asked)
    seeds = np.random.SeedSequence(7).generate_state(3)
    each = [
        clustering.agreement(
            clustering.k_means(test[0][10:], 3, seed=int(seed), starts=1), test[1][10:]
        )
        for seed in seeds
    ]
    for name in ("accuracy", "nmi", "ari"):
        mean, std = few_labels.mean_and_std([run[name] for run in each])
        assert found[f"clustering_{name}"] == mean
        assert found["clustering_std"][name] == std
    subject.test = (test[0][:12], test[1][:12])
    with pytest.raises(ValueError, match="has 2 labelled ones of 3 classes: use other images"):
        job.check(subject, asked)
