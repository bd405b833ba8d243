"""The measures against the same equations by hand, the alarm, and that the step knows nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_network

from iecl_jax import data, methods
from iecl_jax.evals.measures import jacobian
from iecl_jax.evals.parts import diagnostics
from iecl_jax.train.experiment import build
from iecl_jax.train.step import AXIS

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


def config(**values):
    made = tiny_network.get_config()
    made.saib.group_size = 2
    made.diagnostics.update({"num_images": 8, "lanczos_depth": 12, "lanczos_probes": 16})
    made.update_from_flattened_dict(values)
    return made


@functools.cache
def measured(precision="float32"):
    """(config, split, state, what is measured)."""
    made = config(**{"train.precision": precision})
    split = data.open_split(made.data, "pretrain")
    experiment = build(made, total_steps=4, steps_per_epoch=4, num_classes=10)
    state = experiment.create_state()
    return made, split, state, diagnostics.Diagnostics(made, split)(state)


def test_every_measure_is_there_and_finite():
    values = measured()[-1].values
    names = "entropy_anchor entropy_query entropy_query_saib entropy_gain log_det log_det_stderr"
    names += " log_det_half_depth sigma_min sigma_max rank_me feature_std alignment uniformity"
    assert set(values) == {*names.split(), "conv_matrix_norm", "conv_operator_norm"}
    assert all(np.isfinite(value) for value in values.values())
    assert {type(value) for value in values.values()} == {float}


def test_views_are_those_of_step_0():
    made, split, _, _ = measured()
    experiment = build(made, total_steps=4, steps_per_epoch=4, num_classes=10)
    batch = next(data.eval_batches(made.data, split, 8, np.arange(8)))
    expected = experiment.views(0, {"image": batch["image"], "label": batch["label"]})
    np.testing.assert_array_equal(diagnostics.fixed_views(made, split, 8), expected)


def test_entropies_are_those_of_the_training_pass():
    """By the projections that `forward` gives the objective, with and without SAIB."""
    made, split, state, result = measured()
    views = list(diagnostics.fixed_views(made, split, 8))
    method = methods.make(made, total_steps=1)
    outputs, _ = jax.jit(method.forward)(state.params, state.method_state, views)

    def coding_rate(z):
        z = np.float64(z) / np.linalg.norm(z, axis=1, keepdims=True)
        n, d = z.shape
        z = z - z.mean(0)
        return np.linalg.slogdet(np.eye(d) + d / (n * 0.25) * z.T @ z)[1] / 2 / d

    values = result.values
    assert values["entropy_anchor"] == pytest.approx(
        coding_rate(outputs["anchor_projection"]), rel=1e-3
    )
    with_saib = coding_rate(outputs["query_projection"])
    assert values["entropy_query_saib"] == pytest.approx(with_saib, rel=1e-3)
    plain = config(**{"saib.enabled": False})
    without = methods.make(plain, total_steps=1).forward
    outputs, _ = jax.jit(without)(state.params, state.method_state, views)
    expected = coding_rate(outputs["query_projection"])
    assert values["entropy_query"] == pytest.approx(expected, rel=1e-3)
    assert values["entropy_gain"] == pytest.approx(with_saib - expected, abs=1e-3)
    features = np.float64(outputs["features"])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    spread = features.std(0).mean() * features.shape[1] ** 0.5
    assert values["feature_std"] == pytest.approx(spread, rel=1e-3)


def test_log_det_is_that_of_the_exact_jacobian():
    made, split, state, result = measured()
    group = diagnostics.fixed_views(made, split, 8)[1, :2]
    method = methods.make(made, total_steps=1)
    exact = jacobian.exact(lambda x: method.transform(state.params, state.method_state, x))(group)
    value, error = result.values["log_det"], result.values["log_det_stderr"]
    assert abs(value - jacobian.log_det(exact)[0]) < 4 * error + 0.05
    assert value < result.values["log_det_half_depth"] < value + 0.2
    assert result.values["sigma_max"] <= 1.001 * exact.values.max()
    assert result.values["sigma_min"] >= 0.999 * exact.values.min()


def test_layers_are_the_encoders_convolutions():
    _, _, state, result = measured()
    encoder = state.params["online"]["encoder"]
    count = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(encoder))
    assert [len(norms) for norms in result.layers.values()] == [count, count]
    assert result.values["conv_matrix_norm"] == max(result.layers["conv_matrix_norm"].values())
    assert 0.95 < result.values["conv_matrix_norm"] < 1.1
    assert result.values["conv_operator_norm"] < 3 * 1.1


def test_half_precision_is_measured_in_float32():
    """With the same parameters, whatever type the training computes in."""
    assert measured("bfloat16")[-1].values == measured()[-1].values


def test_without_saib_nothing_is_said_of_it():
    made = config(**{"saib.enabled": False})
    split = data.open_split(made.data, "pretrain")
    experiment = build(made, total_steps=4, steps_per_epoch=4, num_classes=10)
    result = diagnostics.Diagnostics(made, split)(experiment.create_state())
    assert result.spectrum is None
    assert not {"log_det", "entropy_gain", "entropy_query_saib"} & set(result.values)
    assert "entropy_query" in result.values


@pytest.mark.parametrize("rank, alarms", [(3.0, 0), (1.5, 1), (float("nan"), 1)])
def test_the_alarm_names_measure_value_and_line(rank, alarms):
    made, split, *_ = measured()
    sentences = diagnostics.Diagnostics(made, split).alarms({"rank_me": rank, "feature_std": 0.3})
    assert len(sentences) == alarms
    for sentence in sentences:
        assert f"diagnostics/rank_me is {rank:.3g}, below diagnostics.min_rank=2:" in sentence


def test_a_collapsed_encoder_raises_every_alarm():
    """With every BN scale 0 and bias 1 all images have the same features."""
    made, split, state, _ = measured()

    def flat(path, leaf):
        name = path[-1].key
        return {"scale": jnp.zeros_like(leaf), "bias": jnp.ones_like(leaf)}.get(name, leaf)

    encoder = jax.tree_util.tree_map_with_path(flat, state.params["online"]["encoder"])
    params = state.params | {"online": state.params["online"] | {"encoder": encoder}}
    diagnose = diagnostics.Diagnostics(made, split)
    values = diagnose(state.replace(params=params)).values
    assert values["rank_me"] == pytest.approx(1, abs=0.01)
    assert values["feature_std"] == pytest.approx(0, abs=1e-3)
    assert len(diagnose.alarms(values)) == 2


@pytest.mark.parametrize(
    "wanted, group, bn_group, count", [(8, 2, 0, 8), (7, 2, 0, 6), (9, 4, 8, 8), (999, 32, 0, 256)]
)
def test_as_many_images_as_groups_and_split_allow(wanted, group, bn_group, count):
    values = {"diagnostics.num_images": wanted, "saib.group_size": group}
    made = config(**values, **{"encoder.bn_group": bn_group, "train.batch_size": 32})
    split = data.open_split(made.data, "pretrain")
    assert diagnostics.Diagnostics(made, split).num_images == count


def test_the_compiled_step_is_the_same_with_and_without_diagnostics():
    def lowered(every_steps):
        made = config(**{"diagnostics.every_steps": every_steps})
        experiment = build(made, total_steps=4, steps_per_epoch=4, num_classes=10)
        state = experiment.state_shapes()
        batch = {
            "image": jax.ShapeDtypeStruct((2, 8, 8, 8, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((2, 8), jnp.int32),
        }
        step = jax.pmap(experiment.pure_step, axis_name=AXIS, in_axes=(None, 0, None))
        return step.lower(state, batch, jax.ShapeDtypeStruct((), jnp.uint32)).as_text()

    off, on = lowered(0), lowered(1)
    assert off == on
