"""Every switch of docs/paper.md's readings changes what it says and nothing else.

Each case states the whole set of components of the `fingerprint` that its switch changes.
"""

import fnmatch
import pathlib
import re
from typing import Any

import pytest
from fingerprint import (
    BATCH,
    NETWORKS,
    SIDE,
    config_of,
    fingerprint,
    is_same,
    values_of,
)

DOCS = pathlib.Path(__file__).parent.parent / "docs" / "paper.md"


def every(name: str, *parts: str) -> set[str]:
    parts = parts or ("parameters", "initial values", "training", "statistics", "evaluation")
    return {f"{name}: {part}" for part in parts}


def both(settings: dict[str, Any]) -> dict[str, Any]:
    views = ("anchor", "query")
    return {f"augment.{view}.{name}": value for name, value in settings.items() for view in views}


INFO_NCE, KL, ENTROPY = ({n, f"gradient of {n}"} for n in ("info_nce", "kl", "entropy"))
INFO_NCE |= {"method_loss"}
SAIB_ON_ANCHOR = {"output features", "output anchor_projection", "state: online", "state: saib"}
SAIB_ON_ANCHOR |= KL | ENTROPY
SAIB_OFF_QUERY = {"output query_projection", "output query_key", "state: momentum"}
KNN = {"objective.entropy.estimator": "kozachenko_leonenko"}
RENYI = {"objective.entropy.estimator": "renyi2"}
EXPANSIVE = {"saib.variant": "expansive"}
COSINE = {"method.ema.schedule": "cosine"}
KEYS_OF_THE_ANCHOR = {"output anchor_key", "state: momentum"}  # K's statistics
QUEUE = {"info_nce_top1", "output negatives", "state: queue"}
FEW_OPS = both({"blur.prob": 0.0, "jitter.prob": 0.0, "gray.prob": 0.0})
ON_KERNELS = {"updates of kernels", "updates of SAIB"}
UPDATES = {f"updates of {kind}" for kind in ("kernels", "BN and biases", "SAIB")}
VIEWS = {"anchor views", "query views"}
GROUPED = {f"{n}: {p}" for n in ("encoder", "projector") for p in ("training", "statistics")}
BY_SEED = {"order of the images", *VIEWS, *(f"{name}: initial values" for name in NETWORKS)}

# Row, settings that are changed, settings that they are changed from, components that change.
CASES: list[tuple[str, dict[str, Any], dict[str, Any], set[str]]] = [
    ("1", {"saib.group_size": 1}, {}, every("saib")),
    ("1", {"saib.group_size": BATCH}, {}, every("saib")),
    ("2", {"saib.residual_scale": 0.5}, {}, {"saib: initial values"}),
    ("3", {"saib.inner_skip": False}, {}, every("saib", "training", "evaluation")),
    ("5", {"saib.patch_size": 2}, {}, every("saib")),
    ("6", {"saib.variant": "expansive"}, {}, every("saib")),
    ("7", {"objective.kl.stop_gradient": "anchor"}, {}, {"gradient of kl"}),
    ("7", {"objective.kl.stop_gradient": "none"}, {}, {"gradient of kl"}),
    ("8", {"objective.kl.form": "eq16"}, {}, KL),
    ("8", {"objective.kl.form": "softmax"}, {}, KL),
    ("9", {"objective.entropy.estimator": "gaussian_diagonal"}, {}, ENTROPY),
    ("9", KNN, {}, ENTROPY),
    ("9", RENYI, {}, ENTROPY),
    ("9", {"objective.entropy.epsilon": 0.4}, {}, ENTROPY),
    ("9", {"objective.entropy.neighbors": 2}, KNN, ENTROPY),
    ("9", {"objective.entropy.kernel_scale": 1.5}, RENYI, ENTROPY),
    ("9", {"objective.entropy.neighbors": 2, "objective.entropy.kernel_scale": 1.5}, {}, set()),
    ("10", {"method.symmetric": True}, {}, {*INFO_NCE, *KEYS_OF_THE_ANCHOR}),
    ("11", {"method.queue_size": 16}, {}, {*QUEUE, *INFO_NCE}),
    ("12", {"optimizer.name": "adam"}, {}, UPDATES),
    ("12", {"optimizer.name": "adamw"}, {}, UPDATES),
    ("12", {"optimizer.trust_clip": True}, {"optimizer.name": "lars"}, ON_KERNELS),
    ("12", {"optimizer.name": "lars"}, {}, ON_KERNELS),
    ("12", {"optimizer.name": "larc"}, {}, ON_KERNELS),
    ("12", {"optimizer.learning_rate": 0.1}, {}, {"learning rate"}),
    ("12", {"optimizer.momentum": 0.5}, {}, {*UPDATES, "updates of the online probe"}),
    ("13", {"optimizer.weight_decay": 0.01}, {}, {"updates of kernels"}),
    (
        "13",
        {"optimizer.decay": "all"},
        {"optimizer.weight_decay": 0.1},
        {"updates of BN and biases"},
    ),
    ("13", {"objective.saib_decay": 0.1}, {}, {"weight of saib_decay"}),
    ("14", {"method.ema.schedule": "cosine"}, {}, {"momentum coefficient"}),
    ("14", {"method.ema.start": 0.99}, {}, {"momentum coefficient"}),
    ("14", {"method.ema.end": 0.95}, COSINE, {"momentum coefficient"}),
    ("14", {"method.ema.end": 0.95}, {}, set()),
    ("15", {"method.temperature": 0.5}, {}, INFO_NCE),
    ("16", {"schedule.warmup_epochs": 5.0}, {}, {"learning rate"}),
    ("17", {"encoder.feature_dim": 256}, {}, every("encoder") - {"encoder: statistics"}),
    ("18", {"projector.num_layers": 3}, {}, every("projector")),
    ("18", {"projector.hidden_dim": 12}, {}, every("projector")),
    ("18", {"projector.output_dim": 5}, {}, every("projector")),
    ("18", {"projector.hidden_bn": False}, {}, every("projector")),
    ("18", {"projector.output_bn": False}, {}, every("projector")),
    # In training the function stays, since BN follows every convolution.
    ("19", {"encoder.spectral_norm": False}, {}, every("encoder", "statistics", "evaluation")),
    ("20", both({"crop.scale": (0.08, 1.0), "blur.prob": 0.0}), {}, VIEWS),  # SimCLR's for CIFAR
    ("20", {"augment.query.flip.prob": 0.0}, FEW_OPS, {"query views"}),
    ("21", {"linear_probe.feature_norm": "none"}, {}, {"probe's features"}),
    ("22", {"encoder.bn_group": 4}, {}, GROUPED),
    ("23", {"encoder.stem": "imagenet"}, {}, every("encoder")),
    ("24", {"data.name": "imagenet100"}, {}, {"classes"}),
    ("25", {"seed": 7}, {}, BY_SEED),
    ("other", {"saib.residual_scale": 0.5}, EXPANSIVE, {"saib: initial values"}),
    ("other", {"saib.side": "anchor"}, {}, SAIB_ON_ANCHOR | SAIB_OFF_QUERY),
    ("other", {"saib.side": "both"}, {}, SAIB_ON_ANCHOR),
    ("other", {"method.running_stats": "both"}, {}, {"state: online"}),
    ("Table 4", {"saib.num_blocks": 2}, {}, every("saib")),
]


