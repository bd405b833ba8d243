"""The fault campaign: kills, full disks, damaged files and odd folders, by the user's command.

    python -m pytest -m faults -n 2 tests/test_faults.py

Minutes. Whatever happens to a run, it ends with a sentence, loses no checkpoint, and the same
command then ends with the result of a run to which nothing happened.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from iecl_jax.config import own_files
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.run.preemption import EXIT_CODE

pytestmark = pytest.mark.faults

ROOT = pathlib.Path(__file__).parent.parent
PATIENCE = 300  # seconds for what takes ten
STEPS, EVERY = 40, 5
FLAGS = [
    "--config=tests/tiny_run.py",
    f"--config.train.num_steps={STEPS}",
    f"--config.checkpoint.every_steps={EVERY}",
    "--config.train.log_every_steps=5",
    "--config.eval.every_epochs=0",
]
# Where a kill hurts, with the share of the kills that it gets.
PLACES = {
    "checkpoints": 10,
    "results.json": 3,
    "metrics.jsonl": 3,
    "config.json": 1,
    "provenance.json": 1,
    "report.html": 1,
    "gallery": 1,
}


def begin(workdir: pathlib.Path, *flags: str, words=("-m", "iecl_jax.main")) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words, *FLAGS, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen, code: int | None = 0) -> str:
    """Waits for the end and returns the console. Nothing that ends by itself shows a traceback."""
    console, _ = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in console, console
    assert code is None or process.returncode == code, (process.returncode, console)
    return console


def sentence(console: str) -> str:
    """The one sentence with which a command failed."""
    (line,) = (line for line in console.splitlines() if line.startswith("error: "))
    return line


def finish(workdir: pathlib.Path, *flags: str) -> dict:
    end(begin(workdir, *flags))
    return json.loads((workdir / "results.json").read_text())


def newest(workdir: pathlib.Path) -> int:
    """The step of the newest whole checkpoint, 0 if there is none."""
    try:
        return load_for_evaluation(workdir)[1]["step"]
    except (ValueError, OSError):
        return 0


@pytest.fixture(scope="module", autouse=True)
def trust():
    """The checkpoints read here name the method of tests/tiny_run.py."""
    own_files.trust_checkpoints()
    yield
    own_files.trust_checkpoints(False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """The results of a run to which nothing happens."""
    return finish(tmp_path_factory.mktemp("alone") / "run")


def check(results: dict, alone: dict) -> None:
    assert results["params_digest"] == alone["params_digest"]
    assert results["steps"] == alone["steps"]
    assert set(results["metrics"]) == set(alone["metrics"])
    assert results["metrics"]["loss"] == alone["metrics"]["loss"]


def touches(folder: pathlib.Path, word: str) -> int:
    """How often a whole run touches a file of this name."""
    words = ("tests/killed_at.py", word, "0")
    console = end(begin(folder / f"count-{word}", words=words))
    return int(console.rsplit(f"touched {word}: ", 1)[1].split()[0])


@pytest.mark.parametrize("word, kills", PLACES.items())
def test_sigkill_while_a_file_is_written(tmp_path, alone, word, kills):
    rng = random.Random(word)
    workdir, before = tmp_path / "run", 0
    most = touches(tmp_path, word)
    assert most, f"no run touches {word}"
    for _ in range(kills):
        process = begin(workdir, words=("tests/killed_at.py", word, str(rng.randint(1, most))))
        console, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode in (-signal.SIGKILL, 0), console
        if process.returncode == 0:  # What was left of the run touched fewer files.
            check(json.loads((workdir / "results.json").read_text()), alone)
            shutil.rmtree(workdir)
            before = 0
            continue
        assert newest(workdir) >= before
        before = newest(workdir)
    check(finish(workdir), alone)
    assert (workdir / "report.html").stat().st_size
    left = [path.name for path in workdir.rglob("*") if "tmp" in path.name or path.name[0] == "."]
    assert not [name for name in left if name != ".lock"], left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seed", range(3))
def test_a_signal_at_any_moment_saves_or_leaves_nothing(tmp_path, alone, number, seed):
    process = begin(tmp_path / "run")
    time.sleep(random.Random(seed).uniform(0.5, 9))
    process.send_signal(number)
    console = end(process, code=None)
    # The signal's own number: before the command has imported itself, or after its last line.
    assert process.returncode in (0, 1, EXIT_CODE, -number), console
    check(finish(tmp_path / "run"), alone)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, kilobytes: int) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_a_disk_that_fills(tmp_path, alone, share):
    whole = tmp_path / "whole"
    finish(whole)
    pages = sum(-(-path.stat().st_size // 4096) + 1 for path in whole.rglob("*"))
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, int(share * pages * 4)):
        process = begin(disk / "run")
        console = end(process, code=None)
        if process.returncode:
            assert "space" in sentence(console), console
            assert len(console.splitlines()) < 60, console
        saved = newest(disk / "run")
        remount = ["mount", "-o", "remount,size=64m", str(disk)]
        subprocess.run(remount, check=True)
        console = end(begin(disk / "run"))
        assert not saved or saved == STEPS or f"step {saved} of {STEPS}" in console, console
        check(json.loads((disk / "run" / "results.json").read_text()), alone)


def test_a_damaged_byte_in_every_file_of_a_checkpoint(tmp_path, alone):
    workdir = tmp_path / "run"
    finish(workdir)
    checkpoint = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    rng = random.Random(0)
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size]
    expected = load_for_evaluation(workdir)
    silent = []
    for path in files:
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]
        )
        # Refused with a sentence, or the damage does not matter, or an older checkpoint is read.
        with contextlib.suppress(ValueError):
            found = load_for_evaluation(workdir)
            if found[1]["step"] == expected[1]["step"]:
                silent.append(path.name)
                assert str(found[1]) == str(expected[1])
        path.write_bytes(whole)
    assert len(files) >= 10
    # The run itself goes back to an older checkpoint and ends at the same state.
    (workdir / "results.json").unlink()
    data = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    check(finish(workdir), alone)
    print(f"{len(files)} files damaged; without effect: {silent}")


def test_two_runs_in_one_workdir(tmp_path, alone):
    workdir = tmp_path / "run"
    first = begin(workdir)
    while not (workdir / "config.json").exists() and first.poll() is None:
        time.sleep(0.01)
    second = begin(workdir)
    console = end(second, code=None)
    if second.returncode:
        assert str(first.pid) in sentence(console)
    end(first)
    check(finish(workdir), alone)


def photographs(folder: pathlib.Path, count: int = 24) -> pathlib.Path:
    """Two classes of small photographs."""
    rng = random.Random(0)
    for index in range(count):
        path = folder / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (12, 12), tuple(rng.randrange(256) for _ in range(3)))
        image.save(path)
    return folder


def folder_flags(folder: pathlib.Path) -> list[str]:
    return ["--config.data.name=image_folder", f"--config.data.dir={folder}"]


def test_odd_things_in_a_folder_change_nothing(tmp_path):
    photos = photographs(tmp_path / "photos")
    expected = finish(tmp_path / "clean", *folder_flags(photos))
    os.mkfifo(photos / "class0" / "pipe.jpg")
    (photos / "class1" / "back").symlink_to(photos)
    for hidden in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (photos / hidden).mkdir()
        shutil.copy(photos / "class0" / "0.png", photos / hidden / "0.png")
        (photos / "class1" / hidden).mkdir()
        shutil.copy(photos / "class0" / "0.png", photos / "class1" / hidden / "0.png")
    (photos / "class0" / "._0.png").write_bytes(b"not an image")
    found = finish(tmp_path / "odd", *folder_flags(photos))
    (photos / "class0" / "self").symlink_to("self")
    assert "leads nowhere" in sentence(end(begin(tmp_path / "no", *folder_flags(photos)), code=1))
    assert found["params_digest"] == expected["params_digest"]


def test_a_class_that_cannot_be_read_is_named(tmp_path):
    photos = photographs(tmp_path / "photos")
    shut = photos / "class1"
    shut.chmod(0)
    try:
        if os.access(shut, os.R_OK):
            pytest.skip("this user may read everything")
        console = end(begin(tmp_path / "run", *folder_flags(photos)), code=1)
        assert str(shut) in sentence(console)
        assert not (tmp_path / "run").exists()
    finally:
        shut.chmod(0o755)


@pytest.mark.parametrize("change", ["fewer", "more", "another size"])
def test_images_that_changed_between_a_kill_and_the_resume(tmp_path, change):
    photos, workdir = photographs(tmp_path / "photos"), tmp_path / "run"
    flags = folder_flags(photos)
    expected = finish(tmp_path / "alone", *flags)
    stopped = begin(workdir, *flags, words=("tests/killed_at.py", "checkpoints/20", "8"))
    console, _ = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == -signal.SIGKILL, console
    file = photos / "class0" / "0.png"
    whole = file.read_bytes()
    if change == "fewer":
        file.unlink()
    elif change == "more":
        (file.parent / "new.png").write_bytes(whole)
    else:
        Image.new("RGB", (20, 20)).save(file)
    kept = (workdir / "config.json").read_bytes(), newest(workdir)
    assert "images" in sentence(end(begin(workdir, *flags), code=1))
    assert kept == ((workdir / "config.json").read_bytes(), newest(workdir))
    (file.parent / "new.png").unlink(missing_ok=True)
    file.write_bytes(whole)
    assert finish(workdir, *flags)["params_digest"] == expected["params_digest"]
