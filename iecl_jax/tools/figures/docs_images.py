"""Draws the pictures of README and docs anew: trains what is missing, and copies or photographs it.

    python -m iecl_jax.tools.figures.docs_images --only=quickstart
    python -m iecl_jax.tools.figures.docs_images --config.data.dir=DIR

The first command trains the quick start and draws its pictures. The second draws all: the other
runs need CIFAR-10, and most of an hour on two CPU cores. Runs lie in RUNS/NAME and are not
repeated. Screenshots of web pages need Chromium, and are left out with a line where there is none.
The picture of Fig. 8 is made by `python -m iecl_jax.tools.tables --table=fig8 --scale=small`.
"""

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from iecl_jax.data import files
from iecl_jax.evals.parts import overview
from iecl_jax.tools import arguments
from iecl_jax.tools.figures import neighbours, report
from iecl_jax.tools.runs import Run, Runner

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SMALL = "--config.encoder.name=resnet10 --config.encoder.width=16 --config.data.cache=host "
_SMALL += "--config.data.image_size=24 --config.projector.hidden_dim=512 "
_SMALL += "--config.projector.output_dim=128 --config.train.batch_size=128 "
_SMALL += "--config.train.num_epochs=8 --config.schedule.warmup_epochs=0.5 "
_SMALL += "--config.eval.every_epochs=2 --config.eval.batch_size=500"
# Name of a run -> (its config, its flags, whether it is on CIFAR-10).
RUNS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "quickstart": ("configs/quickstart.py", (), False),
    "cifar10": ("configs/resnet18.py:cifar10", tuple(_SMALL.split()), True),
    **{
        f"study-{name}": (f"configs/study.py:{name}", ("--config.seed=0",), True)
        for name in ("ie-cl", "row6-expansive", "row10-symmetric")
    },
}


class Skipped(Exception):
    """Raised where a picture cannot be drawn here; the message says why."""


def newest(run: Path, name: str) -> bytes:
    """Returns the newest picture in RUN/NAME/STEP.png."""
    found = sorted((run / name).glob("[0-9]*.png"))
    if not found:
        raise Skipped(f"{run / name} has no pictures")
    return found[-1].read_bytes()


def _neighbours(run: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        with contextlib.redirect_stdout(None):  # It prints the path.
            neighbours.main([f"--workdir={run}", "--queries=4", f"--out={path}"])
        return path.read_bytes()


def _report(run: Path) -> bytes:
    return screenshot(report.write(run).absolute().as_uri(), 1200, 1500)


def _tensorboard(run: Path) -> bytes:
    from tensorboard import program

    server = program.TensorBoard()
    server.configure(argv=["tensorboard", f"--logdir={run}", "--port=0", "--load_fast=false"])
    # The time series are drawn in a worker, for which a screenshot does not wait.
    return screenshot(f"{server.launch()}#scalars", 1400, 900)


# Picture -> (the run that it shows, how it is made from the folder of that run).
PICTURES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "neighbours": ("quickstart", _neighbours),
    "feature_map": ("quickstart", lambda run: (run / overview.FOLDER / overview.MAP).read_bytes()),
    "quickstart_gallery": ("quickstart", lambda run: newest(run, "gallery")),
    "report": ("quickstart", _report),
    "tensorboard": ("quickstart", _tensorboard),
    "cifar10_gallery": ("cifar10", lambda run: newest(run, "gallery")),
    "spectrum_paper": ("study-ie-cl", lambda run: newest(run, "jacobian_spectrum")),
    "spectrum_expansive": ("study-row6-expansive", lambda run: newest(run, "jacobian_spectrum")),
    "spectrum_symmetric": ("study-row10-symmetric", lambda run: newest(run, "jacobian_spectrum")),
}


def screenshot(address: str, width: int, height: int) -> bytes:
    """Returns a PNG of a web page in a window of this size in pixels.

    Raises:
      Skipped: there is no Chromium, or it fails.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise Skipped(f"no browser is installed ({', '.join(BROWSERS)})")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.png")
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        command += ["--virtual-time-budget=30000", f"--screenshot={path}", address]
        try:
            subprocess.run(command, capture_output=True, check=False, timeout=180)
            return path.read_bytes()
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Skipped(f"{browser} took no screenshot ({error})") from error


def save(png: bytes, path: Path) -> None:
    """Writes a picture with at most 256 colours, which makes the file a third as large."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    with files.open_whole(path) as file:
        image.quantize(256, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)


def main(words: Sequence[str] | None = None) -> None:
    """Draws the pictures that the command line names, and prints what became of each."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--only", default="", help="comma-separated runs; default: all")
    parser.add_argument("--runs", type=arguments.new_folder, default=Path("runs/docs"))
    parser.add_argument("--out", type=arguments.new_folder, default=Path("docs/images"))
    args = parser.parse(words)
    wanted = args.only.split(",") if args.only else list(RUNS)
    for name in wanted:
        if name not in RUNS:
            parser.error(f"--only={name} must be some of {', '.join(RUNS)}")
    trained = {}
    with Runner(1, args.runs / "compiled") as runner:
        for name in wanted:
            config, flags, on_cifar10 = RUNS[name]
            flags += tuple(args.overrides) if on_cifar10 else ()
            trained[name] = runner.complete(name, Run(config, args.runs / name, flags))
    for picture, (name, draw) in PICTURES.items():
        path = args.out / f"{picture}.png"
        if trained.get(name):
            try:
                save(draw(args.runs / name), path)
                print(path, flush=True)
            except (Skipped, OSError) as error:
                print(f"{path}: left as it is: {error}", file=sys.stderr, flush=True)
    runner.leave(list(trained.values()))


if __name__ == "__main__":
    main()
