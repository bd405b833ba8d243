"""The encoder in Python: images of every kind, stages, the projector, and mistakes."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_run
import tiny_network
import tiny_run
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import iecl_jax
from iecl_jax import evals, methods
from iecl_jax.configs import imagenet_r50
from iecl_jax.data import given, images
from iecl_jax.data.split import MAX_NATIVE_SIZE
from iecl_jax.tools import encode

ROOT = pathlib.Path(__file__).parent.parent
SIDE = 8
generator = np.random.default_rng(7)


def pixels(*shape):
    return generator.integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, weights) of a run whose network has stages and a projector with statistics."""
    folder = tmp_path_factory.mktemp("frozen") / "run"
    config = tiny_network.shrink(imagenet_r50.get_config("100,simclr,smoke"))
    config.encoder.num_stages = 2
    config.projector.update({"num_layers": 2, "hidden_dim": 6, "output_dim": 5})
    config.projector.update({"hidden_bn": True, "output_bn": True})
    return folder, saved_run.save(folder, config)


@pytest.fixture(scope="module")
def encoder(run):
    return iecl_jax.load(run[0], batch_size=4)


# --- What it returns ---


def test_the_package_and_evals_have_the_same_load():
    assert iecl_jax.load is evals.load
    assert "load" in dir(iecl_jax)
    with pytest.raises(AttributeError, match=r"has no attribute 'laod'"):
        _ = iecl_jax.laod


def test_the_shapes_are_known_before_anything_is_encoded(encoder):
    assert encoder.shapes == {"stage1": (8, 8, 4), "stage2": (4, 4, 8), "pooled": (8,)}


def test_features_are_those_of_the_method(encoder, run):
    batch = pixels(6, SIDE, SIDE)
    method = methods.make(encoder.config, total_steps=1)
    mean, std = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    normalized = jnp.asarray((batch / np.float32(255) - mean) / std)
    wanted = jax.jit(method.encode)(run[1]["params"], run[1]["method_state"], normalized)
    for stage in ("stage1", "pooled"):
        found = encoder.features(batch, stage)
        assert found.dtype == np.float32
        assert found.shape == (6, *encoder.shapes[stage])
        assert_allclose(found, wanted[stage], rtol=1e-3, atol=1e-5)
    assert_array_equal(encoder(batch), encoder.features(batch))
    means = encoder.features(batch, "stage1", pool=True)
    assert_allclose(means, np.float64(wanted["stage1"]).mean((1, 2)), rtol=1e-3, atol=1e-5)


def test_embed_is_the_projector_with_its_running_statistics(encoder, run):
    """Dense, BN, ReLU, Dense, BN without scale: in float64."""
    batch = pixels(3, SIDE, SIDE)
    params, stats = (
        jax.tree.map(np.float64, run[1][name]["online"]["projector"])
        for name in ("params", "method_state")
    )
    x = np.float64(encoder(batch))
    for layer in (1, 2):
        x = x @ params[f"dense{layer}"]["kernel"]
        running, affine = stats[f"bn{layer}"], params.get(f"bn{layer}", {})
        x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5)
        x = x * affine.get("scale", 1) + affine.get("bias", 0)
        x = np.maximum(x, 0) if layer == 1 else x
    assert_allclose(encoder.embed(batch), x, rtol=1e-4, atol=1e-5)


def test_an_image_has_the_same_features_whatever_is_encoded_with_it(encoder):
    batch = pixels(7, SIDE, SIDE)
    features = encoder(batch)
    for count in (1, 2, 3, 5):
        assert_allclose(encoder(batch[:count]), features[:count], rtol=1e-4, atol=1e-6)
    assert_allclose(encoder([batch[2]]), features[2:3], rtol=1e-4, atol=1e-6)
    for empty in ([], batch[:0], iter(())):
        assert encoder(empty).shape == (0, 8)
    assert encoder.features([], "stage1").shape == (0, 8, 8, 4)
    assert encoder.embed([]).shape == (0, 5)


