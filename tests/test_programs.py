"""Programs are read by later starts without tracing, and only where they are the same."""

import dataclasses
import json
import os
import subprocess
import sys

import conformance
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from jax import export

from iecl_jax import config as config_lib
from iecl_jax.config import own_files
from iecl_jax.run import programs
from iecl_jax.run.programs import Program
from iecl_jax.tools.benchmark import program as analysis
from iecl_jax.train import experiment

FACTS = {"config": {"rate": 0.5}, "sizes": [1, None]}
LENGTHS = {"total_steps": 4, "steps_per_epoch": 4, "num_classes": 10}
code, foreign = programs._code, programs._foreign
X = np.arange(4, dtype=np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_code", lambda: "known")
    monkeypatch.setattr(programs, "_foreign", lambda: False)  # of which the tests' modules are
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    programs.keep_in(tmp_path)
    yield tmp_path
    programs.keep_in(None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@programs.serializable
@flax.struct.dataclass
class Pair:
    """A node of a tree with static fields."""

    x: jax.Array
    state: optax.OptState
    rate: float = flax.struct.field(pytree_node=False, default=0.1)
    name: str | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class Unknown:
    """A node of a tree that cannot be written."""

    x: jax.Array


def twice(x):
    return {"twice": 2 * x}


def untraceable(x):
    raise AssertionError("it was traced")


def number_of(folder):
    assert all(path.suffix == ".stablehlo" for path in folder.iterdir())
    return len(list(folder.iterdir()))


def test_a_kept_program_is_not_traced(folder):
    first = Program(jax.jit(twice), FACTS)
    assert first.shapes(X)["twice"].shape == (4,)
    assert number_of(folder) == 0  # shapes compile nothing
    np.testing.assert_array_equal(first(X)["twice"], 2 * X)
    assert number_of(folder) == 1
    later = Program(jax.jit(untraceable), FACTS)
    assert (later.shapes(X)["twice"].shape, later.shapes(X)["twice"].dtype) == ((4,), jnp.float32)
    for x in (X, X + 1):
        np.testing.assert_array_equal(later(x)["twice"], 2 * x)
    only_types = jax.ShapeDtypeStruct(X.shape, X.dtype)
    Program(jax.jit(untraceable), FACTS).compiled(only_types)


def test_trees_come_back_as_they_were(folder):
    def pair(x):
        return Pair(x, optax.adam(0.1).init({"w": x}), rate=0.3, name="π"), None

    first, later = Program(jax.jit(pair), FACTS)(X), Program(jax.jit(untraceable), FACTS)(X)
    assert jax.tree.structure(later) == jax.tree.structure(first)
    assert (later[0].rate, later[0].name) == (0.3, "π")


def test_code_that_may_have_changed_since_its_import_is_traced(folder, monkeypatch):
    for number, known in enumerate((None, "known")):
        monkeypatch.setattr(programs, "_code", lambda known=known: known)
        np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)
        assert number_of(folder) == number
    times = [path.stat() for path in programs._PACKAGE.rglob("*.py")]
    newest = max(max(each.st_mtime, each.st_ctime) for each in times)
    for imported, known in ((newest, False), (newest + 10**9, True)):
        monkeypatch.setattr(programs, "_IMPORTED", imported)
        assert (code.__wrapped__() is not None) == known


def test_a_changed_file_is_other_code(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_PACKAGE", tmp_path)
    monkeypatch.setattr(programs, "_IMPORTED", 10**12)
    found = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.txt", "1"), ("b.py", "2")):
        (tmp_path / name).write_text(text)
        found.add(code.__wrapped__())
    assert len(found) == 3


def test_files_that_cannot_be_read_are_uncertain_code(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_PACKAGE", tmp_path)
    monkeypatch.setattr(programs, "_IMPORTED", 10**12)
    (tmp_path / ".#a.py").symlink_to("user@host.1:2")  # an editor's lock
    assert code.__wrapped__() is not None
    (tmp_path / "a.py").symlink_to("nowhere")
    assert code.__wrapped__() is None


def test_a_module_from_elsewhere_is_noticed(tmp_path):
    script = (
        "import os, sys; import iecl_jax.main; from iecl_jax.configs import quickstart;"
        "from iecl_jax.evals.parts import jobs; from iecl_jax.run import programs;"
        "sys.path.append(sys.argv[1]); print(programs._foreign()); import own;"
        "print(programs._foreign()); os.mkdir(sys.argv[1] + '/own-1.0.dist-info');"
        "print(programs._foreign())"
    )
    (tmp_path / "own.py").write_text("")
    command = [sys.executable, "-c", script, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "True", "False"]
    assert foreign()  # the modules of the tests


@pytest.mark.parametrize("what", ["facts", "types", "code", "versions", "settings", "flax"])
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
    elif what == "flax":
        monkeypatch.setenv("FLAX_FIX_RNG_SEPARATOR", "1")
    setting = "highest" if what == "settings" else None
    with jax.default_matmul_precision(setting):
        with pytest.raises(AssertionError, match="it was traced"):
            Program(jax.jit(untraceable), facts)(x)
        np.testing.assert_array_equal(Program(jax.jit(twice), facts)(x)["twice"], 2 * x)
    assert number_of(folder) == 2


@pytest.mark.parametrize("cut", [slice(0), slice(-10), slice(100), slice(32)])
def test_a_damaged_program_is_traced_again(folder, cut):
    Program(jax.jit(twice), FACTS)(X)
    (kept,) = folder.iterdir()
    content = kept.read_bytes()
    damaged = content[cut]
    for each in (damaged, damaged + b"?" + content[len(damaged) + 1 :]):
        kept.write_bytes(each)
        np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)
        np.testing.assert_array_equal(Program(jax.jit(untraceable), FACTS)(X)["twice"], 2 * X)


def test_the_text_of_another_program_is_not_taken(folder):
    Program(jax.jit(twice), FACTS)(X)
    (kept,) = folder.iterdir()
    other = Program(jax.jit(lambda x: {"twice": 3 * x}), {})
    kept.rename(other._path([X]))
    np.testing.assert_array_equal(other(X)["twice"], 3 * X)
    np.testing.assert_array_equal(Program(jax.jit(untraceable), {})(X)["twice"], 3 * X)


def test_what_is_no_file_is_not_read(folder):
    program = Program(jax.jit(twice), FACTS)
    os.mkfifo(program._path([X]))
    np.testing.assert_array_equal(program(X)["twice"], 2 * X)


def test_a_folder_that_cannot_be_written_changes_nothing(folder):
    programs.keep_in(folder / "file" / "folder")
    (folder / "file").write_text("")
    np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)


def test_what_cannot_be_kept_is_compiled_as_it_is(folder):
    def calls(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda x: np.asarray(2 * x), shape, x)

    np.testing.assert_array_equal(Program(jax.jit(calls), FACTS)(X), 2 * X)
    np.testing.assert_array_equal(Program(jax.jit(Unknown), FACTS)(X).x, X)
    np.testing.assert_array_equal(Program(jax.jit(twice))(X)["twice"], 2 * X)
    assert number_of(folder) == 0


def test_an_error_of_the_function_is_said(folder):
    def wrong(x):
        raise ValueError("x is wrong")

    with pytest.raises(ValueError, match="x is wrong"):
        Program(jax.jit(wrong), FACTS)(X)


def test_a_program_that_is_compiled_fast_is_not_kept(folder):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1000)
    np.testing.assert_array_equal(Program(jax.jit(twice), FACTS)(X)["twice"], 2 * X)
    assert number_of(folder) == 0


