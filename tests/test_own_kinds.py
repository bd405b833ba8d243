"""One of each kind, as docs/extending.md has them, in an empty folder: nothing else is touched."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()


# Operators and measures that take long to compile.
QUICKLY = [f"--config.augment.anchor.{name}.prob=0" for name in ("jitter", "gray", "blur")]
QUICKLY += ["--config.diagnostics.every_steps=0"]


def blocks(language: str) -> list[str]:
    """The code blocks of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    """The words of the page's commands."""
    return [shlex.split(block.replace("\\\n", " ")) for block in blocks("bash")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """An empty folder with the files of the page."""
    path = tmp_path_factory.mktemp("own")
    for block in blocks("python"):
        name, _, text = block.removeprefix("# ").partition("\n")
        (path / name).write_text(text)
    return path


def run(command: list[str], folder: pathlib.Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_one_of_each_kind_trains_and_is_evaluated(folder):
    train, evaluate, *_ = commands()
    train = [*train, *QUICKLY]
    run(train, folder)
    results = json.loads((folder / "runs/own/results.json").read_text())
    assert results["steps"] == 4
    assert {"knn_top1", "centroid_top1", "center"} <= results["metrics"].keys()
    assert "linear_top1" not in results["metrics"]
    config = json.loads((folder / "runs/own/config.json").read_text())
    assert (config["method"]["spread"], config["encoder"]["depth"]) == (0.25, 2)
    assert config["data"]["num_images"] == 48
    assert config["augment"]["query"]["posterize"] == {"levels": 3, "prob": 0.5}
    assert "nearest class mean" in run(evaluate, folder)
    job = json.loads((folder / "runs/own/evals/evaluate-centroids/results.json").read_text())
    assert job["metrics"]["centroid_top1"] == results["metrics"]["centroid_top1"]
    assert (
        "is finished"
        in subprocess.run(
            [sys.executable, *train[1:]],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        ).stderr
    )


@pytest.mark.slow
def test_a_config_of_ones_own_trains(folder):
    run([*commands()[2], *QUICKLY], folder)
    results = json.loads((folder / "runs/mine/results.json").read_text())
    assert results["steps"] == 2
    assert "nt_xent_top1" in results["metrics"]


@pytest.mark.parametrize(
    "row, sentence",
    [
        ('"publishd": 3', "publishd"),
        ('"compared_with": "BYOl"', "use one of BYOL"),
    ],
)
def test_a_wrong_row_is_told_before_anything_trains(folder, row, sentence):
    text = (folder / "my_tables.py").read_text()
    (folder / "wrong.py").write_text(text.replace('"compared_with": "BYOL"', row))
    command = [*commands()[-1], "--config=wrong.py"]
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr


def test_a_table_of_ones_own_lists_its_runs(folder):
    printed = run([*commands()[-1], "--print_commands"], folder)
    assert len(printed.splitlines()) == 2
