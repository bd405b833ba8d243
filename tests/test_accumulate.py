"""`train.accumulate`: the encoder takes the images in parts, and the step stays the same."""

import jax
import numpy as np
import pytest
import trajectory

from iecl_jax import config as config_lib
from iecl_jax.run import seal
from iecl_jax.tools.benchmark import program
from iecl_jax.train import experiment

CASES = [name for name in trajectory.CASES if name not in ("bfloat16", "float16")]


def trained(case, **settings):
    """The state and metrics after two steps, by path."""
    config = trajectory.tiny_config(case)
    config.update_from_flattened_dict({"encoder.bn_group": 4} | settings)
    config_lib.check_pretrain(config, jax.device_count())
    built = experiment.build(
        config, total_steps=1000, steps_per_epoch=100, num_classes=10, num_images=16
    )
    rng = np.random.default_rng(0)
    state = built.create_state()
    shape = (2, trajectory.BATCH // 2)
    size = config.data.image_size
    for _ in range(2):
        batch = {
            "image": rng.integers(0, 256, (*shape, size, size, 3), np.uint8),
            "label": rng.integers(0, 10, shape).astype(np.int32),
            "index": np.arange(16, dtype=np.int32).reshape(shape),
        }
        state, metrics = built.steps(state, [batch])
    found = dict(seal.paths_and_leaves(jax.device_get(state)))
    return found | {f"metrics/{name}": row for name, row in jax.device_get(metrics).items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_step_in_parts_is_the_step(case):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam is not strict
        whole, parts = trained(case), trained(case, **{"train.accumulate": 2})
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=5e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_less_memory():
    """The activations of one part are in memory at a time."""
    config = trajectory.tiny_config("byol")
    config.train.batch_size, config.encoder.bn_group = 64, 8
    temporaries = []
    for parts in (1, 4):
        config.train.accumulate = parts
        lowered = program.lower(program.prepare(config, 1), jax.devices()[:1])[1]
        temporaries.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    assert temporaries[1] < 0.6 * temporaries[0]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"train.accumulate": 3}, "train.accumulate=3 must divide"),
        ({"train.accumulate": 2}, "train.accumulate=2 needs an encoder.bn_group that divides"),
        ({"train.accumulate": 4, "encoder.bn_group": 8}, "the 4 images of a part, and it is 8"),
    ],
)
def test_a_part_has_whole_groups(settings, words):
    config = trajectory.tiny_config("byol")
    config.update_from_flattened_dict(settings)
    with pytest.raises(ValueError, match=words):
        config_lib.check_pretrain(config, 1)
