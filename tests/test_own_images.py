"""An evaluation with images of its own: its keys of `config.data`, and what its functions get."""

import pytest
import tiny_run

from iecl_jax import config as config_lib
from iecl_jax.evals.parts import jobs

OWN = """
from iecl_jax.config.rules import COUNT
from iecl_jax.config.section import Section, key

RESULTS = {"images": "images"}

class Settings(Section):
    factor = key(2, COUNT, "factor")

class Data(Section):
    count = key(3, COUNT, "images")

def check(subject, settings):
    if subject.own_data.count > 5:
        raise ValueError(f"data.count={subject.own_data.count} must be at most 5.")

def measure(subject, settings):
    assert subject.params is not None
    return {"images": subject.own_data.count * settings.factor}
"""


@pytest.fixture(name="config")
def _config(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    found = config_lib.new(str(tmp_path / "own.py"))
    found.pretrain = tiny_run.get_config()
    return found


def test_its_keys_replace_those_of_the_networks_images(config, tmp_path, capsys):
    assert config.data.to_dict() == {"count": 3}
    assert config_lib.from_json(config_lib.to_json(config)) == config
    config.data.count = 4
    assert jobs.run(config, str(tmp_path / "run"))["metrics"] == {"images": 8}
    assert "own: images 8" in capsys.readouterr().out


def test_it_is_checked_before_the_network_is_made(config, tmp_path, monkeypatch):
    monkeypatch.setattr("iecl_jax.evals.parts.subject.Subject.untrained", None)
    config.data.count = 6
    with pytest.raises(ValueError, match=r"data.count=6 must be at most 5"):
        jobs.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_other_evaluations_have_the_folder_of_the_networks_images(tmp_path):
    other = config_lib.new("knn")
    assert set(other.data) == {"name", "dir", "image_size", "cache", "mean", "std"}
    other.pretrain = tiny_run.get_config()
    assert jobs.load(other, str(tmp_path)).own_data is None
