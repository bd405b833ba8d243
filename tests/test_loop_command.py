"""The loop by the user's command: to its results, stopped by Ctrl-C, and by a loss that is NaN."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.run.preemption import EXIT_CODE

ROOT = pathlib.Path(__file__).parent.parent
PATIENCE = 300  # seconds for what takes a few, where many tests share a machine


def begin(workdir: pathlib.Path, *flags: str, absent: str = "") -> subprocess.Popen:
    command = ["tests/absent.py", absent] if absent else ["-m", "iecl_jax.main"]
    words = [sys.executable, *command, "--config=tests/tiny_run.py"]
    return subprocess.Popen(
        [*words, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> str:
    """Waits for the end; what it wrote to its console."""
    _, console = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in console, console
    return console


def test_several_steps_a_call_reach_the_results(tmp_path):
    process = begin(tmp_path, "--config.train.num_steps=5", "--config.train.steps_per_call=2")
    console = end(process)
    assert process.returncode == 0, console
    assert "step 4 of 5" in console
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["steps"] == 5
    assert {"loss", "knn_top1", "online_probe_top1"} <= set(results["metrics"])
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_without_tensorflow_a_run_reaches_its_report(tmp_path):
    process = begin(tmp_path, "--config.train.num_steps=4", absent="tensorflow,clu,tensorboard")
    console = end(process)
    assert process.returncode == 0, console
    assert console.count("warning: ") == console.count("warning: No event files") == 1
    assert not list(tmp_path.glob("events.*"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert {"train/loss", "eval/knn_top1"} <= set(lines[-1])
    page = (tmp_path / "report.html").read_text()
    assert "Step 4. Source images" in page
    assert "Test accuracy" in page


def test_a_package_for_the_log_that_is_missing_is_told_before_anything_starts(tmp_path):
    process = begin(tmp_path / "new", "--config.log.wandb=offline", absent="wandb")
    assert "log.wandb='offline' needs the package wandb, which is not installed" in end(process)
    assert process.returncode == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_leaves_the_checkpoint_that_its_sentence_names(tmp_path):
    flags = ["--config.optimizer.learning_rate=1e30", "--config.checkpoint.every_steps=1"]
    process = begin(tmp_path, "--config.train.num_steps=9", *flags)
    console = end(process)
    assert process.returncode == 1
    (sentence,) = (line for line in console.splitlines() if line.startswith("error: "))
    step = load_for_evaluation(tmp_path)[1]["step"]
    assert sentence.endswith(f"not finite; the last good checkpoint is that of step {step}.")


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    flags = ["--config.train.num_steps=3000", "--config.checkpoint.every_steps=10"]
    process = begin(tmp_path, *flags, "--config.train.log_every_steps=10")
    until = time.monotonic() + PATIENCE
    while not (tmp_path / "checkpoints" / "10").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    console = end(process)
    assert process.returncode == EXIT_CODE, console
    step = load_for_evaluation(tmp_path)[1]["step"]
    assert f"Stopped after step {step}, which is saved" in console
    assert not (tmp_path / "results.json").exists()
    again = begin(
        tmp_path, f"--config.train.num_steps={step + 1}", "--allow_config_change", *flags[1:]
    )
    assert f"Resuming from step {step} of {step + 1}" in end(again)
    assert again.returncode == 0
