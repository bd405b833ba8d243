"""The pictures of README and docs: made by one command, small, and shown somewhere."""

import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from iecl_jax.tools.figures import docs_images

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "images"
BY_A_TABLE = {"fig8_small"}


def png(width=30, height=20):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_the_command_makes_every_picture_of_the_docs():
    assert {path.stem for path in FOLDER.iterdir()} == {*docs_images.PICTURES, *BY_A_TABLE}
    assert {name for name, _ in docs_images.PICTURES.values()} == set(docs_images.RUNS)


def test_pictures_are_small_and_shown():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text())
    }
    assert {path.resolve() for path in FOLDER.iterdir()} == shown
    for path in FOLDER.iterdir():
        assert path.stat().st_size < 300_000, path
        with Image.open(path) as image:
            image.verify()


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """The run of the quick start has a gallery; the others are not finished."""
    gallery = tmp_path / "runs" / "quickstart" / "gallery"
    gallery.mkdir(parents=True)
    for step in (9, 40):
        (gallery / f"{step:08d}.png").write_bytes(png(height=step))
    called = []

    def complete(runner, name, run):
        called.append((name, run.config, run.flags))
        return name == "quickstart"

    monkeypatch.setattr(docs_images.Runner, "complete", complete)
    drawn = {
        "quickstart_gallery": docs_images.PICTURES["quickstart_gallery"],
        "feature_map": docs_images.PICTURES["feature_map"],
        "cifar10_gallery": docs_images.PICTURES["cifar10_gallery"],
    }
    monkeypatch.setattr(docs_images, "PICTURES", drawn)
    return tmp_path, called


def test_what_can_be_drawn_is_drawn_and_the_rest_is_told(finished, capsys):
    folder, called = finished
    flags = [f"--runs={folder / 'runs'}", f"--out={folder / 'out'}"]
    docs_images.main([*flags, "--only=quickstart"])
    with Image.open(folder / "out" / "quickstart_gallery.png") as image:
        assert image.size == (30, 40)
    assert [path.name for path in (folder / "out").iterdir()] == ["quickstart_gallery.png"]
    assert "feature_map.png: left as it is" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1 runs failed"):
        docs_images.main([*flags, "--only=quickstart,cifar10", "--config.data.dir=somewhere"])
    assert called[0] == called[1] == ("quickstart", "configs/quickstart.py", ())
    assert called[2][2][-1] == "--config.data.dir=somewhere"
    with pytest.raises(SystemExit):
        docs_images.main(["--only=nothing"])
    assert "must be some of quickstart, cifar10" in capsys.readouterr().err


def test_without_a_browser_no_screenshot_is_taken(monkeypatch):
    monkeypatch.setattr(docs_images.shutil, "which", lambda name: None)
    with pytest.raises(docs_images.Skipped, match="no browser is installed"):
        docs_images.screenshot("about:blank", 10, 10)
