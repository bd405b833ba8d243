"""Random settings, legal and absurd ones: each is accepted, or refused in one clear sentence.

    python -m pytest -m faults -n 2 --dist load tests/test_settings_campaign.py

takes a thousand trials, and other ones with SETTINGS_SEED=1, 2, ... Each trial changes one to three
settings of a config, as a command does or as a config file does, and goes as far as the command
goes before it compiles. The suite takes some of them.
"""

import contextlib
import math
import os
import random
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import setting_values

from iecl_jax import config as config_lib
from iecl_jax import main
from iecl_jax.config import schema, section
from iecl_jax.config.rules import shown
from iecl_jax.evals import scheduled
from iecl_jax.train import pretraining

ROOT = Path(__file__).parent.parent
FLAGS = (
    "tests/tiny_network.py",
    "tests/tiny_run.py",
    "configs/imagenet_r50.py:100,smoke",
    "configs/plug_and_play.py:byol+saib,smoke",
    "configs/plug_and_play.py:nnclr,smoke",
    "configs/plug_and_play.py:w_mse+sn,smoke",
    "configs/linear_probe.py:smoke",
    "configs/jacobian.py:smoke",
    "configs/knn.py:smoke",
)
SECONDS = 4  # of the processor; what is refused or accepted takes hundredths
TRIALS, IN_THE_SUITE = 1000, 60


def prepared(config: Any) -> None:
    """Does what the command does before it compiles. Raises ValueError for a mistake."""
    config_lib.check(config, jax.local_device_count())
    if config.job == "pretrain":
        task = pretraining.prepare(config)
        scheduled(config, task.experiment.method, task.split, "")
    else:
        config_lib.check_pretrain(config.pretrain, 1)


def choose(rng: random.Random, config: Any) -> tuple[dict[str, Any], bool]:
    """One to three settings with new values, and whether a command can give them."""
    known, given = schema.keys(config), section.leaves(config)
    by_command = rng.random() < 0.6
    changes = {}
    for name in rng.sample(sorted(known), rng.choice((1, 1, 1, 2, 3))):
        legal = setting_values.others(name, known[name], given[name])
        if legal and rng.random() < 0.3:
            changes[name] = rng.choice(legal)
        else:
            changes[name] = rng.choice(
                setting_values.STRANGE if by_command else setting_values.FOREIGN
            )
    return changes, by_command


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Ends the block with TimeoutError when it has used the processor for too long."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s of the processor")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(flag: str, changes: dict[str, Any], *, by_command: bool) -> str:
    """What is wrong with how a config takes changes; "" if nothing."""
    try:
        with quickly():
            if by_command:
                texts = [f"--config.{n}={setting_values.text(v)}" for n, v in changes.items()]
                config = config_lib.load(flag, texts)
            else:
                config = config_lib.load(flag)
                for name, value in changes.items():
                    section.put(config, name, value)
                config = schema.complete(config)
            prepared(config)
    except ValueError as error:
        return unclear(str(error), changes)
    except BaseException:
        return traceback.format_exc(limit=-5)
    return absurd(config)


def unclear(sentence: str, changes: dict[str, Any]) -> str:
    """What is wrong with the sentence of a refusal; "" if nothing."""
    if "\n" in sentence or len(sentence) > 1500 or not sentence.endswith((".", "?")):
        return f"no short sentence: {sentence[:300]!r}"
    if not sentence.isprintable():
        return f"not printable: {sentence[:300]!r}"
    # A file or a section names its own settings without the sections around them, and what a
    # choice brings with it (a method, its queue) may be what does not fit.
    words = [name.split(".") for name in changes]
    parts = [".".join(word[-depth:]) for word in words for depth in (1, 2, 3, 9)]
    parts += [f"{word[0]}." for word in words if word[-1] in ("name", "names", "views")]
    parts += ["images of a device"] if "train.batch_size" in changes else []
    named = any(part in sentence for part in parts)
    return "" if named else f"it names none of the settings: {sentence!r}"


def absurd(config: Any) -> str:
    """What is absurd in a config that was accepted; "" if nothing."""
    known = schema.keys(config)
    for name, value in section.leaves(config).items():
        if isinstance(value, str) and not value.isprintable():
            return f"accepted {name}={value!r}"
        of_config = name not in ("seed", "pretrain.seed")
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, str | bool):
                continue
            if not math.isfinite(number) or (of_config and abs(number) > 3.5e38):
                return f"accepted {name}={value!r}"
            if isinstance(known[name].default, int) and of_config and not 0 <= number <= 10**9:
                return f"accepted {name}={value!r}"
    return ""


def trials(seed: int, numbers: range) -> list[str]:
    """Takes the trials of these numbers; returns a text for each that went wrong."""
    failures = []
    configs = {flag: config_lib.load(flag) for flag in FLAGS}
    for number in numbers:
        rng = random.Random(f"{seed} {number}")
        flag = rng.choice(FLAGS)
        changes, by_command = choose(rng, configs[flag])
        if wrong := attempt(flag, changes, by_command=by_command):
            failures.append(f"{number}: {flag} {_shown(changes)} by_command={by_command}\n{wrong}")
    return failures


def _shown(changes: dict[str, Any]) -> str:
    """The changes as ASCII, and long ones cut."""
    return ", ".join(f"{name}={shown(value)!a}" for name, value in changes.items())


MISTAKES = (
    "train.batch_size=big",
    "train.num_steps=-5",
    "train.num_steps=" + "9" * 5000,
    "train.batch_size=1",
    "data.image_size=99999999999999999999",
    "data.name=a\nb",
    "optimizer.learning_rate=inf",
    "optimizer.learning_rate=1e308",
    "saib.residual_scale=nan",
    "saib.enabled=maybe",
    "augment.anchor.blur.sigma=('a','b')",
    "augment.anchor.crop.scale=(0.5,)",
    "augment.views=('anchor','anchor')",
    "eval.linear.learning_rates=(-1.0,)",
    "eval.names=('linear',)",
    "diagnostics.stop_on_collapse=True",
    "method.name=" + "x" * 300 + ".py",
    "projector.hidden_dim=1000000",
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda text: text.partition("=")[0])
def test_the_command_says_it_in_a_sentence(mistake, tmp_path, capsys):
    argv = ["iecl_jax.main", "--config=tests/tiny_network.py", f"--workdir={tmp_path / 'run'}"]
    argv += ["--config.diagnostics.every_steps=0", f"--config.{mistake}"]
    with pytest.raises(SystemExit) as ended:
        main.run(main.parse(argv))
    sentence = str(ended.value)
    assert sentence.startswith("error: ")
    assert not unclear(sentence, {mistake.partition("=")[0]: None})
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_some_random_settings():
    failures = trials(0, range(IN_THE_SUITE))
    assert not failures, "\n\n".join(failures)


@pytest.mark.faults
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_random_settings(part):
    seed = int(os.environ.get("SETTINGS_SEED", "0"))
    share = TRIALS // 4
    failures = trials(seed, range(part * share, (part + 1) * share))
    assert not failures, "\n\n".join(failures)
