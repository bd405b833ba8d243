"""What is measured, in order: the most valuable figure first, and last what takes all that is left.

Every measurement is a command of its own, which the user could type. To add one, add a line to
`fixed`; a setting or a flag that is compared with the step without it is a line of VARIANTS.
"""

import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax import config as config_lib
from iecl_jax.config import files
from iecl_jax.models import sliced_conv
from iecl_jax.run import metrics_file
from iecl_jax.tools.benchmark import parts, peer, startup
from iecl_jax.tools.benchmark.gpu import like_cifar10, traced
from iecl_jax.tools.benchmark.gpu.figures import Figures
from iecl_jax.tools.benchmark.gpu.session import MARGIN, Measurement

BENCHMARK = ("-m", "iecl_jax.tools.benchmark")
R18, R50 = "configs/resnet18.py:cifar10", "configs/imagenet_r50.py:100"
PRECISION = "--config.train.precision=bfloat16"
STEPS = {"r18_32": R18, "r50_224": R50}
EPOCHS, PAIR = "cifar10_epochs", ("pair_ie_cl", "pair_terms_without_saib")
METHODS = ("simclr", "byol", "moco_v2", "simsiam")
ADDITIONS = ("", "+terms", "+saib", "+sn")
REAL_EPOCHS = 6  # of the training whose epochs are timed
SMOKE_STEPS = 8
SPEED = "train/images_per_second"
SHORTEST, LONGEST = 10, 1000  # epochs of a pair; fewer say nothing, more are more than the paper's
SAFE = 0.9  # share of the time that a pair is planned to take
# What the command repeats in each record, or what the figure itself says.
REPEATED = ("command", "device", "versions", "git_revision", "git_dirty")


class Variant(NamedTuple):
    """A step of STEPS with another setting.

    Attributes:
      of: the name of the step.
      name: what differs.
      overrides: of its config.
      xla_flags: flags of XLA.
    """

    of: str
    name: str
    overrides: tuple[str, ...] = ()
    xla_flags: str = ""


VARIANTS = (
    Variant("r18_32", "8_steps_a_call", ("--config.train.steps_per_call=8",)),
    Variant("r50_224", "nhwc", xla_flags="--xla_gpu_force_conv_nhwc=true"),
    Variant("r50_224", "no_triton", xla_flags="--xla_gpu_enable_triton_gemm=false"),
    Variant("r18_32", "nhwc", xla_flags="--xla_gpu_force_conv_nhwc=true"),
    *(
        Variant(of, f"saib_{form}", (f"--config.saib.conv3x3={form}",))
        for of in ("r18_32", "r50_224")
        for form in sliced_conv.FORMS[1:]
    ),
)


class Choices(NamedTuple):
    """What the command line says.

    Attributes:
      out: the folder of the figures.
      smoke: whether everything is tiny.
      device: cpu or cuda, for the peer.
      peer, peer_python: the script and its interpreter; "" if there is none.
      data: overrides that name the images of CIFAR-10; () if there are none.
      overrides: of every pretraining config.
    """

    out: Path
    smoke: bool
    device: str
    peer: str
    peer_python: str
    data: tuple[str, ...]
    overrides: tuple[str, ...]


def config_of(name: str, choices: Choices) -> str:
    """Returns FILE:VARIANT at the scale of the call."""
    separator = "," if ":" in name else ":"
    return f"{name}{separator}smoke" if choices.smoke else name


def settings(choices: Choices, *changes: str) -> list[str]:
    """Returns the overrides of a pretraining config; the user's come last and win."""
    sizes = () if choices.smoke else ("--config.train.batch_size=256",)
    common = (PRECISION, *sizes)
    return files.merged([*common, *changes, *choices.overrides])


def fixed(choices: Choices) -> list[Measurement]:
    """Returns the measurements whose length does not depend on what was measured before."""
    found = [
        step("r18_32", choices, most=150),
        of_peer("r18_32", "cuda_graph", ("--cudagraph",), choices, most=120),
        of_peer("r18_32", "compiled", ("--compile",), choices, most=240),
        step("r50_224", choices, most=180),
        of_peer("r50_224", "compiled", ("--compile",), choices, most=300),
        training(EPOCHS, REAL_EPOCHS, choices, most=180),
        *(variant(each, choices, most=150) for each in VARIANTS),
        *(costs(method, choices, most=240) for method in METHODS),
        *(profile(name, choices, most=120) for name in STEPS),
        *(voc(job, choices, most=150) for job in ("segmentation", "detection")),
        first_step(choices, most=120),
    ]
    both = ("--compile", "--cudagraph")
    found.append(of_peer("r18_32", "compiled_cuda_graph", both, choices, most=240))
    # A CPU compiles in minutes what takes a GPU seconds.
    return [each._replace(most=math.inf) for each in found] if choices.smoke else found


