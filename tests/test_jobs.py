"""The jobs end to end, in process, on the tiny config: what they write, refuse and resume."""

import json

import jax
import numpy as np
import pytest
import tiny_network
import tiny_run
from markdown_rows import rows
from PIL import Image

from iecl_jax import main
from iecl_jax.configs import jacobian, knn, linear_probe
from iecl_jax.evals.parts import jobs
from iecl_jax.run import events
from iecl_jax.run import metrics as metric_log
from iecl_jax.run.names import number_in_tensorboard
from iecl_jax.train import experiment

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's and TFDS's own


def tiny_config():
    config = tiny_network.get_config()
    config.eval.comparison.labels_per_class = config.eval.linear.num_epochs = 2
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrain")
    main.pretrain(tiny_config(), str(path))
    return path


def test_pretraining_leaves_its_results(workdir):
    results = json.loads((workdir / "results.json").read_text())
    assert results["job"] == "pretrain"
    assert results["steps"] == 4
    assert results["seed"] == 42
    assert len(results["params_digest"]) == 64
    assert results["images_per_second"] > 0
    names = "loss info_nce kl entropy knn_top1 online_probe_top1 linear_top1 linear_top5"
    for name in names.split():
        assert np.isfinite(results["metrics"][name]), name
    assert set(results["metrics"]["comparison"]) == {
        "raw pixels",
        "untrained encoder",
        "trained encoder",
    }


def test_pretraining_leaves_config_provenance_events_and_gallery(workdir):
    assert json.loads((workdir / "config.json").read_text())["train"]["num_steps"] == 4
    (start, *_) = json.loads((workdir / "provenance.json").read_text())
    assert start["versions"]["jax"] == jax.__version__
    assert list(workdir.glob("events.out.tfevents.*"))
    with Image.open(workdir / "gallery" / "00000004.png") as picture:
        assert min(picture.size) > 200


