"""The settings of methods: what is missing, foreign, unknown or no method is one sentence."""

import re

import pytest

from iecl_jax import config as config_lib
from iecl_jax.config import kinds, schema, section
from iecl_jax.configs import plug_and_play

pytestmark = pytest.mark.quick


def _refusal(config):
    """The one sentence that refuses the config."""
    with pytest.raises(ValueError) as error:
        config_lib.check(config, 1)
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert ". " not in sentence
    return sentence


def _recipe(method, **changes):
    config = plug_and_play.get_config(f"{method},smoke")
    config.method.update(changes)
    return config


def _own_keys(method):
    return set(section.leaves(_recipe(method).method)) - {"name"}


@pytest.mark.parametrize("method", kinds.names("method"))
def test_every_missing_setting_is_named_and_completed_with_its_default(method):
    config_lib.check(_recipe(method), 1)
    for key in _own_keys(method):
        config = _recipe(method)
        group, _, last = key.rpartition(".")
        del (config.method[group] if group else config.method)[last]
        sentence = _refusal(config)
        assert f"lacks method.{key}" in sentence
        completed = schema.complete(config)
        assert section.leaves(completed.method).keys() == _own_keys(method) | {"name"}


@pytest.mark.parametrize("method", kinds.names("method"))
def test_every_setting_of_another_method_is_named_with_those_that_are_read(method):
    foreign = set().union(*map(_own_keys, kinds.names("method")), {"unheard_of"}) - _own_keys(
        method
    )
    for key in foreign:
        group, _, last = key.rpartition(".")
        sentence = _refusal(_recipe(method, **({group: {last: 1}} if group else {key: 1})))
        assert sentence.startswith(f"method.{key} is no setting of method.name={method!r}, ")
        for own in _own_keys(method):
            assert f"method.{own}" in sentence


@pytest.mark.parametrize(
    "name, near", [("biol", "byol"), ("moco_v22", "moco_v2"), ("byol.p", "byol"), ("parts", None)]
)
def test_an_unknown_method_is_answered_with_the_near_ones(name, near):
    sentence = _refusal(_recipe("byol", name=name))
    assert sentence.startswith(f"method.name={name!r} is unknown: ")
    assert sentence.endswith(f"use one of {', '.join(kinds.names('method'))}.")
    assert ("did you mean" in sentence) == (near is not None)
    assert near is None or f"did you mean {near!r}" in sentence


def test_a_file_that_is_no_method_is_refused(tmp_path):
    path = tmp_path / "own.py"
    config = _recipe("byol", name=str(path))
    assert f"method.name={str(path)!r} is no Python file" in _refusal(config)
    path.mkdir()
    assert f"method.name={str(path)!r} is no Python file" in _refusal(config)
    path.rmdir()
    path.write_text("Settings = None")
    assert f"method.name={str(path)!r} has no make" in _refusal(config)
    path.write_text("def make(config, *, total_steps, axis_name=None):\n    return None")
    assert f"method.name={str(path)!r} has no Settings" in _refusal(config)
    path.write_text(path.read_text() + "\nSettings = {}")
    assert "must be a class X(Section)" in _refusal(config)
    own = "\nfrom iecl_jax.config.section import Section\nclass Settings(Section): pass\n"
    path.write_text(path.read_text() + own)
    assert re.match(r"method\.[\w.]+ is no setting of ", _refusal(config))
