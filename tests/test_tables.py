"""The tables: which runs they ask for, what they make of the results, and what stays blank."""

import hashlib
import json
import os
import pathlib
import shlex
import signal
import threading
import time

import fake_main
import numpy as np
import pytest
from markdown_rows import rows
from scipy import stats

from iecl_jax import config as config_lib
from iecl_jax.tools import runs
from iecl_jax.tools.tables import command, format, results, times

ROOT = pathlib.Path(__file__).parent.parent
TABLES = """
ROWS = [
    {"label": "A", "config": "HERE/c.py:a", "published": 66.29},
    {"label": "A + SAIB", "config": "HERE/c.py:b", "published": 67.54, "compared_with": "A"},
]
TIMING = {scale: {"rounds": 3, "steps": 2} for scale in ("smoke", "small", "paper")}
TABLES = {
    "5": {"title": "T5", "source": "the paper", "kind": "accuracy", "change": "SAIB's change",
          "rows": ROWS},
    "f": {"title": "F", "source": "the paper", "kind": "accuracy", "change": "change",
          "rows": [*ROWS, {"label": "bad", "config": "HERE/c.py:fail", "published": 99.9}]},
    "w": {"title": "W", "source": "the paper", "kind": "accuracy",
          "rows": [{"label": "bad", "config": "HERE/c.py:wait"}]},
    "fig3": {"title": "F3", "source": "the paper", "kind": "grid", "corner": ("query", "anchor"),
             "averages": True, "notes": ("It is F3.",), "rows": [
        {"label": q + r, "cell": (q, r), "config": "HERE/c.py:" + v, "published": p,
         "scales": ("paper",) if (q, r) == ("y", "y") else ("small", "paper")}
        for q, r, v, p in (("x", "x", "a", 1.5), ("x", "y", "b", 2.5), ("y", "x", "b", 3.0),
                           ("y", "y", "fail", 4.0))]},
    "2b": {"title": "T2b", "source": "the paper", "kind": "accuracy",
           "metrics": {"miou": "mIoU, %", "map": "mAP, %"},
           "evaluations": {"smoke": ("configs/voc_segmentation.py", "configs/voc_detection.py"),
                           "paper": ("configs/voc_segmentation.py", "configs/voc_detection.py")},
           "flags": {"smoke": ["--config.rate=0.25"]},
           "rows": [{"label": "file", "config": "", "published": (76.5, 73.5), "scales": ()},
                    {"label": "random", "config": "", "published": (38.25, 40.5)},
                    {"label": "A", "config": "HERE/c.py:a", "published": (78.0, 74.5)},
                    {"label": "C", "config": "HERE/c.py:b"}]},
    "fig7": {"title": "F7", "source": "the paper", "kind": "time", "timing": TIMING,
             "images": {"small": 650, "paper": 6500}, "flags": {"paper": ["--config.rate=0.125"]},
             "rows": ROWS[:1]},
    "fig8": {"title": "F8", "source": "the paper", "kind": "time", "timing": TIMING, "rows": [
        ROWS[0], ROWS[1] | {"published": "under 10 %"},
        {"label": "B", "config": "HERE/c.py:fail"},
        {"label": "B + SAIB", "config": "HERE/c.py:b", "compared_with": "B"}]},
}
"""
# What `python -m iecl_jax.tools.benchmark` is replaced by.
BENCHMARK = """
import json, os, pathlib, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
flags = [word.split("=", 1) for word in sys.argv[1:]]
configs = [value for flag, value in flags if flag == "--config"]
if any(":fail" in config for config in configs):
    sys.exit("error: no memory")
times = [[10.0, 20.0, 40.0], [11.0, 23.0, 42.0]]
found = [
    {"config": config, "batch_size": 32, "device": "1 x abacus", "images_per_second": 1600.0,
     "step_ms": ms, "step_ms_median": ms[1], "versions": "jax 1",
     "git_revision": "0123456789", "git_dirty": True}
    for config, ms in zip(configs, times)
]
path = pathlib.Path(dict(flags)["--json"])
path.write_text(json.dumps(found if len(found) > 1 else found[0]))
"""


SMOKE = ("--table=2b", "--scale=smoke")


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "c.py").write_text(fake_main.CONFIG)
    (tmp_path / "tables.py").write_text(TABLES.replace("HERE", str(tmp_path)))
    (tmp_path / "benchmark.py").write_text(BENCHMARK)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runs, "MAIN", (fake_main.__file__,))
    monkeypatch.setattr(times, "BENCHMARK", (str(tmp_path / "benchmark.py"),))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