def step(name: str, choices: Choices, *, most: float) -> Measurement:
    """Measures a step of STEPS."""
    return _benchmark(name, [STEPS[name]], choices, most=most)


def variant(each: Variant, choices: Choices, *, most: float) -> Measurement:
    """Measures a line of VARIANTS."""
    name = f"{each.of}_{each.name}"
    changed = _benchmark(name, [STEPS[each.of]], choices, *each.overrides, most=most)
    return changed._replace(xla_flags=each.xla_flags)


def costs(method: str, choices: Choices, *, most: float) -> Measurement:
    """Measures a method plain, with the terms of SAIB, with SAIB, and with spectral norm."""
    configs = [f"{R18},{method}{addition}" for addition in ADDITIONS]
    return _benchmark(f"cost_{method}", configs, choices, most=most)


def profile(name: str, choices: Choices, *, most: float) -> Measurement:
    """Measures which kernels take the time of a step of STEPS."""
    folder = choices.out / "traces" / name
    found = _benchmark(f"profile_{name}", [STEPS[name]], choices, most=most)
    words = (f"--trace={folder}", "--rounds=1", "--steps=3")
    return found._replace(
        arguments=(*found.arguments, *words),
        read=lambda _: traced.read(folder, parts.TRACED_STEPS),
    )


def voc(job: str, choices: Choices, *, most: float) -> Measurement:
    """Measures the step of a training on VOC."""
    path = _results(f"voc_{job}", choices)
    config = config_of(f"configs/voc_{job}.py", choices)
    words = [f"--config={config}", f"--json={path}", f"--config.{job}.precision=bfloat16"]
    command = (*BENCHMARK[:-1], f"{BENCHMARK[-1]}.voc", *words)
    return Measurement(f"voc_{job}", command, _reader(path), most)


def first_step(choices: Choices, *, most: float) -> Measurement:
    """Measures the quick start from its command to its first step, with a filled cache."""
    path = _results("startup", choices)
    config = config_of("configs/quickstart.py", choices)
    words = (f"--config={config}", "--rounds=2", f"--json={path}", PRECISION)
    return Measurement("startup", ("-m", startup.__name__, *words), _phases(path), most)


def of_peer(
    name: str, form: str, words: Sequence[str], choices: Choices, *, most: float
) -> Measurement:
    """Measures the PyTorch peer with the shapes of a step of STEPS."""
    shapes = settings(choices)
    if choices.smoke:  # The peer has no smaller network than ResNet-18.
        shapes += ["--config.train.batch_size=4", "--config.projector.hidden_dim=16"]
        shapes += ["--config.saib.group_size=4", "--config.data.image_size=32"]
        shapes += ["--config.saib.patch_size=4"]
    config = config_lib.load(STEPS[name], files.merged(shapes))
    taken = ("--steps=2", "--warmup=1") if choices.smoke else ("--steps=30", "--warmup=8")
    flags = peer.flags(config, "ie_cl", choices.device)
    missing = "" if choices.peer else "no --peer"
    if "--cudagraph" in words and choices.device == "cpu":
        missing = missing or "a CUDA graph needs a GPU"
    return Measurement(
        f"{name}_peer_{form}",
        (choices.peer, *flags, *taken, *words),
        _last_object,
        most,
        python=choices.peer_python,
        missing=missing,
    )


def training(name: str, epochs: int, choices: Choices, *changes: str, most: float) -> Measurement:
    """Measures a training on CIFAR-10 by the user's command, with kNN and linear evaluation."""
    work = choices.out / "runs" / name
    images = choices.data
    if not images and not choices.smoke:
        images = (f"--config.data.name={os.path.relpath(like_cifar10.__file__)}",)
    words = settings(
        choices,
        *images,
        "--config.data.cache=device",
        "--config.train.steps_per_call=8",
        f"--config.train.num_epochs={epochs}",
        f"--config.train.num_steps={SMOKE_STEPS if choices.smoke else 0}",
        f"--config.schedule.warmup_epochs={0.0 if choices.smoke else min(10.0, epochs / 10)}",
        "--config.eval.every_epochs=0",
        "--config.eval.names=('knn','linear')",
        "--config.eval.linear.num_epochs=20",
        "--config.eval.pictures=False",
        "--config.diagnostics.every_steps=0",
        "--config.checkpoint.every_steps=100000",
        "--config.checkpoint.keep_best=0",
        *changes,
    )
    command = ("-m", "iecl_jax.main", f"--config={config_of(R18, choices)}")

    arguments = (*command, *words, f"--workdir={work}")
    real = bool(choices.data)
    return Measurement(name, arguments, lambda _: _read_training(work) | {"real": real}, most)


