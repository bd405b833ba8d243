"""Names and messages, digits end to end, CIFAR-10, and sets that are made out of others."""

import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from iecl_jax.configs import imagenet_r50
from iecl_jax.data import TrainBatches, eval_batches, open_split, sealed
from iecl_jax.data.sources import digits, imagenet100, tfds
from iecl_jax.data.split import Record, Split

ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


def make_config(name: str, directory="", **changes):
    config = imagenet_r50.get_config("100,smoke")
    config.data.update({"name": name, "dir": str(directory), **changes})
    return config


def fake_split(name: str, labels, class_names, first: int = 0, **facts) -> Split:
    """Image i is a uint8 [2,2,3] array of the value first + i."""
    all_labels = np.asarray(labels)

    def read(indices):
        pixels = [np.full((2, 2, 3), first + index, np.uint8) for index in indices]
        return [Record(image, int(all_labels[i])) for image, i in zip(pixels, indices)]

    return Split(name, tuple(class_names), (2, 2), len(labels), read, lambda: all_labels, **facts)


def test_wrong_split_is_named():
    with pytest.raises(
        ValueError, match="split='val' is unknown: use one of pretrain, train, test"
    ):
        open_split(make_config("generated").data, "val")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "imagenet2012", "imagenet100"])
def test_missing_set_names_the_command(name, tmp_path):
    with pytest.raises(ValueError) as error:
        open_split(make_config(name, tmp_path / "my data").data, "train")
    source = "imagenet2012" if name == "imagenet100" else name
    command = f"python -m iecl_jax.tools.prepare --name={source} --dir='{tmp_path / 'my data'}'"
    assert f"`{command}`" in str(error.value)


