"""Runs of DeepCluster and DeepCluster-v2, also killed between and inside epochs."""

import numpy as np
import pytest
import tiny_clusters
from kill_and_resume import state_digests

from iecl_jax import main
from iecl_jax.train.loop import Run

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

EPOCH, STEPS = 8, 20


@pytest.fixture(scope="module", params=["deepcluster", "deepcluster_v2"])
def trained(request, tmp_path_factory):
    """(config, results, digests of the last state) of two epochs and a half."""
    config = tiny_clusters.get_config(request.param)
    config.train.update({"num_steps": STEPS, "log_every_steps": 1})
    config.checkpoint.update({"every_steps": EPOCH, "keep": 100})
    folder = tmp_path_factory.mktemp("clusters") / "run"
    return config, main.pretrain(config, str(folder)), state_digests(folder, STEPS)


def test_a_run_has_labels_and_measures(trained):
    config, results, _ = trained
    metrics = results["metrics"]
    assert 0 < metrics["cluster_nmi"] < 1
    assert 0 <= metrics["empty_clusters"] < 1
    assert 0 < metrics["largest_cluster"] < 1
    assert 0 < metrics["method_loss"] < 2 * np.log(config.method.num_clusters)


@pytest.mark.parametrize("killed_at, steps_per_call", [(EPOCH, 1), (EPOCH + 2, 2)])
def test_a_kill_between_and_inside_epochs_changes_no_bit(
    trained, tmp_path, monkeypatch, killed_at, steps_per_call
):
    config, expected, digests = trained
    config = config.copy_and_resolve_references()
    config.checkpoint.every_steps = killed_at
    config.train.steps_per_call = steps_per_call
    take = Run.take

    def dying(run, steps):
        if steps and steps[0] > killed_at:
            run.checkpointer.newest()
            raise KeyboardInterrupt
        take(run, steps)

    monkeypatch.setattr(Run, "take", dying)
    with pytest.raises(KeyboardInterrupt):
        main.pretrain(config, str(tmp_path / "run"))
    monkeypatch.setattr(Run, "take", take)
    resumed = main.pretrain(config, str(tmp_path / "run"))
    if steps_per_call == 1:  # A loop of steps may be compiled to other roundings.
        assert resumed["params_digest"] == expected["params_digest"]
        assert state_digests(tmp_path / "run", STEPS) == digests
        return
    alone = main.pretrain(config, str(tmp_path / "alone"))
    assert resumed["params_digest"] == alone["params_digest"]
    assert state_digests(tmp_path / "run", STEPS) == state_digests(tmp_path / "alone", STEPS)
