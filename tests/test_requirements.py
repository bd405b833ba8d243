"""The requirement files agree with each other and with pyproject.toml, and pip resolves them."""

import json
import pathlib
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).parent.parent
GPU_FILES = ("requirements-v100.txt", "requirements-cuda13.txt")
EXTRAS = dict(zip(GPU_FILES, ("cuda12", "cuda13"))) | {"requirements-dev.txt": "dev"}


def read(name):
    """{name: Requirement} of a file's own lines, and the files that it includes."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    included = [line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    requirements = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    found = {canonicalize_name(requirement.name): requirement for requirement in requirements}
    assert len(found) == len(requirements), f"{name} names a package twice"
    return found, included


@pytest.mark.parametrize("name, extra", EXTRAS.items())
def test_an_extra_is_what_its_file_adds(name, extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    common = project["tool"]["setuptools"]["dynamic"]["dependencies"]["file"]
    own, included = read(name)
    assert included == common == ["requirements.txt"]
    declared = map(Requirement, project["project"]["optional-dependencies"][extra])
    assert set(declared) == set(own.values())


@pytest.mark.parametrize("name", GPU_FILES)
def test_a_gpu_file_adds_to_the_common_one(name):
    own, included = read(name)
    common, _ = read("requirements.txt")
    assert included == ["requirements.txt"]
    assert set(own) & set(common) == {"jax"}
    for pin in own["jax"].specifier:
        assert common["jax"].specifier.contains(pin.version)


def test_each_gpu_file_names_one_cuda():
    v100, cuda13 = (read(name)[0] for name in GPU_FILES)
    assert v100["jax"].extras == {"cuda12"}
    assert cuda13["jax"].extras == {"cuda13"}
    assert set(cuda13) == {"jax"}


def test_the_v100_has_the_last_cudnn_with_code_for_volta():
    """Not 9.11, which has none, nor one older than the 9.8 that JAX 0.10.2 was built against."""
    own, _ = read("requirements-v100.txt")
    (pin,) = own["nvidia-cudnn-cu12"].specifier
    assert pin.operator == "=="
    assert Version("9.8") <= Version(pin.version) < Version("9.11")


def resolve(name, report):
    """{name: version} of what pip would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--report", str(report), "-r", str(ROOT / name)]
    pip = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert pip.returncode == 0, pip.stderr
    installed = json.loads(report.read_text())["install"]
    return {
        canonicalize_name(each["metadata"]["name"]): each["metadata"]["version"]
        for each in installed
    }


@pytest.fixture(scope="module", params=GPU_FILES)
def resolved(request, tmp_path_factory):
    return request.param, resolve(request.param, tmp_path_factory.mktemp("pip") / "report.json")


@pytest.mark.slow
def test_pip_resolves_each_gpu_file(resolved):
    name, versions = resolved
    for requirements in (read("requirements.txt")[0], read(name)[0]):
        for package, requirement in requirements.items():
            assert requirement.specifier.contains(versions[package]), requirement
    cuda, other = ("12", "13") if name == "requirements-v100.txt" else ("13", "12")
    for package in ("jaxlib", f"jax-cuda{cuda}-plugin", f"jax-cuda{cuda}-pjrt"):
        assert versions[package] == versions["jax"], package
    assert {f"nvidia-cudnn-cu{cuda}", f"nvidia-nccl-cu{cuda}"} <= set(versions)
    assert not [package for package in versions if f"cu{other}" in package.replace("cuda", "cu")]