def test_imagenet_preparation_says_where_the_files_go(tmp_path):
    command = ["-m", "iecl_jax.tools.prepare", "--name=imagenet2012"]
    done = subprocess.run(
        [sys.executable, *command, f"--dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"into {tmp_path / 'downloads' / 'manual'}." in done.stderr
    assert "Traceback" not in done.stderr


def test_data_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tfds.data_dir("") == tmp_path / "tensorflow_datasets"
    assert tfds.data_dir("~/sets") == tmp_path / "sets"
    monkeypatch.setenv("TFDS_DATA_DIR", "/data")
    assert tfds.data_dir("") == pathlib.Path("/data")


def test_newest_version_is_taken(tmp_path):
    for version in ("2.0.0", "10.0.0", "9.1.0", "incomplete.X_11.0.0"):
        folder = tmp_path / "cifar10" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert tfds.prepared_dir("cifar10", str(tmp_path)) == tmp_path / "cifar10" / "10.0.0"


def test_imagenet100_keeps_the_classes_of_the_list(monkeypatch):
    wanted = imagenet100.class_names()
    assert len(set(wanted)) == 100
    assert wanted[:2] == ["n02869837", "n01749939"]
    others = [f"n9999{number:04}" for number in range(20)]
    class_names = sorted([*wanted, *others])
    labels = np.random.default_rng(0).integers(0, 120, 250).tolist()
    whole = fake_split("imagenet2012", labels, class_names)
    opened = []

    def open_records(*args):
        opened.append(args)
        return whole

    monkeypatch.setattr(tfds, "open_records", open_records)
    split = open_split(make_config("imagenet100", "d").data, "test")
    assert opened == [("imagenet2012", "d", "validation")]
    assert split.class_names == tuple(wanted)
    kept = [i for i in range(250) if class_names[labels[i]] in wanted]
    assert len(split) == len(kept) < 250
    for place, index in enumerate(kept):
        assert split.load(place)[0, 0, 0] == index
        assert wanted[split.labels[place]] == class_names[labels[index]]
    _, decoded_labels = split.decode(range(len(split)), lambda *_: None)
    np.testing.assert_array_equal(decoded_labels, split.labels)

    monkeypatch.setattr(tfds, "open_records", lambda *_: fake_split("x", [0], ["n0"]))
    with pytest.raises(ValueError, match="has no class 'n"):
        open_split(make_config("imagenet100").data, "train")


def test_stl10_pretrains_on_unlabelled_and_train(monkeypatch):
    parts = {
        "unlabelled": fake_split("stl10", [-1] * 20, "abc"),
        "train": fake_split("stl10", [2, 0, 1, 1, 0, 2], "abc", first=100, is_train=True),
        "test": fake_split("stl10", [1, 1], "abc", first=200),
    }
    monkeypatch.setattr(tfds, "open_records", lambda name, directory, *splits: parts[splits[0]])
    config = make_config("stl10", cache="host")
    split = open_split(config.data, "pretrain")
    assert (len(split), split.num_classes, split.image_shape) == (26, 3, (2, 2))
    assert not split.is_train
    np.testing.assert_array_equal(split.labels, [-1] * 20 + [2, 0, 1, 1, 0, 2])
    values = [int(split.load(index)[0, 0, 0]) for index in range(26)]
    assert values == [*range(20), *range(100, 106)]
    config.train.batch_size = 26
    with TrainBatches(config, split) as batches:
        batch = next(batches)
    pixels = np.asarray(batch["image"])[..., 0, 0, 0].ravel()
    assert sorted(pixels) == [*range(20), *range(100, 106)]
    labelled = np.asarray(batch["label"]).ravel() >= 0
    np.testing.assert_array_equal(labelled, pixels >= 100)
    assert len(open_split(config.data, "train")) == 6
    assert len(open_split(config.data, "test")) == 2


def prepare_digits(directory: pathlib.Path) -> subprocess.Popen:
    code = f"""
import ml_collections
from iecl_jax.data import sealed
from iecl_jax.data.sources import digits
digits.prepare(ml_collections.ConfigDict({{"dir": {str(directory)!r}}}))
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    process = prepare_digits(directory)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()
    assert not stderr  # TensorFlow would tell of oneDNN.
    return directory


def test_digits_prepared_by_another_process_meanwhile(tmp_path, monkeypatch):
    target = tmp_path / "digits" / "1.0.0"

    def download_and_prepare(builder):
        for folder, text in ((pathlib.Path(builder.data_dir), "ours"), (target, "theirs")):
            folder.mkdir(parents=True)
            (folder / "file").write_text(text)

    monkeypatch.setattr(digits.make_builder_class(), "download_and_prepare", download_and_prepare)
    digits.prepare(make_config("digits", tmp_path).data)
    assert (target / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


@pytest.mark.slow
def test_digits_are_prepared_by_two_processes_at_once(tmp_path):
    racers = [prepare_digits(tmp_path) for _ in range(2)]
    for racer in racers:
        _, stderr = racer.communicate(timeout=120)
        assert racer.returncode == 0, stderr.decode()
    assert len(open_split(make_config("digits", tmp_path).data, "test")) == 360
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_digits_are_scikit_learns(digits_dir):
    from sklearn.datasets import load_digits

    assert [path.name for path in digits_dir.iterdir()] == ["digits"]  # nothing left lying about
    data = make_config("digits", digits_dir).data
    train, test = (open_split(data, name) for name in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert train.class_names == tuple("0123456789")
    assert train.image_shape == (8, 8)
    original = load_digits()
    expected = [
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), label)
        for image, label in zip(original.images, original.target.tolist())
    ]
    found = []
    for split in (train, test):
        pixels, labels = split.pixels
        assert pixels.dtype == np.uint8
        assert (pixels == pixels[..., :1]).all()
        np.testing.assert_array_equal(labels, split.labels)
        found += [(image[..., 0].tobytes(), label) for image, label in zip(pixels, labels.tolist())]
    assert sorted(found) == sorted(expected)
    counts = np.bincount(test.labels)
    assert counts.min() >= 34
    assert counts.max() <= 37


def test_digits_are_read_without_tensorflow(digits_dir):
    code = f"""
import sys
from iecl_jax.configs import imagenet_r50
from iecl_jax.data import TrainBatches, eval_batches, open_split
assert "tensorflow_datasets" not in sys.modules
config = imagenet_r50.get_config("100,smoke")
config.data.update({{"name": "digits", "dir": {str(digits_dir)!r}, "cache": "none"}})
with TrainBatches(config, open_split(config.data, "train")) as batches:
    next(batches)
test = open_split(config.data, "test")
assert sum(batch["mask"].sum() for batch in eval_batches(config.data, test, 100)) == 360
assert len(test.labels) == 360
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_labels_are_kept_beside_the_files(digits_dir, monkeypatch, caplog):
    data = make_config("digits", digits_dir).data
    expected = open_split(data, "test").labels
    kept = digits_dir / "digits" / "1.0.0" / "labels_test.sealed"
    whole = kept.read_bytes()
    damages = [whole[:-1], whole[:10], b"", whole + b"\0"]
    for place in (0, 31, 32, 33, len(whole) - 1):
        damages.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for damaged in damages:
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(open_split(data, "test").labels, expected)
        assert f"{kept} is damaged or of other files" in caplog.text
        assert kept.read_bytes() == whole
        caplog.clear()
    monkeypatch.setattr(tfds, "Record", None)  # now they come from the file
    np.testing.assert_array_equal(open_split(data, "test").labels, expected)


def test_labels_need_no_writable_folder(digits_dir, monkeypatch):
    data = make_config("digits", digits_dir).data
    expected = open_split(data, "test").labels
    folder = digits_dir / "digits" / "1.0.0"

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(sealed, "open_whole", refuse)
    for name in ("labels_test.sealed", sealed.SUMS):
        (folder / name).unlink()
    np.testing.assert_array_equal(open_split(data, "test").labels, expected)
    assert not (folder / sealed.SUMS).exists()


def test_what_is_left_of_a_set_is_not_taken_for_one_that_is_missing(tmp_path):
    """Neither by opening it, which would prepare the digits, nor by preparing it again."""
    data = make_config("digits", tmp_path).data
    target = tmp_path / "digits" / digits.VERSION
    target.mkdir(parents=True)
    for name, words in (
        ("readme", "holds no ArrayRecord"),
        ("x.array_record", "dataset_info.json"),
    ):
        (target / name).touch()
        for touch in (lambda: open_split(data, "train"), lambda: digits.prepare(data)):
            with pytest.raises(ValueError, match=f"{words}.*move {target} away and run"):
                touch()


def test_unknown_tfds_split_is_named(digits_dir):
    with pytest.raises(ValueError, match="no split 'x' or 'validation', only train, test"):
        tfds.open_records("digits", str(digits_dir), "x", "validation")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the packed CIFAR-10 in ../shared/data")
def test_cifar10(tmp_path):
    script = SHARED / "prepare_cifar10.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    config = make_config("cifar10", tmp_path, cache="none")
    split = open_split(config.data, "train")
    assert (len(split), split.image_shape) == (50000, (32, 32))
    assert split.class_names[:3] == ("airplane", "automobile", "bird")
    np.testing.assert_array_equal(np.bincount(split.labels), [5000] * 10)
    assert (split.encoded(17) or b"").startswith(b"\x89PNG")
    with TrainBatches(config, split, start=5) as batches:
        batch = next(batches)
    assert batch["image"].shape == (2, 8, 32, 32, 3)
    test = open_split(config.data, "test")
    labels = [b["label"][b["mask"]] for b in eval_batches(config.data, test, 512)]
    np.testing.assert_array_equal(np.concatenate(labels), test.labels)


def test_host_cropped_records_are_stored_files():
    """Encoded bytes of any size go through the host's crops: the path of ImageNet."""

    def read(indices):
        found = []
        for index in indices:
            file = io.BytesIO()
            Image.new("RGB", (60 + index, 50), (index, 9, 9)).save(file, "JPEG", quality=95)
            found.append(Record(file.getvalue(), index % 3))
        return found

    split = Split("fake", tuple("abc"), None, 8, read, lambda: np.arange(8) % 3)
    config = make_config("imagenet2012", cache="none", image_size=24)
    config.train.batch_size = 4
    with TrainBatches(config, split) as batches:
        batch = next(batches)
    assert [view.shape for view in batch["image"]] == [(2, 2, 24, 24, 3)] * 2
    red = [np.rint(np.asarray(view)[..., 0].mean(axis=(2, 3))) for view in batch["image"]]
    np.testing.assert_allclose(red[0], red[1], atol=2)
    assert (split.encoded(3) or b"").startswith(b"\xff\xd8")
    (evaluated,) = eval_batches(config.data, split, 8)
    assert evaluated["image"].shape == (8, 24, 24, 3)
