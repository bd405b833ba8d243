"""The same training on 1, 2, 4 and 8 devices, and what devices send each other for it.

What may differ is rounding. A sum over the batch (a mean, a statistic, a gradient) is made of
partial sums of the devices, so it is a permuted sum, which in float32 differs by about 1e-7 of its
size. Every step then starts from parameters that differ by as much, and training amplifies
differences. How much it does is measured, not assumed: on ONE device, the same program goes on from
initial parameters that were each moved by one unit in the last place (1e-7 of their size, up or
down at random), which is no mistake of anyone. Other layouts may lie at most NOISE_FACTOR times as
far from the run on one device as the farther of two such runs; a run in which two images of each
batch are exchanged, the smallest mistake in order or augmentation keys, lies beyond that by far.
"""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import trajectory

from iecl_jax import config as config_lib
from iecl_jax.run import seal
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.tools.benchmark import hlo, step_program

ROOT = pathlib.Path(__file__).parent.parent
NOISE_FACTOR = 4
FIRST_STEP = 1e-6
# Differences of things of order 1: of entropies, and of gradients through the two views.
SMALL_DIFFERENCES = ("kl", "grad_norm_saib")
LOOSER = {
    "bfloat16": 2e-2,
    "float16": 2e-3,
    # Small differences again, of cosines of both signs and of correlations from 1.
    "simsiam": 1e-5,
    "barlow_twins": 1e-5,
    "w_mse": 1e-5,  # whitening divides by the smallest spread
}
VIEWS = 4e-6  # of normalised values: a millionth of the range from black to white
FURTHER = [case for case in trajectory.CASES if case not in trajectory.ON_EVERY_LAYOUT]


def run_on(devices: int, *command: str) -> None:
    """Runs a Python program on so many host devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)


def run_cases(folder, layouts):
    """What trajectory.py writes of {devices: cases}, by the number of devices."""
    for devices, cases in layouts.items():
        run_on(devices, "tests/trajectory.py", str(folder), *cases)
    return {devices: dict(np.load(folder / f"{devices}.npz")) for devices in layouts}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    cases = dict.fromkeys(trajectory.LAYOUTS, trajectory.ON_EVERY_LAYOUT)
    return run_cases(tmp_path_factory.mktemp("runs"), cases)


@pytest.fixture(scope="module")
def further_runs(tmp_path_factory):
    return run_cases(tmp_path_factory.mktemp("further_runs"), {8: FURTHER, 1: FURTHER})


def part(run, prefix):
    """The entries of a run below a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): run[name] for name in run if name.startswith(prefix)}


def layouts(case):
    """Those that a case ran on, but for one device."""
    return (2, 4, 8) if case in trajectory.ON_EVERY_LAYOUT else (8,)


def compare_first_steps(runs, case):
    """Loss, every term, and the norm of every gradient."""
    expected = part(runs[1], f"{case}/metrics/")
    tolerance = LOOSER.get(case, FIRST_STEP)
    for devices in layouts(case):
        for name, values in part(runs[devices], f"{case}/metrics/").items():
            np.testing.assert_allclose(
                values[0],
                expected[name][0],
                rtol=tolerance,
                atol=tolerance * (name in SMALL_DIFFERENCES),
                err_msg=f"{name}, {devices} devices",
            )


