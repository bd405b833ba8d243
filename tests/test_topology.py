"""The same training on 1, 2, 4 and 8 devices, and what devices send each other for it.

What may differ is rounding. A sum over the batch (a mean, a statistic, a gradient) is made of
partial sums of the devices, so it is a permuted sum, which in float32 differs by about 1e-7 of its
size. Training amplifies such differences, how fast is up to the processor and its libraries; so the
runs take a few small steps, in which there is no time for it, and what they log and end with may
differ by ROUNDING, a hundred times what a sum does. The smallest mistake in order or augmentation
keys, two images of each batch exchanged, is a hundred times more than that.
"""

import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import trajectory

from iecl_jax import config as config_lib
from iecl_jax.run import seal
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.tools.benchmark import flops, hlo, program
from iecl_jax.tools.benchmark.collectives import purpose

ROOT = pathlib.Path(__file__).parent.parent
ROUNDING = 1e-5  # relative to the largest value of an array, absolute where that is below 1
MISTAKE = 1e-3
LOOSER = {
    "bfloat16": 2e-2,
    "float16": 2e-3,
    # Small differences: of cosines of both signs and of correlations from 1.
    "simsiam": 1e-4,
    "barlow_twins": 1e-4,
    "w_mse": 1e-4,  # whitening divides by the smallest spread
}
SLOW = pytest.mark.slow
FURTHER = [case for case in trajectory.CASES if case not in trajectory.WHOLE]


def run_on(devices: int, *command: str) -> None:
    """Runs a Python program on so many host devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)


def run_cases(folder, *cases, layouts):
    """{devices: what trajectory.py writes}; each layout resumes what the one before it saved."""
    for before, devices in zip((0, *layouts), layouts):
        command = ["tests/trajectory.py", str(folder), *cases, f"--resume={before}"]
        run_on(devices, *command)
    return {devices: dict(np.load(folder / f"{devices}.npz")) for devices in layouts}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of 8 devices, and of one, which is the yardstick of all."""
    return run_cases(tmp_path_factory.mktemp("runs"), *trajectory.WHOLE, layouts=(8, 1))


@pytest.fixture(
    scope="module", params=[8, pytest.param(2, marks=SLOW), pytest.param(4, marks=SLOW)]
)
def layout(request, tmp_path_factory):
    """(devices, what they did)."""
    if request.param == 8:
        return 8, request.getfixturevalue("runs")[8]
    return request.param, request.getfixturevalue("between")[request.param]


@pytest.fixture(scope="module")
def between(tmp_path_factory):
    return run_cases(tmp_path_factory.mktemp("between"), *trajectory.WHOLE, layouts=(2, 4))


@pytest.fixture(scope="module")
def further_runs(tmp_path_factory):
    return run_cases(tmp_path_factory.mktemp("further_runs"), *FURTHER, layouts=(8, 1))


def part(run, prefix):
    """The entries of a run below a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): run[name] for name in run if name.startswith(prefix)}


def compare(run, case, other, name, start=0):
    """Everything logged of every step, and the last parameters, statistics and queue."""
    limit = LOOSER.get(case, ROUNDING)
    logged, expected = (
        part(*each) for each in ((run, f"{case}/metrics/"), (other, f"{name}/metrics/"))
    )
    for metric, values in logged.items():
        # A rounding may decide which of two near embeddings is the nearest, once.
        counted = metric.endswith(("top1", "accuracy"))
        limits = {"atol": 1.01 / trajectory.BATCH} if counted else {"atol": limit, "rtol": limit}
        np.testing.assert_allclose(
            values, expected[metric][start:][: len(values)], err_msg=metric, **limits
        )
    # Not the optimizer's: a gradient is a difference of large sums, which its logged norm is not.
    for kind in ("params", "method_state"):
        leaves, expected = part(run, f"{case}/state/{kind}/"), part(other, f"{name}/state/{kind}/")
        assert [*leaves] == [*expected]
        for path, leaf in leaves.items():
            size = max(1, np.abs(expected[path]).max(initial=0))
            np.testing.assert_allclose(leaf, expected[path], atol=limit * size, err_msg=path)


@pytest.mark.parametrize("case", trajectory.WHOLE)
def test_a_run_is_the_same_on_any_number_of_devices(layout, runs, case):
    compare(layout[1], case, runs[1], case)


@pytest.mark.slow
@pytest.mark.parametrize("case", FURTHER)
def test_the_first_step_of_the_other_methods_is_the_same_too(further_runs, case):
    compare(further_runs[8], case, further_runs[1], case)


def test_exchanging_two_images_would_be_seen(runs):
    for name in ("metrics/loss", "metrics/grad_norm_online"):
        values, expected = (runs[1][f"{case}/{name}"] for case in ("exchanged", "ie_cl"))
        assert min(abs(values / expected - 1)) > MISTAKE, name


@pytest.mark.parametrize("case", trajectory.WHOLE)
def test_every_device_ends_with_the_same_bits(layout, case):
    different = layout[1][f"{case}/replicas"]
    assert not len(different), different


def test_images_come_in_the_same_order(layout, runs):
    np.testing.assert_array_equal(layout[1]["ie_cl/images"], runs[1]["ie_cl/images"])
    first, second = runs[1]["ie_cl/images"][:2]
    assert (first != second).any()


def test_the_queue_holds_the_same_keys_in_the_same_order(layout, runs):
    """After the batches have gone round it; BN here is over groups of 8 images."""
    queue, expected = (
        part(run, "moco_v2/state/method_state/queue/") for run in (layout[1], runs[1])
    )
    rows = trajectory.STEPS * trajectory.BATCH
    assert rows > trajectory.QUEUE
    assert queue["next"] == expected["next"] == rows % trajectory.QUEUE
    nearest = (queue["keys"] @ expected["keys"].T).argmax(1)
    np.testing.assert_array_equal(nearest, np.arange(trajectory.QUEUE))


@pytest.mark.parametrize("before, after", [(8, 1), pytest.param(2, 4, marks=SLOW)])
@pytest.mark.parametrize("case", trajectory.WHOLE)
def test_a_run_saved_on_some_devices_goes_on_with_others(request, before, after, case):
    """Through the checkpoint's files."""
    found = request.getfixturevalue("runs" if before == 8 else "between")
    whole, resumed = found[before], found[after]
    np.testing.assert_array_equal(
        resumed[f"{case} resumed/images"], whole[f"{case}/images"][trajectory.SAVED_AT :]
    )
    compare(resumed, f"{case} resumed", whole, case, start=trajectory.SAVED_AT)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(2, 4), (8, 1)])
