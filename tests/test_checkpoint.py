"""Checkpoints come back bit for bit or are refused with a reason, after kills and damage too."""

import contextlib
import json
import logging
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import time

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
import tensorstore

from iecl_jax import config as config_lib
from iecl_jax.run import checkpoint, seal


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    method_state: dict
    opt_state: tuple


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent.parent)}
TX = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))


def make_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"seed": 42, "augment": {"mean": (0.1, 1e-17), "prob": 0.5}})


def make_state(seed: int = 0, width: int = 5) -> State:
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape).astype(np.float32))

    params = {"conv": {"kernel": normal(3, 3, width), "bias": normal(width)}, "scale": normal()}
    params["head"] = {"kernel": normal(width, 2).astype(jnp.bfloat16)}
    return State(
        step=jnp.asarray(seed, jnp.int32),
        params=params,
        method_state={
            "queue": {
                "keys": jnp.zeros((0, 4)),
                "pointer": jnp.asarray(rng.integers(9), jnp.int32),
            },
            "odd": jnp.asarray([np.nan, -0.0, np.inf, 1e-42], jnp.float32),
            "flags": [jnp.asarray([True, False]), jnp.full((4,), -0.0)],
            "none": None,
        },
        opt_state=TX.init(params),
    )


def make(path, *, keep=3, keep_best=0, **options) -> checkpoint.Checkpointer:
    return checkpoint.Checkpointer(
        path, keep=keep, keep_best=keep_best, config=make_config(), **options
    )


def save_run(path, steps=(1, 2), **options) -> None:
    checkpointer = make(path, **options)
    for step in steps:
        checkpointer.save(step, make_state(step), position=10 * step)
    checkpointer.close()


def restore(path, template=None):
    checkpointer = make(path)
    restored = checkpointer.restore(make_state(99) if template is None else template)
    checkpointer.open()
    checkpointer.close()
    return restored


def assert_same(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def kept_steps(path, also=frozenset()) -> list[int]:
    """Steps with a checkpoint; any other name that is not in `also` fails."""
    return sorted(int(p.name) for p in (path / "checkpoints").iterdir() if p.name not in also)


def test_round_trip_is_bit_identical(tmp_path):
    assert restore(tmp_path) is None
    save_run(tmp_path, steps=(1, 2))
    restored = restore(tmp_path)
    assert (restored.step, restored.position) == (2, 20)
    assert_same(restored.state, make_state(2))


def test_restored_state_is_placed_like_the_template_and_can_be_donated(tmp_path):
    save_run(tmp_path)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = restore(tmp_path, jax.device_put(make_state(99), replicated)).state
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(state))
    assert_same(state, make_state(2))
    assert not any(leaf.committed for leaf in jax.tree.leaves(restore(tmp_path).state))

    def step(state, x):
        return state.replace(step=state.step + 1), x

    p_step = jax.pmap(step, "d", in_axes=(None, 0), out_axes=(None, 0), donate_argnums=0)
    after, _ = p_step(state, jnp.zeros((2, 1)))
    assert int(after.step) == 3
    again = make(tmp_path)
    again.save(3, after, position=30)
    again.close()
    template = restore(tmp_path, after).state
    assert_same(template, make_state(2).replace(step=jnp.asarray(3, jnp.int32)))
    assert template.step.sharding == after.step.sharding


def test_state_may_be_donated_right_after_save(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2 + 1, tree), donate_argnums=0)
    tree = {"params": {"w": jnp.arange(500_000, dtype=jnp.float32)}}
    expected = np.arange(500_000, dtype=np.float32)
    checkpointer = make(tmp_path, keep=9)
    for step in range(3):
        checkpointer.save(step, tree, position=step)
        tree = update(update(tree))
        expected = 4 * expected + 3 if step < 2 else expected
    checkpointer.close()
    np.testing.assert_array_equal(restore(tmp_path, tree).state["params"]["w"], expected)


