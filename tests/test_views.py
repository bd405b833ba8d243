"""Views as the command line asks for them: own operators, further views, and what is refused."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_network

from iecl_jax import config as config_lib
from iecl_jax import main, methods
from iecl_jax.config import kinds, schema

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own
ROOT = pathlib.Path(__file__).parent.parent
TINY = str(ROOT / "tests" / "tiny_run.py")
INVERT = '''"""Inverting an image."""

import jax
import jax.numpy as jnp

from iecl_jax.config.rules import SHARE
from iecl_jax.config.section import Section, key


class Settings(Section):
    """Of `invert`."""

    prob = key(0.5, SHARE, "probability")
    strength = key(1.0, SHARE, "how far")


def apply(key, image, settings, size):
    """x + strength (1 - 2 x)."""
    inverted = image + settings.strength * (1 - 2 * image)
    return jnp.where(jax.random.uniform(key) < settings.prob, inverted, image)
'''

THIRD = (
    "--config.augment.views=('anchor','query','small')",
    "--config.augment.small.jitter.prob=0.0",
)


def train(workdir, *overrides):
    """The results of the tiny config, trained with the command's overrides."""
    return main.pretrain(config_lib.load(TINY, overrides), str(workdir))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.slow
def test_an_operator_in_a_file_of_its_own_trains(plain, tmp_path):
    path = tmp_path / "invert.py"
    path.write_text(INVERT)
    operators = f"--config.augment.query.operators=('crop','flip','{path}')"
    strength = "--config.augment.query.invert.strength=0.8"
    results = train(tmp_path / "run", operators, strength)
    assert results["steps"] == plain["steps"]
    assert results["params_digest"] != plain["params_digest"]


def test_a_third_small_view_trains_and_changes_nothing_of_a_method_of_two(plain, tmp_path):
    results = train(tmp_path / "run", *THIRD, "--config.augment.small.size=4")
    assert results["params_digest"] == plain["params_digest"]


@pytest.mark.slow
def test_a_third_view_of_large_images_which_the_host_cuts_trains(plain, tmp_path):
    large = ("--config.data.image_size=100", "--config.data.cache=none")
    results = train(
        tmp_path / "run",
        *THIRD,
        *large,
        "--config.augment.small.size=40",
        "--config.train.steps_per_call=2",
    )
    assert results["steps"] == plain["steps"]


@pytest.mark.parametrize("name", sorted(kinds.names("method")))
def test_methods_use_the_first_two_views(name):
    """The same program with and without a third, unless they are told to use it."""
    config = schema.choose(tiny_network.get_config(), {"method.name": name})
    if "queue_size" in config.method:
        config.method.queue_size = 16
    if "crops" in config.method:
        config.method.crops = False
    method = methods.make(config, total_steps=10)
    view, small = np.zeros((8, 8, 8, 3), np.float32), np.zeros((8, 4, 4, 3), np.float32)
    params, state = jax.eval_shape(method.init, jax.random.key(0), [view] * 2)
    facts = {"index": jnp.arange(8), "step": jnp.int32(0), "epoch": jnp.int32(0)}
    facts |= {"keys": jax.random.split(jax.random.key(0), 8)}
    forward = functools.partial(method.forward, **{name: facts[name] for name in method.reads})
    primitives = [
        [each.primitive.name for each in jax.make_jaxpr(forward)(params, state, views).eqns]
        for views in ([view] * 2, [view, view, small])
    ]
    assert primitives[0] == primitives[1]


REFUSED = {
    "augment.anchor.operators=('crp',)": "'crp' is unknown: did you mean 'crop'?",
    "augment.anchor.operators=('flip','crop')": "'crop' first or nowhere",
    "augment.anchor.operators=('flip','flip')": "different operators",
    "augment.anchor.operators=('gone.py',)": "'gone.py' is no Python file",
    "augment.anchor.operators=5": "operators=(5,) must be",
    "augment.anchor.operators=crop flip": "must be a tuple, such as ('crop', 'flip', ",
    "augment.views=('anchor',)": "two different words or more",
    "augment.views=('anchor','query','views')": "two different words or more",
    "augment.views=7": "augment.views=(7,) must be",
    "augment.query.size=4": "augment.query.size=4 must be 0 or data.image_size=8",
    "augment.anchor.crop.scale=(0.0,1.0)": "crop.scale=(0.0, 1.0) must be",
    "augment.anchor.crop.ratio=(2.0,1.0)": "crop.ratio=(2.0, 1.0) must be",
    "augment.query.crop.interpolation=nearest": "use one of bilinear, bicubic",
    "augment.query.jitter.hue=0.6": "augment.query.jitter.hue=0.6 must be from 0 to 0.5",
    "augment.query.jitter.contrast=-1.0": "augment.query.jitter.contrast=-1.0 must be at least 0",
    "augment.query.blur.sigma=(0.0,2.0)": "augment.query.blur.sigma=(0.0, 2.0) must be",
    "augment.query.noise.prob=-0.1": "augment.query.noise.prob=-0.1 must be from 0 to 1",
    "augment.query.flip_prob=0.0": "did you mean augment.query.flip.prob?",
    "augment.query.hue=0.0": "did you mean augment.query.jitter.hue?",
}


@pytest.mark.parametrize("override", REFUSED)
def test_impossible_views_are_refused_in_a_sentence(override):
    with pytest.raises(ValueError) as caught:
        config_lib.check(config_lib.load(TINY, [f"--config.{override}"]), 1)
    assert REFUSED[override] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_view_larger_than_the_one_before_is_refused():
    overrides = ["views=('anchor','query','a','b')", "a.size=4", "b.size=6"]
    config = config_lib.load(TINY, [f"--config.augment.{each}" for each in overrides])
    with pytest.raises(ValueError, match=r"augment\.b\.size=6 is more than the 4"):
        config_lib.check(config, 1)
