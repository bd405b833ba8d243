"""A method that acts before each epoch, from its first step over kills to its results."""

import jax
import numpy as np
import optax
import pytest
import tiny_epochs
import tiny_run

from iecl_jax import main, methods
from iecl_jax.methods.parts.method import Part
from iecl_jax.train import optim
from iecl_jax.train.loop import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's and TFDS's own


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = tiny_epochs.get_config()
    folder = tmp_path_factory.mktemp("epochs") / "run"
    return config, folder, main.pretrain(config, str(folder))


def test_each_image_is_seen_once_an_epoch_and_each_epoch_begins_in_time(trained):
    _, _, results = trained
    metrics = results["metrics"]
    assert metrics["late"] == 0
    assert metrics["most"] == 1
    steps_per_epoch = results["steps"] // 3
    assert metrics["before"] == steps_per_epoch * 16
    assert metrics["step"] == results["steps"] - 1
    assert 0 < metrics["noise"] < 16
    assert 0 < metrics["drawn"] < 1


@pytest.mark.parametrize(
    "killed_at, steps_per_call", [(0, 1), pytest.param(1, 4, marks=pytest.mark.slow)]
)
def test_a_kill_between_and_inside_epochs_changes_no_bit(
    trained, tmp_path, monkeypatch, killed_at, steps_per_call
):
    """The kill comes after a checkpoint between two epochs, or after one inside an epoch."""
    config, _, expected = trained
    epoch = expected["steps"] // 3
    config = config.copy_and_resolve_references()
    config.checkpoint.every_steps = epoch + killed_at
    config.train.steps_per_call = steps_per_call
    if steps_per_call > 1:  # another program, with another rounding
        expected = main.pretrain(config, str(tmp_path / "straight"))
    take = Run.take

    def dying(run, steps):
        if steps and steps[0] > config.checkpoint.every_steps:
            run.checkpointer.newest()
            raise KeyboardInterrupt
        take(run, steps)

    monkeypatch.setattr(Run, "take", dying)
    with pytest.raises(KeyboardInterrupt):
        main.pretrain(config, str(tmp_path / "run"))
    monkeypatch.setattr(Run, "take", take)
    resumed = main.pretrain(config, str(tmp_path / "run"))
    assert resumed["params_digest"] == expected["params_digest"]
    for name in ("late", "drawn", "before", "noise"):
        assert resumed["metrics"][name] == expected["metrics"][name]


def test_the_features_of_all_images_reach_the_method(trained, tmp_path):
    config, _, expected = trained
    config = config.copy_and_resolve_references()
    config.method.encodes = True
    config.train.num_epochs = 1
    metrics = main.pretrain(config, str(tmp_path / "run"))["metrics"]
    assert metrics["features"] != 0
    assert expected["metrics"]["features"] == 0


def test_the_alarms_of_a_method_come_from_its_log(trained):
    config, _, _ = trained
    assert methods.alarms(config, {"late": 1.0}) == ["late=1."]
    assert not methods.alarms(config, {})
    assert not methods.alarms(tiny_run.get_config(), {})


def test_a_part_has_its_own_rate_and_is_frozen_at_first():
    config = tiny_epochs.get_config()
    config.optimizer.update({"weight_decay": 0.1, "momentum": 0.9})
    schedule = optim.learning_rate(config, total_steps=100, steps_per_epoch=10)
    part = Part(learning_rate=0.01, schedule="constant", momentum=0.0, frozen_steps=3)
    tx = optim.make(config, schedule, {"head": part})
    params = {"online": {"head": {"kernel": np.ones((2, 2))}, "body": {"kernel": np.ones((2, 2))}}}
    gradients, state = params, tx.init(params)
    moved = []
    for _ in range(5):
        updates, state = tx.update(gradients, state, params)
        moved.append(float(updates["online"]["head"]["kernel"][0, 0]))
        params = optax.apply_updates(params, updates)
    rate = 0.01 * config.train.batch_size / 256
    assert moved[:3] == [0, 0, 0]
    # Gradient 1 and decay 0.1 of the weight, without momentum from the frozen steps.
    np.testing.assert_allclose(moved[3], -rate * 1.1, rtol=1e-6)
    np.testing.assert_allclose(moved[4], -rate * (1 + 0.1 * (1 - rate * 1.1)), rtol=1e-6)
    assert params["online"]["body"]["kernel"][0, 0] < 1


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_part_that_was_frozen_begins_with_adam_as_a_new_one(name):
    config = tiny_epochs.get_config()
    config.optimizer.update({"name": name, "weight_decay": 0.0})
    schedule = optim.learning_rate(config, total_steps=100, steps_per_epoch=10)
    part = Part(learning_rate=0.01, schedule="constant", frozen_steps=3)
    tx = optim.make(config, schedule, {"head": part})
    params = {"online": {"head": {"kernel": np.full((2, 2), 0.5)}}}
    state = tx.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
        for _ in range(4):
            updates, state = tx.update(params, state, params)
    # Adam's first step is the rate, whatever the gradient.
    rate = 0.01 * config.train.batch_size / 256
    np.testing.assert_allclose(updates["online"]["head"]["kernel"], -rate, rtol=1e-5)