def test_lapack_is_found_by_a_process_that_lowered_no_call_of_it(folder):
    script = (
        "import sys, jax, numpy as np; from pathlib import Path; from iecl_jax.run import programs;"
        "programs._code = lambda: 'known'; programs._foreign = lambda: False;"
        "programs.keep_in(Path(sys.argv[1]));"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0);"
        "inverse = lambda x: jax.numpy.linalg.eigh(x)[0] / int(sys.argv[2]);"
        "print(programs.Program(jax.jit(inverse), {})(np.eye(2, dtype='float32')).sum())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", script, str(folder), divisor],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for divisor in ("1", "0")  # the second is not traced
    ]
    assert found == ["2.0\n", "2.0\n"]
    assert number_of(folder) == 1


def test_a_second_start_makes_the_state_and_the_steps_without_tracing(folder):
    def start(**changed):
        # The method is in a file of the tests, of which `build` would keep nothing.
        built = experiment.build(tiny_run.get_config(), **LENGTHS)
        method = built.method._replace(**changed)
        built = dataclasses.replace(built, method=method, facts=None if direct else FACTS)
        shapes, state = built.state_shapes(), built.create_state()
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda leaf: leaf.shape, shapes)
        for _ in range(2):
            donated = state
            state, metrics = built.steps(state, [batch])
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
        return jax.device_get((state, metrics))

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (jax.device_count(), 16, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, (jax.device_count(), 16), np.int32),
    }
    direct = True
    first = start()
    direct = False
    for again in (start(), start(init=untraceable, forward=untraceable)):
        jax.tree.map(np.testing.assert_array_equal, again, first)