@pytest.mark.parametrize(
    "keep, keep_best, expected", [(1, 0, [6]), (2, 0, [5, 6]), (2, 1, [2, 5, 6]), (1, 2, [1, 2, 6])]
)
def test_keeps_the_newest_and_the_best(tmp_path, keep, keep_best, expected):
    scores = {1: 0.5, 2: 0.9, 3: float("nan"), 4: 0.4, 6: 0.3}
    for steps in ((1, 2, 3), (4, 5, 6)):  # the second Checkpointer knows the first one's scores
        checkpointer = make(tmp_path, keep=keep, keep_best=keep_best)
        for step in steps:
            metrics = {"knn_top1": scores[step], "loss": 1.0} if step in scores else None
            checkpointer.save(step, {"params": {"w": jnp.ones(1)}}, position=0, metrics=metrics)
        checkpointer.close()
    assert kept_steps(tmp_path) == expected


def test_a_saved_step_is_not_saved_again(tmp_path):
    checkpointer = make(tmp_path)
    checkpointer.save(1, make_state(1), position=1)
    checkpointer.save(1, make_state(7), position=7)
    checkpointer.close()
    assert_same(restore(tmp_path).state, make_state(1))


def test_keeps_multiples_of_keep_every_steps_for_ever(tmp_path):
    save_run(tmp_path, steps=(2, 3, 4, 5, 6, 7), keep=1, keep_every_steps=3)
    assert kept_steps(tmp_path) == [3, 6, 7]


@pytest.mark.parametrize("keep, keep_best", [(0, 0), (1, -1)])
def test_refuses_counts_that_keep_nothing(tmp_path, keep, keep_best):
    with pytest.raises(ValueError, match=r"checkpoint\.keep must be at least 1"):
        make(tmp_path, keep=keep, keep_best=keep_best)


def test_a_failed_background_save_is_raised_by_the_next_call(tmp_path, monkeypatch):
    async def fail(*unused):
        raise OSError("no space left on device")

    for name, finish in (
        ("save", lambda checkpointer: checkpointer.save(2, make_state(2), position=2)),
        ("close", lambda checkpointer: checkpointer.close()),
    ):
        checkpointer = make(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.ocp.JsonCheckpointHandler, "_save_fn", fail)
            checkpointer.save(1, make_state(1), position=1)
            with pytest.raises(checkpoint.SaveError, match="no space left on device"):
                finish(checkpointer)
        names = [p.name for p in (tmp_path / name / "checkpoints").iterdir()]
        assert not any(name.isdigit() for name in names)


def test_a_save_into_a_lost_directory_fails_at_once(tmp_path):
    checkpointer = make(tmp_path)
    checkpointer.open()
    (tmp_path / "checkpoints").rmdir()
    (tmp_path / "checkpoints").write_text("not a directory")
    with pytest.raises(checkpoint.SaveError, match="checkpoints"):
        checkpointer.save(1, make_state(1), position=1)


def test_every_kind_of_damage_to_every_file_is_found_or_harmless(tmp_path, caplog):
    """Step 2 comes back bit for bit, or step 1 does and one sentence names the path of step 2."""
    save_run(tmp_path / "run")
    files = [p for p in (tmp_path / "run/checkpoints/2").rglob("*") if p.is_file()]
    rng, refused = random.Random(0), 0
    for file in files:
        for damage in ("delete", "truncate", "flip"):
            workdir = tmp_path / "copy"
            shutil.copytree(tmp_path / "run", workdir)
            target = workdir / file.relative_to(tmp_path / "run")
            content = bytearray(target.read_bytes())
            if damage == "delete":
                target.unlink()
            elif damage == "truncate":
                target.write_bytes(content[: rng.randrange(len(content))])
            else:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
                target.write_bytes(content)
            caplog.clear()
            restored = restore(workdir)
            assert_same(restored.state, make_state(restored.step))
            assert restored.position == 10 * restored.step
            warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
            if restored.step == 1:
                refused += 1
                assert len(warnings) == 1
                assert f"{workdir}/checkpoints/2 is refused" in warnings[0]
                assert (workdir / "checkpoints/2.refused").is_dir()
            else:
                assert restored.step == 2
            shutil.rmtree(workdir)
    assert refused >= 15


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_to_the_bytes_of_an_array_is_found(tmp_path, damage, caplog):
    values = np.random.default_rng(0).normal(size=60_000).astype(np.float32)
    checkpointer = make(tmp_path)
    for step in (1, 2):
        checkpointer.save(step, {"params": {"w": jnp.asarray(values)}}, position=step)
    checkpointer.close()
    files = [p for p in (tmp_path / "checkpoints/2").rglob("*") if p.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[100_000] ^= 1
    if damage == "delete":
        largest.unlink()
    else:
        largest.write_bytes(content if damage == "flip" else content[:100_000])
    restored = restore(tmp_path, {"params": {"w": jnp.zeros(60_000)}})
    assert restored.step == 1
    np.testing.assert_array_equal(restored.state["params"]["w"], values)
    by_digest = "2.refused: the arrays of its params do not match their SHA-256."
    by_storage = "2.refused: its array params/w cannot be read ("
    assert (by_digest if damage == "flip" else by_storage) in caplog.text


def test_an_array_that_was_replaced_is_found_by_the_digest(tmp_path):
    save_run(tmp_path)
    zarr = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "path": "params.scale/"}}
    zarr["kvstore"]["base"] = f"file://{tmp_path}/checkpoints/2/state/"
    tensorstore.open(zarr, open=True).result().write(np.float32(0.5)).result()
    with pytest.raises(ValueError, match="2: the arrays of its params do not match their SHA-256"):
        checkpoint.load_for_evaluation(tmp_path, 2)
    assert restore(tmp_path).step == 1