def test_the_log_and_tensorboard_hold_the_curves(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = "loss method_loss info_nce kl entropy saib_decay learning_rate ema epoch "
    names += "grad_norm_online grad_norm_saib info_nce_top1 images_per_second"
    wanted = {f"train/{name}" for name in names.split()}
    wanted |= {"eval/knn_top1", "eval/online_probe_top1"}
    wanted |= {f"eval/comparison/{name}_encoder/knn_top1" for name in ("untrained", "trained")}
    wanted |= {"diagnostics/log_det", "diagnostics/rank_me", "conv_operator_norm/conv1"}
    log = events.read(workdir)
    assert wanted <= set(log.scalars)
    assert set(log.pictures) == {"gallery", "jacobian_spectrum"}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all({"train/loss", "diagnostics/log_det"} <= set(line) for line in lines)

    found = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    found.Reload()
    tags = {number_in_tensorboard(name) for name in wanted}
    assert tags | {"2_eval/gallery", "settings"} <= set(found.Tags()["tensors"])
    assert [event.step for event in found.Tensors("1_train/loss")] == [2, 4]


def test_results_and_report_hold_the_last_diagnosis(workdir):
    results = json.loads((workdir / "results.json").read_text())["metrics"]
    assert results["diagnostics"]["rank_me"] > 1
    assert "Jacobian" in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_collapse_saves_and_stops_where_it_is_asked_to(tmp_path, caplog):
    config = tiny_config()
    config.diagnostics.min_rank = 1e6
    config.checkpoint.every_steps = 3
    config.diagnostics.stop_on_collapse = True
    with pytest.raises(ValueError, match=r"step 2, which is saved: .*/rank_me is .*1e\+06: "):
        main.pretrain(config, str(tmp_path))
    assert (tmp_path / "checkpoints" / "2").is_dir()
    config.diagnostics.stop_on_collapse = False
    main.pretrain(config, str(tmp_path), allow_config_change=True)
    assert "step 4: diagnostics/rank_me" in caplog.text
    assert (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_jacobian_prints_and_draws_what_it_measured(workdir, tmp_path, capsys):
    config = jacobian.get_config()
    config.checkpoint = str(workdir)
    config.jacobian.update({"num_groups": 2, "depth": 8, "num_probes": 4, "exact_up_to": 0})
    sampled = jobs.run(config, str(tmp_path / "sampled"))["metrics"]
    printed = capsys.readouterr().out
    assert "group 4), running statistics, 768 dimensions a group" in printed
    assert ["all", f"{sampled['log_det']:+.4f}"] in [row[:2] for row in rows(printed)]
    assert "layer1_0/conv1" in [row[0] for row in rows(printed)]
    with Image.open(tmp_path / "sampled" / "jacobian.png") as picture:
        assert min(picture.size) > 200
    assert len(sampled["groups"]) == 2
    assert sampled["groups"][0]["log_det"] != sampled["groups"][1]["log_det"]
    errors = [group["log_det_stderr"] for group in sampled["groups"]]
    assert sampled["log_det_stderr"] == pytest.approx(np.hypot(*errors) / 2)
    assert sampled["sigma_max"] == max(group["sigma_max"] for group in sampled["groups"])

    config.jacobian.update({"exact_up_to": 768, "num_groups": 1})
    exact = jobs.run(config, str(tmp_path / "exact"))["metrics"]
    assert exact["log_det_stderr"] == 0
    first = sampled["groups"][0]
    assert first["log_det"] > exact["log_det"] - 4 * first["log_det_stderr"]
    config.jacobian.update({"exact_up_to": 0, "statistics": "batch"})
    batch = jobs.run(config, str(tmp_path / "batch"))["metrics"]
    assert abs(batch["log_det"] - first["log_det"]) > 1e-4


@pytest.mark.slow
def test_the_expansive_variant_trains_and_never_contracts(tmp_path):
    config = tiny_network.plain_views(tiny_network.get_config())
    config.saib.variant = "expansive"
    config.eval.linear.num_epochs = 0
    config.diagnostics.every_steps = 1
    main.pretrain(config, str(tmp_path))
    logged = events.read(tmp_path).scalars["diagnostics/log_det"]
    assert logged.steps.tolist() == [1, 2, 3, 4]
    assert (logged.values > 0).all()
    measure = jacobian.get_config()  # of a checkpoint whose SAIB has no statistics
    measure.checkpoint = str(tmp_path)
    measure.jacobian.update({"num_groups": 1, "depth": 8, "num_probes": 4})
    metrics = jobs.run(measure, str(tmp_path / "jacobian"))["metrics"]
    assert metrics["log_det"] > 0
    assert metrics["share_below_1"] == 0
    assert metrics["sigma_min"] > 1 - 1e-5


def test_jacobian_without_saib_is_one_sentence(tmp_path):
    config = jacobian.get_config("smoke")
    tiny_network.shrink(config.pretrain).saib.enabled = False
    with pytest.raises(ValueError, match=r"saib\.enabled=False: it has no SAIB to measure"):
        jobs.run(config, str(tmp_path))


def test_a_finished_run_is_not_trained_again(workdir, monkeypatch):
    before = json.loads((workdir / "results.json").read_text())
    monkeypatch.setattr(experiment, "train_step", lambda *_, **__: pytest.fail("trained a step"))
    assert main.pretrain(tiny_config(), str(workdir)) == before
    (workdir / "results.json").unlink()  # as if killed between the last save and the results
    after = main.pretrain(tiny_config(), str(workdir))
    assert after["params_digest"] == before["params_digest"]
    for name in ("knn_top1", "online_probe_top1", "comparison"):
        assert after["metrics"][name] == before["metrics"][name]
    (workdir / "results.json").write_text(json.dumps(before))


def test_another_config_is_refused(workdir):
    config = tiny_config()
    config.optimizer.learning_rate = 0.1
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate: 0\.3 -> 0\.1"):
        main.pretrain(config, str(workdir))


def test_a_loss_that_is_not_finite_stops_the_run_by_name(tmp_path):
    config = tiny_run.get_config()
    config.optimizer.learning_rate = 1e30
    with pytest.raises(FloatingPointError, match=r"step [23]: .*loss.* not finite; "):
        main.pretrain(config, str(tmp_path))


def test_a_metric_that_is_not_finite_names_step_and_checkpoint():
    metrics = {"loss": np.float32(1), "kl": np.float32(np.nan)}
    with pytest.raises(FloatingPointError, match=r"step 7: kl not finite; .* step 5"):
        metric_log.check_finite(7, metrics, lambda: 5)
    skipped = {"loss": np.float32(1), "grad_norm_online": np.float32(np.inf), "skipped_step": 1.0}
    metric_log.check_finite(7, skipped, lambda: None)


def test_knn_reads_its_config_from_the_checkpoint(workdir, tmp_path):
    config = knn.get_config()
    config.checkpoint = str(workdir)
    results = jobs.run(config, str(tmp_path))
    pretrained = json.loads((workdir / "results.json").read_text())
    assert results["metrics"]["knn_top1"] == pretrained["metrics"]["knn_top1"]
    jobs.run(config, str(tmp_path))  # Once more: the log has it once.
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 0, "eval/knn_top1": results["metrics"]["knn_top1"]}
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize("cached", [False, True])
def test_linear_probe(workdir, tmp_path, cached):
    config = linear_probe.get_config()
    config.checkpoint = str(workdir)
    config.linear_probe.update({"cached": cached, "batch_size": 32, "num_epochs": 3})
    config.linear_probe.learning_rates = (0.1, 1.0)
    results = jobs.run(config, str(tmp_path))
    assert results["metrics"]["linear_top1"] > 0.1  # ten classes
    assert results["steps"] == 3 * (256 // 32)
    if not cached:  # resumed from its end: nothing is trained again, and the result is the same
        again = jobs.run(config, str(tmp_path))
        assert again["params_digest"] == results["params_digest"]
        scalars = events.read(tmp_path).scalars
        assert scalars["probe/loss"].steps.tolist() == [8, 16, 24]
        assert scalars["eval/linear_top1"].steps.tolist() == [24]
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        config.linear_probe.batch_size = 64
        with pytest.raises(ValueError, match=r"linear_probe\.batch_size was 32 up to step 24"):
            jobs.run(config, str(tmp_path), allow_config_change=True)
        assert before == {path: path.read_bytes() for path in before}


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    config = knn.get_config()
    config.checkpoint = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"nowhere"):
        jobs.run(config, str(tmp_path))
