"""What tests put in place of `iecl_jax.main`: it keeps a run's files, and trains nothing.

A config says what comes of it: `linear` and `knn` are accuracies by seed, `fate` is "" or "fail" or
"wait" (for SIGTERM). Every call is noted in the file that the environment variable CALLS names.
"""

import ast
import json
import os
import pathlib
import runpy
import signal
import sys
import time

PROBES = {"linear_probe": 0.25, "linear": 0.125}
TRAININGS = {"segmentation": "miou", "detection": "map"}
CONFIG = """
import ml_collections

VARIANTS = {
    "a": {"linear": (0.50, 0.52, 0.51), "knn": (0.3, 0.4, 0.5)},
    "b": {"linear": (0.51, 0.54, 0.55), "knn": (0.3, 0.4, 0.6)},
    "fail": {"fate": "fail"},
    "wait": {"fate": "wait"},
}
SETTINGS = VARIANTS


def get_config(arg="a"):
    name, *scale = arg.split(",")
    config = ml_collections.ConfigDict({"job": "pretrain", "seed": 0, "fate": "", "rate": 0.5})
    config.update({"linear": (0.0,), "knn": (0.0,), "scale": "".join(scale)})
    config.data = {"name": "stripes", "dir": "", "image_size": 16}
    config.encoder = {"name": "resnet10", "width": 8}
    config.train = {"batch_size": 32}
    config.eval = {"linear": {"num_epochs": 2}, "knn": {"k": 5}}
    config.update(VARIANTS[name])
    return config
"""


def write(path: pathlib.Path, text: str) -> None:
    path.write_text(text + "\n")


def main() -> None:
    sys.path.insert(0, os.getcwd())  # as with python -m
    given = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[1:])
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    path, _, variant = given.pop("config").partition(":")
    folder = pathlib.Path(given.pop("workdir"))
    config = runpy.run_path(path)["get_config"](*filter(None, [variant]))
    for key, text in given.items():
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        config.update_from_flattened_dict({key.removeprefix("config."): value})
    text = json.dumps(config.to_dict(), sort_keys=True, indent=2)
    known = folder / "config.json"
    if known.exists() and known.read_text().strip() != text:
        sys.exit("error: another config")
    start = {"git": {"revision": "0123456789", "dirty": False}, "config_changes": []}
    write(known, text)
    write(folder / "provenance.json", json.dumps([start]))
    if config.get("fate") == "fail" or config.seed == 13:
        sys.exit("error: bad luck")
    if config.get("fate") == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        write(folder / "waits", "")
        time.sleep(60)
    if config.job in PROBES:
        results = json.loads((pathlib.Path(config.checkpoint) / "results.json").read_text())
        metrics = {"linear_top1": results["metrics"]["linear_top1"] + PROBES[config.job]}
    elif config.job in TRAININGS:
        home = pathlib.Path(config.checkpoint) / "results.json" if config.checkpoint else None
        before = json.loads(home.read_text())["metrics"]["linear_top1"] if home else 0.0
        metrics = {TRAININGS[config.job]: before / 2 + config.seed / 100, "iou": {"cat": 0.5}}
    else:
        metrics = {"linear_top1": config.linear[config.seed], "knn_top1": config.knn[config.seed]}
        metrics["diagnostics"] = {"rank_me": 3.0}
    facts = {"device": "1 x abacus", "versions": {"jax": "1"}, "steps": 7}
    write(folder / "results.json", json.dumps({"metrics": metrics, **facts}))


if __name__ == "__main__":
    main()