def test_the_steps_of_a_gpu_can_be_written():
    config = conformance.tiny_config("moco_v2", saib=True)
    built = experiment.build(config, **LENGTHS)
    scalars = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((), np.uint32)
    arguments = built.state_shapes(), [analysis.batch_shapes(config, 1)], *scalars
    steps = jax.jit(built.mapped(jax.devices()[:1]))
    checks = programs._OF_THIS_VERSION
    text = export.export(steps, platforms=["cuda"], disabled_checks=checks)(*arguments)
    assert "LayoutConstraint" in text.mlir_module()
    assert programs.read(bytes(text.serialize())).platforms == ("cuda",)


def test_nothing_is_kept_where_a_file_of_the_user_runs(monkeypatch):
    monkeypatch.setattr(own_files, "_ran", set())
    shipped, own = config_lib.load("configs/quickstart.py:smoke"), tiny_run.get_config()
    assert "seed" not in experiment.build(shipped, **LENGTHS).facts["config"]
    assert experiment.build(own, **LENGTHS).facts is None  # It names a method's file.
    own_files._ran.clear()
    named_no_file = config_lib.load("tests/own_config.py")
    assert experiment.build(named_no_file, **LENGTHS).facts is None


@pytest.mark.parametrize("name", ["sgd", "lars", "larc", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_state_of_every_optimizer_can_be_written(name, precision):
    config = tiny_run.get_config()
    config.optimizer.name, config.train.precision = name, precision
    config.optimizer.clip_norm = 1.0
    state = experiment.build(config, **LENGTHS).state_shapes()
    found = programs.read(programs.write(jax.jit(lambda state: state), state))
    assert found.out_tree == jax.tree.structure(state)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--config.train.steps_per_call=2"]])
def test_the_command_takes_its_steps_without_tracing_them_again(tmp_path, options):
    again = (
        "import runpy; from iecl_jax.train import experiment; experiment.train_step = None;"
        "runpy.run_module('iecl_jax.main', run_name='__main__', alter_sys=True)"
    )
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    without = environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = ["-m", "iecl_jax.main"]
    digests = set()
    starts = [(command, environment), (["-c", again], environment), (command, without)]
    for number, (start, variables) in enumerate(starts):
        run = tmp_path / str(number)
        words = ["--config=configs/quickstart.py:smoke", f"--workdir={run}", *options]
        subprocess.run([sys.executable, *start, *words], env=variables, check=True)
        digests.add(json.loads((run / "results.json").read_text())["params_digest"])
    assert len(digests) == 1
    assert number_of(tmp_path / "cache" / "programs") == 2
