"""What the files of the project may import, and what a reader finds in each of them."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / "iecl_jax").rglob("*.py"))

MAX_LINES = 450


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def module_name(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {module_name(path): parse(path) for path in FILES}


def imported(tree: ast.AST) -> set[str]:
    """Modules that a tree imports anywhere; `from a import b` is a.b if that is a module here."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: write `from iecl_jax...`"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in TREES else str(node.module) for name in names}
    return found


SHARED_BY_METHODS = {"iecl_jax.methods"} | {
    name for name in TREES if name.startswith("iecl_jax.methods.parts")
}


GRAPH = {
    module: {name for name in imported(tree) if name.split(".")[0] == "iecl_jax"}
    for module, tree in TREES.items()
}


def test_a_file_imports_only_from_entries_at_or_below_its_own():
    """The contract of pyproject.toml."""
    linter = pathlib.Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[result.stdout.find("Broken contracts") :]


def test_methods_do_not_import_each_other():
    methods = {name for name in TREES if name.startswith("iecl_jax.methods")}
    for module in methods:
        others = (GRAPH[module] & methods) - SHARED_BY_METHODS
        assert not others, f"{module} imports its siblings {sorted(others)}"


def test_no_import_goes_in_a_circle():
    graphlib.TopologicalSorter(GRAPH).prepare()


WITHOUT_TENSORFLOW = """
import importlib, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "clu"):
            raise ModuleNotFoundError(f"{name} is forbidden here", name=name)
sys.meta_path.insert(0, Forbidden())
for name in sys.argv[1:]:
    importlib.import_module(f"iecl_jax.{name}")
"""


def test_training_itself_needs_no_tensorflow():
    modules = (
        "train.step data data.augment methods methods.moco_v2 train.optim run.checkpoint config"
    )
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *modules.split()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "package, users",
    [
        ("tensorflow", {"iecl_jax.run.summaries"}),
        (
            "tensorflow_datasets",
            {"iecl_jax.data.sources.digits", "iecl_jax.data.sources.tfds"},
        ),
        ("clu", {"iecl_jax.run.summaries"}),
    ],
)
def test_only_writing_summaries_and_preparing_data_import_tensorflow(package, users):
    found = {
        module
        for module, tree in TREES.items()
        if any(name.split(".")[0] == package for name in imported(tree))
    }
    assert found == users


def public(body: list[ast.stmt], prefix: str):
    """(name, node) of public functions and classes, and of the public methods of the latter."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name.startswith("_"):
                continue
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}.{node.name}")


def test_everything_public_has_a_docstring():
    nodes = [pair for module, tree in TREES.items() for pair in public(tree.body, module)]
    assert len(nodes) > 100
    missing = [name for name, node in nodes if not ast.get_docstring(node)]
    assert not missing, f"write docstrings for {', '.join(missing)}"
    silent = [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]
    assert not silent, f"say in a first line what is in {', '.join(silent)}"


def text_files() -> list[pathlib.Path]:
    folders = [ROOT / name for name in ("iecl_jax", "configs", "tests", "launch", "docs")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    suffixes = {".py", ".md", ".txt", ".sh", ".toml", ".yaml", ".yml", ".json", ".csv", ".slurm"}
    return [*(path for path in found if path.suffix in suffixes), *ROOT.glob("README*")]


def test_no_file_needs_a_table_of_contents():
    lengths = {p: len(p.read_text().splitlines()) for p in text_files() if p.suffix == ".py"}
    long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MAX_LINES}
    assert not long, f"longer than {MAX_LINES} lines, split by meaning: {long}"


def test_no_path_of_one_machine():
    words = "|".join(("work", "root", "home", "tmp"))
    own_path = re.compile(rf"(?<![\w./$}}~>-])/(?:{words})(?:/|\b)")
    assert own_path.search("--workdir=" + "/" + "tmp/x")
    assert not own_path.search("https://example.org/home/x")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in text_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if own_path.search(line)
    ]
    assert not found, f"absolute paths in {', '.join(found)}"
