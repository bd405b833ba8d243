"""Each figure is a command: it writes a picture with what it promises, or says why not."""

import functools
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import matplotlib.colors
import numpy as np
import pytest
from event_files import write_curves, write_json
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from PIL import Image

from iecl_jax import data, methods
from iecl_jax.configs import imagenet_r50
from iecl_jax.data import augment
from iecl_jax.evals.pictures import gallery, style
from iecl_jax.models.saib import SAIB
from iecl_jax.run import events
from iecl_jax.run.checkpoint import Checkpointer, load_for_evaluation
from iecl_jax.tools.figures import augmentations, entropy_gain, loss_curves

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own
STEPS_SAVED = (2, 4)


def tiny_config(saib=True):
    config = imagenet_r50.get_config("100,smoke")
    config.data.image_size = 16
    config.encoder.width = 4
    config.saib.enabled = saib
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    config = tiny_config()
    write_json(path, json.loads(config.to_json()))
    write_curves(path)
    save(path, config)
    return path


def save(path, config):
    """Checkpoints of SAIB, if there is one: initial parameters, multiplied by their step."""
    params, state = {"online": {"kernel": jnp.zeros(1)}}, {}
    if config.saib.enabled:
        block = SAIB(group_size=config.saib.group_size, patch_size=config.saib.patch_size)
        block = jax.jit(functools.partial(block.init, train=True))(
            jax.random.key(0), jnp.zeros((4, 16, 16, 3))
        )
        params["saib"], state["saib"] = block["params"], block["batch_stats"]
    checkpointer = Checkpointer(path, keep=len(STEPS_SAVED), keep_best=0, config=config)
    for step in STEPS_SAVED:
        scaled = jax.tree.map(functools.partial(jnp.multiply, float(step)), params)
        tree = {"step": jnp.int32(step), "params": scaled, "method_state": state}
        checkpointer.save(step, tree, position=0, wait=True)
    checkpointer.close()


def copy(run, path, **changes):
    """The run's curves under another config."""
    config = json.loads((run / "config.json").read_text())
    config["saib"] |= changes
    write_json(path, config)
    shutil.copy(next(run.glob("events.*")), path)
    return path


