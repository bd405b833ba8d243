"""`iecl encode`: the features of a folder of images, and the mistakes of its command line."""

import json
import runpy
import sys

import numpy as np
import pytest
import saved_run
import tiny_run
from numpy.testing import assert_array_equal
from PIL import Image

import iecl_jax
from iecl_jax import __main__ as command
from iecl_jax.tools import encode


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encode") / "run"
    saved_run.save(folder, tiny_run.get_config())
    return folder


def images(folder, *names):
    """Writes small images of different colours."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 30), (40 * number, 90, 30)).save(path)
    return folder


def features(run, *words):
    """What the tool writes, and what it says about it."""
    encode.main([*map(str, words), f"--checkpoint={run}"])
    (out,) = [word.removeprefix("--out=") for word in map(str, words) if "--out=" in word]
    with np.load(out) as file:
        found = dict(file)
    return found, json.loads(str(found.pop("about")))


def test_a_folder_with_classes(run, tmp_path, capsys):
    photos = images(tmp_path / "photos", "cat/2.png", "dog/a b/1.png", "dog/é.png", "cat/1.png")
    (photos / "cat" / "notes.txt").write_text("no image")
    found, about = features(run, photos, f"--out={tmp_path / 'f.npz'}")
    assert found["files"].tolist() == ["cat/1.png", "cat/2.png", "dog/a b/1.png", "dog/é.png"]
    assert found["classes"].tolist() == ["cat", "dog"]
    assert_array_equal(found["labels"], np.int32([0, 0, 1, 1]))
    paths = [photos / name for name in found["files"]]
    assert_array_equal(found["features"], iecl_jax.load(run)(paths))
    wanted = {"checkpoint": str(run), "output": "pooled", "folder": str(photos), "broken": {}}
    assert about == wanted
    printed = capsys.readouterr().out
    assert printed == f"{tmp_path / 'f.npz'}: float32 [4, 6] of 4 images, 2 classes\n"


def test_the_images_of_both_splits_are_encoded(run, tmp_path):
    names = ("train/cat/1.png", "train/dog/1.png", "val/dog/2.png")
    found, _ = features(run, images(tmp_path, *names), f"--out={tmp_path / 'f.npz'}")
    assert found["files"].tolist() == list(names)
    assert found["labels"].tolist() == [0, 1, 1]


def test_a_folder_without_classes_and_with_broken_files(run, tmp_path, capsys):
    photos = images(tmp_path / "photos", *(f"{number}.png" for number in range(4)))
    for name in ("1.png", "9.jpg"):
        (photos / name).write_bytes((photos / "0.png").read_bytes()[:50])
    found, about = features(run, photos, f"--out={tmp_path / 'f.npz'}", "--batch_size=2")
    assert found["files"].tolist() == ["0.png", "2.png", "3.png"]
    assert found["labels"].tolist() == [-1, -1, -1]
    assert found["classes"].tolist() == []
    assert found["features"].shape == (3, tiny_run.FEATURES)
    assert list(about["broken"]) == ["1.png", "9.jpg"]
    assert capsys.readouterr().out.endswith("unlabelled; left out because broken: 2\n")
    for path in photos.glob("[023].png"):
        path.unlink()
    with pytest.raises(SystemExit, match=r"error: none of the 2 images in .* can be read"):
        features(run, photos, f"--out={tmp_path / 'g.npz'}")
    assert not (tmp_path / "g.npz").exists()


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--out=f.npy"], "f.npy must end in .npz"),
        (["--out=there.npz"], "there.npz exists: name another file, or remove it."),
        (["nowhere", "--out=f.npz"], "nowhere is not a folder."),
        (["--out=f.npz", "--output=stage7"], "stage7 is no output of this network: name one of"),
        (["--out=f.npz", "--batch_size=0"], "batch_size=0 must be at least 1."),
        (["--out=f.npz", "--chekpoint=x"], "is no flag of this command: did you mean --checkp"),
        (["--out=f.npz", "--config.seed=1"], "this command has no config to change."),
        (["empty", "--out=f.npz"], "holds no image"),
        ([], "the following arguments are required: --out"),
    ],
)
def test_a_mistake_is_one_sentence(run, tmp_path, capsys, words, sentence):
    images(tmp_path, "photos/1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.npz").write_bytes(b"kept")
    folder = words.pop(0) if words and words[0][0] != "-" else "photos"
    placed = [word.replace("--out=", f"--out={tmp_path}/") for word in words]
    with pytest.raises(SystemExit) as ended:
        encode.main([str(tmp_path / folder), *placed, f"--checkpoint={run}"])
    said = f"{ended.value} {capsys.readouterr().err}"
    assert sentence in said
    assert (tmp_path / "there.npz").read_bytes() == b"kept"
    assert not (tmp_path / "f.npz").exists()


@pytest.mark.parametrize(
    "words, module, left",
    [
        (["encode", "photos", "--out=f"], "iecl_jax.tools.encode", ["photos", "--out=f"]),
        (["figures.neighbours"], "iecl_jax.tools.figures.neighbours", []),
        (["--config=a.py"], "iecl_jax.main", ["--config=a.py"]),
        (["arguments"], "iecl_jax.main", ["arguments"]),
        ([], "iecl_jax.main", []),
    ],
)
def test_iecl_calls_a_tool_by_its_name(words, module, left, monkeypatch):
    called = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **_: called.append(name))
    monkeypatch.setattr(sys, "argv", ["iecl", *words])
    command.start()
    assert called == [module]
    assert sys.argv == ["iecl", *left]


@pytest.mark.parametrize(
    "word, meant", [("encod", "encode"), ("neighbours", "figures.neighbours"), ("table", "tables")]
)
def test_iecl_names_the_tool_that_is_meant(word, meant, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["iecl", word])
    with pytest.raises(SystemExit, match=f"^error: {word} is no tool: did you mean iecl {meant}"):
        command.start()
