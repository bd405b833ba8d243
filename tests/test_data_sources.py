"""A source that the project does not know: a file, or a data set that TFDS has prepared."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.config import kinds
from iecl_jax.data import sealed
from iecl_jax.data.sources import tfds

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "tests" / "tiny_run.py")

# In three classes of one colour each. tests/test_own_kinds.py trains with such a file.
OWN_SOURCE = """
import numpy as np

from iecl_jax.config.rules import COUNT
from iecl_jax.config.section import Section, key
from iecl_jax.data.split import Record, Split

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


class Settings(Section):
    per_class = key(30, COUNT, "images of a class")


def check(data):
    if data.per_class % 2:
        raise ValueError(f"data.per_class={data.per_class} must be even.")


def open_split(data, split):
    labels = np.arange(3 * data.per_class) % 3

    def read(indices):
        shape = (data.image_size, data.image_size, 3)
        return [Record(np.full(shape, 80 * labels[i], np.uint8), int(labels[i])) for i in indices]

    return Split("mine", tuple("abc"), (data.image_size,) * 2, len(labels), read, lambda: labels)
"""


@pytest.fixture
def own_source(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_SOURCE)
    return path


def load(*overrides: str):
    return config_lib.load(TINY, [f"--config.{override}" for override in overrides])


def test_a_source_in_a_file_has_its_own_settings_checks_and_statistics(own_source):
    config = load(f"data.name={own_source}")
    assert config.data.per_class == 30
    assert data.statistics(config.data) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    config.data.per_class = 31
    with pytest.raises(ValueError, match="per_class=31 must be even"):
        config_lib.check(config, 1)
    own_source.write_text("Settings = open_split = None\n")
    with pytest.raises(ValueError, match=r"mine\.py' has no MEAN: see iecl_jax/data/sources/"):
        kinds.load("data", str(own_source))


def test_every_source_of_the_package_is_one():
    for name in kinds.names("data"):
        source = kinds.load("data", name)
        assert len(source.MEAN) == len(source.STD) == 3
        folder = ["data.dir=somewhere"] if name in ("image_folder", "packed") else []
        config_lib.check(load(f"data.name={name}", *folder), 1)
    assert "tfds" not in kinds.names("data")


def test_statistics_of_the_source_and_of_the_config():
    cifar10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    assert data.statistics(load("data.name=cifar10").data) == cifar10
    changed = load("data.name=cifar10", "data.std=(0.1, 0.2, 0.3)")
    assert data.statistics(changed.data) == (cifar10[0], (0.1, 0.2, 0.3))
    assert load("data.name=cifar10", f"data.mean={cifar10[0]}") == load("data.name=cifar10")
    assert load("data.name=stl10", f"data.mean={cifar10[0]}").data.mean == cifar10[0]


def test_an_earlier_config_that_wrote_the_statistics_of_its_source_is_the_same():
    new = load("data.name=cifar10")
    earlier = json.loads(config_lib.to_json(new))
    del earlier["data"]["mean"], earlier["data"]["std"]
    mean, std = data.statistics(new.data)
    earlier["augment"] |= {"mean": mean, "std": std}
    assert config_lib.from_json(json.dumps(earlier)) == new
    untrained = config_lib.from_json(json.dumps({"job": "knn", "pretrain": earlier}))
    assert untrained.pretrain == new
    earlier["augment"]["mean"] = (0.5, 0.5, 0.5)
    assert config_lib.from_json(json.dumps(earlier)).data.mean == (0.5, 0.5, 0.5)


def test_what_is_cropped_on_the_host_is_known_without_files():
    for name in kinds.names("data"):
        declared = getattr(kinds.load("data", name), "CROPPED_ON_HOST", False)
        assert data.cropped_on_host(load(f"data.name={name}").data) == declared
    for name in ("imagenet2012", "imagenet100", "image_folder"):
        assert kinds.load("data", name).CROPPED_ON_HOST
    assert data.cropped_on_host(load("data.name=generated", "data.image_size=224").data)


# Two data sets of 40 images to train on and 20 of validation. Run in a process of its own: TFDS
# needs TensorFlow to write.
PREPARE = """
import sys
import numpy as np, tensorflow_datasets as tfds
from tensorflow_datasets import features