@pytest.mark.parametrize(
    "row, changed, base, components", CASES, ids=[f"row {row}: {new}" for row, new, _, _ in CASES]
)
def test_a_switch_changes_what_it_says_and_nothing_else(row, changed, base, components):
    before, after = fingerprint(base), fingerprint(base | changed)
    found = {n for n in before | after if not is_same(before.get(n), after.get(n))}
    assert found == components


def switches_in_docs() -> list[tuple[str, str, str]]:
    """(row, key, value or "") of the readings' column of keys, in which `.end` is a sibling of the
    key before it and a word that is no key another value of it."""
    table = DOCS.read_text().split("## Readings")[1].split("\n## ")[0]
    keys, found = values_of(config_of({})), []
    for line in table.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) != 7:
            continue
        row, key = cells[1].strip(), ""
        row = row if row.isdigit() else "other"
        for word in re.findall(r"`(.+?)`", cells[4]):
            name, _, value = word.partition("=")
            if name.startswith("."):
                found.append((row, key.rpartition(".")[0] + name, value))
            elif name in keys or name.endswith(".*"):
                key = name
                found.append((row, key, value))
            else:
                found.append((row, key, word))
    return found


def test_every_switch_of_the_readings_has_a_case():
    switches = switches_in_docs()
    assert len({row for row, _, _ in switches}) > 20
    for row, key, value in switches:
        values = {
            str(new)
            for case_row, changed, _, _ in CASES
            for name, new in changed.items()
            if case_row == row and fnmatch.fnmatch(name, key)
        }
        assert values, f"row {row} of docs/paper.md: add a case for {key or value}"
        assert not value or value.isdigit() or value in values, (
            f"row {row} of docs/paper.md: add a case for {key}={value}"
        )


# ---------------------------------------------------------------- what a switch says


@pytest.mark.parametrize("group, patch", [(1, 4), (BATCH, 4), (2, 2)])
def test_a_group_is_the_channels_and_a_patch_the_columns(group, patch):
    """Rows 1 and 5."""
    changed = {"saib.group_size": group, "saib.patch_size": patch}
    shapes = fingerprint(changed)["saib: parameters"]["block1"]
    assert [*shapes["conv2"]] == [3, 3, group, 2 * group]
    assert [*shapes["conv3"]] == [1, 1, 2 * group, 2 * group]
    assert [*shapes["positions"]] == [1, 3 * (SIDE // patch) ** 2, patch**2, 1]


def test_the_sides_of_the_kl_add_up():
    """Row 7: each side's gradient is of one projection, and both together are the whole."""
    query, anchor, whole = (
        fingerprint({"objective.kl.stop_gradient": side})["gradient of kl"]
        for side in ("query", "anchor", "none")
    )
    assert [*query] == ["anchor_projection"]
    assert [*anchor] == ["query_projection"]
    assert is_same(query | anchor, whole)
