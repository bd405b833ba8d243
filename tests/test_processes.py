"""Runs of several processes, connected as on a cluster: as good as one, and they end together."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from iecl_jax.run import distributed, events, preemption

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 150
PATIENCE = 300  # seconds for what takes a few, where many tests share a machine


class Started:
    """launch/multi_process_cpu.sh, running; its output is in `log`."""

    def __init__(
        self, workdir, *flags, processes=2, devices=2, config="tests/tiny_run.py", steps=STEPS
    ):
        environment = os.environ | {"PROCESSES": str(processes), "DEVICES": str(devices)}
        environment["PATH"] = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        self.workdir, self._log = workdir, workdir.with_suffix(f".{time.monotonic_ns()}.log")
        with self._log.open("w") as log:
            self.launcher = subprocess.Popen(
                [
                    *("launch/multi_process_cpu.sh", f"--config={config}"),
                    *(f"--workdir={workdir}", f"--config.train.num_steps={steps}"),
                    f"--config.train.log_every_steps={1 if steps < 10 else 10}",
                    "--config.checkpoint.every_steps=10",
                    *flags,
                ],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def newest_checkpoint(self) -> int:
        names = [path.name for path in (self.workdir / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def send_when_it_has_saved(self, number: int, *, process: int) -> None:
        """Sends a signal to one process once a checkpoint is newer than those before."""
        before = self.newest_checkpoint()
        while self.newest_checkpoint() == before:
            assert self.launcher.poll() is None, self.log
            time.sleep(0.01)
        (pid,) = re.findall(rf"process {process} of \d: pid (\d+)", self.log)
        os.kill(int(pid), number)

    def codes(self) -> list[int]:
        """Waits for the end; exit codes in the order in which the processes ended."""
        code = self.launcher.wait(timeout=PATIENCE)
        codes = [int(found) for found in re.findall(r"pid \d+ ended with code (\d+)", self.log)]
        assert code == next((found for found in codes if found), 0)
        return codes


@pytest.fixture(scope="module")
def start():
    started = []

    def start(*arguments, **options):
        started.append(Started(*arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.launcher.terminate()  # Ends its processes too.


def finish(started) -> dict:
    assert set(started.codes()) == {0}, started.log
    assert started.log.count("Results:") == 1
    return json.loads((started.workdir / "results.json").read_text())


def losses(workdir) -> np.ndarray:
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 1
    return events.read(workdir).scalars["train/loss"].values


def digests(workdir, step: int) -> dict[str, str]:
    """SHA-256 of each part of a saved state."""
    seal = workdir / "checkpoints" / str(step) / "seal" / "metadata"
    return json.loads(seal.read_text())["fields"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, start):
    """(workdir, results) of a run of two processes that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    return workdir, finish(start(workdir))


def test_two_processes_train_like_one(two, tmp_path, start):
    workdir, results = two
    one = finish(start(tmp_path / "one", processes=1, devices=4))
    assert results["device"] == one["device"] == "4 x cpu"
    # Sums of four numbers in another order, over 150 steps.
    assert losses(workdir) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    (begun,) = json.loads((workdir / "provenance.json").read_text())
    assert begun["num_processes"] == 2


@pytest.mark.slow
def test_processes_stop_together_and_resume_as_if_they_never_had(two, tmp_path, start):
    workdir = tmp_path / "run"
    stopped = start(workdir)
    stopped.send_when_it_has_saved(signal.SIGTERM, process=1)  # to one of them alone
    assert stopped.codes() == [preemption.EXIT_CODE] * 2, stopped.log
    steps = re.findall(r"Stopped after step (\d+), which is saved", stopped.log)
    assert len(steps) == 2
    assert set(steps) == {str(stopped.newest_checkpoint())}

    killed = start(workdir)
    killed.send_when_it_has_saved(signal.SIGKILL, process=1)
    begun = time.monotonic()
    assert killed.codes() == [128 + signal.SIGKILL, 1], killed.log
    assert time.monotonic() - begun < 60
    assert "error: process 0 of 2 stops, because another process of this run died" in killed.log
    assert f"Resuming from step {steps[0]} of {STEPS}" in killed.log

    resumed = finish(start(workdir))
    undisturbed, results = two
    assert resumed["params_digest"] == results["params_digest"]
    assert digests(workdir, STEPS) == digests(undisturbed, STEPS)