def test_a_state_of_another_shape_is_refused_by_its_first_leaf(tmp_path):
    save_run(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"no checkpoint in .* can be used \(2: its opt_state/.*/conv/bias is float32\[5\], "
        r"and that of this run float32\[6\]; 1: ",
    ):
        restore(tmp_path, make_state(0, width=6))
    with pytest.raises(ValueError, match=r"2: its extra is absent, and that of this run float32"):
        restore(tmp_path, {"extra": jnp.ones(1)})
    assert kept_steps(tmp_path) == [1, 2]


def test_never_starts_afresh_beside_damaged_checkpoints(tmp_path):
    save_run(tmp_path)
    for step in (1, 2):
        shutil.rmtree(tmp_path / f"checkpoints/{step}/state")
    with pytest.raises(ValueError, match="use another --workdir"):
        restore(tmp_path)
    assert kept_steps(tmp_path) == [1, 2]


def test_a_refused_step_is_set_aside_and_can_be_saved_again(tmp_path):
    for _ in range(2):
        save_run(tmp_path)
        (tmp_path / "checkpoints/2/seal/metadata").write_text("{}")
        assert restore(tmp_path).step == 1
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names == {"1", "2.refused", "2.refused+"}


def test_a_renamed_checkpoint_is_refused(tmp_path, caplog):
    save_run(tmp_path)
    shutil.copytree(tmp_path / "checkpoints/1", tmp_path / "checkpoints/7")
    assert restore(tmp_path).step == 2
    assert "it was saved as step 1" in caplog.text


TWO_PROCESSES = """
import sys, jax, jax.numpy as jnp, ml_collections, numpy as np
workdir, process, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, process)
from iecl_jax.run import checkpoint
def make():
    return checkpoint.Checkpointer(workdir, keep=2, keep_best=0, config=ml_collections.ConfigDict())
update = jax.pmap(lambda state, x: {"params": {"w": state["params"]["w"] + jax.lax.psum(x, "d")}},
                  "d", in_axes=(None, 0), out_axes=None)
ones = np.ones(jax.local_device_count(), np.float32)
state = {"params": {"w": jnp.zeros(5)}}
checkpointer = make()
assert checkpointer.restore(state) is None
for step in (1, 2, 3):
    state = update(state, ones)
    checkpointer.save(step, state, position=step)
checkpointer.close()
if process == 0:
    open(workdir + "/checkpoints/3/data/metadata", "w").write("{}")
checkpointer = make()
step, state, position, *_ = checkpointer.restore(state)
state = update(state, ones)
checkpointer.save(3, state, position=3, wait=True)
checkpointer.close()
print("\\nresult", step, position, *np.asarray(state["params"]["w"]).tolist())
"""


