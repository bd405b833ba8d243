"""All evaluations of a checkpoint: which runs they are, what fits, and the report."""

import json

import pytest
from markdown_rows import rows

from iecl_jax.config import kinds
from iecl_jax.tools import evaluate, runs

# What `python -m iecl_jax.main` is replaced by: it keeps its flags; a network has no projector.
COMMAND = """
import json, pathlib, sys
flags = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[1:])
folder, seed = pathlib.Path(flags["workdir"]), int(flags["config.seed"])
name = flags["config"].partition(":")[2]
if name == "jacobian":
    sys.exit("error: the network has no SAIB.")
if name == "comparison":
    sys.exit(3)
top1 = 0.25 + 0.5 * seed
metrics = {"linear": {"linear_top1": top1, "table": {"a b": top1}}, "knn": {"knn_top1": 0.5}}
data = {"name": "stripes", "image_size": 16}
text = json.dumps({"metrics": metrics[name], "flags": flags, "data": data})
(folder / "results.json").write_text(text)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    command, network = tmp_path / "fake_main.py", tmp_path / "run"
    command.write_text(COMMAND)
    network.mkdir()
    monkeypatch.setattr(runs, "MAIN", (str(command),))

    def run(*flags):
        evaluate.main([f"--checkpoint={network}", *flags])

    run.folder = network / "evals" / "evaluate"
    return run


def read(folder, name, seed):
    return json.loads((folder / name / f"seed-{seed}" / "results.json").read_text())["flags"]


def test_the_report_has_means_over_seeds_and_what_does_not_fit(run, capsys):
    out = f"--workdir={run.folder}"
    run("--names=linear,jacobian,knn", "--seeds=2", "--config.linear.num_epochs=3", out)
    page = (run.folder / "report.md").read_text()
    assert page in capsys.readouterr().out
    assert rows(page)[1:] == [
        ["linear classifier, top-1", "50.00 %", "35.36 %", "2"],
        ["kNN, top-1", "50.00 %", "", "1"],
    ]
    assert "- Images: stripes, 16 px" in page
    assert "- jacobian: not measured: the network has no SAIB." in page
    document = json.loads((run.folder / "results.json").read_text())
    assert document["evaluations"]["linear"]["metrics"]["table/a_b"]["values"] == [0.25, 0.75]
    html = (run.folder / "report.html").read_text()
    assert "35.36 %" in html
    assert "the network has no SAIB" in html
    flags = [read(run.folder, "linear", seed) for seed in (0, 1)]
    assert [each["config.linear.num_epochs"] for each in flags] == ["3", "3"]
    assert all(each["config.pictures"] == "False" for each in flags)
    flags = read(run.folder, "knn", 0)
    assert flags["config.checkpoint"] == str(run.folder.parents[1])
    assert not {"config.pictures", "config.linear.num_epochs"} & flags.keys()
    assert not (run.folder / "knn" / "seed-1").exists()  # The seed changes nothing.


def test_other_images_have_a_folder_of_their_own(run):
    run("--names=knn", "--config.data.name=digits")
    folder = run.folder.with_name("evaluate-data.name=digits")
    assert read(folder, "knn", 0)["config.data.name"] == "digits"


def test_by_default_all_run_that_share_the_images():
    names = evaluate.default_names()
    assert {"knn", "linear", "jacobian"} <= set(names)
    assert names[-2:] == ["linear_probe", "finetune"]
    assert set(kinds.names("evaluation")) - set(names) == {"detection", "segmentation"}


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--names=jacobian",), "1 runs failed"),
        (("--names=knn,comparison",), "1 runs failed"),
        (("--names=kn",), "--names='kn' is unknown: did you mean 'knn'"),
        (("--config.seed=1",), "--config.seed would be that of every run"),
        (("--config.checkpoint=x",), "config.checkpoint is given by --checkpoint"),
        (("--names=knn", "--config.linear.num_epochs=2"), "is of an evaluation that does not run"),
        (("--names=knn", "--config.knn.kk=2"), "config has no key 'knn.kk'"),
        (("--seeds=0",), "2"),
    ],
)
def test_a_mistake_is_one_sentence(run, flags, words, capsys):
    with pytest.raises(SystemExit) as failed:
        run(*flags)
    assert words in str(failed.value)
    assert "Traceback" not in capsys.readouterr().err


def test_a_checkpoint_must_exist(capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--checkpoint=/nowhere"])
    assert "--checkpoint=/nowhere does not exist: name a run" in capsys.readouterr().err