def run(here, table, *flags, scale="small", seeds=2):
    command.main(
        [
            f"--table={table}",
            f"--scale={scale}",
            f"--seeds={seeds}",
            f"--config={here / 'tables.py'}",
            f"--workdir={here / 'runs'}",
            *flags,
        ]
    )
    return written(here, table, scale)


def written(here, table, scale="small"):
    name = table if table.startswith("fig") else f"table-{table}"
    path = here / "runs" / scale / name
    return path.with_suffix(".md").read_text(), json.loads(path.with_suffix(".json").read_text())


def words(line):
    """The words of each command of a line that a shell would run, one after the other."""
    return [set(shlex.split(command)) for command in line.split(" && ")]


def calls(here):
    path = here / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_the_rows_are_trained_and_stand_beside_the_published_numbers(here, capsys):
    page, document = run(here, "5", "--", "--config.data.dir=photos")
    assert capsys.readouterr().out.endswith(page)
    assert ["A", "51.0 ± 1.4", "35.0 ± 7.1", "2", "66.29", ""] in rows(page)
    assert ["A + SAIB", "52.5 ± 2.1", "35.0 ± 7.1", "2", "67.54", "+1.5 [-4.9, +7.9]"] in rows(page)
    assert rows(page)[0][-2:] == ["published", "SAIB's change (95 % interval)"]
    assert "cannot be compared with what was measured at this scale" in page
    assert "Made by `python -m iecl_jax.tools.tables --table=5 --scale=small" in page
    for fact in (
        "stripes",
        "16 px",
        "resnet10",
        "7 steps of 32",
        "1 x abacus",
        "0123456",
        "the paper",
    ):
        assert fact in page
    assert "photos" not in page
    assert "Warning" not in page
    assert set(calls(here)[0].split()) == {
        *(f"--config={here}/c.py:a,small", "--config.seed=0", "--config.data.dir=photos"),
        f"--workdir={here}/runs/small/c-a/seed-0",
    }
    row = document["rows"][1]
    assert (row["label"], row["config"]) == ("A + SAIB", f"{here}/c.py:b,small")
    assert (row["published"], row["compared_with"], row["seeds"]) == (67.54, "A", [0, 1])
    assert row["runs"]["1"] == {"linear_top1": 0.54, "knn_top1": 0.4}
    assert row["git"] == [{"revision": "0123456789", "dirty": False}]
    assert (row["device"], row["versions"]) == (["1 x abacus"], [{"jax": "1"}])
    assert len(row["protocol"]) == 1
    written = (here / "runs/small/c-b/seed-1/config.json").read_text()
    config = config_lib.from_json(written).to_dict()
    assert (config.pop("seed"), config["data"].pop("dir")) == (1, "photos")
    text = json.dumps(config, sort_keys=True)
    assert row["config_sha256"] == [hashlib.sha256(text.encode()).hexdigest()]


@pytest.mark.slow
def test_the_scale_of_the_paper_adds_its_linear_evaluation(here):
    page, document = run(here, "5", "--", "--config.rate=0.25", scale="paper", seeds=1)
    assert ["A", "62.5", "75.0", "30.0", "1", "66.29", ""] in rows(page)
    assert ["A + SAIB", "63.5", "76.0", "30.0", "1", "67.54", "+1.0"] in rows(page)
    assert "cannot be compared" not in page
    assert "linear: a classifier on the features of unaugmented images, 20 epochs" in page
    assert "linear by section 4.1: a classifier on augmented images" in page
    assert "200 epochs of SGD with rate 0.03 at batch 512" in page
    home = f"{here}/runs/paper/c-a/seed-0"
    assert calls(here)[:3] == [
        f"--config={here}/c.py:a --config.seed=0 --config.rate=0.25 --workdir={home}",
        f"--config=configs/linear_probe.py --config.checkpoint={home} --config.seed=0 "
        f"--workdir={home}/linear_probe",
        f"--config=configs/linear.py --config.checkpoint={home} --config.seed=0 "
        f"--workdir={home}/linear",
    ]
    run(here, "5", "--", "--config.rate=0.25", scale="paper", seeds=1)
    assert len(calls(here)) == 6
    assert document == written(here, "5", "paper")[1]


