"""The benchmark: its clock, arithmetic, files and mistakes, and real runs of tiny configs."""

import json
import math
import pathlib
import re
import statistics
import subprocess
import sys

import jax
import numpy as np
import pytest
from markdown_rows import rows
from test_structure import WITHOUT_TENSORFLOW

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.tools.benchmark import __main__ as command
from iecl_jax.tools.benchmark import (
    images,
    parts,
    peer,
    program,
    report,
    saib_overhead,
    timing,
)
from iecl_jax.train.experiment import Experiment

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = f"{ROOT / 'configs' / 'resnet18.py'}:cifar10,smoke"
TINY = CONFIG.replace("smoke", "simclr,smoke")
TINY_OVERRIDES = ["--config.encoder.width=4", "--config.data.image_size=16"]
TIMES = [[100.0, 200.0, 110.0], [120.0, 180.0, 121.0]]
ROUNDS = [[[90.0, 100.0, 110.0], [200.0], [110.0]], [[120.0], [170.0, 190.0], [121.0]]]


def speeds(part="step"):
    """Records of two configs, as if the rounds of TIMES had been measured."""
    records = [
        {"config": f"f.py:{i}", "batch_size": 64} | report.speed(part, times, 64)
        for i, times in enumerate(ROUNDS)
    ]
    if part == "step":
        report.compare(records)
    return records


