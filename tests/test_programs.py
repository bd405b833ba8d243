"""Compiled programs are read by later starts without tracing, and only where they are the same."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from iecl_jax import config as config_lib
from iecl_jax.config import own_files
from iecl_jax.run import programs
from iecl_jax.run.programs import Program
from iecl_jax.train import experiment

FACTS = {"config": {"rate": 0.5}, "sizes": [1, None]}
LENGTHS = {"total_steps": 4, "steps_per_epoch": 4, "num_classes": 10}
code = programs._code
X = np.arange(4, dtype=np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_code", lambda: "known")
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    programs.keep_in(tmp_path)
    yield tmp_path
    programs.keep_in(None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def twice(x):
    return {"twice": 2 * x}


def untraceable(x):
    raise AssertionError("it was traced")


def names(folder):
    return sorted(path.suffix for path in folder.iterdir())


def test_a_kept_program_is_neither_traced_nor_compiled(folder):
    first = Program(jax.jit(twice), FACTS)
    assert first.shapes(X)["twice"].shape == (4,)
    assert names(folder) == []  # shapes compile nothing
    np.testing.assert_array_equal(first(X)["twice"], 2 * X)
    assert names(folder) == [".program", ".text"]
    later = Program(jax.jit(untraceable), FACTS)
    assert (later.shapes(X)["twice"].shape, later.shapes(X)["twice"].dtype) == ((4,), jnp.float32)
    for x in (X, X + 1):
        np.testing.assert_array_equal(later(x)["twice"], 2 * x)
    only_types = jax.ShapeDtypeStruct(X.shape, X.dtype)
    Program(jax.jit(untraceable), FACTS).compiled(only_types)


def test_code_that_may_have_changed_since_its_import_is_traced(folder, monkeypatch):
    for known in (None, "known"):
        monkeypatch.setattr(programs, "_code", lambda known=known: known)
        np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)
        assert names(folder) == ([".program"] if known is None else [".program", ".text"])
    newest = max(path.stat().st_mtime for path in programs._PACKAGE.rglob("*.py"))
    for imported, known in ((newest, False), (newest + 11, True)):
        monkeypatch.setattr(programs, "_IMPORTED", imported)
        assert (code.__wrapped__() is not None) == known


@pytest.mark.parametrize("what", ["facts", "types", "code", "versions", "flags", "settings"])
def test_what_differs_is_traced(folder, monkeypatch, what):
    Program(jax.jit(twice), FACTS)(X)
    facts, x = FACTS, X
    if what == "facts":
        facts = {**FACTS, "config": {"rate": 0.25}}
    elif what == "types":
        x = X.astype(np.int32)
    elif what == "code":
        monkeypatch.setattr(programs, "_code", lambda: "other")
    elif what == "versions":
        monkeypatch.setattr(programs.workdir, "versions", lambda: {"jax": "1"})
    elif what == "flags":
        monkeypatch.setenv("XLA_FLAGS", "--other")
    setting = "highest" if what == "settings" else None
    with jax.default_matmul_precision(setting):
        with pytest.raises(AssertionError, match="it was traced"):
            Program(jax.jit(untraceable), facts)(x)
        np.testing.assert_array_equal(Program(jax.jit(twice), facts)(x)["twice"], 2 * x)
    # Another fact or another file of the package compiles nothing.
    same = what in ("facts", "code")
    assert names(folder) == [".program"] * (1 if same else 2) + [".text"] * 2


def test_a_damaged_program_is_compiled_again(folder):
    Program(jax.jit(twice), FACTS)(X)
    (program,) = folder.glob("*.program")
    content = program.read_bytes()
    for damaged in (content[:-10], b"", content[:100] + b"?" + content[101:]):
        program.write_bytes(damaged)
        np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)
        assert len(program.read_bytes()) == len(content)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x80", b"../" + 300 * b"a", b"\0"])
def test_a_damaged_link_is_written_again(folder, content):
    Program(jax.jit(twice), FACTS)(X)
    (link,) = folder.glob("*.text")
    before = link.read_bytes()
    link.write_bytes(content)
    np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)
    assert link.read_bytes() == before


def test_a_folder_that_cannot_be_written_changes_nothing(folder):
    programs.keep_in(folder / "file" / "folder")
    (folder / "file").write_text("")
    np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)


def test_what_calls_this_process_or_has_no_facts_is_not_kept(folder):
    def calls(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda x: np.asarray(2 * x), shape, x)

    np.testing.assert_array_equal(Program(jax.jit(calls), FACTS)(X), 2 * X)
    np.testing.assert_array_equal(Program(jax.jit(twice))(X)["twice"], 2 * X)
    assert names(folder) == []


def test_a_program_that_is_compiled_fast_is_not_kept(folder):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1000)
    np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)
    assert names(folder) == []


def test_a_second_start_makes_the_state_and_the_steps_without_tracing(folder):
    def start(**changed):
        config = tiny_run.get_config()
        # The method is in a file of the tests, of which `build` would keep nothing.
        built = dataclasses.replace(experiment.build(config, **LENGTHS), facts=FACTS)
        method = built.method._replace(**changed)
        built = dataclasses.replace(built, method=method)
        shapes, state = built.state_shapes(), built.create_state()
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda leaf: leaf.shape, shapes)
        for _ in range(2):
            state, metrics = built.steps(state, [batch])
        return jax.device_get((state, metrics))

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 16, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, (2, 16), np.int32),
    }
    first, again = start(), start(init=untraceable, forward=untraceable)
    jax.tree.map(np.testing.assert_array_equal, again, first)


def test_nothing_is_kept_where_a_file_of_the_user_runs(monkeypatch):
    monkeypatch.setattr(own_files, "_ran", set())
    shipped, own = config_lib.load("configs/quickstart.py:smoke"), tiny_run.get_config()
    assert experiment.build(shipped, **LENGTHS).facts is None
    assert experiment.build(shipped, keep=True, **LENGTHS).facts is not None
    assert experiment.build(own, keep=True, **LENGTHS).facts is None  # It names a method's file.
    own_files._ran.clear()
    named_no_file = config_lib.load("tests/own_config.py")
    assert experiment.build(named_no_file, keep=True, **LENGTHS).facts is None


@pytest.mark.slow
def test_the_command_takes_its_steps_without_tracing_them_again(tmp_path):
    again = (
        "import runpy; from iecl_jax.train import experiment; experiment.train_step = None;"
        "runpy.run_module('iecl_jax.main', run_name='__main__', alter_sys=True)"
    )
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    digests = []
    for number, start in enumerate((["-m", "iecl_jax.main"], ["-c", again])):
        run = tmp_path / str(number)
        words = ["--config=configs/quickstart.py:smoke", f"--workdir={run}"]
        subprocess.run([sys.executable, *start, *words], env=environment, check=True)
        digests.append(json.loads((run / "results.json").read_text())["params_digest"])
    assert digests[0] == digests[1]
    kept = list((tmp_path / "cache").glob("programs-*/*"))
    assert sorted(path.suffix for path in kept) == [".program"] * 2 + [".text"] * 2
