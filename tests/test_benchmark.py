"""The benchmark: whose turn it is, its arithmetic, its files and overrides, and one real run."""

import json
import pathlib
import subprocess
import sys
import types

import jax
import ml_collections
import pytest
import saib_overhead
from test_structure import WITHOUT_TENSORFLOW

from iecl_jax import benchmark
from iecl_jax import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = f"{ROOT / 'configs' / 'resnet18.py'}:cifar10,smoke"
TIMES = [[100.0, 200.0, 110.0], [120.0, 180.0, 121.0]]


def summarized(times=TIMES):
    config = ml_collections.ConfigDict({"train": {"batch_size": 64}, "data": {"image_size": 32}})
    timed = [types.SimpleNamespace(config=config, compile_seconds=7.5) for _ in times]
    names = [f"f.py:{i}" for i in range(len(times))]
    return benchmark.summarize(timed, names, times, steps=3, overrides=["--config.seed=1"])


def get(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def test_every_other_round_goes_backwards():
    turns = []

    def contestant(name):
        def take_turn():
            turns.append(name)
            return len(turns)

        return take_turn

    results = benchmark.alternate([contestant(name) for name in "ABC"], rounds=3)
    assert "".join(turns) == "ABCCBAABC"
    assert results == [[1, 6, 7], [2, 5, 8], [3, 4, 9]]


def test_ratios_are_of_times_of_the_same_round():
    """So their median is not the ratio of the medians, which would be 121 / 110 here."""
    first, second = summarized()
    assert first["ratio_to_first"] == [1.0, 1.0, 1.0]
    assert second["ratio_to_first"] == pytest.approx([1.2, 0.9, 1.1])
    assert second["ratio_to_first_median"] == pytest.approx(1.1)
    assert summarized([[10.0, 20.0], [20.0, 20.0]])[1]["ratio_to_first_median"] == 1.5


def test_speeds_are_at_the_median():
    first, second = summarized()
    assert (first["step_ms_median"], second["step_ms_median"]) == (110.0, 121.0)
    assert first["images_per_second"] == pytest.approx(64 / 0.110)
    assert (first["rounds"], first["steps"], first["compile_seconds"]) == (3, 3, 7.5)


def test_the_table_shows_medians_and_ranges():
    lines = benchmark.format_table(summarized()).splitlines()
    assert lines[0] == "| config | batch | ms a step | images/s | ratio to the first |"
    assert lines[2] == "| f.py:0 | 64 | 110.0 (100.0 to 200.0) | 581.8 |  |"
    assert lines[3] == ("| f.py:1 | 64 | 121.0 (120.0 to 180.0) | 528.9 | 1.100 (0.900 to 1.200) |")
    assert len({line.count("|") for line in lines}) == 1


def test_json_is_an_object_for_one_config_and_a_list_for_several(tmp_path):
    path = tmp_path / "new" / "times.json"
    benchmark.write_json(path, summarized(TIMES[:1]))
    single = json.loads(path.read_text())
    benchmark.write_json(path, summarized())
    several = json.loads(path.read_text())
    assert [entry["config"] for entry in several] == ["f.py:0", "f.py:1"]
    assert set(single) == set(several[0]) == set(several[1])
    names = "config overrides batch_size image_size num_devices compile_seconds step_ms_median"
    names += " step_ms images_per_second ratio_to_first_median ratio_to_first rounds steps device"
    assert set(single) == {*names.split(), "versions", "git"}
    assert single["step_ms"] == TIMES[0]
    assert single["overrides"] == ["--config.seed=1"]
    assert single["versions"]["jax"] == jax.__version__
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "argument, value",
    [
        ("saib.enabled=False", False),
        ("train.batch_size=8", 8),
        ("optimizer.learning_rate=1", 1.0),
        ("optimizer.learning_rate=1e-3", 1e-3),
        ("method.name=simclr", "simclr"),
        ("data.dir=100", "100"),
        ("augment.mean=(0.1, 0.2, 0.3)", (0.1, 0.2, 0.3)),
    ],
)
def test_overrides_keep_the_type_of_their_key(argument, value):
    config = config_lib.load(CONFIG, [f"--config.{argument}"])
    found = get(config, argument.split("=")[0])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "name, overrides, sentence",
    [
        ("configs/none.py:x", [], "there is no config file 'configs/none.py': see configs/."),
        (CONFIG.replace("cifar10", "cifar1"), [], "config variant 'cifar1,smoke' is unknown"),
        (CONFIG, ["--config.saib.groups=4"], "config has no key 'saib.groups': did you mean"),
        (CONFIG, ["--seed=4"], "'--seed=4' is no override: write --config.KEY=VALUE."),
        (CONFIG, ["--config.seed"], "'--config.seed' is no override: write"),
        (CONFIG, ["--config.seed=1.5"], "--config.seed=1.5: "),
        (CONFIG, ["--config.saib.enabled=2"], "--config.saib.enabled=2: "),
        (CONFIG, ["--config.train.batch_size=many"], "--config.train.batch_size=many: "),
    ],
)
def test_mistakes_are_one_sentence(name, overrides, sentence):
    with pytest.raises(SystemExit) as caught:
        benchmark.main([f"--config={name}", "--", *overrides])
    message = str(caught.value)
    assert message.startswith(f"error: {sentence}")
    assert "\n" not in message


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["--config.job=knn"], "job='knn' has no training step: name a pretraining config."),
        (["--config.train.batch_size=9"], "train.batch_size=9 must be a multiple of the 2 devices"),
    ],
)
def test_configs_that_cannot_train_are_refused_before_anything_compiles(overrides, sentence):
    with pytest.raises(SystemExit, match=sentence):
        benchmark.main([f"--config={CONFIG}", "--", *overrides])


