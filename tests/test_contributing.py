"""The steps of CONTRIBUTING.md, followed in a copy of the package; every page is in the index."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n### ")[1:]}
EXAMPLES = (ROOT / "docs" / "extending.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def follow(section: str, tree: pathlib.Path) -> None:
    """Puts the example of docs/extending.md and the section's code where the section says."""
    files = {block.split("\n")[0]: block for block in blocks(EXAMPLES, "python")}
    for path in re.findall(r"`(iecl_jax/[\w/]+\.py)`", section):
        (tree / path).write_text(files[f"# {pathlib.Path(path).name}"])
    for block in blocks(section, "python"):
        path, _, text = block.removeprefix("# ").partition("\n")
        with (tree / path).open("a") as file:
            file.write(text)


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_the_steps_add_one_of_a_kind(title, tmp_path):
    for name in ("iecl_jax", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "old_runs")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    follow(SECTIONS[title], tmp_path)
    (commands,) = blocks(SECTIONS[title], "bash")
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    for command in commands.splitlines():
        done = subprocess.run(
            [sys.executable, *shlex.split(command)[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "pytest" not in command or " passed" in done.stdout


@pytest.mark.quick
def test_every_kind_has_its_steps():
    titles = {line.removeprefix("## ") for line in EXAMPLES.splitlines() if line.startswith("## ")}
    assert titles - {"All of them", "A config of your own"} == set(SECTIONS)


@pytest.mark.quick
@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", "README.md", "docs/README.md"])
def test_links_lead_to_files(name):
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.quick
def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
