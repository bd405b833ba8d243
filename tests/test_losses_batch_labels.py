"""Labels from a batch, against the authors' program of MinEnt and against loops; their alarms."""

import functools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assigned_losses import labels

from iecl_jax.config import kinds
from iecl_jax.configs import plug_and_play
from iecl_jax.losses import pseudo_labels
from iecl_jax.methods.parts import classes

pytestmark = pytest.mark.quick

# Made by the authors' program (LiShuo1001/MinEnt d17ed2f) with torch 2.13 on the CPU: one head.
REFERENCE = np.load(pathlib.Path(__file__).parent / "minent.npz")


def _swapped(logits, normalization="bn"):
    outputs = {"anchor_scores": logits[0], "query_scores": logits[1]}
    losses, terms = classes.swapped(
        outputs, ["scores"], normalization=normalization, axis_name=None
    )
    return losses[0], terms


def test_targets_loss_and_gradient_of_the_authors_program():
    logits = jnp.float32(REFERENCE["minent_logits"])
    (loss, terms), gradient = jax.jit(jax.value_and_grad(_swapped, has_aux=True))(logits)
    for view, targets in zip(logits, REFERENCE["minent_targets"], strict=True):
        np.testing.assert_array_equal(pseudo_labels.of_batch(view, "bn"), targets)
    np.testing.assert_allclose(loss, REFERENCE["minent_loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, REFERENCE["minent_grad"], rtol=1e-5, atol=1e-7)
    used = np.mean([len(set(targets)) for targets in REFERENCE["minent_targets"].tolist()])
    assert terms["head0_classes"] == used


@pytest.mark.parametrize("normalization", ["bn", "softmax", "l2", "sinkhorn", "none"])
def test_labels_are_those_of_the_loop_and_have_no_gradient(normalization):
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(40, 6)) * rng.uniform(0.3, 2, 6) + rng.normal(size=6)
    got = pseudo_labels.of_batch(jnp.float32(scores), normalization)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, labels(scores.tolist(), normalization))
    assert len(set(got.tolist())) > 2


def test_a_class_that_is_largest_everywhere_does_not_get_every_image():
    scores = jnp.float32(np.random.default_rng(5).normal(size=(200, 8)) + 9 * np.eye(8)[0])
    used = {
        name: len(np.unique(pseudo_labels.of_batch(scores, name)))
        for name in ("none", "bn", "sinkhorn")
    }
    assert used == {"none": 1, "bn": 8, "sinkhorn": 8}


def test_scores_in_bfloat16_are_labelled_in_float32():
    scores = np.random.default_rng(6).normal(size=(50, 4))
    rounded = jnp.bfloat16(scores)
    expected = pseudo_labels.of_batch(rounded.astype(jnp.float32), "bn")
    np.testing.assert_array_equal(pseudo_labels.of_batch(rounded, "bn"), expected)


@pytest.mark.parametrize("method", ["minent", "s3oc"])
def test_alarms_name_the_number_and_the_way_out(method):
    config = plug_and_play.get_config(f"{method},smoke")  # without warm-up
    config.projector.output_dim = 64
    config.method[{"minent": "further_heads", "s3oc": "levels"}[method]] = (8, 8)
    width = {"minent": 64, "s3oc": 8}[method]
    alarms = functools.partial(kinds.load("method", method).alarms, config)
    good = {"epoch": 1.0, "head0_loss": 1.5, "head0_classes": 30.0}
    good |= {"head1_loss": 1.0, "head1_classes": 4.0}
    assert alarms(good) == []
    (collapsed,) = alarms(good | {"head1_classes": 1.0})
    assert "head1_classes=1.00 of 8" in collapsed
    stuck = good | {"head0_loss": math.log(width)}
    (found,) = alarms(stuck)
    assert f"head0_loss={math.log(width):.3f}" in found
    assert alarms(stuck | {"epoch": 0.9}) == []
    for sentence in (collapsed, found):
        assert re.search(r": .*(lower|take) .*\.$", sentence)
