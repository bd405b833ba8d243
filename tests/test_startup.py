"""What a training does before its first step: what it imports, and how often it traces the step."""

import contextlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tiny_run

from iecl_jax.tools.benchmark import startup
from iecl_jax.train import experiment

# What a training needs later, if at all: for TensorBoard, pictures and evaluations.
LATER = ("tensorflow", "clu", "matplotlib", "sklearn", "pandas")
IMPORTS = f"""
import sys
import iecl_jax.main, iecl_jax.evals.parts.jobs, iecl_jax.evals.parts.export
import iecl_jax.evals.pictures.run_gallery, iecl_jax.run.summaries, iecl_jax.train.pretraining
print(*(name for name in {LATER} if name in sys.modules))
"""


def test_a_training_begins_without_what_it_needs_later():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("\n", 0)


@pytest.mark.parametrize("together", [1, 4])
def test_the_step_is_traced_once(together, monkeypatch):
    traced = []

    def step(*arguments, **more):
        traced.append(arguments)
        return original(*arguments, **more)

    original = experiment.train_step
    monkeypatch.setattr(experiment, "train_step", step)
    config = tiny_run.get_config()
    config.train.steps_per_call = together
    built = experiment.build(config, total_steps=100, steps_per_epoch=10, num_classes=10)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 8, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, (2, 8), np.int32),
    }
    state = built.create_state()
    for count in (together, 1):
        state, _ = built.steps(state, [batch] * count)
    assert len(traced) == 1


def test_the_time_from_mark_to_mark_is_that_of_one_phase(monkeypatch):
    seconds = iter([11.0, 12.0, 15.0, 16.0, 20.0])
    of_processor = iter([0.5, 1.0, 3.0, 3.5, 4.0])
    clock = types.SimpleNamespace(
        time=lambda: next(seconds), process_time=lambda: next(of_processor)
    )
    monkeypatch.setattr(startup, "time", clock)
    recorder = startup.Recorder(10.0)
    recorder.mark("imports")
    with recorder.waiting(contextlib.nullcontext, "Compiling"):
        recorder.of_jax("/jax/core/compile/jaxpr_trace_duration", 9.0, fun_name="step")
        recorder.of_jax("/jax/another", 9.0)
    recorder.mark("imports")
    assert recorder.phases == {
        "imports": [5.0, 1.0],
        "settings, checks, images and log": [1.0, 0.5],
        "Compiling: tracing": [3.0, 2.0],
        "Compiling": [1.0, 0.5],
    }
    others = {name: [0.0, 0.0] for name in recorder.phases}
    assert startup.medians([recorder.phases, others, recorder.phases])["total"] == [10.0, 4.0]


@pytest.mark.slow
def test_the_phases_of_a_training_add_up():
    found = startup.start(["--config=tests/tiny_run.py"])
    assert next(iter(found)) == "Python and imports"
    compiling = "Reading the first images and compiling the training step"
    assert {compiling, f"{compiling}: tracing", f"{compiling}: lowering"} <= set(found)
    assert all(value >= 0 for times in found.values() for value in times)
    with pytest.raises(ValueError, match=r"there is no config file 'nowhere\.py'"):
        startup.start(["--config=nowhere.py"])