# --- Images of every kind ---


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Paths of lossless files: small, large and wide, long and grey, and with a palette."""
    folder = tmp_path_factory.mktemp("photos")
    made = [
        Image.fromarray(pixels(40, 60)),
        Image.fromarray(pixels(120, 200)),
        Image.fromarray(pixels(300, 100)[..., 0]),
        Image.fromarray(pixels(97, 97)).quantize(16),
    ]
    for number, image in enumerate(made):
        image.save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_paths_open_images_and_arrays_of_a_photo_are_one_image(encoder, photos):
    features = encoder(photos)
    assert len(np.unique(features, axis=0)) == 4
    opened = [Image.open(path) for path in photos]
    arrays = [images.decode(path) for path in photos]
    mixed = [str(photos[0]), opened[1], arrays[2], photos[3]]
    twice = [opened[2], opened[2]]
    for same in (map(str, photos), opened, arrays, mixed, np.array(list(map(str, photos)))):
        assert_array_equal(encoder(same), features)
    assert_array_equal(encoder(twice), encoder([photos[2], photos[2]]))
    large = np.stack([arrays[1]] * 2)
    assert_allclose(encoder(large), features[[1, 1]], rtol=1e-4, atol=1e-6)


def test_images_are_cut_as_for_the_evaluations(photos):
    how = images.AS_IT_IS
    for path in photos:
        wanted = images.center_crop(path, SIDE, how)
        image = Image.fromarray(images.decode(path))
        if max(image.size) <= MAX_NATIVE_SIZE:
            wanted = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        assert_array_equal(given.cut(path, SIDE, how), wanted)
    prepared = pixels(224, 224)
    assert given.cut(prepared, 224, how) is prepared
    assert given.cut(Image.fromarray(prepared), 224, how).shape == (224, 224, 3)


def test_arrays_of_other_packages_are_taken(encoder):
    batch = pixels(2, SIDE, SIDE)
    assert_array_equal(encoder(jnp.asarray(batch)), encoder(batch))


def test_an_open_image_is_turned_and_laid_over_white_as_its_file_is(tmp_path):
    turned = Image.fromarray(pixels(20, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    clear = Image.fromarray(generator.integers(0, 256, (20, 30, 4), np.uint8), "RGBA")
    clear.save(tmp_path / "clear.png")
    deep = Image.fromarray(generator.integers(0, 4096, (20, 30)).astype(np.uint16))
    deep.save(tmp_path / "deep.png")
    how = images.Reading(alpha="white", bit_depth=12, exif_rotation=True)
    for name in ("turned", "clear", "deep"):
        path = tmp_path / f"{name}.png"
        found = given.cut(path, SIDE, how)
        assert_array_equal(given.cut(Image.open(path), SIDE, how), found)
        assert not np.array_equal(given.cut(path, SIDE, images.AS_IT_IS), found) or name == "clear"


# --- Mistakes ---


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ("a.jpg", r"images are the path 'a\.jpg': pass a list of paths"),
        (pathlib.Path("a.jpg"), r"images are the path 'a\.jpg'"),
        (Image.new("L", (8, 8)), "images are one PIL image: pass a list of images"),
        (np.zeros((8, 8, 3), np.uint8), r"uint8 \[8, 8, 3\]: pass uint8 \[N, H, W, 3\], or a list"),
        (np.zeros((2, 8, 8, 3)), r"images are float64 \[2, 8, 8, 3\]: pass uint8"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"\[2, 3, 8, 8\]: pass uint8 \[N, H, W, 3\]"),
        (np.zeros((2, 0, 8, 3), np.uint8), r"\[2, 0, 8, 3\]: pass uint8"),
        ([np.zeros((8, 8), np.uint8)], r"image 0 is uint8 \[8, 8\]: pass uint8 \[H, W, 3\]"),
        (["a.jpg", None], "image 1 is a NoneType: pass paths, PIL images or arrays uint8"),
        ([b"bytes"], "image 0 is a bytes: pass paths"),
        (3, r"images are a int: pass a list of paths"),
        ({"a.jpg": 1}, r"images are a dict: pass a list of paths"),
    ],
)
def test_images_of_no_kind_are_refused_at_once(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        given.listed(wrong)


def test_a_broken_image_is_named_or_left_out(encoder, photos, tmp_path):
    cut_off, text = tmp_path / "cut.png", tmp_path / "text.jpg"
    cut_off.write_bytes(photos[1].read_bytes()[:2000])
    text.write_text("no image")
    part = Image.open(cut_off)
    every = [photos[0], text, part, photos[1], tmp_path / "missing.png", text, text]
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read as an image: cannot identify"):
        encoder(every)
    with pytest.raises(ValueError, match=r"image 1 cannot be read as an image: image file is trun"):
        encoder([photos[0], part])
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        encoder([photos[0], tmp_path / "missing.png"])
    broken = {}
    assert_allclose(encoder(every, broken=broken), encoder(photos[:2]), rtol=1e-4, atol=1e-6)
    assert list(broken) == [1, 2, 4, 5, 6]
    assert "truncated" in broken[2]
    assert "missing.png" in broken[4]
    part.close()


def test_what_the_network_lacks_is_a_sentence(encoder, run, tmp_path):
    with pytest.raises(ValueError, match=r"stage='stage9' is none of .*: name one of pooled, st"):
        encoder.features([], "stage9")
    with pytest.raises(ValueError, match=r"batch_size=0 must be at least 1"):
        iecl_jax.load(run[0], batch_size=0)
    saved_run.save(tmp_path / "own", tiny_run.get_config())
    own = iecl_jax.load(tmp_path / "own")
    assert own(pixels(1, 5, 9)).shape == (1, tiny_run.FEATURES)
    with pytest.raises(ValueError, match=r"tiny_run.py' has a projector of its own, not that of"):
        own.embed([])
    del own._weights[0]["online"]["projector"]
    with pytest.raises(ValueError, match=r"these weights have no projector: take the features"):
        own.embed([])


# --- What the documents show ---


def test_the_python_of_the_docs_runs(run, tmp_path, monkeypatch):
    """Page by page, in one session; the folder of the run is this one, which is smaller."""
    page = (ROOT / "docs" / "python.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(pixels(100, 120)).save(tmp_path / "photos" / f"{number}.jpg")
    words = [
        str(tmp_path / "photos"),
        f"--checkpoint={run[0]}",
        f"--out={tmp_path / 'features.npz'}",
    ]
    encode.main([*words, "--trust_checkpoint_code"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    names = {}
    exec(compile(code.replace('"runs/quickstart"', repr(str(run[0]))), "python.md", "exec"), names)
    assert names["maps"].shape == (100, 4, 4, 8)
    assert_allclose(names["same"], names["features_of_photos"], rtol=1e-4, atol=1e-6)
    assert names["features"].shape == (3, 8)
    assert names["accuracy"] > 0.1
    assert not names["broken"]