@pytest.mark.slow
def test_ie_cl_is_the_same_on_two_processes(tmp_path, start):
    options = {"config": "configs/imagenet_r50.py:100,smoke", "steps": 4}
    # Small steps: large ones make the float noise of the first grow a thousandfold by the fourth.
    rate = "--config.optimizer.learning_rate=0.01"
    one = finish(start(tmp_path / "one", rate, processes=1, devices=4, **options))
    two = finish(start(tmp_path / "two", rate, **options))
    assert losses(tmp_path / "two")[0] == pytest.approx(losses(tmp_path / "one")[0], rel=1e-6)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for name in ("log_det", "rank_me"):
        measured = [results["metrics"]["diagnostics"][name] for results in (one, two)]
        assert measured[0] == pytest.approx(measured[1], rel=1e-3)


@pytest.mark.slow
def test_a_dead_coordinator_ends_the_others_with_a_sentence(tmp_path, start):
    killed = start(tmp_path / "run")
    killed.send_when_it_has_saved(signal.SIGKILL, process=0)
    assert killed.codes() == [128 + signal.SIGKILL, 1], killed.log
    assert "error: process 1 of 2 stops, because another process of this run died" in killed.log


@pytest.mark.slow
def test_a_mistake_of_the_user_is_a_sentence_and_ends_all(tmp_path, start):
    refused = start(tmp_path / "run", "--config.train.batch_size=6")
    assert refused.codes() == [1, 1]
    assert "error: train.batch_size=6 must be a multiple of the 4 devices" in refused.log
    assert "Traceback" not in refused.log
    assert "died" not in refused.log


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, values", [("optimizer.learning_rate", ("0.3", "0.01")), ("seed", ("42", "7"))]
)
def test_different_settings_are_a_sentence_on_every_process(tmp_path, name, values):
    flags = [f"--coordinator_address=localhost:{free_port()}", "--num_processes=2"]
    words = [sys.executable, "-m", "iecl_jax.main", "--config=tests/tiny_run.py", *flags]
    started = [
        subprocess.Popen(
            [*words, f"--workdir={tmp_path}/run", f"--process_id={i}", f"--config.{name}={value}"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, value in enumerate(values)
    ]
    sentence = f"{name} is {values[0]} on process 0, {values[1]} on process 1"
    for each in started:
        assert sentence in each.communicate(timeout=PATIENCE)[1].splitlines()[-1]
        assert each.returncode == 1
    assert not (tmp_path / "run").exists()


JOIN = """
from iecl_jax.run import distributed
distributed.start()
import jax
print("joined", jax.process_index(), jax.process_count(), jax.device_count(), flush=True)
"""
LAUNCHERS = {
    "slurm": {
        "SLURM_JOB_ID": "{job}",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_PROCID": "{i}",
        "SLURM_LOCALID": "{i}",
    },
    "ompi": {
        "OMPI_MCA_orte_hnp_uri": "{job}.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "{i}",
        "OMPI_COMM_WORLD_LOCAL_RANK": "{i}",
    },
}


@pytest.mark.parametrize("launcher", ["slurm", pytest.param("ompi", marks=pytest.mark.slow)])
def test_the_processes_of_a_launcher_are_joined_without_flags(launcher):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COORDINATOR_PORT": free_port()}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            env=environment
            | {name: text.format(i=i, job=4096) for name, text in LAUNCHERS[launcher].items()},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in started]
    assert [re.findall("joined.*", output) for output in outputs] == [["joined 0 2 4"], []]


ALONE = """
import sys
from iecl_jax.run import distributed
distributed.start(
    coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]), wait_seconds=1
)
"""


@pytest.mark.slow
def test_processes_that_do_not_come_are_a_sentence():
    """Told by the one that the others connect to, and by one that finds nobody there."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ALONE, f"localhost:{free_port()}", process],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in ("0", "1")
    ]
    for each in started:
        sentence = each.communicate(timeout=PATIENCE)[1].splitlines()[-1]
        assert each.returncode == 1
        assert "num_processes=2" in sentence
        assert "did not come together: waited 1 s" in sentence


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # a batch script
        {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},  # an interactive shell
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
)
def test_a_process_alone_starts_nothing(environ, monkeypatch):
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("joined"))
    distributed.start()
    assert distributed.agreed(True)
    assert not distributed.agreed(False)


@pytest.mark.parametrize(
    "environ, devices",
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, []),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_GPUS_PER_TASK": "1"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "10(x2)"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2),8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "JAX_LOCAL_DEVICE_IDS": "3"}, None),
    ],
)
def test_a_process_alone_on_its_machine_takes_all_devices(environ, devices):
    assert distributed.local_devices(environ) == devices


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"process_id": 1}, "--process_id without --coordinator_address and --num_processes"),
        ({"coordinator_address": "a", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator_address": "a:1", "num_processes": 2, "process_id": 2}, "must be from 0 to"),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 0, "cluster": "k8s"},
            "use one",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_a_sentence(flags, sentence, monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("joined"))
    with pytest.raises(ValueError, match=re.escape(sentence)):
        distributed.start(**flags)