def test_the_command_goes_on_in_a_workdir_of_other_devices(tmp_path, before, after):
    """`iecl_jax.main` on `before` devices to the end, and from its middle on `after` devices."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_on(before, *command(whole))
    shutil.copytree(whole, resumed, ignore=lambda folder, names: {"12", "results.json"} & {*names})
    run_on(after, *command(resumed))
    last = [
        json.loads((folder / "checkpoints/12/data/metadata").read_text())
        for folder in (whole, resumed)
    ]
    assert [(each["step"], each["position"]) for each in last] == [(12, 12)] * 2
    states = [load_for_evaluation(folder)[1] for folder in (whole, resumed)]
    for (path, a), (_, b) in zip(*map(seal.paths_and_leaves, states), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(a).max() + 1e-6, err_msg=path)
    provenance = json.loads((resumed / "provenance.json").read_text())
    assert [start["device"][0] for start in provenance] == [str(before), str(after)]


def command(workdir):
    return [
        *("-m", "iecl_jax.main", "--config=configs/imagenet_r50.py:100,smoke"),
        f"--workdir={workdir}",
        *("--config.data.image_size=8", "--config.encoder.width=4", "--config.saib.group_size=2"),
        *("--config.saib.patch_size=2", "--config.optimizer.learning_rate=0.05"),
        *("--config.train.num_steps=12", "--config.checkpoint.every_steps=6"),
        *("--config.eval.every_epochs=0", "--config.eval.linear.num_epochs=0"),
        "--config.diagnostics.every_steps=0",
    ]


def test_saib_groups_that_span_devices_are_refused():
    """A group of 2 images is on one device with 8 devices at a batch of 16, one of 4 is not."""
    config = trajectory.tiny_config("ie_cl")
    config.saib.group_size = 2
    config_lib.check(config, 8)
    config.saib.group_size = 4
    config_lib.check(config, 4)
    with pytest.raises(ValueError, match=r"saib\.group_size"):
        config_lib.check(config, 8)


def test_a_step_asks_for_no_other_collectives(runs):
    """One for each BN and one for its gradient, and one for the gradients of all parameters."""
    asked = [hlo.Collective(*fields) for fields in json.loads(str(runs[8]["asked"]))]
    found = collections.Counter((each.kind, purpose(each.source)) for each in asked)
    state = part(runs[8], "ie_cl/state/method_state/")
    norms = collections.Counter(name.split("/")[0] for name in state if name.endswith("/mean"))
    assert found == {
        ("all-gather", "BN of SAIB"): norms["saib"],
        ("reduce-scatter", "BN of SAIB, gradient"): norms["saib"],
        ("all-gather", "BN of the networks"): norms["online"] + norms["momentum"],
        ("reduce-scatter", "BN of the networks, gradient"): norms["online"],
        ("all-reduce", "number of labelled images"): 1,
        ("all-reduce", "gradients and metrics"): 1,
        ("all-gather", "embeddings"): 2,
        ("reduce-scatter", "gradient of gathered embeddings"): 1,
    }
    assert min(norms[network] for network in ("online", "momentum", "saib")) > 1
    (gradients,) = (each for each in asked if purpose(each.source) == "gradients and metrics")
    params = part(runs[8], "ie_cl/state/params/")
    size = sum(leaf.nbytes for leaf in params.values())
    assert 0 < gradients.bytes - size < 4 * len(part(runs[8], "ie_cl/metrics/"))


@pytest.mark.slow
def test_the_work_of_a_device_is_constant():
    """But for the losses of the gathered embeddings, which every device computes."""
    config = config_lib.load("configs/resnet18.py:cifar10,smoke", [])
    work = []
    for devices in (1, 2):
        config.train.batch_size = 8 * devices
        jaxpr, _ = program.lower(program.prepare(config, devices), jax.devices()[:devices])
        work.append(flops.product_flops(jaxpr))
    assert 1 <= work[1] / work[0] < 1.01, work