def pixels(path, colour):
    """How many pixels of a PNG have the colour."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(np.float64)
    wanted = 255 * np.array(matplotlib.colors.to_rgb(colour))
    return (np.abs(picture - wanted).max(-1) < 2).sum()


def refused(command, arguments, capsys):
    """What a command says as it refuses."""
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    printed = capsys.readouterr().err if stopped.value.code == 2 else stopped.value.code
    assert printed.startswith("error: ")
    return printed.removeprefix("error: ")


def test_loss_curves_of_two_runs(run, tmp_path, capsys):
    other = copy(run, tmp_path / "b", enabled=False)
    loss_curves.main([f"--runs={run},{other}"])
    path = pathlib.Path(capsys.readouterr().out.strip())
    assert re.fullmatch(r"loss_curves-runs=b-[0-9a-f]{8}\.png", path.name)
    assert path.parent == run / "figures"
    assert pixels(path, style.RED) > 200  # over the first, whose curve is the same
    legend = loss_curves.draw({"one": events.read(run)}).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["one: 1.800 at the end"]


def test_loss_curves_show_the_methods_own_loss_and_the_total(run):
    left, right = loss_curves.draw({"one": events.read(run)}).axes
    assert_allclose(left.get_lines()[0].get_ydata(), [1.6, 1.7, 1.8], rtol=1e-6)
    assert_allclose(right.get_lines()[0].get_ydata(), [0.6, 0.7, 0.8], rtol=1e-6)
    assert left.get_ylabel() == "loss"


def test_a_long_label_is_broken_into_lines():
    curve = events.Curve(np.arange(2), np.ones(2))
    figure = loss_curves.draw(
        {"x" * 150: events.Events(dict.fromkeys(("train/loss", "train/method_loss"), curve), {})}
    )
    (text,) = figure.axes[0].get_legend().get_texts()
    assert max(map(len, text.get_text().splitlines())) <= style.LABEL_WIDTH


def test_labels_say_what_the_configs_say(run, tmp_path):
    off = copy(run, tmp_path / "off", enabled=False)
    expansive = copy(run, tmp_path / "new", variant="expansive")
    (tmp_path / "empty").mkdir()
    labels = loss_curves.default_labels([run, off, expansive, tmp_path / "empty", tmp_path / "off"])
    assert labels == [
        "with SAIB",
        "without SAIB (off)",
        "with SAIB, expansive",
        "empty",
        "without SAIB (off)",
    ]


def test_loss_curves_refuse_in_a_sentence(run, tmp_path, capsys):
    assert "no event files" in refused(loss_curves, [f"--runs={tmp_path}"], capsys)
    names = "--labels=a,b"
    assert "must be 1 different names" in refused(loss_curves, [f"--runs={run}", names], capsys)
    out = "--out=curves.jpeg"
    assert "must end in one of .png, .svg" in refused(loss_curves, [f"--runs={run}", out], capsys)
    write_curves(tmp_path, ["train/loss"])
    assert "has no train/method_loss" in refused(loss_curves, [f"--runs={tmp_path}"], capsys)


@pytest.mark.parametrize("suffix, start", [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_is_written_as_its_suffix_says(run, tmp_path, suffix, start):
    loss_curves.main([f"--runs={run}", f"--out={tmp_path / 'new' / f'f.{suffix}'}"])
    assert (tmp_path / "new" / f"f.{suffix}").read_bytes().startswith(start)
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_figure_that_cannot_be_written_leaves_the_one_before(run, tmp_path, monkeypatch):
    def fail(figure, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "figure.png"
    path.write_bytes(b"before")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(SystemExit, match="disk full"):
        loss_curves.main([f"--runs={run}", f"--out={path}"])
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


def test_entropy_gain_has_both_sides(run, capsys):
    entropy_gain.main([f"--workdir={run}"])
    path = run / "figures" / "entropy_gain.png"
    assert capsys.readouterr().out == f"{path}\n"
    for colour in (style.BLUE, style.RED, style.GREEN):
        assert pixels(path, colour) > 200
    scalars = events.read(run).scalars
    gain, log_det, info_nce = entropy_gain.draw(events.read(run)).axes
    for axes, tag in (
        (gain, "diagnostics/entropy_gain"),
        (info_nce, "train/info_nce"),
        (log_det, "diagnostics/log_det"),
    ):
        np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), scalars[tag].values)
    band = log_det.collections[0].get_paths()[0].vertices[:, 1]
    middle, error = (
        scalars[f"diagnostics/{name}"].values for name in ("log_det", "log_det_stderr")
    )
    assert_allclose([band.min(), band.max()], [(middle - error)[0], (middle + error)[-1]])
    assert "nats per dimension" in gain.get_ylabel()


def test_entropy_gain_without_diagnostics_is_one_sentence(tmp_path, capsys):
    write_curves(tmp_path, ["train/info_nce"])
    sentence = refused(entropy_gain, [f"--workdir={tmp_path}"], capsys)
    assert "no diagnostics/entropy_gain: train with --config.saib.enabled=True" in sentence


def test_what_saib_added_is_what_is_no_multiple_of_its_input():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(3, 8, 8, 3))
    rescaled, added = gallery.separate(query, 2.5 * query - 1)
    assert_allclose(rescaled, query, atol=1e-5)
    assert_allclose(added, 0, atol=1e-6)
    new = rng.normal(size=query.shape)
    for image, extra in zip(query, new):  # made orthogonal to the image and to constants
        basis = np.stack([image.ravel(), np.ones(image.size)], 1)
        extra -= (basis @ np.linalg.lstsq(basis, extra.ravel())[0]).reshape(extra.shape)
    _, added = gallery.separate(query, 3 * query + new + 7)
    assert_allclose(added, new, atol=1e-4)


def test_operators_have_the_strength_of_the_run_or_simclrs():
    view = tiny_config().augment.query
    view.jitter.prob, view.noise.std, view.crop.scale = 0.0, 0.2, (1.0, 1.0)
    view.operators = ("crop", "jitter", "noise", "blur")
    named = augmentations.operators(view, 16)
    off = [name.split("\n")[0] for name in named if "not in this run" in name]
    assert off == ["crop", "colour", "noise", "rotation"]
    assert named["crop\n(not in this run)"].keywords["settings"].scale == (0.08, 1.0)
    assert named["colour\n(not in this run)"].keywords["settings"].hue == 0.2
    image = jnp.full((16, 16, 3), 0.5)
    noisy = named["noise\n(not in this run)"](jax.random.key(0), image)
    assert_allclose(float(noisy.std()), 0.2, rtol=0.1)
    view.jitter.update({"prob": 0.1, "hue": 0.05})
    view.crop.scale = (0.5, 0.6)
    named = augmentations.operators(view, 16)
    assert named["colour"].keywords["settings"].hue == 0.05
    assert named["crop"].keywords["settings"].scale == (0.5, 0.6)


@pytest.fixture(scope="module")
def rows(run):
    """What `augmentations.draw` gives to the grid."""
    found = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(gallery, "grid", lambda rows: found.update(rows) or np.zeros((1, 1, 3)))
    augmentations.draw(run, STEPS_SAVED)
    patch.undo()
    return found


def test_the_gallery_has_the_source_each_operator_and_saib_at_each_step(rows):
    names = [name.split("\n")[0] for name in rows]
    operators = ["crop", "colour", "noise", "rotation", "blur"]
    saib = [f"{word}, step {step}" for word in ("SAIB", "added") for step in STEPS_SAVED]
    assert names == ["source", *operators, *saib]
    source = rows["source"]
    assert source.shape == (8, 16, 16, 3)
    assert 0 <= source.min() < source.max() <= 1
    for name, images in rows.items():
        assert images.shape == source.shape
        if name != "source":
            assert np.abs(images - source).max() > 0.02, name
    assert np.abs(rows["SAIB, step 2"] - rows["SAIB, step 4"]).max() > 0.02


def test_saib_sees_whole_groups_of_normalised_images(run, rows):
    config = tiny_config()
    mean, std = data.statistics(config.data)
    normalized = (rows["source"] - np.float32(mean)) / np.float32(std)
    _, weights = load_for_evaluation(run, 4)
    method = methods.make(config, total_steps=1)
    transformed = jax.jit(method.transform)(weights["params"], weights["method_state"], normalized)
    rescaled, _ = gallery.separate(normalized, np.asarray(transformed))
    wanted = augment.denormalize(jnp.asarray(rescaled), mean, std)
    assert_allclose(rows["SAIB, step 4"], wanted, atol=1e-3)


def test_augmentations_write_a_picture_of_the_wanted_step(run, tmp_path):
    path = tmp_path / "new" / "picture.png"
    augmentations.main([f"--workdir={run}", "--steps=4", f"--out={path}"])
    picture = np.asarray(Image.open(path))
    assert picture.shape[0] == 115 * 8
    assert picture.std() > 30


def test_without_saib_only_the_operators_are_drawn(tmp_path):
    save(tmp_path, tiny_config(saib=False))
    augmentations.main([f"--workdir={tmp_path}"])
    assert Image.open(tmp_path / "figures" / "augmentations.png").size[1] == 115 * 6


def test_augmentations_refuse_in_a_sentence(run, tmp_path, capsys):
    sentence = refused(augmentations, [f"--workdir={run}", "--steps=2,3"], capsys)
    assert "step 3" in sentence
    assert "has 2, 4." in sentence
    assert "must be numbers" in refused(augmentations, [f"--workdir={run}", "--steps=x"], capsys)
    assert "no checkpoints" in refused(augmentations, [f"--workdir={tmp_path}"], capsys)
    out = "--out=a.pdf"
    assert "must end in .png" in refused(augmentations, [f"--workdir={run}", out], capsys)
