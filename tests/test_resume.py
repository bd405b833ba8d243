"""What a start may change of the run that it continues, and what a refused start leaves behind."""

import functools
import json
import pathlib
import shutil

import jax
import pytest
import tiny_run

from iecl_jax import main
from iecl_jax.train import pretraining
from iecl_jax.train import state as train_state

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's and TFDS's own

STEPS = 32  # two epochs


def changed(base, **keys):
    config = base.copy_and_resolve_references()
    config.update_from_flattened_dict({name.replace("__", "."): x for name, x in keys.items()})
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, folder) of a run of two epochs."""
    config = tiny_run.get_config()
    config.train.update({"num_steps": 0, "num_epochs": 2})
    folder = tmp_path_factory.mktemp("resume") / "run"
    main.pretrain(config, str(folder))
    return config, folder


@pytest.fixture
def resume(trained, tmp_path):
    """Starts a copy of the run with changed settings; it is compared with what was there."""
    config, folder = trained
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)

    def resume(allow=True, **keys):
        task = pretraining.prepare(changed(config, **keys))
        return pretraining.start(task, str(copy), allow_config_change=allow)

    return resume


def content(folder: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in files}


@pytest.mark.parametrize(
    "keys, sentence",
    [
        ({"train__batch_size": 32, "train__num_epochs": 4}, r"train\.batch_size was 16 up to st"),
        ({"data__image_size": 16}, r"data\.image_size was 8 up to step 32 and cannot become 16"),
        ({"seed": 7}, "seed was 42 up to step 32 and cannot become 7 at a resume: the order of"),
        ({"encoder__feature_dim": 4}, r"encoder\.feature_dim was 0 .* Keep encoder\.feature_dim=0"),
        ({"optimizer__name": "lars"}, r"optimizer\.name was 'sgd' .* cannot become 'lars'"),
        ({"projector__output_dim": 24}, r"projector\.output_dim was"),
        ({"train__num_epochs": 1}, "has trained 32 steps already, more than the 16 asked for"),
    ],
)
def test_what_cannot_change_is_a_sentence_and_the_workdir_stays(resume, tmp_path, keys, sentence):
    before = content(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        resume(**keys)
    assert content(tmp_path) == before


def test_a_longer_schedule_goes_on_and_says_how_the_rate_jumps(resume, caplog):
    run = resume(train__num_epochs=4)
    assert (run.step, run.total) == (STEPS, 2 * STEPS)
    jump = "The settings changed: after step 32, learning_rate is "
    (line,) = (line for line in caplog.messages if line.startswith(jump))
    assert line.endswith("; it was 0 before.")


def test_a_resumed_run_makes_no_initial_state(resume, monkeypatch):
    def made(*_):
        raise AssertionError("the initial state was made")

    monkeypatch.setattr(train_state, "create", made)
    before = resume(train__num_epochs=4).state
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(before))
    assert before.step == STEPS


def test_a_finished_run_with_another_evaluation_is_measured_again(trained, tmp_path):
    config, folder = trained
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    before = json.loads((folder / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps(before | {"metrics": {"knn_top1": 7}}))
    assert main.pretrain(config, str(copy))["metrics"] == {"knn_top1": 7}
    other = changed(config, eval__knn__k=3)
    after = main.pretrain(other, str(copy), allow_config_change=True)
    assert after["metrics"]["knn_top1"] <= 1
    assert after["metrics"]["loss"] == before["metrics"]["loss"]


def test_a_kill_before_the_results_costs_none_of_them(trained, tmp_path):
    config, folder = trained
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    before = json.loads((copy / "results.json").read_text())
    (copy / "results.json").unlink()
    (copy / "report.html").unlink()
    (copy / ".results.json-0123.partial").write_text("{")
    (copy / "checkpoints" / "40.orbax-checkpoint-tmp").mkdir()
    after = main.pretrain(config, str(copy))
    assert after["metrics"] == before["metrics"]
    assert after["images_per_second"] == before["images_per_second"] > 0
    assert after["seconds"] > before["seconds"] / 2  # those of the first start are counted
    assert (copy / "report.html").exists()
    assert not [*copy.glob(".*"), *(copy / "checkpoints").glob("*tmp*")]


@pytest.fixture
def images(resume, monkeypatch):
    """Resumes after something about the training images changed."""

    def images(allow, keep_length=False, **facts):
        opened = pretraining.data.open_split

        def other(settings, split):
            found = opened(settings, split)
            found.facts.update(facts)
            return found

        monkeypatch.setattr(pretraining.data, "open_split", other)
        return resume(allow)

    return images


def test_other_images_are_a_sentence_unless_they_are_allowed(images, tmp_path):
    before = content(tmp_path)
    sentence = r"the training images changed since step 32: version None then, 2\.0\.0 now\. Bring"
    with pytest.raises(ValueError, match=sentence):
        images(False, version="2.0.0")
    assert content(tmp_path) == before
    assert images(True, version="2.0.0").step == STEPS


def test_a_run_that_does_not_know_its_images_goes_on(images, tmp_path):
    """As those of earlier revisions."""
    (record,) = (tmp_path / "run").glob("checkpoints/32/data/metadata")
    assert "images" in json.loads(record.read_text())
    terms = functools.partial(pretraining.Terms, images={"images": 350}, steps_per_epoch=10)
    terms().check(32, None, {"step": 32})
    known = {"images": {"images": 400}, "steps_per_epoch": 12}
    with pytest.raises(ValueError, match="400 images then, 350 now"):
        terms().check(32, None, known)
    terms(allow_change=True).check(32, None, known)
    with pytest.raises(ValueError, match=r"10 steps instead of 12, .* --config\.train\.num_steps"):
        terms(allow_change=True, in_epochs=True).check(32, None, known)