def pair(figures: Figures, left: float, choices: Choices) -> dict[str, Measurement]:
    """Returns two trainings of equal length, IE-CL's and one with its terms and without SAIB.

    Their epochs are those that fit into the seconds that are left, by what was measured before; or
    those of the one that is there, which the other is compared with.
    """
    missing, epochs = "", 0
    begun = [_epochs_begun(choices.out / "runs" / name) for name in PAIR]
    measured = figures.all.get(EPOCHS, {})
    if not choices.data and not choices.smoke:
        missing = "no --data_dir"
    elif not figures.measured(EPOCHS):
        missing = f"{EPOCHS} was not measured, from which its length follows"
    elif any(begun):
        epochs = max(begun)
    else:
        a_second = measured["value"]["seconds_an_epoch"]
        beside = max(0.0, measured["seconds"] - measured["value"]["epochs"] * a_second)
        epochs = epochs_of_pair(left, a_second, beside)
        if choices.smoke:
            epochs = SHORTEST
        elif epochs < SHORTEST:
            missing = f"{left:.0f} s left are fewer than {SHORTEST} epochs for each of two"
    changes: tuple[tuple[str, ...], ...] = ((), ("--config.saib.enabled=False",))
    return {
        name: training(name, epochs, choices, *change, most=left)._replace(missing=missing)
        for name, change in zip(PAIR, changes, strict=True)
    }


def epochs_of_pair(left: float, a_second: float, beside: float) -> int:
    """Returns the epochs of each of two trainings that fit into `left` seconds.

    Args:
      left: seconds for both.
      a_second: seconds of an epoch.
      beside: seconds of a training outside its epochs: start, compilation, evaluations.
    """
    each = (left - MARGIN) / 2
    return max(0, min(LONGEST, int((SAFE * each - beside) / a_second)))


def _epochs_begun(work: Path) -> int:
    """Returns the epochs of a training that was begun, 0 if none was."""
    path = work / "config.json"
    return json.loads(path.read_text())["train"]["num_epochs"] if path.exists() else 0


def _benchmark(
    name: str, configs: Sequence[str], choices: Choices, *changes: str, most: float
) -> Measurement:
    path = _results(name, choices)
    words = [f"--config={config_of(config, choices)}" for config in configs]
    words += ["--only=step", f"--json={path}", *(_few(choices))]
    arguments = (*BENCHMARK, *words, *settings(choices, *changes))
    return Measurement(name, arguments, _reader(path), most)


def _few(choices: Choices) -> tuple[str, ...]:
    return ("--rounds=2", "--steps=1") if choices.smoke else ()


def _results(name: str, choices: Choices) -> Path:
    return choices.out / "results" / f"{name}.json"


def _reader(path: Path) -> Callable[[Path], list[dict[str, Any]]]:
    """Returns a function that reads the records that the benchmark wrote to a file."""

    def read(_: Path) -> list[dict[str, Any]]:
        records = json.loads(path.read_text())
        records = records if isinstance(records, list) else [records]
        return [{k: v for k, v in each.items() if k not in REPEATED} for each in records]

    return read


def _phases(path: Path) -> Callable[[Path], startup.Phases]:
    """Returns a function that reads the phases of a start."""
    return lambda _: startup.medians(json.loads(path.read_text()))


def _last_object(log: Path) -> dict[str, Any]:
    """Returns the last JSON object that is a line of a log."""
    for line in reversed(log.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise ValueError(f"{log} has no line of JSON")


def _read_training(work: Path) -> dict[str, Any]:
    """Returns how long a training took for an epoch, how long it was, and its accuracies."""
    results = json.loads((work / "results.json").read_text())
    images = json.loads((work / "provenance.json").read_text())[-1]["images"]["images"]
    lines = [line for line in metrics_file.read(work) if "train/epoch" in line]
    speed = statistics.median(filter(None, (line.get(SPEED) for line in lines)))
    names = ("knn_top1", "linear_top1")
    accuracies = {name: results["metrics"][name] for name in names if name in results["metrics"]}
    return {
        "images": images,
        "images_per_second": speed,
        "seconds_an_epoch": images / speed,
        "epochs": lines[-1]["train/epoch"],
        "params_digest": results["params_digest"],
    } | accuracies