@pytest.mark.slow
def test_a_table_names_its_metrics_and_the_evaluations_that_follow(here, capsys):
    """The rows without a pretraining too; a row of no scale is blank."""
    once = {"scale": "smoke", "seeds": 1}
    page, document = run(here, "2b", "--evaluation.segmentation.num_steps=3", **once)
    head = ["", "mIoU, %", "mAP, %", "seeds", "published mIoU, %", "published mAP, %"]
    assert rows(page) == [
        head,
        ["file", "", "", "", "76.5", "73.5"],
        ["random", "0.0", "0.0", "1", "38.25", "40.5"],
        ["A", "25.0", "25.0", "1", "78.0", "74.5"],
        ["C", "25.5", "25.5", "1", "", ""],
    ]
    assert "- Protocol: segmentation: the whole network, trained for 3 steps of 4 images" in page
    assert page.count("- Protocol:") == 1
    assert "; detection: the whole network, trained for 4 steps" in page
    assert "on generated images.\n" in page
    assert "resnet18 of width 16 without pretraining; stripes at 16 px, resnet10" in page
    assert "--seeds=1 --config=" in page
    assert "--evaluation.segmentation.num_steps=3`" in page
    assert document["rows"][2]["runs"]["0"] == {"miou": 0.25, "map": 0.25}
    assert (document["rows"][1]["config"], document["rows"][0]["seeds"]) == ("", [])
    assert "A, seed 0, voc_detection: done\n" in capsys.readouterr().out
    run(here, "2b", "--evaluation.segmentation.num_steps=3", **once)
    assert len(calls(here)) == 2 + 3 + 3


def test_each_evaluation_gets_the_flags_that_it_has(here, capsys, monkeypatch):
    monkeypatch.setattr(runs, "MAIN", ("-m", "iecl_jax.main"))
    table = [f"--config={here / 'tables.py'}", "--table=2b", "--scale=smoke", "--workdir=runs"]
    given = ["--evaluation.data.dir=VOC 2012", "--evaluation.detection.batch_size=8"]
    given += ["--evaluation.segmentation.data.train_split=train_aug"]
    command.main([*table, *given, "--seeds=1", "--print_commands"])
    untrained, trained, _ = map(words, capsys.readouterr().out.splitlines())
    home = "runs/smoke/table-2b/c-a/seed-0"
    pretrain, segmentation, detection = trained
    assert pretrain >= {f"--config={here}/c.py:a,smoke", "--config.rate=0.25", "--config.seed=0"}
    assert pretrain & {f"--workdir={home}", "--config.data.dir=VOC 2012"} == {f"--workdir={home}"}
    both = {f"--config.checkpoint={home}", "--config.data.dir=VOC 2012", "--config.seed=0"}
    assert segmentation == {
        *("python", "-m", "iecl_jax.main", "--config=configs/voc_segmentation.py:smoke"),
        *(f"--workdir={home}/voc_segmentation", "--config.data.train_split=train_aug", *both),
    }
    assert detection >= {"--config.detection.batch_size=8", *both}
    assert "--config.data.train_split=train_aug" not in detection
    assert untrained[0] >= {
        *("--config.seed=0", "--config.pretrain.seed=0", "--config.data.dir=VOC 2012"),
        "--workdir=runs/smoke/table-2b/untrained/seed-0/voc_segmentation",
    }
    assert len(untrained) == 2


def test_started_again_it_runs_what_is_missing_and_refuses_another_config(here, capsys):
    run(here, "5", seeds=1)
    (here / "runs/small/c-b/seed-0/results.json").unlink()
    run(here, "5", seeds=2)
    assert len(calls(here)) == 2 + 1 + 2
    assert "A, seed 0: finished before\n" in capsys.readouterr().out
    before = len(calls(here))
    with pytest.raises(SystemExit, match="error: 4 runs failed"):
        run(here, "5", "--", "--config.rate=0.125")
    assert len(calls(here)) == before + 4
    page, _ = written(here, "5")  # that of before: a table without a number replaces none
    assert ["A", "51.0 ± 1.4", "35.0 ± 7.1", "2", "66.29", ""] in rows(page)


def test_a_failed_row_is_blank_and_the_end_says_so(here, capsys):
    with pytest.raises(SystemExit, match="error: 1 runs failed; start again to resume them"):
        run(here, "f", "--processes=2", seeds=1)
    log = here / "runs/small/c-fail/seed-0/log.txt"
    assert f"bad, seed 0: failed: bad luck (see {log})\n" in capsys.readouterr().out
    page, _ = written(here, "f")
    assert ["bad", "", "", "", "99.9", ""] in rows(page)
    assert ["A", "50.0", "30.0", "1", "66.29", ""] in rows(page)


