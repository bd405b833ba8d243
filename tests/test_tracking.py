"""What goes to Weights & Biases, by a stand-in for the package and by itself where it is there."""

import sys
import types

import numpy as np
import pytest

from iecl_jax import config as config_lib
from iecl_jax.run import metrics_file, summaries

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's and W&B's own


def settings(mode="offline"):
    config = config_lib.new()
    config.log.wandb, config.log.wandb_project = mode, "ours"
    return config


@pytest.fixture
def runs(monkeypatch):
    """The runs that the stand-in was asked for, each with what was logged."""
    found = []

    class Run:
        def __init__(self, **asked):
            self.asked, self.logged, self.finished = asked, [], False
            found.append(self)

        def log(self, values, step):
            self.logged.append((step, values))

        def finish(self):
            self.finished = True

    module = types.ModuleType("wandb")
    module.init, module.Settings, module.Image = Run, dict, np.shape
    monkeypatch.setitem(sys.modules, "wandb", module)
    return found


def test_numbers_and_pictures_go_to_one_run_that_a_resume_continues(runs, tmp_path):
    for step in (0, 10):
        writer = summaries.create_writer(tmp_path, step=step, config=settings())
        writer.write_scalars(step + 10, {"train/loss": np.float32(0.5)})
        writer.write_images(step + 10, {"gallery": np.zeros((4, 6, 3), np.uint8)})
        writer.close()
    first, second = runs
    assert (
        first.asked["id"] == second.asked["id"] == (tmp_path / "wandb_id.txt").read_text().strip()
    )
    assert (first.asked["project"], first.asked["mode"]) == ("ours", "offline")
    assert first.asked["resume"] == "allow"
    assert first.asked["config"]["optimizer.learning_rate"] == 0.3
    assert first.logged == [(10, {"train/loss": 0.5}), (10, {"gallery": (4, 6, 3)})]
    assert second.logged[0][0] == 20
    assert first.finished
    assert second.finished


def test_off_asks_for_no_run(runs, tmp_path):
    summaries.create_writer(tmp_path, config=settings("off")).close()
    assert not runs


def test_a_refusal_is_a_warning_and_the_run_goes_on(runs, tmp_path, monkeypatch, caplog):
    def refuse(**asked):
        raise OSError("no network")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    writer = summaries.create_writer(tmp_path, config=settings("online"))
    writer.write_scalars(1, {"train/loss": 0.5})
    writer.close()
    assert "No Weights & Biases (log.wandb=online): no network" in caplog.text
    assert metrics_file.read(tmp_path) == [{"step": 1, "train/loss": 0.5}]


def test_the_package_itself_takes_it_offline(tmp_path):
    pytest.importorskip("wandb")
    writer = summaries.create_writer(tmp_path, config=settings())
    writer.write_scalars(1, {"train/loss": 0.5})
    writer.close()
    identity = (tmp_path / "wandb_id.txt").read_text().strip()
    (log,) = (tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb")
    assert log.stat().st_size > 0
