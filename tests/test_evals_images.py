"""The images of an evaluation: those of the pretraining, or any others that `config.data` names."""

import json

import pytest
import tiny_network
import tiny_run
from PIL import Image

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.configs import evaluate, knn
from iecl_jax.evals.parts import jobs
from iecl_jax.evals.parts.images import with_images

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def images(*changes):
    """`config.data` of an evaluation with overrides."""
    return config_lib.load("configs/knn.py", [f"--config.data.{each}" for each in changes]).data


@pytest.fixture(name="pretrain")
def _pretrain():
    found = config_lib.choose(tiny_network.get_config(), {"data.name": "generated"})
    found.data.update({"mean": CIFAR[0], "num_threads": 3, "alpha": "drop"})
    return found


@pytest.fixture(name="folder")
def _folder(tmp_path):
    for number in range(12):
        path = tmp_path / "photos" / ("val" if number > 7 else "train") / f"class{number % 2}"
        path.mkdir(parents=True, exist_ok=True)
        colour = (20 * number, 99, 150 * (number % 2))
        Image.new("RGB", (20 + number, 30), colour).save(path / f"{number}.png")
    return tmp_path / "photos"


def test_without_a_name_they_are_those_of_the_pretraining(pretrain):
    found = with_images(pretrain, images("cache=host"))
    assert found.data.cache == "host"
    found.data.cache = pretrain.data.cache
    assert found == pretrain


def test_the_network_keeps_its_own_statistics_and_size(pretrain, folder):
    found = with_images(pretrain, images("name=image_folder", f"dir={folder}", "bit_depth=12"))
    assert (found.data.name, found.data.dir, found.data.bit_depth) == (
        *("image_folder", str(folder), 12),
    )
    assert found.data.image_size == pretrain.data.image_size
    assert data.statistics(found.data) == data.statistics(pretrain.data)
    assert (found.data.num_threads, found.data.alpha) == (16, "white")  # as any images are read
    assert pretrain.data.name == "generated"


def test_the_statistics_of_a_source_are_no_default_of_an_evaluation(pretrain):
    asked = images("name=cifar10", f"mean={CIFAR[0]}", f"std={CIFAR[1]}")
    assert (asked.mean, asked.std) == CIFAR
    config = config_lib.new("knn")
    config.data.mean = (0.485, 0.456, 0.406)  # of the source that has no name of its own
    assert config_lib.from_json(config_lib.to_json(config)) == config
    found = with_images(pretrain, config.data)
    assert data.statistics(found.data) == (config.data.mean, data.statistics(pretrain.data)[1])


@pytest.mark.parametrize(
    "name, there, here, found",
    [
        ("", "tf", "", "tf"),
        ("", "tf", "mine", "mine"),
        ("cifar10", "tf", "", "tf"),
        ("cifar10", "tf", "mine", "mine"),
        ("cifar100", "tf", "", ""),
    ],
)
def test_the_folder_is_that_of_the_same_source(pretrain, monkeypatch, name, there, here, found):
    monkeypatch.setattr("iecl_jax.config.kinds.check", lambda *_: None)
    pretrain.data.update({"name": "cifar10", "dir": there})
    used = with_images(pretrain, images(f"name={name}", f"dir={here}"))
    assert used.data.dir == found
    assert used.data.name == (name or "cifar10")


def test_old_configs_of_evaluations_have_no_other_images():
    config = json.loads(config_lib.to_json(config_lib.new("knn")))
    config["data"] = {"dir": "somewhere", "cache": "host"}
    found = config_lib.from_json(json.dumps(config))
    assert (found.data.name, found.data.image_size, found.data.mean) == ("", 0, ())
    assert (found.data.dir, found.data.cache) == ("somewhere", "host")


@pytest.mark.parametrize(
    "changes, words",
    [
        (["name=digts"], r"data\.name='digts' is unknown: did you mean 'digits'"),
        (["name=image_folder"], r"data\.name='image_folder' needs data\.dir"),
        (["name=generated", "dir=x"], r"data\.dir='x' is not read by data\.name='generated'"),
        (["image_size=9"], r"data\.image_size=9 must be a multiple of the 4 pixels of SAIB's"),
    ],
)
def test_what_does_not_exist_or_fit_is_one_sentence(pretrain, changes, words):
    pretrain.saib.patch_size = 4
    with pytest.raises(ValueError, match=words):
        with_images(pretrain, images(*changes))
    with pytest.raises(ValueError, match=r"no key 'data.alhpa': did you mean data.alpha"):
        images("name=generated", "alhpa=drop")
    with pytest.raises(ValueError, match=r"no key 'data.alpha'"):
        images("alpha=drop")  # with what is read as in the pretraining


def test_a_network_that_takes_one_size_refuses_another(monkeypatch, tmp_path):
    config = knn.get_config()
    config.pretrain = tiny_run.get_config()
    untrained = jobs.load(config, str(tmp_path))
    weights = {"params": untrained.params, "method_state": untrained.method_state}
    monkeypatch.setattr(jobs, "load_for_evaluation", lambda *_, **__: (config.pretrain, weights))
    config.checkpoint = "run"
    assert jobs.load(config, str(tmp_path)).params is untrained.params
    config.data.image_size = 16
    with pytest.raises(ValueError, match=r"data.image_size=16 does not fit .* only takes the 8 p"):
        jobs.load(config, str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_results_say_which_images_were_measured(folder, tmp_path):
    config = evaluate.evaluation_config("knn", "")
    config.pretrain, config.pictures = tiny_run.get_config(), False
    config = config_lib.choose(config, {"data.name": "image_folder"})
    config.data.dir, config.knn.k = str(folder), 2
    results = jobs.run(config, str(tmp_path / "run"))
    assert results["data"] == {"name": "image_folder", "dir": str(folder), "image_size": 8}
    assert 0 <= results["metrics"]["knn_top1"] <= 1
