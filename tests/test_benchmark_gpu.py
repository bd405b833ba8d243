"""The budget of the measurements of a GPU, what a second call does, and the tables."""

import json
import pathlib

import pytest
from markdown_rows import rows

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.run import preemption
from iecl_jax.tools import runs
from iecl_jax.tools.benchmark import __main__ as benchmark
from iecl_jax.tools.benchmark import startup, voc
from iecl_jax.tools.benchmark.gpu import plan, report, traced
from iecl_jax.tools.benchmark.gpu.figures import NAME, Figures
from iecl_jax.tools.benchmark.gpu.session import MARGIN, Measurement, Session

pytestmark = pytest.mark.quick

FACTS = {"device": "1 x abacus", "smoke": False, "versions": {"jax": "1"}, "seed": 42}
FACTS |= {"revision": "0123", "dirty": False}


class Lent:
    """A machine that is lent for some seconds, and takes those of LENGTHS for a command."""

    def __init__(self, seconds, lengths, codes=()):
        self.left, self.lengths, self.codes = seconds, lengths, dict(codes)
        self.called, self.stopped = [], False

    def call(self, arguments, log, *, python, environment, seconds):
        (name,) = arguments
        self.called.append((name, seconds))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"working\nerror: {name} is broken.\n\n")
        self.left -= min(self.lengths[name], seconds)
        if self.lengths[name] > seconds:
            return runs.TIMED_OUT
        if self.codes.get(name) == preemption.EXIT_CODE:
            self.stopped = True
        return self.codes.get(name, 0)


def measurement(name, most=100.0, **changes):
    return Measurement(name, (name,), lambda log: {"of": name}, most, 30.0)._replace(**changes)


def take(folder, lent, measurements):
    """Takes measurements and returns {name: (state, why)} as a later call reads it."""
    figures = Figures(folder)
    session = Session(folder, figures, lent, lambda: lent.left, FACTS)
    for each in measurements:
        session.take(each)
    return {name: (each["state"], each["why"]) for name, each in Figures(folder).all.items()}


def test_what_does_not_fit_is_left_out_and_shorter_ones_go_on(tmp_path):
    lent = Lent(100 + MARGIN, {"a": 65, "b": 1, "c": 5})
    plans = [measurement("a"), measurement("b", least=50.0), measurement("c")]
    assert take(tmp_path, lent, plans) == {
        "a": ("measured", ""),
        "b": ("left out", "35 s left, too few to begin"),
        "c": ("measured", ""),
    }
    assert lent.called == [("a", 100.0), ("c", 35.0)]


def test_a_command_ends_at_its_cap_or_at_the_end_of_the_budget(tmp_path):
    lent = Lent(150 + MARGIN, {"a": 1000, "b": 1000, "c": 1})
    found = take(tmp_path, lent, [measurement("a"), measurement("b"), measurement("c")])
    assert found["a"] == ("failed", "not finished after 100 s: a is broken")
    assert found["b"] == ("failed", "not finished after 50 s: b is broken")
    assert found["c"] == ("left out", "0 s left, too few to begin")
    assert lent.left >= MARGIN


def test_a_failure_is_kept_with_its_sentence_and_the_next_goes_on(tmp_path):
    lent = Lent(1000, {"a": 1, "b": 1, "c": 1, "d": 1}, {"a": 1})
    plans = [measurement("a"), measurement("b", read=lambda log: {}["x"]), measurement("c")]
    found = take(tmp_path, lent, [*plans, measurement("d", missing="no --peer")])
    assert found["a"] == ("failed", "exit code 1: a is broken")
    assert found["b"] == ("failed", "its output cannot be read (KeyError: 'x')")
    assert found["c"] == ("measured", "")
    assert found["d"] == ("left out", "no --peer")
    assert [name for name, _ in lent.called] == ["a", "b", "c"]