def test_a_real_run_takes_its_steps_and_compiles_once(tmp_path, monkeypatch, capsys):
    experiments, timed = [], []

    def recording_build(config, **lengths):
        made = build(config, **lengths)

        def create_state():
            state = made.create_state()
            experiments.append(jax.tree.map(lambda leaf: leaf.sharding, state))
            return state

        return made._replace(create_state=create_state)

    class Recorded(benchmark.TimedStep):
        def __init__(self, config):
            super().__init__(config)
            timed.append(self)

    build = benchmark.build
    monkeypatch.setattr(benchmark, "build", recording_build)
    monkeypatch.setattr(benchmark, "TimedStep", Recorded)
    path = tmp_path / "time.json"
    config = CONFIG.replace("smoke", "simclr,smoke")
    overrides = ["--config.encoder.width=4", "--config.data.image_size=16"]
    benchmark.main(
        [f"--config={config}", "--rounds=1", "--steps=2", f"--json={path}", "--", *overrides]
    )

    (step,) = timed
    assert step.state.step == 3
    # A step is compiled for the places of its arguments: the first state must lie where others do.
    assert experiments == [jax.tree.map(lambda leaf: leaf.sharding, step.state)]
    result = json.loads(path.read_text())
    assert result["num_devices"] == 2
    assert result["image_size"] == 16
    assert result["overrides"] == overrides
    assert 0 < 2 * result["step_ms_median"] < 1e3 * result["compile_seconds"]
    printed = capsys.readouterr().out
    assert f"| {config} | 16 |" in printed
    assert f"2 x cpu; jax {jax.__version__}" in printed
    assert "python -m iecl_jax.benchmark" in printed


def test_the_benchmark_needs_no_tensorflow():
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, "benchmark"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("method", saib_overhead.PEER_METHODS)
def test_the_peer_is_compared_in_saib_alone(method):
    name = CONFIG.removesuffix(",smoke")
    without, with_saib = saib_overhead.load_pair(name, method, [], terms=False)
    assert (without.saib.enabled, with_saib.saib.enabled) == (False, True)
    without.saib.enabled = True
    assert without.to_json() == with_saib.to_json()
    assert (without.objective.entropy.weight > 0) == (method == "ie_cl")
    flags = saib_overhead.peer_flags(with_saib, method)
    wanted = {"--arch=r18", "--size=32", "--hidden=4096", "--out=512", "--group=32", "--patch=4"}
    assert wanted <= set(flags)
    assert ("--sn" in flags) == with_saib.encoder.spectral_norm == (method == "ie_cl")
    assert ("--queue=32768" in flags) == (method == "moco_v2")


def test_terms_stay_where_they_are_asked_for():
    name = CONFIG.removesuffix(",smoke")
    without, with_saib = saib_overhead.load_pair(name, "simclr", [], terms=True)
    assert without.objective.entropy.weight == 0 < with_saib.objective.entropy.weight


def test_an_overhead_is_that_of_one_round():
    line = saib_overhead.row("byol", [*TIMES, [10.0, 10.0, 10.0], [10.0, 11.0, 12.0]])
    assert line == (
        "| byol | 110.0 | 121.0 | +10.0 (-10.0 to +20.0) | 10.0 | 11.0 | +10.0 (+0.0 to +20.0) |"
    )
