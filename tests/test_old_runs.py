"""Runs, checkpoints and configs of an earlier revision: recognised, resumed and evaluated."""

import json
import lzma
import pathlib
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest

from iecl_jax import config as config_lib
from iecl_jax.run.checkpoint import load_for_evaluation

ROOT = pathlib.Path(__file__).parent.parent
OLD = ROOT / "tests" / "old_runs"
COMMAND = (
    "--config=configs/imagenet_r50.py:100,smoke",
    "--config.encoder.width=2",
    "--config.projector.hidden_dim=8",
    "--config.projector.output_dim=8",
)


def run(*arguments) -> str:
    """What the user's command prints."""
    command = [sys.executable, "-m", "iecl_jax.main", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def runs(tmp_path) -> pathlib.Path:
    with tarfile.open(OLD / "b27c591.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_a_finished_run_is_recognised_and_left_as_it_is(runs):
    before = (runs / "finished" / "results.json").read_text()
    assert "finished" in run(*COMMAND, f"--workdir={runs / 'finished'}")
    assert (runs / "finished" / "results.json").read_text() == before
    changes = [
        s["config_changes"] for s in json.loads((runs / "finished/provenance.json").read_text())
    ]
    assert changes == [[], ['data.cache: "host" -> "auto"']]


@pytest.mark.slow
def test_half_a_run_is_resumed_and_ends_as_the_whole_one(runs):
    assert "from step 2 of 4" in run(*COMMAND, f"--workdir={runs / 'half'}")
    results = json.loads((runs / "half" / "results.json").read_text())
    assert results["steps"] == 4
    _, whole = load_for_evaluation(runs / "finished")
    _, resumed = load_for_evaluation(runs / "half")
    moved = [
        np.abs(a - b).max()
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True)
    ]
    # Two steps of rounding: batch norm computes its variance in another way than the old revision.
    assert max(moved) < 1e-3


FEW = [f"--config.jacobian.{key}" for key in ("num_groups=1", "num_probes=2", "depth=4")]


@pytest.mark.parametrize(
    "config, flags",
    [("configs/knn.py", []), pytest.param("configs/jacobian.py", FEW, marks=pytest.mark.slow)],
)
def test_an_old_checkpoint_is_evaluated(runs, config, flags):
    workdir, checkpoint = runs / "evaluated", runs / "finished"
    run(f"--config={config}", f"--config.checkpoint={checkpoint}", f"--workdir={workdir}", *flags)
    assert json.loads((workdir / "results.json").read_text())["metrics"]


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_every_old_config_is_that_of_today(every):
    with lzma.open(OLD / "b27c591_configs.json.xz", "rt") as file:
        old = json.load(file)
    assert len(old) > 300
    for flag, values in list(old.items())[::every]:
        before = config_lib.leaves(config_lib.from_json(json.dumps(values)))
        now = config_lib.leaves(config_lib.load(flag))
        changed = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
        changed -= {"data.cache"}  # changes no batch, and every start may choose it
        if flag.endswith(",small") and not flag.startswith("configs/study.py"):  # is longer now
            changed -= {"train.num_steps", "checkpoint.every_steps", "diagnostics.every_steps"}
        if now.get("data.name") == "generated":  # was normalised as what it stands in for
            changed -= {"data.mean", "data.std"}
        assert not changed, (flag, changed)