def test_a_second_call_goes_on_with_what_is_missing(tmp_path):
    plans = [measurement(name) for name in "abc"]
    lengths = {"a": 60, "b": 20, "c": 20}
    first = take(tmp_path, Lent(90 + MARGIN, lengths, {"b": 1}), plans)
    assert [state for state, _ in first.values()] == ["measured", "failed", "left out"]
    second = Lent(300, lengths)
    found = take(tmp_path, second, plans)
    assert [state for state, _ in found.values()] == ["measured"] * 3
    assert [name for name, _ in second.called] == ["b", "c"]
    third = Lent(300, lengths)
    take(tmp_path, third, plans)
    assert not third.called


def test_a_signal_leaves_what_was_written_and_starts_no_more(tmp_path):
    lent = Lent(1000, {"a": 1, "b": 1, "c": 1}, {"b": preemption.EXIT_CODE})
    found = take(tmp_path, lent, [measurement(name) for name in "abc"])
    assert found == {"a": ("measured", ""), "b": ("left out", "stopped by a signal")}
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert lines[0]["value"] == {"of": "a"}
    assert FACTS.items() <= lines[0].items()
    assert lines[0]["command"] == "python a"


def test_half_a_line_that_a_kill_left_does_not_count(tmp_path):
    take(tmp_path, Lent(1000, {"a": 1}), [measurement("a")])
    with (tmp_path / NAME).open("a") as file:
        file.write('{"name": "b", "sta')
    found = take(tmp_path, Lent(1000, {"b": 1}), [measurement("a"), measurement("b")])
    assert found == {"a": ("measured", ""), "b": ("measured", "")}
    assert len((tmp_path / NAME).read_text().splitlines()) == 3


@pytest.mark.parametrize("fact, other", [("device", "1 x slide rule"), ("smoke", True)])
def test_figures_of_another_device_or_size_are_refused(tmp_path, fact, other):
    take(tmp_path, Lent(1000, {"a": 1}), [measurement("a")])
    Figures(tmp_path).refuse_others(FACTS)
    with pytest.raises(ValueError, match=f"has figures with {fact}=.*use another --out"):
        Figures(tmp_path).refuse_others(FACTS | {fact: other})


