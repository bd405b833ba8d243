"""The study: which runs it starts, that it resumes, and the arithmetic of its table."""

import json

import fake_main
import pytest
from markdown_rows import rows

from iecl_jax.tools import runs, study

CONFIG = """
import ml_collections
SETTINGS = {"plain": {}, "other": {}}
get_config = lambda arg: ml_collections.ConfigDict({"job": "pretrain"})
"""
# What `python -m iecl_jax.main` is replaced by: notes its call, and fails for seed 13.
COMMAND = """
import json, pathlib, sys
flags = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[1:])
folder, seed = pathlib.Path(flags["workdir"]), int(flags["config.seed"])
if seed == 13:
    sys.exit("error: bad luck")
top1 = 0.25 * seed + flags["config"].endswith(":other") / 8
metrics = {"knn_top1": top1, "diagnostics": {"rank_me": 3.0}}
(folder / "results.json").write_text(json.dumps({"metrics": metrics, "flags": flags}))
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    config, command = tmp_path / "c.py", tmp_path / "fake_main.py"
    config.write_text(CONFIG)
    command.write_text(COMMAND)
    monkeypatch.setattr(runs, "MAIN", (str(command),))
    return config, tmp_path / "runs"


def run(files, *extra):
    config, workdir = files
    study.main([f"--config={config}", f"--workdir={workdir}", *extra])
    return (workdir / "table.md").read_text()


def test_every_setting_runs_with_every_seed_and_the_table_has_means(files, capsys):
    table = run(files, "--seeds=0,2", "--processes=2", "--", "--config.data.dir=x")
    assert ["plain", "2", "25.0 ± 35.4", "", "", "", "", "", "3.0 ± 0.0"] in rows(table)
    assert ["other", "2", "37.5 ± 35.4"] in [row[:3] for row in rows(table)]
    assert table in capsys.readouterr().out
    results = json.loads((files[1] / "other" / "seed-2" / "results.json").read_text())
    assert results["flags"]["config"] == f"{files[0]}:other"
    assert results["flags"]["config.data.dir"] == "x"


def test_the_table_keeps_settings_that_were_not_asked_for_again(files):
    run(files, "--seeds=1")
    table = run(files, "--seeds=1", "--settings=other")
    assert ["plain", "1", "25.0"] in [row[:3] for row in rows(table)]
    assert ["other", "1", "37.5"] in [row[:3] for row in rows(table)]


def test_a_failed_run_is_told_and_left_out(files, capsys):
    with pytest.raises(SystemExit, match="error: 1 runs failed; start again"):
        run(files, "--seeds=1,13", "--settings=plain")
    assert "plain, seed 13: failed: bad luck (see " in capsys.readouterr().out
    assert "bad luck" in (files[1] / "plain" / "seed-13" / "log.txt").read_text()
    assert ["plain", "1", "25.0"] in [row[:3] for row in rows((files[1] / "table.md").read_text())]


def test_a_finished_run_is_not_started_again(files, tmp_path, monkeypatch):
    config, _ = files
    config.write_text(fake_main.CONFIG)
    monkeypatch.setattr(runs, "MAIN", (fake_main.__file__,))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for seeds in ("--seeds=0", "--seeds=0,1"):
        table = run(files, seeds, "--settings=a,b")
    assert ["a", "2", "35.0 ± 7.1", "51.0 ± 1.4"] in [row[:4] for row in rows(table)]
    assert len((tmp_path / "calls").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "flag, words",
    [
        (
            "--settings=plane",
            "--settings='plane' is unknown: did you mean 'plain'? use one of plain, other",
        ),
        ("--seeds=1,x", "--seeds=1,x must be integers"),
        ("--config=nowhere.py", "there is no config file 'nowhere.py'"),
    ],
)
def test_mistakes_are_one_sentence(files, capsys, flag, words):
    with pytest.raises(SystemExit) as ended:
        study.main([f"--config={files[0]}", flag])
    assert words in f"{ended.value.code} {capsys.readouterr().err}"