class Builder:
    VERSION = tfds.core.Version("2.0.1")
    pkg_dir_path = None

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(self.FEATURES))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(40), "validation": self._generate_examples(20)}

    def _generate_examples(self, count):
        for i in range(count):
            image = np.zeros((*self.SIZES[i % len(self.SIZES)], 3), np.uint8)
            image[..., 2 * (i % 2)] = 200
            rest = {"label": i % 2, "words": [{"word": "flag"}]}
            yield i, {"image": image} | {k: v for k, v in rest.items() if k in self.FEATURES}

class Flags(Builder, tfds.core.GeneratorBasedBuilder):
    SIZES = [(12, 12)]
    FEATURES = {
        "image": features.Image(shape=(12, 12, 3), encoding_format="png"),
        "label": features.ClassLabel(names=["red", "blue"]),
        "words": features.Sequence({"word": features.Text()}),
    }

class Photographs(Builder, tfds.core.GeneratorBasedBuilder):
    SIZES = [(12, 14), (20, 12)]
    FEATURES = {"image": features.Image(encoding_format="png")}

for builder in (Flags, Photographs):
    builder(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    command = [sys.executable, "-c", PREPARE, directory]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


def test_a_set_of_tfds_opens_by_its_name(prepared):
    config = load("data.name=flags", f"data.dir={prepared}")
    config_lib.check(config, 1)
    train, test = (data.open_split(config.data, name) for name in ("pretrain", "test"))
    assert (len(train), len(test)) == (40, 20)
    assert train.is_train > test.is_train
    for split in (train, test):
        assert (split.name, split.class_names) == ("flags", ("red", "blue"))
        assert split.image_shape == (12, 12)
        pixels, labels = split.pixels
        np.testing.assert_array_equal(pixels[:, 0, 0, 2] == 200, labels == 1)
        np.testing.assert_array_equal(split.labels, labels)
    assert data.statistics(config.data) == (tfds.MEAN, tfds.STD)


def flip(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


DAMAGES = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "a byte less": lambda raw: raw[:-1],
    "empty": lambda raw: b"",
    "other bytes": lambda raw: np.random.default_rng(0).bytes(len(raw)),
    "more": lambda raw: raw + b"more",
    "a bit": lambda raw: flip(raw, next(i for i, x in enumerate(raw) if i > 99 and x)),
    "missing": None,
}
FILES = [
    "dataset_info.json",
    "features.json",
    "label.labels.txt",
    "flags-train.array_record-00000-of-00001",
    sealed.SUMS,
]


@pytest.mark.parametrize("sums", [True, False], ids=["sums", "no sums"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_set_is_a_sentence_that_names_the_file(prepared, tmp_path, name, sums):
    """Without sums, as in a set that was never opened here, some damage of names goes unnoticed."""
    config = load("data.name=flags", f"data.dir={tmp_path}", "data.cache=none").data
    set_of, path = prepared / "flags" / "2.0.1", tmp_path / "flags" / "2.0.1"

    def read():
        kinds.check("data", "flags", config)
        split = data.open_split(config, "pretrain")
        images = [batch["image"] for batch in data.eval_batches(config, split, 40)]
        return split.labels, images

    shutil.copytree(set_of, path)
    labels, _ = read()
    shutil.copytree(path, pristine := tmp_path / "pristine")
    for how, damage in DAMAGES.items():
        shutil.rmtree(path)
        shutil.copytree(pristine, path)
        raw = (path / name).read_bytes()
        (path / name).unlink()
        if damage is not None:
            (path / name).write_bytes(damage(raw if len(raw) > 199 else raw * 99))
        if not sums:
            (path / sealed.SUMS).unlink(missing_ok=True)
        if name == sealed.SUMS and (not sums or how in ("missing", "a byte less")):
            read()  # a line's end is no damage
        elif name == "label.labels.txt" and not sums:
            with contextlib.suppress(ValueError):
                np.testing.assert_array_equal(read()[0], labels)
        else:
            with pytest.raises(ValueError, match=name) as error:
                read()
            said = str(error.value)
            assert f"move {path} away and run `python -m iecl_jax.tools.prepare" in said, how


def test_a_set_of_tfds_without_labels_is_unlabelled(prepared):
    config = load("data.name=photographs", f"data.dir={prepared}", "data.cache=none")
    split = data.open_split(config.data, "pretrain")
    assert (split.num_classes, split.image_shape) == (0, None)
    np.testing.assert_array_equal(split.labels, [-1] * 40)
    config.train.batch_size = 4
    with data.TrainBatches(config, split) as batches:
        batch = next(batches)
    assert [view.shape for view in batch["image"]] == [(2, 2, 8, 8, 3)] * 2
    np.testing.assert_array_equal(batch["label"], -1)


@pytest.mark.parametrize(
    "name, words",
    [
        ("cifar-10", ["did you mean 'cifar10'", "stl10"]),
        ("no_such_set", ["use one of cifar10", "--name=no_such_set --dir="]),
        ("", ["use one of cifar10"]),
    ],
)
def test_an_unknown_name_is_one_sentence_before_anything_compiles(name, words, tmp_path):
    config = load(f"data.name={name}", f"data.dir={tmp_path}")
    for refuse in (
        lambda: config_lib.check(config, 1),
        lambda: data.open_split(config.data, "train"),
    ):
        with pytest.raises(ValueError) as error:
            refuse()
        assert str(error.value).startswith(f"data.name={name!r} is unknown: ")
        assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("generated", "--name=generated needs no preparation."),
        ("imagenet100", "ImageNet must be downloaded by hand"),
        pytest.param("no_such_set", "TFDS has no data set 'no_such_set'", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")  # TFDS's own
def test_what_cannot_be_prepared_says_so(name, sentence, tmp_path, monkeypatch):
    from iecl_jax.tools import prepare

    monkeypatch.setattr(sys, "argv", ["prepare", f"--name={name}", f"--dir={tmp_path}"])
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        prepare.main()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [("cat", "dog"), ("all",)])
def test_a_folder_as_users_have_it_trains_to_its_results(tmp_path, classes):
    """With a cut test image, a hidden folder, a pipe and a loop; and with one class only."""
    photos, noise = tmp_path / "photos", np.random.default_rng(0)
    for split, count in (("Train", 8), ("VAL", 4)):
        for name in classes:
            (photos / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (20 + number, 30, 3), np.uint8)
                Image.fromarray(pixels).save(photos / split / name / f"{number}.png")
    cut = photos / "VAL" / classes[0] / "2.png"
    cut.write_bytes(cut.read_bytes()[:900])
    shutil.copytree(photos / "VAL" / classes[0], photos / "Train" / ".ipynb_checkpoints")
    os.mkfifo(photos / "Train" / classes[0] / "pipe.jpg")
    (photos / "Train" / classes[0] / "back").symlink_to("..")
    settings = ["data.name=image_folder", f"data.dir={photos}", "train.batch_size=8"]
    settings += ["train.num_steps=2", "schedule.warmup_epochs=0", "eval.knn.k=2"]
    command = [sys.executable, "-m", "iecl_jax.main", f"--config={TINY}", f"--workdir={tmp_path}/r"]
    done = subprocess.run(
        [*command, *(f"--config.{setting}" for setting in settings)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "r" / "results.json").read_text())["metrics"]
    assert ("knn_top1" in metrics) == ("online_probe_top1" in metrics) == (len(classes) == 2)
    said = done.stdout + done.stderr
    assert "nothing to tell apart" in said if len(classes) == 1 else f"{cut} is broken" in said
    assert "data.cache=auto: none" in said