@pytest.mark.parametrize("case", trajectory.ON_EVERY_LAYOUT)
def test_the_first_step_is_the_same_on_any_number_of_devices(runs, case):
    compare_first_steps(runs, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", FURTHER)
def test_the_first_step_of_the_other_methods_is_the_same_too(further_runs, case):
    compare_first_steps(further_runs, case)


def divergence(run, case, other, name="ie_cl", start=0):
    """How far a run is from another: largest relative difference of the loss over its steps, and
    distance of the last parameters relative to their size."""
    loss, reference = run[f"{case}/metrics/loss"], other[f"{name}/metrics/loss"][start:]
    along = np.abs(loss / reference[: len(loss)] - 1).max()
    return along, distance(run, case, other, name)


def distance(run, case, other, name):
    differences, sizes = [], []
    for path, leaf in part(other, f"{name}/state/params/").items():
        differences.append(np.square(run[f"{case}/state/params/{path}"] - leaf).sum())
        sizes.append(np.square(leaf).sum())
    return np.sqrt(sum(differences) / sum(sizes))


def test_fifty_steps_stay_within_the_noise_of_a_permuted_sum(runs):
    noise = np.max([divergence(runs[1], f"ulp{i}", runs[1]) for i in range(2)], axis=0)
    mistake = divergence(runs[1], "exchanged", runs[1])
    assert all(mistake > 1000 * noise), (mistake, noise)
    for devices in layouts("ie_cl"):
        found = divergence(runs[devices], "ie_cl", runs[1])
        assert all(found < NOISE_FACTOR * noise), (devices, found, noise)


@pytest.mark.parametrize("case", trajectory.ON_EVERY_LAYOUT)
def test_every_device_ends_with_the_same_bits(runs, case):
    for devices in layouts(case):
        assert not len(runs[devices][f"{case}/replicas"]), runs[devices][f"{case}/replicas"]


def test_images_come_in_the_same_order(runs):
    for devices in layouts("ie_cl"):
        np.testing.assert_array_equal(runs[devices]["ie_cl/images"], runs[1]["ie_cl/images"])
    first, second = runs[1]["ie_cl/images"][:2]
    assert (first != second).any()


def test_an_image_gets_the_same_views_on_any_device(runs):
    for devices in layouts("ie_cl"):
        np.testing.assert_allclose(runs[devices]["views"], runs[1]["views"], rtol=0, atol=VIEWS)


def test_the_queue_holds_the_same_keys_in_the_same_order(runs):
    """After the batches have gone round it several times; BN here is over groups of 8 images."""
    expected = part(runs[1], "moco_v2/state/method_state/queue/")
    rows = trajectory.CASES["moco_v2"]["method.queue_size"]
    for devices in layouts("moco_v2"):
        queue = part(runs[devices], "moco_v2/state/method_state/queue/")
        assert queue["next"] == expected["next"] == trajectory.STEPS * trajectory.BATCH % rows
        np.testing.assert_allclose(queue["keys"], expected["keys"], atol=1e-3)
    nearest = (queue["keys"] @ expected["keys"].T).argmax(1)
    np.testing.assert_array_equal(nearest, np.arange(rows))


def test_a_run_saved_on_some_devices_goes_on_with_others(runs):
    """From 2 to 4 and from 8 to 1, through the checkpoint's files."""
    noise = np.max([divergence(runs[1], f"ulp{i}", runs[1]) for i in range(2)], axis=0)
    for devices, before in trajectory.RESUMED_FROM.items():
        resumed, whole = runs[devices], runs[before]
        np.testing.assert_array_equal(
            resumed["resumed/images"], whole["ie_cl/images"][trajectory.SAVED_AT :]
        )
        found = divergence(resumed, "resumed", whole, start=trajectory.SAVED_AT)
        assert all(found < NOISE_FACTOR * noise), (devices, found, noise)


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
    assert last[0] == last[1] == {"step": 12, "position": 12}
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
    """A group of 4 images is on one device with 8 devices at a batch of 32, one of 8 is not."""
    config = trajectory.tiny_config("ie_cl")
    config.saib.group_size = 4
    config_lib.check(config, 8)
    config.saib.group_size = 8
    config_lib.check(config, 4)
    with pytest.raises(ValueError, match=r"saib\.group_size"):
        config_lib.check(config, 8)


def test_a_step_asks_for_no_other_collectives(runs):
    """One all-reduce for each BN and its gradient, one for the gradients."""
    asked = [hlo.Collective(*fields) for fields in json.loads(str(runs[8]["asked"]))]
    found = collections.Counter((each.kind, step_program.purpose(each.source)) for each in asked)
    state = [name for name in runs[8] if name.startswith("ie_cl/state/method_state/")]
    norms = {
        network: sum(name.endswith("/mean") for name in state if f"/{network}/" in name)
        for network in ("online", "momentum", "saib")
    }
    assert norms == {"online": 15, "momentum": 15, "saib": 4}
    assert found == {
        ("all-reduce", "BN of SAIB"): norms["saib"],
        ("all-reduce", "BN of SAIB, gradient"): norms["saib"],
        ("all-reduce", "BN of the networks"): norms["online"] + norms["momentum"],
        ("all-reduce", "BN of the networks, gradient"): norms["online"],
        ("all-reduce", "number of labelled images"): 1,
        ("all-reduce", "gradients and metrics"): 1,
        ("all-gather", "embeddings"): 2,
        ("reduce-scatter", "gradient of gathered embeddings"): 1,
    }
    sent = hlo.summary(hlo.Collective(*fields) for fields in json.loads(str(runs[8]["sent"])))
    for kind, of_kind in hlo.summary(asked).items():
        assert sent[kind]["count"] <= of_kind["count"]


def test_a_device_alone_sends_nothing(runs):
    assert json.loads(str(runs[1]["sent"])) == []


def step_program_of(config, devices, *overrides):
    """(table, GFLOP of a device) that step_program.py prints."""
    command = [
        "-m",
        "iecl_jax.tools.benchmark.step_program",
        f"--config=configs/resnet18.py:{config}",
    ]
    result = subprocess.run(
        [
            sys.executable,
            *command,
            f"--devices={devices}",
            *(["--", *overrides] if overrides else []),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    table, work = result.stdout.split("\n\n")
    return table, float(re.search(r"[\d.]+", work)[0])


def test_the_docs_list_what_a_step_asks_for_and_its_work_is_constant():
    """ResNet-18, 32 images on each device; the losses of the gathered embeddings grow, a little."""
    table, eight = step_program_of("cifar10", 8)
    assert table in (ROOT / "docs/topology.md").read_text()
    _, one = step_program_of("cifar10", 1, "--config.train.batch_size=32")
    assert 1 <= eight / one < 1.005, (one, eight)


@pytest.mark.slow
def test_the_docs_list_what_a_step_with_a_queue_asks_for():
    table, _ = step_program_of("cifar10,moco_v2", 8)
    assert table in (ROOT / "docs/topology.md").read_text()
