"""`tools.benchmark.gpu --smoke` on a CPU, to its end: after a signal, without what it lacks."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from iecl_jax.tools.benchmark.gpu import plan
from iecl_jax.tools.benchmark.gpu.figures import NAME

ROOT = pathlib.Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "iecl_jax.tools.benchmark.gpu")
OPERATORS = ("jitter", "gray", "blur")
TINY = (
    "--config.method.name=tests/tiny_run.py",
    "--config.saib.enabled=False",
    "--config.objective.kl.weight=0",
    "--config.objective.entropy.weight=0",
    "--config.data.image_size=8",
    *(f"--config.augment.anchor.{name}.prob=0" for name in OPERATORS),
    *(f"--config.augment.query.{name}.prob=0" for name in OPERATORS),
)
# As if TensorFlow and PyTorch were not installed, in every process.
WITHOUT = """
import sys
sys.path.append("tests")
from absent import Without
absent = ("tensorflow", "tensorflow_datasets", "tensorboard", "clu", "torch")
sys.meta_path = [Without(finder, absent) for finder in sys.meta_path]
"""
PEER = """
import json, sys
assert "--device=cpu" in sys.argv
print("a warning")
print(json.dumps({"ms_per_step": 5.0, "ms_min": 4.0, "ms_max": 6.0, "images_per_s": 800.0,
                  "peak_mem_mib": 1.0, "torch": "0"}))
"""


def begin(folder, *words):
    (folder / "sitecustomize.py").write_text(WITHOUT)
    (folder / "peer.py").write_text(PEER)
    variables = {"PYTHONPATH": f"{folder}:{ROOT}", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.Popen(
        [*COMMAND, f"--out={folder / 'out'}", *words],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def figures(folder):
    path = folder / "out" / NAME
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["name"]: line for line in lines}


@pytest.mark.slow
def test_a_stopped_call_goes_on_to_its_end(tmp_path):
    call = ("--smoke", "--budget=3000", f"--peer={tmp_path / 'peer.py'}", *TINY)
    first = begin(tmp_path, *call)
    while "r18_32" not in figures(tmp_path):
        time.sleep(0.1)
        assert first.poll() is None, first.communicate()
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate()
    assert first.returncode == 75
    assert err.endswith("stopped; start again to resume.\n")
    assert "### Steps" in out
    before = figures(tmp_path)
    assert 1 <= len(before) < 5

    second = begin(tmp_path, *call)
    out, err = second.communicate()
    assert second.returncode == 0, out + err
    assert "r18_32: measured before\n" in out
    found = figures(tmp_path)
    assert found["r18_32"] == before["r18_32"]
    states = {name: figure["state"] for name, figure in found.items()}
    graphs = {name for name in states if name.endswith("cuda_graph")}
    assert {name for name, state in states.items() if state != "measured"} == graphs
    assert {found[name]["why"] for name in graphs} == {"a CUDA graph needs a GPU"}
    names = [each.name for each in plan.fixed(plan.Choices(tmp_path, True, "cpu", "", "", (), ()))]
    assert set(states) == {*names, *plan.PAIR}
    for title in ("Steps", "The PyTorch peer", "What SAIB", "CIFAR-10", "Segmentation"):
        assert f"### {title}" in out
    text = (tmp_path / "out" / "report.md").read_text()
    assert text == begin(tmp_path, "--report").communicate()[0].removesuffix("\n")
    folders = [tmp_path / "out" / "runs" / name for name in plan.PAIR]
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert configs[0]["train"] == configs[1]["train"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--budget=60"], "error: JAX finds no GPU here, only 1 x cpu: see docs/gpus.md for what"),
        (["--budget=60", "--only=r19"], "error: --only='r19' is unknown: use one of r18_32, "),
        (["--budget=60", "--config.saib.no=1"], "error: config has no key 'saib.no': did you mean"),
        (
            ["--budget=60", "--data_dir=nowhere"],
            "error: --data_dir=nowhere is no folder.",
        ),
        (["--smoke"], "error: --budget=SECONDS is missing"),
        (["--budget=60", "--peer=nowhere.py"], "error: --peer=nowhere.py is no file."),
        (["--report"], "has no figures: measure with --budget=SECONDS"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_sentence(tmp_path, words, sentence):
    process = begin(tmp_path, *words)
    out, err = process.communicate()
    assert process.returncode in (1, 2)
    last = err.splitlines()[-1]
    assert sentence in last
    assert "Traceback" not in out + err
    assert not (tmp_path / "out" / NAME).exists()