def get(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def tiny(*overrides):
    return config_lib.load(TINY, [*TINY_OVERRIDES, *overrides])


def test_every_other_round_goes_backwards():
    turns = []

    def contestant(name):
        def take_turn():
            turns.append(name)
            return len(turns)

        return take_turn

    results = timing.alternate([contestant(name) for name in "ABC"], rounds=3)
    assert "".join(turns) == "ABCCBAABC"
    assert results == [[1, 6, 7], [2, 5, 8], [3, 4, 9]]


def test_a_call_is_timed_to_its_end_while_the_next_one_runs(monkeypatch):
    """A device that takes 100 ms a call, a host that takes 30 ms to start one."""
    now, free, events = 0.0, 0.0, []

    def start():
        nonlocal now, free
        now += 0.030
        free = max(free, now) + 0.100
        events.append("start")
        return free

    def finish(end):
        nonlocal now
        now = max(now, end)
        events.append("finish")

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    assert timing.durations(start, finish, 3) == pytest.approx([100.0] * 3)
    assert events == ["start", *["start", "finish"] * 4, "finish"]


def test_a_call_that_returns_when_it_is_done_has_its_own_time(monkeypatch):
    now = 0.0

    def start():
        nonlocal now
        now += 0.1

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    assert timing.durations(start, lambda _: None, 3) == pytest.approx([100.0] * 3)


def test_ratios_are_of_times_of_the_same_round():
    """So their median is not the ratio of the medians, which would be 121 / 110 here."""
    first, second = speeds()
    assert [first["step_ms"], second["step_ms"]] == TIMES
    assert first["ratio_to_first"] == [1.0, 1.0, 1.0]
    assert second["ratio_to_first"] == pytest.approx([1.2, 0.9, 1.1])
    assert second["ratio_to_first_median"] == pytest.approx(1.1)


def test_median_and_percentile_are_of_all_batches():
    values = np.random.default_rng(0).lognormal(3, 1, 60)
    record = report.speed("augment", np.split(values, 6), 64)
    assert record["augment_ms_median"] == pytest.approx(statistics.median(values))
    ninth = statistics.quantiles(values, n=10, method="inclusive")[8]
    assert record["augment_ms_p90"] == pytest.approx(ninth)
    assert record["augment_calls"] == 60


def test_what_comes_in_bursts_has_the_speed_of_the_whole_time():
    first, second = speeds()
    assert (first["step_ms_median"], first["step_calls"]) == (110.0, 5)
    assert first["images_per_second"] == pytest.approx(64 / 0.110)
    assert second["images_per_second"] == pytest.approx(64 / 0.1455)
    loop = speeds("loop")[0]
    assert loop["loop_images_per_second"] == pytest.approx(5 * 64 / 0.610)
    assert "images_per_second" not in loop


def test_the_table_shows_medians_and_the_range_of_the_ratios():
    records = [left | right for left, right in zip(speeds(), speeds("loop"), strict=True)]
    lines = rows(report.format_speeds(records))
    numbers = ["median ms", "p90 ms", "calls", "images/s"]
    assert lines[0] == ["config", "part", "batch", *numbers, "ratio to the first"]
    assert lines[1] == ["f.py:0", "step", "64", "110.00", "164.00", "5", "581.8", ""]
    assert lines[3][:-1] == ["f.py:1", "step", "64", "145.50", "184.00", "4", "439.9"]
    assert lines[3][-1].startswith("1.100 (0.900")
    assert lines[4] == ["f.py:1", "loop", "64", "145.50", "184.00", "4", "426.0", ""]
    assert "ratio" not in report.format_speeds(records[:1])
    assert report.format_speeds([{"config": "f.py"}]) == ""


def test_facts_are_rows_and_what_no_config_has_is_left_out():
    records = [{"config": "a", "mfu_conv": 0.25}, {"config": "b", "flops_per_image": 7.09e9}]
    assert rows(report.format_facts(records)) == [
        ["", "a", "b"],
        ["GFLOP an image by XLA", "", "7.090"],
        ["utilisation by the convolutions", "0.250", ""],
    ]


def test_utilisation_is_of_the_products():
    found = report.utilisation(
        {
            "images_per_second": 100.0,
            "product_flops_per_image": 5e9,
            "matmul_gflops": 2000.0,
            "conv_gflops": 1000.0,
        }
    )
    assert found == {"step_gflops": 500.0, "mfu_matmul": 0.25, "mfu_conv": 0.5}


def test_json_is_an_object_for_one_config_and_a_list_for_several(tmp_path):
    path = tmp_path / "new" / "times.json"
    records = speeds()
    report.write_json(path, records[:1])
    assert json.loads(path.read_text()) == records[0]
    report.write_json(path, records)
    assert [entry["config"] for entry in json.loads(path.read_text())] == ["f.py:0", "f.py:1"]
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
        ("data.mean=(0.1, 0.2, 0.3)", (0.1, 0.2, 0.3)),
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
        ("configs/none.py:x", [], "there is no config file 'configs/none.py'"),
        (CONFIG.replace("cifar10", "cifar1"), [], "config variant 'cifar1,smoke' is unknown"),
        (CONFIG, ["--config.saib.groups=4"], "config has no key 'saib.groups': did you mean"),
        (CONFIG, ["--seed=4"], "'--seed=4' is no override: write --config.KEY=VALUE."),
        (CONFIG, ["--config.seed"], "--config.seed has no value: write"),
        (CONFIG, ["--config.seed=1.5"], "--config.seed='1.5' must be a whole"),
        (CONFIG, ["--config.saib.enabled=2"], "--config.saib.enabled='2' must be True"),
        (CONFIG, ["--config.train.num_steps=x"], "--config.train.num_steps='x' must be a whole"),
    ],
)
def test_mistakes_are_one_sentence(name, overrides, sentence):
    with pytest.raises(SystemExit) as caught:
        command.main([f"--config={name}", "--", *overrides])
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
        command.main([f"--config={CONFIG}", "--", *overrides])


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            ["--only=step,steps"],
            "--only='steps' is unknown: did you mean 'step'? use one of step, augment, input",
        ),
        (["--only=input", "--trace=there"], "--trace is of the step: add it to --only."),
        (["--steps=0"], "--rounds=5 and --steps=0 must be at least 1."),
    ],
)
def test_mistakes_in_the_options_are_told(arguments, sentence, capsys):
    with pytest.raises(SystemExit):
        command.main([f"--config={CONFIG}", *arguments])
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("size, crops", [(16, None), (112, 2)])
def test_stand_ins_come_in_the_shapes_that_the_program_is_compiled_for(size, crops, tmp_path):
    config = tiny(
        f"--config.data.image_size={size}",
        "--config.data.name=cifar10",
        f"--config.data.dir={tmp_path}",
    )
    readable, split, note = images.open_images(config)
    assert note.startswith("generated images stand in for cifar10: Data set cifar10 is not")
    with data.TrainBatches(readable, split) as batches:
        batch = next(batches)
    of_view = ((2, 8, size, size, 3), np.uint8)
    expected = dict.fromkeys(("label", "index"), ((2, 8), np.int32))
    expected |= {"image": [of_view] * crops if crops else of_view}
    for found in (batch, program.batch_shapes(readable, 2), parts.random_batch(config)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == expected


def test_a_data_set_that_is_there_is_read():
    config, split, note = images.open_images(tiny())
    assert (config.data.name, split.name, note) == ("generated", "generated", "")
    assert len(split) == 256


@pytest.mark.slow
def test_a_step_is_compiled_once_and_for_the_places_that_it_leaves_the_state_in(monkeypatch):
    def places(state):
        return jax.tree.map(lambda leaf: leaf.sharding, state)

    seen, take = [], Experiment.steps

    def recording(self, state, batches):
        seen.append(places(state))
        return take(self, state, batches)

    monkeypatch.setattr(Experiment, "steps", recording)
    timed = parts.TimedStep(tiny("--config.encoder.name=tests/tiny_resnet.py"))
    times = timed.durations(2)
    assert len(times) == 2
    assert timed.state.step == 5  # the first, two that are timed, one before and one after them
    assert seen == [places(timed.prepared.experiment.create_state())] * 5
    assert 0 < sum(times) < 1e3 * timed.compile_seconds


@pytest.mark.slow
def test_the_memory_is_that_of_the_state_the_batch_and_what_is_between(tmp_path):
    path = tmp_path / "memory.json"
    options = [f"--config={TINY}", "--memory", f"--json={path}", "--", *TINY_OVERRIDES]
    arrays = len(jax.live_arrays())
    command.main([*options, "--config.train.precision=float16"])
    assert len(jax.live_arrays()) == arrays
    found = json.loads(path.read_text())
    prepared = program.prepare(tiny(), 2)
    state = prepared.experiment.state_shapes()
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    batch_bytes = 8 * (16 * 16 * 3 + 4)
    arguments = found["memory_argument_bytes"]
    assert arguments == pytest.approx(state_bytes + batch_bytes + 4, rel=0.01)
    assert found["memory_aliased_bytes"] == pytest.approx(state_bytes, rel=0.01)
    views = 2 * 8 * 16 * 16 * 3 * 4
    assert found["memory_temporary_bytes"] > views
    sizes = [found[f"memory_{name}_bytes"] for name in ("output", "temporary", "aliased")]
    assert found["memory_total_bytes"] == arguments + sizes[0] + sizes[1] - sizes[2]
    assert found["collectives_all_reduce"] > 0
    assert found["memory_half_bytes"] == found["memory_total_bytes"] - sizes[1] // 2
    assert found["precision"] == "float16"
    assert "step_ms_median" not in found


@pytest.mark.slow
def test_everything_is_measured_without_tensorflow(tmp_path, monkeypatch):
    """The data set of the config is missing too; its images are made up and that is said."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    path, trace, own = tmp_path / "all.json", tmp_path / "trace", "tests/tiny_resnet.py"
    options = [f"--config={TINY}", "--rounds=2", "--steps=3", f"--json={path}", f"--trace={trace}"]
    options += [*TINY_OVERRIDES, "--config.data.name=digits", f"--config.encoder.name={own}"]
    code = f"""{WITHOUT_TENSORFLOW}
from iecl_jax.tools.benchmark import __main__, roofline
roofline.MATRIX_SIDE["cpu"] = 64
__main__.main({options})
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    record = json.loads(path.read_text())
    for name, value in record.items():
        assert isinstance(value, str | int | float | None | list), name
    lists = {name for name, value in record.items() if isinstance(value, list)}
    assert lists == {"overrides", "step_ms", "ratio_to_first"}
    for part in report.PARTS:
        assert record[f"{part}_calls"] == (2 if part == "loop" else 6)
        assert 0 < record[f"{part}_ms_median"] <= record[f"{part}_ms_p90"]
        speed = record["images_per_second" if part == "step" else f"{part}_images_per_second"]
        assert 0 < speed < math.inf
    assert (record["num_devices"], record["input_images"]) == (2, "generated")
    assert record["peak_memory_bytes"] == record["memory_total_bytes"]
    assert 0.5 < record["flops_per_image"] / record["product_flops_per_image"] < 2
    assert record["mfu_conv"] > 0 < record["mfu_matmul"]
    assert record["compile_seconds"] > 0
    note = "generated images stand in for digits: tensorflow_datasets is forbidden here"
    assert record["note"] == note
    assert f"{TINY}: {note}\n" in result.stdout
    assert re.search(rf"2 x cpu; .*jax {jax.__version__}", result.stdout)
    assert record["command"] in result.stdout
    assert list(trace.rglob("*.xplane.pb"))
    assert list(trace.rglob("perfetto_trace.json.gz"))


@pytest.mark.parametrize("method", peer.METHODS)
def test_the_peer_is_compared_in_saib_alone(method):
    name = CONFIG.removesuffix(",smoke")
    without, with_saib = saib_overhead.load_pair(name, method, [], terms=False)
    assert (without.saib.enabled, with_saib.saib.enabled) == (False, True)
    without.saib.enabled = True
    assert without.to_json() == with_saib.to_json()
    assert (without.objective.entropy.weight > 0) == (method == "ie_cl")
    flags = peer.flags(with_saib, method, "cpu")
    wanted = {"--arch=r18", "--size=32", "--hidden=4096", "--out=512", "--group=32", "--patch=4"}
    assert wanted <= set(flags)
    assert ("--sn" in flags) == with_saib.encoder.spectral_norm == (method == "ie_cl")
    assert ("--queue=32768" in flags) == (method == "moco_v2")


def test_terms_stay_where_they_are_asked_for():
    name = CONFIG.removesuffix(",smoke")
    without, with_saib = saib_overhead.load_pair(name, "simclr", [], terms=True)
    assert without.objective.entropy.weight == 0 < with_saib.objective.entropy.weight


def test_an_overhead_is_that_of_one_round():
    ours, of_peer = saib_overhead.overheads([*TIMES, [10.0, 10.0, 10.0], [10.0, 11.0, 12.0]])
    assert ours == pytest.approx([20, -10, 10])
    assert of_peer == pytest.approx([0, 10, 20])
