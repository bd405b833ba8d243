"""The table of methods: their losses, and times beside MoCo-v2's."""

import pathlib

import numpy as np
import pytest
from markdown_rows import rows

from iecl_jax.config import kinds
from iecl_jax.tools.benchmark import methods

pytestmark = pytest.mark.quick

CONFIG = f"{pathlib.Path(__file__).parent.parent}/configs/resnet18.py:cifar10,METHOD,smoke"


def test_the_loss_of_a_method_is_the_formula_in_its_file():
    found = {name: methods.loss(name) for name in kinds.names("method")}
    assert found["simsiam"] == ("D(p_anchor, z_query) / 2 + D(p_query, z_anchor) / 2, D = -cosine")
    assert all(found.values())
    assert not any("`" in text for text in found.values())  # it stands between two of them


def test_the_methods_are_compared_with_moco_v2(monkeypatch, capsys):
    class Step:
        """Takes as many milliseconds a step as its method has heads, times ten."""

        def __init__(self, config):
            self.config, self.prepared = config, None
            self.heads = 1 + ("predictor" in config.method)
            params = {
                "online": {"w": np.zeros((1000, 25 * self.heads))},
                "online_probe": np.ones(9),
            }
            self.state = type("State", (), {"params": params})

        def durations(self, count):
            return [10.0 * self.heads] * count

    monkeypatch.setattr(methods.parts, "TimedStep", Step)
    monkeypatch.setattr(methods.program, "lower", lambda prepared: (None, None))
    flops = {"product_flops_per_image": 2.5e9}
    monkeypatch.setattr(methods.program, "arithmetic", lambda *program: flops)
    methods.main([f"--config={CONFIG}", "--methods=byol,ie_cl", "--rounds=2", "--steps=1"])
    out = capsys.readouterr().out
    head, moco, byol, ours = rows(out)
    assert head == methods.TITLES
    assert moco[0] == "MoCo-v2 (`moco_v2`)"
    assert moco[2:] == ["0.03", "2.5000", "10.0", "1.00 (1.00 to 1.00)"]
    assert byol[2:] == ["0.05", "2.5000", "20.0", "2.00 (2.00 to 2.00)"]
    assert ours[0] == "IE-CL (`ie_cl`)"
    assert ours[1].endswith("if symmetric, + beta KL - lambda H`")
    assert "jax " in out


def test_a_config_without_the_word_method_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        methods.parse(["--config=configs/resnet18.py:cifar10,byol"])
    assert "has no METHOD: write configs/resnet18.py:cifar10,METHOD" in capsys.readouterr().err
