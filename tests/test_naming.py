"""What a config trains has one name, and a start is recorded as the command that was typed."""

import shlex
import subprocess
import sys

import pytest

from iecl_jax import config as config_lib
from iecl_jax.config import naming
from iecl_jax.run import command_line

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "flag, name",
    [
        ("configs/imagenet_r50.py:100", "IE-CL"),
        ("configs/quickstart.py", "IE-CL"),
        ("configs/resnet18.py:cifar10,smoke", "IE-CL"),
        ("configs/ablation.py:full", "IE-CL"),
        ("configs/ablation.py:saib+kl", "MoCo-v2 without a queue + SAIB + KL + entropy"),
        ("configs/ablation.py:saib", "MoCo-v2 without a queue + SAIB + entropy"),
        ("configs/ablation.py:baseline", "MoCo-v2 without a queue"),
        ("configs/saib_cascade.py:2", "IE-CL (SAIB: 2 in a row)"),
        ("configs/plug_and_play.py:moco_v2", "MoCo-v2"),
        ("configs/plug_and_play.py:byol+saib", "BYOL + SAIB + KL + entropy"),
        ("configs/plug_and_play.py:simclr+terms", "SimCLR + KL + entropy"),
        ("configs/plug_and_play.py:vicreg+saib+sn", "VICReg + SAIB + KL + entropy + spectral norm"),
        ("configs/resnet18.py:cifar10,light_moco+saib", "Light-MoCo + SAIB + KL + entropy"),
        ("configs/knn.py", ""),
    ],
)
def test_a_config_has_the_name_of_what_it_trains(flag, name):
    config = config_lib.load(flag)
    assert config_lib.trained(config) == name
    assert naming.trained(config.to_dict()) == name


def test_a_changed_part_changes_the_name():
    flags = ("--config.saib.variant=expansive",)
    config = config_lib.load("configs/quickstart.py", flags)
    assert config_lib.trained(config) == "IE-CL (SAIB: expansive)"
    config.method.queue_size = 128
    assert config_lib.trained(config).startswith("MoCo-v2 + SAIB + KL + entropy + spectral norm")


def test_a_method_has_the_title_of_its_file():
    assert naming.trained({"method": {"name": "w_mse"}}) == "W-MSE"
    assert naming.trained({"method": {"name": "removed_later"}}) == "removed_later"


@pytest.mark.parametrize("config", [None, {}, [], {"method": 3}, {"method": {"name": None}}])
def test_a_config_that_is_none_has_no_name(config):
    assert naming.trained(config) == ""


def test_an_own_method_has_the_name_of_its_file():
    assert naming.trained({"method": {"name": "some/where/spread.py"}}) == "spread"


def test_the_command_is_recorded_as_typed():
    program = "from iecl_jax.run import command_line as c; print(c.shown(c.typed()))"
    words = [sys.executable, "-W", "ignore", "-c", program, "--config.data.dir=a b", "--x='1'"]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert shlex.split(out) == ["python", *words[1:]]


def test_a_script_on_the_path_is_recorded_by_its_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/bin/iecl", "--config=a.py"])
    monkeypatch.setattr(sys, "orig_argv", ["/some/bin/python", *sys.argv])
    monkeypatch.setattr(command_line.shutil, "which", lambda name: f"/some/bin/{name}")
    assert command_line.typed() == ["iecl", "--config=a.py"]


def test_a_command_of_an_earlier_revision_is_shown_as_one_that_runs():
    assert command_line.shown(["/x/iecl_jax/main.py", "--config=a.py:b c"]) == (
        "python -m iecl_jax.main '--config=a.py:b c'"
    )
    assert command_line.shown([]) == ""
