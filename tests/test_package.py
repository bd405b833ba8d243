"""What is installed: the wheel's files, the command `iecl`, and the configs from any folder."""

import ast
import importlib
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import numpy as np
import pytest
import yaml
from PIL import Image

import iecl_jax
from iecl_jax import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))
TINY = ("--config.train.num_steps=2", "--config.diagnostics.every_steps=0")
TINY += ("--config.eval.linear.num_epochs=0",)


@pytest.mark.quick
def test_shipped_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in CONFIGS:
        assert config_lib.find(f"configs/{name}").samefile(ROOT / "configs" / name)
    assert config_lib.load("configs/quickstart.py").data.name == "digits"


@pytest.mark.quick
def test_a_file_of_ones_own_goes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "quickstart.py"
    own.parent.mkdir()
    own.write_text(
        "from iecl_jax.configs import quickstart\n"
        "def get_config():\n"
        "    config = quickstart.get_config()\n"
        "    config.seed = 7\n"
        "    return config\n"
    )
    # What a shipped config imports is the package's, whatever lies in this folder.
    (own.parent / "common.py").write_text("raise RuntimeError")
    assert config_lib.load("configs/quickstart.py").seed == 7
    assert config_lib.load("configs/imagenet_r50.py").seed == 42


@pytest.mark.quick
@pytest.mark.parametrize(
    "name, words",
    [
        ("configs/quickstrat.py", "did you mean 'configs/quickstart.py'"),
        ("nowhere.py", "there is no config file 'nowhere.py': name one such as configs/"),
        ("configs", "there is no config file 'configs'"),
        ("main.py", "there is no config file 'main.py'"),
    ],
)
def test_a_config_that_does_not_exist_is_one_sentence(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        config_lib.find(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.quick
def test_configs_are_imported_by_the_package():
    """`from configs import ...` works in the repository alone."""
    for path in (path for folder in ("configs", "tests") for path in (ROOT / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] != "configs", path
    for name in CONFIGS:
        importlib.import_module(f"iecl_jax.configs.{name.removesuffix('.py')}")


@pytest.mark.quick
@pytest.mark.parametrize("module", ["iecl_jax.main", "iecl_jax.tools.prepare", "iecl_jax.evals"])
def test_every_command_keeps_tensorflow_from_telling_of_onednn(module):
    code = f"import os, {module}; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    assert call(sys.executable, "-c", code, cwd=ROOT) == "0\n"


@pytest.mark.quick
@pytest.mark.parametrize(
    "package, command",
    [
        ("iecl_jax.tools", "python -m iecl_jax.tools.figures.report"),
        ("iecl_jax.tools", "python -m iecl_jax.tools.tables"),
        ("iecl_jax.tools.figures", "python -m iecl_jax.tools.figures.feature_map"),
        ("iecl_jax.evals", "configs/evaluate.py:linear_probe --config.checkpoint=RUN"),
        ("iecl_jax.train", "python -m iecl_jax.main --config=configs/quickstart.py"),
        ("iecl_jax.configs", "python -m iecl_jax.main --config=configs/knn.py"),
    ],
)
def test_a_package_that_is_no_command_says_which_commands_there_are(
    package, command, capsys, monkeypatch
):
    for words, code in ((["-"], 2), (["-", "--help"], 0)):
        monkeypatch.setattr(sys, "argv", words)
        file = ROOT.joinpath(*package.split("."), "__main__.py")
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(file), run_name="__main__")
        printed = capsys.readouterr()
        text = printed.err if code else printed.out
        assert ended.value.code == code
        assert f"{command}\n      " in text
        assert "__main__" not in text


@pytest.mark.quick
def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == iecl_jax.__version__
    released = f"\n## {iecl_jax.__version__} - {citation.get('date-released', 'unreleased')}\n"
    assert released in (ROOT / "CHANGELOG.md").read_text()


def call(*command: object, cwd: pathlib.Path) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel, made in a copy, since a build leaves files that the next one would find."""
    tree, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("iecl_jax", "configs"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    call(*pip, "--wheel-dir", made, tree, cwd=made)
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> pathlib.Path:
    """The Python of an environment with the wheel and the packages that it needs."""
    home = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    path = home / "bin" / "python"
    here = sysconfig.get_path("purelib")
    site = call(path, "-c", "import site; print(site.getsitepackages()[0])", cwd=home).strip()
    pathlib.Path(site, "others.pth").write_text(here)
    pip = (sys.executable, "-m", "pip", "--python", path, "install", "--quiet", "--no-deps")
    call(*pip, "--ignore-installed", wheel, cwd=home)
    return path


@pytest.mark.slow
def test_the_wheel_has_everything_and_nothing_beside_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    home = f"iecl_jax-{iecl_jax.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"iecl_jax", home}
    wanted = {f"iecl_jax/configs/{name}" for name in CONFIGS}
    wanted |= {"iecl_jax/py.typed", f"{home}/licenses/LICENSE"}
    wanted |= {f"iecl_jax/data/sources/imagenet100.{end}" for end in ("txt", "LICENSE")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "iecl_jax").rglob("*.py")}
    assert wanted <= set(names)


@pytest.mark.slow
def test_the_installed_commands_train_and_evaluate_in_any_folder(python, tmp_path):
    iecl = python.with_name("iecl")
    call(iecl, "--config=configs/imagenet_r50.py:100,smoke", "--workdir=a", *TINY, cwd=tmp_path)
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["steps"] == 2
    assert json.loads((tmp_path / "a" / "provenance.json").read_text())[0]["git"] is None
    evaluate = (python, "-m", "iecl_jax.main", "--config=configs/knn.py", "--config.checkpoint=a")
    call(*evaluate, "--workdir=b", cwd=tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "red.png")
    call(iecl, "encode", "photos", "--checkpoint=a", "--out=photos.npz", cwd=tmp_path)
    assert np.load(tmp_path / "photos.npz")["files"].tolist() == ["red.png"]
    job = json.loads((tmp_path / "b" / "results.json").read_text())
    assert job["metrics"]["knn_top1"] == results["metrics"]["knn_top1"]


@pytest.mark.slow
def test_the_installed_command_has_the_flags_of_main_in_its_help(python, tmp_path):
    help = [[python.with_name("iecl"), "--help"], [python, "-m", "iecl_jax.main", "--help"]]
    pages = [
        subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
        for words in help
    ]
    assert "--workdir" in pages[0]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_the_installed_tools_start_their_configs(python, tmp_path):
    tables = (python, "-m", "iecl_jax.tools.tables", "--table=5", "--scale=smoke", "--seeds=1")
    printed = call(*tables, "--print_commands", cwd=tmp_path)
    assert "--config=configs/plug_and_play.py:byol+saib,smoke" in printed
    study = (python, "-m", "iecl_jax.tools.study", "--settings=ie-cl", "--seeds=0", "--workdir=s")
    short = ("--config.data.name=generated", "--config.train.num_steps=1", *TINY[1:])
    call(*study, "--", *short, "--config.schedule.warmup_epochs=0", cwd=tmp_path)
    assert (tmp_path / "s" / "ie-cl" / "seed-0" / "results.json").exists()
