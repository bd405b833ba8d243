"""Measures what is worth knowing of one GPU in a budget of seconds, the most valuable first.

    python -m iecl_jax.tools.benchmark.gpu --budget=840 --out=DIR [--peer=PATH/torch_peer.py
        --peer_python=PYTHON] [--data_dir=DIR] [--only=NAME,...] [--smoke]
    python -m iecl_jax.tools.benchmark.gpu --report --out=DIR

In order: the step of IE-CL with ResNet-18 at 32 px and with ResNet-50 at 224 px, batch 256,
bfloat16, beside the PyTorch peer; seconds an epoch of CIFAR-10, by real epochs; the same steps with
other settings and flags; what SAIB, its terms and spectral norm cost in four methods; which kernels
take the time; the steps of segmentation and detection; and in what is left of the budget two
trainings of equal length, IE-CL and its terms without SAIB, with their accuracies.

Each is a command of its own, which is ended when its time is up. Each figure is in
DIR/figures.jsonl as soon as it is known, with its command, device and versions, and what was left
out or failed is there with the reason. A second call with the same DIR goes on with what is
missing, so two short loans of a GPU can follow each other. At its end the command prints the tables
and writes them to DIR/report.md.

CIFAR-10 is a data set that `iecl_jax.tools.prepare` wrote into --data_dir, or with
--data_name=image_folder a folder of images. Without it, generated images are read, and there is no
pair of trainings. Neither TensorFlow nor PyTorch is needed. --smoke tries everything at tiny sizes,
also on a CPU. `--config.KEY=VALUE` changes a setting of every pretraining config.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iecl_jax import config as config_lib
from iecl_jax.config import own_files, rules
from iecl_jax.run import workdir
from iecl_jax.tools import arguments, runs
from iecl_jax.tools.benchmark.gpu import plan, report
from iecl_jax.tools.benchmark.gpu.figures import FAILED, Figures
from iecl_jax.tools.benchmark.gpu.session import Session

# Run in a process of its own, so that this one keeps no memory of the GPU.
PROBE = """
import json, jax
from iecl_jax.run import workdir
print(json.dumps({"device": workdir.device_description(), "backend": jax.default_backend(),
                  **workdir.software()}))
"""
SECONDS_OF_PROBE = 120


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; a mistake ends the process."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--budget", type=float, default=0.0, help="seconds in all")
    parser.add_argument("--out", type=arguments.new_folder, required=True)
    parser.add_argument("--report", action="store_true", help="print the tables, measure nothing")
    parser.add_argument("--peer", type=arguments.folder, help="path of torch_peer.py")
    parser.add_argument("--peer_python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--data_name", default="cifar10")
    parser.add_argument(
        "--data_dir", type=arguments.folder, help="folder of the images of CIFAR-10"
    )
    parser.add_argument("--only", default="", help="names of figures, comma-separated; default all")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to try the command")
    args = parser.parse(argv)
    if not args.report and not args.budget > 0:
        parser.error("--budget=SECONDS is missing, the time that this call may take.")
    args.only = args.only.split(",") if args.only else []
    if args.peer and not args.peer.is_file():
        parser.error(f"--peer={args.peer} is no file.")
    if args.data_dir and not args.data_dir.is_dir():
        parser.error(f"--data_dir={args.data_dir} is no folder.")
    return args


def _choices(args: argparse.Namespace, device: str) -> plan.Choices:
    data = (f"--config.data.name={args.data_name}", f"--config.data.dir={args.data_dir}")
    return plan.Choices(
        out=args.out,
        smoke=args.smoke,
        device=device,
        peer=str(args.peer or ""),
        peer_python=args.peer_python,
        data=data if args.data_dir else (),
        overrides=tuple(args.overrides),
    )


def check(args: argparse.Namespace) -> int:
    """Raises ValueError if a name, a config or the images are wrong; returns the config's seed."""
    choices = _choices(args, "cuda")
    names = [*(each.name for each in plan.fixed(choices)), *plan.PAIR]
    for name in args.only:
        rules.one_of("--only", name, names)
    for name in plan.STEPS.values():
        config = config_lib.load(plan.config_of(name, choices), plan.settings(choices))
        config_lib.check(config, 1)
    of_images = plan.settings(choices, *choices.data)
    config_lib.check(config_lib.load(plan.config_of(plan.R18, choices), of_images), 1)
    return config.seed


def probe(runner: runs.Runner, out: Path, seconds: float) -> dict[str, Any]:
    """Returns {"device", "backend", "git", "python", "versions"} of a new process.

    Raises:
      ValueError: JAX does not start.
    """
    log = out / "logs" / "device.txt"
    code = runner.call(["-c", PROBE], log, seconds=min(seconds, SECONDS_OF_PROBE))
    if code and not runner.stopped:
        raise ValueError(f"JAX does not start here: {runs.last_line(log) or code} (see {log}).")
    return {} if code else json.loads(runs.last_line(log))


def measure(args: argparse.Namespace, figures: Figures) -> None:
    """Measures what is missing until the budget is spent, and prints the tables."""
    end = time.monotonic() + args.budget
    seed = check(args)
    with runs.Runner(1, args.out / "compiled") as runner:
        found = probe(runner, args.out, args.budget)
        if runner.stopped:
            runner.leave([])
        if found["backend"] == "cpu" and not args.smoke:
            raise ValueError(
                f"JAX finds no GPU here, only {found['device']}: see docs/gpus.md for what to "
                "install, or try the command with --smoke."
            )
        git = found["git"] or {"revision": None, "dirty": None}
        versions = {"python": found["python"], **found["versions"]}
        facts = {
            "device": found["device"],
            "versions": {name: each for name, each in versions.items() if each},
            "revision": git["revision"],
            "dirty": git["dirty"],
            "seed": seed,
            "smoke": args.smoke,
        }
        figures.refuse_others(facts)
        choices = _choices(args, "cpu" if found["backend"] == "cpu" else "cuda")
        session = Session(args.out, figures, runner, lambda: end - time.monotonic(), facts)
        (args.out / "results").mkdir(exist_ok=True)
        wanted = [each for each in plan.fixed(choices) if not args.only or each.name in args.only]
        # What failed in an earlier call is tried again after what was never tried.
        wanted.sort(key=lambda each: figures.all.get(each.name, {}).get("state") == FAILED)
        for each in wanted:
            session.take(each)
        for name in plan.PAIR:
            if not args.only or name in args.only:
                session.take(plan.pair(figures, session.left(), choices)[name])
        tell(args.out, figures)
        failed = [each["state"] == FAILED for each in figures.all.values()]
        runner.leave([not each for each in failed])


def tell(out: Path, figures: Figures) -> None:
    """Prints the tables and writes them to a file."""
    text = report.tables(figures.all)
    workdir.write_atomically(out / "report.md", text)
    print(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the command line says."""
    args = parse(argv)
    with own_files.sentences():
        figures = Figures(args.out)
        if not args.report:
            args.out.mkdir(parents=True, exist_ok=True)
            measure(args, figures)
        elif figures.all:
            tell(args.out, figures)
        else:
            raise ValueError(f"{args.out} has no figures: measure with --budget=SECONDS.")


if __name__ == "__main__":
    main()
