"""`--dry_run`: what it prints, that it leaves nothing, and what it refuses."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
import tiny_run

from iecl_jax import config as config_lib
from iecl_jax.tools import dry_run
from iecl_jax.train import pretraining

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 36_000  # which would be too long for a test, if they were taken


def config():
    found = tiny_run.get_config()
    found.train.num_steps = STEPS
    return found


def figures(capsys):
    """{title: text} of the printed table."""
    lines = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if "|" in line]
    return {title.strip(): text.strip() for title, text in lines}


def test_the_command_prints_the_figures_and_leaves_nothing(tmp_path):
    command = ["--config=tests/tiny_run.py", f"--config.train.num_steps={STEPS}", "--dry_run"]
    done = subprocess.run(
        [sys.executable, "-m", "iecl_jax.main", *command, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "parameters",
        "36,000 steps of 16 images",
        "a step",
        "they end on",
        "checkpoints",
    ):
        assert words in done.stdout, words
    assert not [*tmp_path.iterdir()]


def test_the_figures_are_those_of_the_run(tmp_path, capsys):
    dry_run.run(config(), str(tmp_path / "run"))
    found = figures(capsys)
    state = pretraining.prepare(config()).experiment.create_state()
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert found["parameters"].startswith(f"{count:,} (online ")
    assert {"first step", "a step", "all steps"} <= {*found}
    # Two newest, the best, and one that is being written.
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    row = f"4 checkpoints of {size / 1e6:.2f} MB, the disk of the workdir"
    assert found[row].startswith(f"{4 * size / 1e6:.2f} MB of ")
    assert not [*tmp_path.iterdir()]


def test_the_time_of_all_steps_is_that_of_a_step_times_their_number():
    task = pretraining.prepare(config())
    told = dict(dry_run._duration(task, dry_run.Timed(first=10.0, step=0.5)))
    assert told["a step"] == "0.5 s, 32.0 images/s"
    assert told["all steps"].startswith("5 h 00 min; begun now, they end on ")
    told = dict(dry_run._duration(task, dry_run.Timed(first=10.0, step=1e9)))
    assert told["all steps"].endswith("they end on no day")


@pytest.mark.parametrize(
    "limit, sentence",
    [
        ("memory.free_of_host", r"this machine has 0\.00 MB free, .* lower train\.batch_size"),
        ("free_disk", r"the disk of the workdir has 0\.00 MB free, .* another disk"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_left(
    tmp_path, capsys, monkeypatch, limit, sentence
):
    monkeypatch.setattr(f"iecl_jax.tools.dry_run.{limit}", lambda *_: 100)
    with pytest.raises(ValueError, match=sentence):
        dry_run.run(config(), str(tmp_path / "run"))
    found = figures(capsys)
    assert [text for text in found.values() if text.endswith("DOES NOT FIT")]
    assert ("a step" in found) == (limit == "free_disk")  # Nothing runs where memory lacks.
    assert not [*tmp_path.iterdir()]


def test_the_memory_of_an_accelerator_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "_on_cpu", lambda: False)
    monkeypatch.setattr(dry_run, "device_memory", lambda: 100)
    with pytest.raises(ValueError, match=r"each device has 0\.00 MB free, .* docs/gpus\.md"):
        dry_run.run(config(), str(tmp_path / "run"))


def test_images_that_auto_keeps_on_the_device_count_there(monkeypatch):
    task = pretraining.prepare(config())
    monkeypatch.setattr(dry_run, "_on_cpu", lambda: False)
    needed = []
    for place in ("host", "device"):
        monkeypatch.setattr(dry_run.caching, "chosen", lambda *_, place=place: place)
        with dry_run.data.TrainBatches(task.config, task.split) as batches:
            state = task.experiment.state_shapes()
            needed.append(dry_run._memory(task, state, next(batches), None)[0].needed)
    assert needed[1] - needed[0] == 256 * 8 * 8 * 3


def test_images_that_do_not_fit_are_not_decoded(tmp_path, monkeypatch):
    images = config()
    images.data.cache = "host"
    size = 256 * 8 * 8 * 3
    monkeypatch.setattr(dry_run.memory, "free_of_host", lambda: size - 1)
    monkeypatch.setattr(dry_run.data, "TrainBatches", None)
    with pytest.raises(ValueError, match=r"data\.cache=none"):
        dry_run.run(images, str(tmp_path / "run"))


def test_an_evaluation_is_refused(tmp_path):
    images = config()
    images.job = "knn"
    with pytest.raises(ValueError, match="job='knn' evaluates a checkpoint"):
        dry_run.run(images, str(tmp_path / "run"))


@pytest.mark.parametrize("job", ["segmentation", "detection"])
def test_another_training_is_refused_with_the_command_that_measures_it(tmp_path, job):
    with pytest.raises(ValueError, match=rf"job='{job}' are measured by python -m .*\.voc with"):
        dry_run.run(config_lib.new(job), str(tmp_path / "run"))
