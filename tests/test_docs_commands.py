"""Every command of README and docs names a config, settings and flags that exist."""

import importlib.util
import pathlib
import re
import shlex

import pytest

from iecl_jax import config as config_lib

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAIN = (ROOT / "iecl_jax" / "main.py").read_text()
TOOLS = "".join(path.read_text() for path in (ROOT / "iecl_jax" / "tools").rglob("*.py"))
FLAGS_OF_MAIN = {"config", *re.findall(r'DEFINE_\w+\(\s*"(\w+)"', MAIN), "trust_checkpoint_code"}
FLAGS_OF_TOOLS = {"trust_checkpoint_code", *re.findall(r'"--(\w+)"', TOOLS)}
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*\b|\.py$")  # a word that the reader replaces, or a file


def commands():
    """(page, words) of each `python -m iecl_jax...` or `iecl TOOL` in a block or in backquotes."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL)
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for code in [line for block in blocks for line in block.splitlines()] + spans:
            code = re.sub(r"^iecl (?=[a-z])", "python -m iecl_jax.tools.", code)
            for found in re.findall(r"python -m (iecl_jax\S*[^&|;#]*)", code):
                if "[" not in found and "..." not in found:
                    yield pytest.param(page.name, shlex.split(found), id=f"{page.stem}: {found}")


ALL = list(commands())


def test_there_are_commands():
    assert len(ALL) > 30


@pytest.mark.parametrize("page, words", ALL)
def test_a_command_of_the_docs_exists(page, words):
    module, *arguments = words
    assert importlib.util.find_spec(module) is not None
    flags = [word for word in arguments if word.startswith(("--config.", "--evaluation."))]
    others = [word for word in arguments if word.startswith("--") and word not in (*flags, "--")]
    for config in [word.removeprefix("--config=") for word in others if "--config=" in word]:
        file, _, variant = config.partition(":")
        shipped = (ROOT / file).exists() and ".py" not in variant
        if shipped and not any(PLACEHOLDER.search(word) for word in (variant, *flags)):
            config_lib.load(config, flags if module == "iecl_jax.main" else ())
    for word in others:
        name = word.removeprefix("--").partition("=")[0]
        known = FLAGS_OF_MAIN if module == "iecl_jax.main" else FLAGS_OF_TOOLS
        assert name in known, f"{page}: {module} has no flag --{name}"
