"""The JSON files of a WORKDIR: exact configs, refused changes, starts, and finite results."""

import importlib.metadata
import json
import re
import subprocess

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import iecl_jax
from iecl_jax import config as config_lib
from iecl_jax.configs import imagenet_r50
from iecl_jax.run import workdir

pytestmark = pytest.mark.quick


def make_config(**changes) -> ml_collections.ConfigDict:
    config = imagenet_r50.get_config("100")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def prepare(path, config, *, allow_change=False) -> None:
    workdir.prepare(path, config, command=["main.py", "--x=1"], allow_change=allow_change)


def test_config_round_trip_keeps_tuples_types_and_every_digit():
    config = make_config()
    config.more = {
        "floats": (0.1, 1e-17, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2.0),
        "nested": {"pairs": ((1, 2), ("a", ())), "flag": True},
        "text": "bilinear | “bicubic”",
    }
    again = config_lib.from_json(config_lib.to_json(config))
    assert config_lib.to_json(again) == config_lib.to_json(config)
    assert repr(again.more.floats) == repr(config.more.floats)
    assert isinstance(again.more.nested, ml_collections.ConfigDict)


def test_config_round_trip_of_all_settings():
    config = imagenet_r50.get_config("800")
    text = config_lib.to_json(config)
    assert config_lib.from_json(text) == config
    assert list(json.loads(text)) == sorted(config.keys())


def test_a_config_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"the config cannot be written as JSON: .*Float32"):
        config_lib.to_json(ml_collections.ConfigDict({"dtype": np.dtype("float32")}))


def test_prepare_writes_config_and_appends_each_start(tmp_path):
    path = tmp_path / "runs" / "a"
    prepare(path, make_config())
    prepare(path, make_config())
    assert config_lib.from_json((path / "config.json").read_text()) == make_config()
    starts = json.loads((path / "provenance.json").read_text())
    assert len(starts) == 2
    assert set(starts[0]) == {
        "time", "command", "git", "python", "versions", "device", "num_processes", "threads",
        "config_changes",
    }  # fmt: skip
    assert starts[0]["command"] == ["main.py", "--x=1"]
    assert starts[0]["config_changes"] == []
    assert starts[0]["time"].endswith("+00:00")
    assert starts[0]["versions"] == workdir.versions()
    assert {file.name for file in path.iterdir()} == {"config.json", "provenance.json"}


def test_prepare_refuses_another_config_and_names_the_way_out(tmp_path):
    prepare(tmp_path, make_config())
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    changed = make_config(**{"train.num_epochs": 512, "optimizer.learning_rate": 0.5})
    changed.new = "x"
    changes = ['new: (absent) -> "x"', "optimizer.learning_rate: 0.3 -> 0.5"]
    changes.append("train.num_epochs: 100 -> 512")
    expected = rf"another config \({re.escape(', '.join(changes))}\): .*--allow_config_change"
    with pytest.raises(ValueError, match=expected):
        prepare(tmp_path, changed)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before
    prepare(tmp_path, changed, allow_change=True)
    assert config_lib.from_json((tmp_path / "config.json").read_text()) == changed
    starts = json.loads((tmp_path / "provenance.json").read_text())
    assert starts[-1]["config_changes"] == changes
    with pytest.raises(ValueError, match=r"train\.num_epochs: 512 -> 100"):
        prepare(tmp_path, make_config())


def test_no_way_is_offered_that_is_refused(tmp_path):
    prepare(tmp_path, make_config())
    with pytest.raises(ValueError, match=r"use another --workdir\.$"):
        prepare(tmp_path, make_config(**{"train.batch_size": 512}))


def test_prepare_shows_only_the_first_few_differences(tmp_path):
    prepare(tmp_path, make_config(**{f"key{i}": i for i in range(9)}))
    with pytest.raises(ValueError, match=r"key4: 4 -> 5 and 4 more\)"):
        prepare(tmp_path, make_config(**{f"key{i}": i + 1 for i in range(9)}))


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
def test_prepare_names_a_damaged_file(tmp_path, name):
    prepare(tmp_path, make_config())
    (tmp_path / name).write_text('{"seed": 4')
    with pytest.raises(ValueError, match=f"(?i){name}.* not JSON .*repair or remove it"):
        prepare(tmp_path, make_config())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    prepare(tmp_path, make_config())
    before = (tmp_path / "config.json").read_text()

    def fail(*unused):
        raise OSError("killed")

    monkeypatch.setattr(workdir.os, "replace", fail)
    with pytest.raises(OSError, match="killed"):
        prepare(tmp_path, make_config(**{"optimizer.learning_rate": 0.7}), allow_change=True)
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize("call", ["prepare", "write_results"])
def test_only_process_0_writes(tmp_path, monkeypatch, call):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    if call == "prepare":
        prepare(tmp_path, make_config())
    else:
        assert write_results(tmp_path)["job"] == "pretrain"
    assert list(tmp_path.iterdir()) == []


def write_results(path, **metrics):
    return workdir.write_results(
        path,
        job="pretrain",
        metrics=metrics,
        steps=np.int64(7),
        seconds=1.5,
        images_per_second=float("inf"),
        seed=42,
        data={"name": "digits", "dir": "", "image_size": 8, "cache": "host"},
        params_digest="ab" * 32,
    )


def test_results_are_plain_finite_json_of_the_documented_keys(tmp_path):
    write_results(tmp_path, old=1)
    results = write_results(
        tmp_path,
        knn_top1=np.float32(0.1),
        loss=float("nan"),
        rank=jnp.asarray(2.5),
        curve=np.array([1.0, np.inf]),
        flag=np.bool_(True),
        nested={"a": [1, -np.inf], "b": None},
    )
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == results
    assert set(results) == {
        "job", "metrics", "steps", "seconds", "images_per_second", "seed", "data",
        "params_digest", "device", "versions",
    }  # fmt: skip
    assert results["data"] == {"name": "digits", "dir": "", "image_size": 8}
    assert results["metrics"] == {
        "knn_top1": float(np.float32(0.1)),
        "loss": None,
        "rank": 2.5,
        "curve": [1.0, None],
        "flag": True,
        "nested": {"a": [1, None], "b": None},
    }
    assert (results["steps"], results["images_per_second"]) == (7, None)


def test_versions_are_those_installed_or_none(monkeypatch):
    found = workdir.versions()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert found["iecl_jax"] == iecl_jax.__version__
    assert len(found) == 11

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert set(workdir.versions().values()) == {iecl_jax.__version__, None}


def test_device_description():
    assert workdir.device_description() == f"{jax.device_count()} x cpu"


def test_git_state_is_of_the_repository_that_tracks_the_package(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    package = tmp_path / "workdir.py"
    package.write_text("1")
    monkeypatch.setattr(workdir, "__file__", str(package))
    git("init", "-q")
    assert workdir.git_state() is None
    git("add", "workdir.py")
    git("commit", "-q", "-m", "first")
    state = workdir.git_state()
    assert len(state["revision"]) == 40
    assert state["dirty"] is False
    package.write_text("2")
    assert workdir.git_state() == {**state, "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert workdir.git_state() is None