def test_sigterm_ends_with_the_code_that_schedulers_requeue_on(here):
    def send():
        while not (here / "runs/small/c-wait/seed-0/waits").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        threading.Thread(target=send).start()
        with pytest.raises(SystemExit) as end:
            run(here, "w", seeds=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 75


def test_a_grid_is_a_matrix_with_averages_of_whole_rows(here):
    page, document = run(here, "fig3")
    linear, rest = page.split("Measured: kNN top-1, %\n\n")
    neighbours, published = rest.split("published\n\n")
    head = ["query / anchor", "x", "y", "average"]
    means = [["x", "51.0 ± 1.4", "52.5 ± 2.1", "51.8"], ["y", "52.5 ± 2.1", "", ""]]
    assert rows(linear) == [head, *means]
    assert rows(neighbours)[1:] == [
        ["x", "35.0 ± 7.1", "35.0 ± 7.1", "35.0"],
        ["y", "35.0 ± 7.1", "", ""],
    ]
    assert rows(published) == [head, ["x", "1.5", "2.5", "2.0"], ["y", "3.0", "4.0", "3.5"]]
    assert "\nSeeds: 0, 1.\n" in page
    assert "- Published: the paper.\n- It is F3.\n" in page
    assert "![F3](fig3.png)\n" in page
    assert (here / "runs/small/fig3.png").read_bytes().startswith(b"\x89PNG")
    assert len(calls(here)) == 4
    assert document["rows"][3]["seeds"] == []


def test_times_of_an_epoch_are_those_of_its_steps(here, capsys):
    page, document = run(here, "fig7")
    assert ["A", "0.4", "20.0 (10.0 to 40.0)", "1600.0", "32"] in rows(page)
    assert document["rows"][0]["seconds_per_epoch"] == pytest.approx(650 // 32 * 0.02)
    assert "- Protocol: the training step with its augmentation" in page
    assert "- Revision: 0123456 with uncommitted changes.\n" in page
    assert f"--table=fig7 --scale=small --config={here / 'tables.py'}`" in page
    assert (here / "runs/small/fig7.png").exists()
    run(here, "fig7", seeds=1)
    assert len(calls(here)) == 1
    assert "A: measured before\n" in capsys.readouterr().out
    run(here, "fig7", "--", "--config.rate=0.25")
    assert len(calls(here)) == 2
    assert calls(here)[1].endswith("--rounds=3 --steps=2 --only=step --config.rate=0.25")
    run(here, "fig7", scale="paper")
    assert calls(here)[2].endswith("--only=step --config.rate=0.125")


def test_overheads_are_ratios_of_the_same_round(here, capsys):
    with pytest.raises(SystemExit, match="error: 1 runs failed"):
        run(here, "fig8")
    page, document = written(here, "fig8")
    times = ["20.0 (10.0 to 40.0)", "23.0 (11.0 to 42.0)", "+10.0 (+5.0 to +15.0)"]
    assert ["A", *times, "32", "under 10 %"] in rows(page)
    assert ["B", "", "", "", "", ""] in rows(page)
    assert document["rows"][1]["overhead"] == pytest.approx(
        {"median": 0.1, "low": 0.05, "high": 0.15}
    )
    assert (here / "runs/small/fig8.png").exists()
    first = calls(here)[0]
    assert first.startswith(f"--config={here}/c.py:a,small --config={here}/c.py:b,small --json=")
    assert "B and B + SAIB: failed: no memory (see " in capsys.readouterr().out


def test_commands_are_printed_and_nothing_runs(here, capsys, monkeypatch):
    monkeypatch.setattr(runs, "MAIN", ("-m", "iecl_jax.main"))
    monkeypatch.setattr(times, "BENCHMARK", ("-m", "iecl_jax.tools.benchmark"))
    flags = [f"--config={here / 'tables.py'}", "--workdir=my runs", "--print_commands"]
    printed = {}
    for scale in ("smoke", "small", "paper"):
        of_table = ["--table=5", f"--scale={scale}", "--seeds=2", "--config.data.dir=a b"]
        command.main([*flags, *of_table])
        printed[scale] = capsys.readouterr().out.splitlines()
    for scale in ("smoke", "small"):
        assert len(printed[scale]) == 4
        assert words(printed[scale][3]) == [
            {
                *("python", "-m", "iecl_jax.main", f"--config={here}/c.py:b,{scale}"),
                *(
                    "--config.seed=1",
                    "--config.data.dir=a b",
                    f"--workdir=my runs/{scale}/c-b/seed-1",
                ),
            }
        ]
    home = "my runs/paper/c-a/seed-0"
    pretrain, probe, grid = words(printed["paper"][0])
    assert pretrain >= {f"--config={here}/c.py:a", "--config.seed=0", "--config.data.dir=a b"}
    assert f"--workdir={home}" in pretrain
    assert probe >= {"--config=configs/linear_probe.py", f"--config.checkpoint={home}"}
    assert probe >= {"--config.seed=0", f"--workdir={home}/linear_probe"}
    assert grid >= {"--config=configs/linear.py", f"--workdir={home}/linear"}
    command.main([*flags, "--table=fig8", "--scale=small"])
    folder, benchmark = words(capsys.readouterr().out.splitlines()[0])
    assert "my runs/small/times" in folder
    assert benchmark >= {f"--config={here}/c.py:{name},small" for name in "ab"}
    assert not calls(here)
    assert not (here / "my runs").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--table=6"], "--table='6' is unknown: use one of 5, f, w, fig3, 2b, fig7, fig8."),
        (["--scale=big"], "--scale='big' is unknown: use one of smoke, small, paper."),
        (["--seeds=0"], "--seeds=0 must be at least 1."),
        (["--processes=0"], "--processes=0 must be at least 1."),
        (["--config=nowhere.py"], "there is no config file 'nowhere.py': name one"),
        (["--table=fig7", "--processes=2"], "--processes=2 would disturb what is timed"),
        (["--evaluation.data.dir=x"], "--evaluation.data.dir: no evaluation follows here"),
        (["--table=2b", "--scale=paper"], "--evaluation.data.dir=FOLDER"),
        ([*SMOKE, "--evaluation.seed=1"], "--evaluation.seed is that of the row: take it out."),
        ([*SMOKE, "--evaluation.data.dri=x"], "is no setting: did you mean 'data.dir' or"),
        (
            [*SMOKE, "--evaluation.data.dir=x", "--evaluation.data.dir=y"],
            "--evaluation.data.dir is given twice, as x and y: take one out.",
        ),
    ],
)
def test_mistakes_are_one_sentence(here, capsys, flags, words):
    with pytest.raises(SystemExit) as end:
        command.main([f"--config={here / 'tables.py'}", "--table=5", "--scale=small", *flags])
    assert words in capsys.readouterr().err + str(end.value)
    assert not calls(here)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_change_is_paired_and_its_interval_is_students(count):
    rng = np.random.default_rng(count)
    before = dict(enumerate(rng.normal(0.5, 0.1, count)))
    after = {seed: value + rng.normal(0.02, 0.01) for seed, value in before.items()}
    lonely = {count: 0.9}
    found = results.change(after | lonely, {seed: before[seed] for seed in reversed(before)})
    pairs = [after[seed] - before[seed] for seed in before]
    low, high = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert found == pytest.approx({"mean": np.mean(pairs), "low": low, "high": high, "n": count})


def test_little_is_said_of_few_seeds():
    assert results.change({0: 0.5}, {0: 0.25}) == {
        "mean": 0.25,
        "low": None,
        "high": None,
        "n": 1,
    }
    assert results.change({0: 0.5}, {1: 0.25}) is None
    assert results.spread([0.5]) == {"mean": 0.5, "std": None, "n": 1}
    assert results.spread([]) is None
    assert results.spread([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "n": 2}


def test_different_revisions_and_changed_files_are_told(here):
    _, document = run(here, "5", seeds=1)
    document["rows"][0]["git"] = [{"revision": "fedcba9876", "dirty": True}, None]
    page = format.page(document)
    assert "- Revision: fedcba9 with uncommitted changes; unknown; 0123456.\n" in page
    assert "- Warning: not everything was measured with the same revisions.\n" in page
    assert "same devices" not in page


def test_an_accuracy_that_was_not_measured_is_blank(here):
    run(here, "5", seeds=1)
    path = here / "runs/small/c-b/seed-0/results.json"
    results = json.loads(path.read_text())
    results["metrics"] = {}
    path.write_text(json.dumps(results))
    page, _ = run(here, "5", seeds=1)
    assert ["A + SAIB", "", "", "1", "67.54", ""] in rows(page)
