"""The files of launch/: they parse, and name only flags, configs and files that there are."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from absl import flags

from iecl_jax import config as config_lib
from iecl_jax import main  # main defines the flags
from iecl_jax.config import schema
from iecl_jax.run import preemption

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = ["single.sh", "multi_process_cpu.sh", "slurm.sbatch"]
PARTS = re.compile(r'--([\w.]+)(?:=([^\s"]+))?')


def commands(path: pathlib.Path) -> list[str]:
    """The lines that start a run, in a script or in a comment on how to use it."""
    lines = path.read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if "iecl_jax.main" in line or " --config=" in line]


def check_flags(command: str) -> None:
    """The flags after the program's name; those of srun or docker stand before it."""
    _, *own = re.split(r"iecl_jax\.main|launch/\S+|iecl_jax (?=--)", command)
    given = dict(PARTS.findall(own[-1] if own else command))
    overrides = {name for name in given if name.startswith("config.")}
    for name in given.keys() - overrides - {"config"}:
        assert name in flags.FLAGS, f"--{name} of {command!r} is no flag of {main.__name__}"
    config = config_lib.load(given.get("config", "configs/imagenet_r50.py:100"))
    keys = [name.removeprefix("config.") for name in overrides]
    assert schema.unknown_key(config, keys) is None


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", [*SCRIPTS, "Dockerfile"])
def test_its_commands_name_flags_and_configs_that_exist(name):
    found = commands(LAUNCH / name)
    assert any("--config=" in line for line in found)
    for command in found:
        check_flags(command)


def test_a_flag_that_does_not_exist_is_found():
    with pytest.raises(AssertionError, match="--workdirs"):
        check_flags("python -m iecl_jax.main --config=configs/quickstart.py --workdirs=a")
    with pytest.raises(AssertionError):
        check_flags("srun --mem=0 python -m iecl_jax.main --config.train.precisions=float16")
    with pytest.raises(ValueError, match="no config file"):
        check_flags("sbatch launch/slurm.sbatch --config=configs/nowhere.py")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash(name):
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)
    assert (LAUNCH / name).read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("code", [0, 1, preemption.EXIT_CODE])
def test_slurm_requeues_what_was_stopped_and_saved(tmp_path, code):
    for name, ends in (("srun", code), ("scontrol", 0)):
        fake = tmp_path / name
        fake.write_text(f'#!/bin/sh\necho {name} "$@" >> "{tmp_path}/calls"\nexit {ends}\n')
        fake.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    command = ["bash", LAUNCH / "slurm.sbatch", "--workdir=runs/a b"]
    assert subprocess.run(command, env=environment, check=False).returncode == code
    called, *requeued = (tmp_path / "calls").read_text().splitlines()
    assert called.endswith("iecl_jax.main --config.train.precision=float16 --workdir=runs/a b")
    assert requeued == (["scontrol requeue 7"] if code == preemption.EXIT_CODE else [])


def test_the_cpu_script_ends_with_the_code_that_ended_first(tmp_path):
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" != -c ] || exec {sys.executable} "$@"\n'
        'case "$*" in *process_id=1) exit 3;; *) sleep 0.5; exit 1;; esac\n'
    )
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = LAUNCH / "multi_process_cpu.sh"
    ended = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert re.findall(r"ended with code (\d)", ended.stderr) == ["3", "1"]


def test_kubernetes_pods_find_each_other_and_are_started_again():
    jobset = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    check_flags(" ".join([*container["command"], *container["args"]]))
    given = dict(arg.removeprefix("--").split("=", 1) for arg in container["args"])
    name = jobset["metadata"]["name"]
    assert given["coordinator_address"].split(":")[0] == f"{name}-{workers['name']}-0-0.{name}"
    assert job["completions"] == job["parallelism"] == int(given["num_processes"])
    (index,) = container["env"]
    assert given["process_id"] == f"$({index['name']})"
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes["values"] == [preemption.EXIT_CODE]
    assert codes["containerName"] == container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_the_image_copies_what_there_is():
    text = (LAUNCH / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (\S+) ", text, re.M):
        assert list(ROOT.glob(source)), source
    for requirements in re.findall(r"REQUIREMENTS=(\S+)", text):
        assert (ROOT / requirements.rstrip(":")).is_file(), requirements
