"""Every setting, and every choice of it, by the user's command on a tiny run to results.json.

The trials are made from the schema (`setting_values`): a setting, method, encoder, source, operator
or evaluation that is added is swept without a change here. One run takes many changes at once; a
run that fails is halved until the fewest changes that fail are known. The whole sweep is slow:

    python -m pytest -m sweep -n 2 --dist load

Without the mark, the suite takes one run of it.
"""

import pathlib
import time

import jax
import pytest
import settings_sweep
from PIL import Image
from settings_sweep import Base

from iecl_jax.config import kinds

# TensorFlow, TFDS and Pillow warn of their own doings.
pytestmark = pytest.mark.filterwarnings("ignore")

NETWORK, MATRICES = "tests/tiny_network.py", "tests/tiny_run.py"
OF_NETWORK = ("method.", "encoder.", "projector.", "saib.", "objective.", "optimizer.", "train.")
OF_LOOP = ("seed", "train.", "optimizer.", "schedule.", "augment.", "eval.", "diagnostics.")
OF_LOOP += ("checkpoint.", "data.")
OPERATORS = ("crop", *(name for name in kinds.names("operator") if name != "crop"))
# Nothing collapses, so that diagnostics.stop_on_collapse does not end a run that learns nothing.
STEADY = {"diagnostics.min_rank": 0.0, "diagnostics.min_feature_std": 0.0}
SMALL = STEADY | {
    "projector.output_dim": 8,
    "projector.hidden_dim": 8,
    "optimizer.learning_rate": 0.01,
}


def images(folder: pathlib.Path) -> pathlib.Path:
    """A folder of labelled images of several sizes, so that the host crops them."""
    for number in range(40):
        split = "val" if number % 5 == 0 else "train"
        path = folder / split / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 30), (6 * number, 99, 150 * (number % 2))).save(path)
    return folder


def of_method(name: str) -> Base:
    """IE-CL's network and terms with a method; the first one also sweeps the numbers."""
    overrides = {"method.name": name} | SMALL
    return Base(f"method-{name}", NETWORK, overrides, ("method.",), OF_NETWORK)


def of_encoder(name: str) -> Base:
    """IE-CL with an encoder."""
    return Base(f"encoder-{name}", NETWORK, {"encoder.name": name} | SMALL, ("encoder.",))


def of_source(name: str, folder: pathlib.Path) -> Base:
    """The images of a source."""
    overrides = {"data.name": name, "data.dir": str(folder), "data.cache": "none"}
    return Base(f"data-{name}", MATRICES, overrides, ("data.",), ("train.", "checkpoint."))


def of_job(name: str, checkpoint: pathlib.Path) -> Base:
    """The evaluation of a checkpoint."""
    return Base(
        f"job-{name}", f"configs/evaluate.py:{name}", {"checkpoint": str(checkpoint)}, ("",)
    )


LOOP = Base("loop", MATRICES, STEADY | {"data.name": "generated"}, OF_LOOP)
TERMS = Base("terms", NETWORK, SMALL, OF_NETWORK)
EVALUATIONS = Base(
    "evaluations",
    NETWORK,
    SMALL | {"eval.names": kinds.names("evaluation")},
    ("eval.", "diagnostics."),
)
BASES = {base.name: base for base in (LOOP, TERMS, EVALUATIONS)}
BASES |= {f"method-{name}": of_method(name) for name in kinds.names("method")}
BASES |= {f"encoder-{name}": of_encoder(name) for name in kinds.names("encoder")}


@pytest.fixture(scope="module", autouse=True)
def _as_for_a_user():
    """Optax promotes types and ranks, which the tests' own settings of JAX forbid."""
    strict = {"jax_numpy_dtype_promotion": "strict", "jax_numpy_rank_promotion": "raise"}
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    for name, value in strict.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A finished run of the tiny network, with a best checkpoint."""
    folder = tmp_path_factory.mktemp("network") / "run"
    base = BASES["terms"]
    wrong = settings_sweep.take(base, {}, folder, keep=True)
    assert not wrong
    return folder


def swept(base: Base, free, folder: pathlib.Path, capsys) -> None:
    base = settings_sweep.shrink(base)
    begun = time.monotonic()
    wanted = settings_sweep.wants(base, free)
    rows, refused = settings_sweep.plan(base, wanted)
    planned = time.monotonic()
    failures = settings_sweep.sweep(base, rows, folder)
    seconds = time.monotonic() - planned
    with capsys.disabled():
        print(
            f"\n{base.name}: {len(rows)} runs with {sum(map(len, rows))} changes, "
            f"{len(wanted)} wanted, {seconds:.0f} s (planned in {planned - begun:.0f} s)"
        )
        for sentence in refused:
            print(f"  never fits: {sentence}")
    assert not failures, "\n\n".join(failures)


@pytest.mark.sweep
@pytest.mark.parametrize("name", BASES)
def test_settings_of_a_training(name, tmp_path, capsys):
    swept(BASES[name], {}, tmp_path, capsys)


@pytest.mark.sweep
@pytest.mark.parametrize("name", kinds.names("data"))
def test_settings_of_a_source(name, tmp_path, capsys):
    base = of_source(name, images(tmp_path / "images") if name == "image_folder" else tmp_path)
    refusal = settings_sweep.refusal(base, {})
    if refusal is not None:
        pytest.skip(refusal)
    swept(base, {}, tmp_path / "runs", capsys)


@pytest.mark.sweep
@pytest.mark.parametrize("name", kinds.names("evaluation"))
def test_settings_of_a_job(name, checkpoint, tmp_path, capsys):
    swept(of_job(name, checkpoint), {}, tmp_path, capsys)
