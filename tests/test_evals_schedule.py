"""Evaluations on their schedule and as jobs, built in and of a user's own file."""

import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from iecl_jax import config as config_lib
from iecl_jax import data, evals
from iecl_jax.configs import evaluate, linear_probe
from iecl_jax.evals.parts import jobs
from iecl_jax.evals.parts.encoder import SplitEncoder
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.train.experiment import build
from tests import tiny_run

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

ROOT = pathlib.Path(__file__).parent.parent
OWN = '''
"""Mean norm of the features."""

import numpy as np

from iecl_jax.config.rules import POSITIVE
from iecl_jax.config.section import key
from iecl_jax.evals.parts.schedule import AtEnd

RESULTS = {"mean_norm": "mean norm of the features"}


class Settings(AtEnd):
    power = key(2.0, POSITIVE, "of the norm")


def measure(subject, settings):
    features, _ = subject.features("test")
    return {"mean_norm": float(np.mean(np.linalg.norm(features, axis=1) ** settings.power))}
'''


class Now(NamedTuple):
    step: int
    last: bool = False


def tiny(**values):
    config = tiny_run.get_config()
    values = {"pictures": False} | values
    config.update_from_flattened_dict({f"eval.{name}": value for name, value in values.items()})
    split = data.open_split(config.data, "pretrain")
    experiment = build(config, total_steps=8, steps_per_epoch=4, num_classes=split.num_classes)
    return config, experiment, split


def names(evaluations):
    return [each.name for each in evaluations]


def test_each_runs_at_its_moments(tmp_path):
    config, experiment, split = tiny(**{"every_epochs": 2, "knn.when": "end", "pictures": True})
    found = evals.scheduled(config, experiment.method, split, str(tmp_path))
    assert names(found) == ["knn", "online_probe", "linear", "comparison", "pictures"]
    epoch = len(split) // config.train.batch_size
    assert [each.every_steps for each in found] == [0, 2 * epoch, 0, 0, 0]
    due = lambda step, last=False: names(e for e in found if e.due(Now(step, last)))  # noqa: E731
    assert due(2 * epoch) == ["online_probe"]
    assert due(2 * epoch + 1) == due(epoch) == []
    assert due(1, last=True) == names(found)
    config.eval.every_epochs = 0
    found = evals.scheduled(config, experiment.method, split, str(tmp_path))
    assert not any(each.due(Now(epoch)) for each in found)


def test_those_of_one_moment_share_the_features_and_those_of_the_next_do_not(tmp_path, monkeypatch):
    values = {"linear.num_epochs": 1, "linear.when": "every", "every_epochs": 1}
    config, experiment, split = tiny(**values)
    read, extract = [], SplitEncoder.extract

    def counted(self, encode, images, *subset):
        read.append(len(images))
        return extract(self, encode, images, *subset)

    monkeypatch.setattr(SplitEncoder, "extract", counted)
    found = evals.scheduled(config, experiment.method, split, str(tmp_path))
    state, epoch = experiment.create_state(), found[0].every_steps
    scores = [
        {name: score for each in found if each.due(now) for name, score in each(state, now).items()}
        for now in (Now(epoch), Now(2 * epoch))
    ]
    assert scores[0] == scores[1]
    assert set(scores[0]) == {"knn_top1", "online_probe_top1", "linear_top1", "linear_top5"}
    assert all(type(score) is float for score in scores[0].values())
    assert len(read) == 4  # the training and the test images, twice


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"knn.k": 10**4}, r"^eval\.knn\.k=10000 is more than the \d+ labelled training images"),
        ({"comparison.labels_per_class": 999}, r"^eval\.comparison\.labels_per_class=999 is more"),
        ({"names": ("jacobian",)}, r"saib\.enabled=False: it has no SAIB to measure"),
        ({"names": ("linear_probe",)}, r"^eval\.linear_probe\.batch_size=511 must be a multiple"),
    ],
)
def test_what_does_not_fit_is_told_before_the_training(values, sentence, tmp_path):
    config, experiment, split = tiny()
    config.eval.update_from_flattened_dict(values)
    config = config_lib.complete(config)
    if "linear_probe" in config.eval.names:
        config.eval.linear_probe.batch_size = 511
    with pytest.raises(ValueError, match=sentence):
        evals.scheduled(config, experiment.method, split, str(tmp_path))


def test_without_labels_the_training_goes_on_and_says_why(tmp_path, monkeypatch, caplog):
    config, experiment, split = tiny()
    monkeypatch.setattr(type(split), "labels", np.full(len(split), -1, np.int32))
    found = evals.scheduled(config, experiment.method, split, str(tmp_path))
    assert names(found) == ["linear", "comparison"]  # which are off
    assert "No knn, online_probe: the train images of generated have no labels." in caplog.text
    with pytest.raises(ValueError, match="the train images of generated have no labels"):
        jobs.run(evaluate.evaluation_config("knn", "smoke"), str(tmp_path / "knn"))


def test_the_untrained_network_is_that_which_training_starts_from(tmp_path):
    config, experiment, _ = tiny()
    encoder = SplitEncoder(config, experiment.method)
    untrained = Subject(config, experiment.method, encoder, str(tmp_path), seed=0).untrained()
    expected = experiment.create_state().params["online"]["encoder"]["kernel"]
    np.testing.assert_array_equal(untrained.params["online"]["encoder"]["kernel"], expected)


def test_the_probe_crops_and_flips_alone():
    view = linear_probe.get_config().linear_probe.augment
    assert (view.crop.scale, view.flip.prob) == ((0.08, 1.0), 0.5)
    for name in ("jitter", "gray", "blur", "rotate", "solarize", "noise"):
        assert view[name].prob == 0


def command(*arguments):
    result = subprocess.run(
        [sys.executable, "-m", "iecl_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_an_own_file_is_an_evaluation_during_training_and_of_a_checkpoint(tmp_path):
    own, run, job = tmp_path / "own_norm.py", tmp_path / "run", tmp_path / "job"
    own.write_text(OWN)
    command(
        "--config=tests/tiny_run.py",
        f"--config.eval.names=('knn', '{own}')",
        "--config.eval.own_norm.power=1.0",
        f"--workdir={run}",
    )
    during = json.loads((run / "results.json").read_text())["metrics"]
    assert during["mean_norm"] > 0
    assert "knn_top1" in during
    assert "online_probe_top1" not in during
    out = command(
        f"--config=configs/evaluate.py:{own}",
        f"--config.checkpoint={run}",
        "--config.own_norm.power=1.0",
        "--trust_checkpoint_code",
        f"--workdir={job}",
    )
    after = json.loads((job / "results.json").read_text())
    assert after["metrics"] == {"mean_norm": during["mean_norm"]}
    assert after["job"] == str(own)
    assert f"generated: mean norm of the features {during['mean_norm']:.4g}" in out
    assert "mean norm of the features" in (run / "report.html").read_text()