def test_two_processes_save_and_restore_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    commands = [
        [sys.executable, "-c", TWO_PROCESSES, str(tmp_path), process, port] for process in "01"
    ]
    with contextlib.ExitStack() as stack:
        pipes = {"stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        processes = [stack.enter_context(subprocess.Popen(c, **pipes)) for c in commands]
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    after_three_steps_on_four_devices = "result 2 2 12.0 12.0 12.0 12.0 12.0"
    for output in outputs:
        assert output.splitlines()[-1] == after_three_steps_on_four_devices
    assert kept_steps(tmp_path, also={"3.refused"}) == [2, 3]


LOOP = """
import sys, jax.numpy as jnp, ml_collections
from iecl_jax.run import checkpoint
c = checkpoint.Checkpointer(sys.argv[1], keep=2, keep_best=0, config=ml_collections.ConfigDict())
template = {"params": {"w": jnp.zeros(300_000)}}
restored = c.restore(template)
step = restored.step if restored else 0
while True:
    step += 1
    c.save(step, {"params": {"w": jnp.full(300_000, float(step))}}, position=step)
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    newest = 0
    for delay in (0.0, 0.013, 0.031):
        command = [sys.executable, "-c", LOOP, str(tmp_path)]
        pipes = {"stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        with subprocess.Popen(command, **pipes) as process:
            begun = [int(process.stdout.readline()) for _ in range(4)]
            time.sleep(delay)
            process.kill()
            begun += map(int, process.stdout.read().split())
        assert begun[0] == newest + 1
        (tmp_path / "checkpoints/9.orbax-checkpoint-tmp/state").mkdir(parents=True)
        restored = restore(tmp_path, {"params": {"w": jnp.zeros(300_000)}})
        newest = restored.step
        assert newest >= begun[-1] - 1
        np.testing.assert_array_equal(restored.state["params"]["w"], np.float32(newest))
        assert newest in kept_steps(tmp_path)


def test_load_for_evaluation(tmp_path):
    checkpointer = make(tmp_path)
    for step, score in ((1, 0.9), (2, 0.5)):
        metrics = {"knn_top1": score}
        checkpointer.save(step, make_state(step), position=step, metrics=metrics)
    checkpointer.save(3, make_state(3), position=3)
    checkpointer.close()
    shutil.rmtree(tmp_path / "checkpoints/3/seal")
    for arguments, step in (
        ((tmp_path,), 2),
        ((tmp_path, 1), 1),
        ((tmp_path / "checkpoints/1",), 1),
        ((str(tmp_path),), 2),
    ):
        config, state = checkpoint.load_for_evaluation(*arguments)
        assert config == config_lib.from_json(config_lib.to_json(make_config()))
        assert config.data.mean == (0.1, 1e-17)
        expected = make_state(step)
        assert_same(state["params"], jax.tree.map(np.asarray, expected.params))
        assert state["step"] == step
        assert set(state) == {"step", "params", "method_state"}
        assert state["method_state"]["queue"]["keys"].shape == (0, 4)
        np.testing.assert_array_equal(state["method_state"]["flags"]["0"], [True, False])
        assert seal.digest(state["params"]) == seal.digest(expected.params)
    assert checkpoint.load_for_evaluation(tmp_path, best=True)[1]["step"] == 1


def test_load_for_evaluation_names_what_is_missing_or_damaged(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*nothing"):
        checkpoint.load_for_evaluation(tmp_path / "nothing")
    save_run(tmp_path)
    with pytest.raises(ValueError, match="there is no checkpoint of step 8 in"):
        checkpoint.load_for_evaluation(tmp_path, 8)
    with pytest.raises(ValueError, match="there is no checkpoint with a knn_top1 in"):
        checkpoint.load_for_evaluation(tmp_path, best=True)
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*checkpoints/8"):
        checkpoint.load_for_evaluation(tmp_path / "checkpoints/8")
    record = tmp_path / "checkpoints/2/data/metadata"
    record.write_text(json.dumps({"step": 2, "position": 21}))
    with pytest.raises(
        ValueError,
        match=r"2: its JSON records do not match their SHA-256\): repair them, or name another run",
    ) as caught:
        checkpoint.load_for_evaluation(tmp_path, 2)
    assert "--workdir" not in str(caught.value)  # That of an evaluation is another folder.


def test_the_log_has_no_progress_lines_of_orbax(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "absl"):
        save_run(tmp_path)
        restore(tmp_path)
    assert [record.getMessage() for record in caplog.records if "orbax" in record.pathname] == []