def test_flags_of_xla_are_added_to_those_of_the_user(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    each = measurement("a", xla_flags="--xla_b=2")
    assert each.environment() == {"XLA_FLAGS": "--xla_a=1 --xla_b=2"}
    assert each.command() == "XLA_FLAGS='--xla_a=1 --xla_b=2' python a"
    assert not measurement("a").environment()


def choices(tmp_path, **changes):
    images = ("--config.data.name=cifar10", "--config.data.dir=d")
    found = plan.Choices(tmp_path, False, "cuda", "", "python", images, overrides=())
    return found._replace(**changes)


@pytest.mark.parametrize("left", [20.0, 130.0, 400.0, 5e4])
def test_both_trainings_of_a_pair_fit_into_what_is_left(left):
    a_second, beside = 2.1, 45.0
    found = plan.epochs_of_pair(left, a_second, beside)
    fitting = [n for n in range(1001) if 2 * (n * a_second + beside) <= plan.SAFE * (left - MARGIN)]
    assert found == max(fitting, default=0)


def epochs(figures, **changes):
    """Adds the figure from which the length of a pair follows: 60 s of 102 s are epochs."""
    value = {"seconds_an_epoch": 10.0, "epochs": 6}
    figure = {"name": plan.EPOCHS, "state": "measured", "why": "", "value": value, "seconds": 102}
    figures.add(figure | FACTS | changes)


def test_a_pair_is_as_long_as_the_budget_allows(tmp_path):
    figures = Figures(tmp_path)
    epochs(figures)
    left = 2 * (42 + 20 * 10) / plan.SAFE + MARGIN + 1
    pair = plan.pair(figures, left, choices(tmp_path))
    assert [each.missing for each in pair.values()] == ["", ""]
    one, other = (set(each.arguments) for each in pair.values())
    assert "--config.train.num_epochs=20" in one & other
    assert other - one == {"--config.saib.enabled=False", f"--workdir={tmp_path}/runs/{[*pair][1]}"}
    shorter = plan.pair(figures, left / 2, choices(tmp_path))
    assert all("are fewer than 10 epochs" in each.missing for each in shorter.values())


def test_the_other_training_of_a_pair_is_as_long_as_the_first(tmp_path):
    figures = Figures(tmp_path)
    epochs(figures)
    work = tmp_path / "runs" / plan.PAIR[0]
    work.mkdir(parents=True)
    (work / "config.json").write_text(json.dumps({"train": {"num_epochs": 17}}))
    pair = plan.pair(figures, 100.0, choices(tmp_path))
    for each in pair.values():
        assert "--config.train.num_epochs=17" in each.arguments


def test_a_pair_needs_images_and_their_speed(tmp_path):
    figures = Figures(tmp_path)
    for images, why in (((), "no --data_dir"), (("x",), "cifar10_epochs was not measured")):
        pair = plan.pair(figures, 1e4, choices(tmp_path, data=images))
        assert all(each.missing.startswith(why) for each in pair.values())


def test_the_peer_gets_the_shapes_of_the_step(tmp_path):
    found = {each.name: each for each in plan.fixed(choices(tmp_path, peer="peer.py"))}
    compiled = found["r50_224_peer_compiled"]
    assert not compiled.missing
    expected = "--method=iecl --arch=r50 --stem=imagenet --batch=256 --size=224 --amp=bf16 --sn"
    assert set(expected.split()) <= set(compiled.arguments)
    assert "--device=cuda" in compiled.arguments
    without = {each.name: each for each in plan.fixed(choices(tmp_path))}
    assert without["r50_224_peer_compiled"].missing == "no --peer"
    assert not without["r50_224"].missing


def test_names_are_different_and_every_cap_fits_into_a_short_loan(tmp_path):
    found = plan.fixed(choices(tmp_path))
    names = [each.name for each in found] + [*plan.PAIR]
    assert len(set(names)) == len(names)
    assert all(each.least < each.most <= 300 for each in found)
    assert names[0] == "r18_32"


def test_every_command_is_one_that_its_tool_takes(tmp_path):
    parsers = {
        "iecl_jax.tools.benchmark": lambda words: benchmark.parse(words).overrides,
        "iecl_jax.tools.benchmark.voc": lambda words: voc.parse(words).overrides,
        "iecl_jax.tools.benchmark.startup": lambda words: startup.parse(words).overrides,
        "iecl_jax.main": lambda words: [word for word in words if word.startswith("--config.")],
    }
    figures = Figures(tmp_path)
    epochs(figures)
    found = choices(tmp_path)
    for each in [*plan.fixed(found), *plan.pair(figures, 1e4, found).values()]:
        if "_peer_" in each.name:
            continue
        _, module, *words = each.arguments
        overrides = parsers[module](words)
        for word in words:
            if word.startswith("--config="):
                config = config_lib.load(word.removeprefix("--config="), overrides)
                assert module.endswith("voc") or config.train.precision == "bfloat16"
                assert module.endswith("voc") or config_lib.check(config, 1) is None


def event(pid, tid, name, dur):
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": dur, "ts": 0}


def meta(kind, pid, tid, name):
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def test_the_busiest_kernels_are_those_on_the_streams_of_the_gpu():
    events = [
        meta("process_name", 1, 0, "/device:GPU:0"),
        meta("process_name", 2, 0, "/host:CPU"),
        meta("thread_name", 1, 5, "Stream #14(Compute)"),
        meta("thread_name", 1, 6, "XLA Ops"),
        meta("thread_name", 2, 5, "Stream #1"),
        *[event(1, 5, "conv", 3000.0)] * 4,
        event(1, 5, "add", 1000.0),
        event(1, 6, "conv", 9000.0),
        event(2, 5, "host", 9000.0),
    ]
    found = traced.busiest(events, 2)
    assert found["kernels"] == [["conv", 6.0, 2.0], ["add", 0.5, 0.5]]
    assert (found["ms_a_step"], found["kernels_a_step"]) == (6.5, 2.5)
    assert traced.busiest([], 2)["kernels"] == []


def record(config, ms, **more):
    times = {"step_ms_median": ms, "step_ms_p90": ms + 1, "images_per_second": 256e3 / ms}
    return {"config": config, "compile_seconds": 15.2, "batch_size": 256, **times, **more}


VALUES = {
    "r18_32": [record("r18", 10.0, peak_memory_bytes=2.5e9)],
    "r18_32_8_steps_a_call": [record("r18", 8.0)],
    "r18_32_peer_compiled": {
        "ms_per_step": 16.0,
        "ms_min": 15.0,
        "ms_max": 18.0,
        "images_per_s": 16000.0,
        "peak_mem_mib": 1836.0,
        "torch": "2.11",
    },
    "cost_byol": [
        record("byol", 10.0, ratio_to_first=[1.0, 1.0, 1.0]),
        record("byol+saib", 11.0, ratio_to_first=[1.1, 1.05, 1.2]),
    ],
    "cifar10_epochs": {
        "images": 50_000,
        "real": True,
        "epochs": 6,
        "seconds_an_epoch": 2.0,
        "images_per_second": 25_000.0,
        "knn_top1": 0.5,
        "linear_top1": 0.625,
    },
    "profile_r50_224": {
        "ms_a_step": 100.0,
        "kernels_a_step": 1234.0,
        "kernels": [["conv|3x3", 40.0, 12.0]],
    },
    "voc_detection": [record("voc", 20.0)],
    "startup": {"Python and imports": [1.0, 1.25], "total": [4.0, 4.5]},
}


def test_the_tables_have_every_figure_and_what_is_missing(tmp_path):
    figures = Figures(tmp_path)
    for name, value in VALUES.items():
        line = {"name": name, "state": "measured", "why": "", "value": value, "command": "do it"}
        figures.add(line | FACTS)
    missing = {"name": "r50_224", "state": "failed", "why": "no memory", "value": None}
    figures.add(missing | FACTS | {"command": "try it"})
    text = report.tables(Figures(tmp_path).all)
    cells = rows(text)
    step, faster = (row for row in cells if row[0] == "r18")
    assert step[2:] == ["10.00 (11.00)", "25,600", "", "15", "2.50"]
    assert faster[1:5] == ["`--config.train.steps_per_call=8`", "8.00 (9.00)", "32,000", "0.800"]
    assert cells[4][:4] == ["r18_32", "compiled", "2.11", "16.00 (15.00 to 18.00)"]
    assert cells[4][-1] == "0.62"
    assert ["byol+saib", "11.00", "1.100 (1.050 to 1.200)"] in cells
    assert ["cifar10_epochs", "50,000", "6", "2.00", "25,000", "50.00%", "62.50%"] in cells
    assert ["total", "4.00", "4.50"] in cells
    assert ["r50_224", "failed", "no memory"] in cells
    assert "- r50_224: `try it`\n" in text
    assert "1,234 kernels and copies a step take 100.00 ms." in text
    assert text.count("1 x abacus; revision 0123; seed 42; jax 1\n") == 1


def test_every_table_of_nothing_is_left_out(tmp_path):
    assert "|" not in report.tables({})


def test_accuracies_of_generated_images_are_not_shown():
    value = VALUES["cifar10_epochs"] | {"real": False}
    figure = {"state": "measured", "value": value, "name": "x", "command": "y", "why": ""}
    (row,) = rows(report.tables({"cifar10_epochs": figure | FACTS}))[1:]
    assert row == ["cifar10_epochs", "50,000, generated", "6", "2.00", "25,000", "", ""]


def test_generated_images_are_as_many_as_those_of_cifar10(tmp_path):
    (found,) = [each for each in plan.fixed(choices(tmp_path, data=())) if each.name == plan.EPOCHS]
    flags = [word for word in found.arguments if word.startswith("--config.")]
    config = config_lib.load(plan.R18, flags)
    config_lib.check(config, 1)
    for split, length in (("pretrain", 50_000), ("train", 50_000), ("test", 10_000)):
        opened = data.open_split(config.data, split)
        assert len(opened) == len(opened.labels) == length
    (record,) = opened.read([1007])
    assert (record.image.shape, record.label) == ((32, 32, 3), 7)
    assert pathlib.Path(config.data.name).exists()
