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
import ml_collections
import pytest
import settings_sweep
from PIL import Image
from settings_sweep import Base

from iecl_jax.config import kinds, schema, section
from iecl_jax.config.pretrain import Pretrain
from iecl_jax.data.sources import digits

# TensorFlow, TFDS and Pillow warn of their own doings.
pytestmark = pytest.mark.filterwarnings("ignore")

NETWORK, MATRICES = "tests/tiny_network.py", "tests/tiny_run.py"
NOT_OF_LOOP = ("job", "method", "encoder", "projector", "saib", "objective", "log")
OF_LOOP = tuple(name for name in section.members(Pretrain) if name not in NOT_OF_LOOP)
OF_NETWORK = ("encoder.", "projector.", "saib.", "objective.", "train.precision", "optimizer.")
# What meets the method in a line of code: its choices are tried with each method.
BESIDE_A_METHOD = ("saib.", "objective.", "train.precision", "train.steps", "encoder.bn")
# Nothing collapses, so that diagnostics.stop_on_collapse does not end a run that learns nothing.
STEADY = {"diagnostics.min_rank": 0.0, "diagnostics.min_feature_std": 0.0}
SMALL = STEADY | {"projector.output_dim": 8, "projector.hidden_dim": 8}
SMALL |= {"optimizer.learning_rate": 0.01}
# Without what is long to compile and has nothing to do with the network.
BARE = SMALL | {"diagnostics.every_steps": 0, "eval.pictures": False, "eval.linear.num_epochs": 0}
BARE |= {f"augment.{view}.operators": ("noise",) for view in ("anchor", "query")}


def images(folder: pathlib.Path) -> pathlib.Path:
    """A folder of labelled images of several sizes, so that the host crops them."""
    for number in range(40):
        split = "val" if number % 5 == 0 else "train"
        path = folder / split / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 30), (6 * number, 99, 150 * (number % 2))).save(path)
    return folder


def of_method(name: str) -> Base:
    """IE-CL's network and terms with a method."""
    method = BARE | {"method.name": name}
    return Base(f"method-{name}", NETWORK, method, ("method.",), BESIDE_A_METHOD)


def of_encoder(name: str) -> Base:
    """IE-CL with an encoder. Of a family, the first one sweeps the settings."""
    family = kinds.files("encoder")
    first = min(other for other in family if family[other] == family[name])
    swept = ("encoder.",) if name == first else ("train.precision",)
    return Base(f"encoder-{name}", NETWORK, BARE | {"encoder.name": name}, swept)


def of_source(name: str, folder: pathlib.Path) -> Base:
    """The images of a source."""
    overrides = STEADY | {"data.name": name}
    if name == "image_folder":
        overrides["data.cache"] = "none"  # nothing keeps images of several sizes
    if not getattr(kinds.load("data", name), "NO_FOLDER", False):
        overrides["data.dir"] = str(folder)
    return Base(f"data-{name}", MATRICES, overrides, ("data.",))


def has_images(name: str) -> bool:
    """Whether an evaluation has images of its own, so that it is a job and nothing else."""
    return hasattr(kinds.load("evaluation", name), "Data")


def of_job(name: str, checkpoint: pathlib.Path) -> Base:
    """The evaluation of a checkpoint."""
    given = {"checkpoint": str(checkpoint), "job": name}
    given |= {"data.generated": True} if has_images(name) else {}
    return Base(f"job-{name}", f"configs/evaluate.py:{name}", given, ("",))


EVERY = {"eval.names": tuple(n for n in kinds.names("evaluation") if not has_images(n))}
BASES = [
    Base("loop", MATRICES, STEADY | {"data.name": "generated"}, OF_LOOP),
    Base("terms", NETWORK, BARE | {"encoder.name": "tests/tiny_resnet.py"}, OF_NETWORK),
    Base("evaluations", NETWORK, SMALL | EVERY, ("eval.", "diagnostics.")),
    *map(of_method, kinds.names("method")),
    *map(of_encoder, kinds.names("encoder")),
]


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
    wrong = settings_sweep.take(Base("run", NETWORK, SMALL, ()), {}, folder, keep=True)
    assert not wrong
    return folder


def swept(base: Base, folder: pathlib.Path, capsys) -> None:
    """Plans and takes the runs of a base, and prints what they were."""
    base = settings_sweep.shrink(base)
    assert settings_sweep.refusal(base, {}) is None
    wanted = settings_sweep.wants(base)
    rows, refused = settings_sweep.plan(base, wanted)
    begun = time.monotonic()
    failures = settings_sweep.sweep(base, rows, folder)
    with capsys.disabled():
        print(
            f"\n{base.name}: {len(rows)} runs with {sum(map(len, rows))} changes, "
            f"{len(wanted)} wanted, {time.monotonic() - begun:.0f} s"
        )
        print(*(f"  never fits: {sentence}" for sentence in refused), sep="\n")
    assert not failures, "\n\n".join(failures)


@pytest.mark.sweep
@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_settings_of_a_training(base, tmp_path, capsys):
    swept(base, tmp_path, capsys)


@pytest.mark.sweep
@pytest.mark.parametrize("name", kinds.names("data"))
def test_settings_of_a_source(name, tmp_path, capsys):
    if name == "digits":
        digits.prepare(ml_collections.ConfigDict({"dir": str(tmp_path)}))
    base = of_source(name, images(tmp_path / "images") if name == "image_folder" else tmp_path)
    refusal = settings_sweep.refusal(base, {})
    if refusal is not None:
        pytest.skip(refusal)
    swept(base, tmp_path / "runs", capsys)


@pytest.mark.sweep
@pytest.mark.parametrize("name", kinds.names("evaluation"))
def test_settings_of_a_job(name, checkpoint, tmp_path, capsys):
    swept(of_job(name, checkpoint), tmp_path, capsys)


# The bases give the folder of the data and the run that is evaluated; wandb has tests of its own,
# since it takes another package and a network.
ELSEWHERE = {"data.dir", "checkpoint", "encoder.init_from", "log.wandb", "log.wandb_project"}
# Read where there is a folder.
ELSEWHERE |= {"data.classes", "data.box_origin", "data.train_split", "data.test_split"}
# They name files and folders of the user.
OF_FILES = ("few_labels.list", "finetune.list", "transfer.datasets")
ELSEWHERE |= {f"{part}{name}" for part in ("", "eval.") for name in OF_FILES}


def test_every_setting_has_a_trial(tmp_path):
    bases = [*BASES, *(of_job(name, tmp_path) for name in kinds.names("evaluation"))]
    bases += [of_source(name, images(tmp_path / "x")) for name in ("generated", "image_folder")]
    declared: set[str] = set()
    tried: set[str] = set(ELSEWHERE)
    for base in bases:
        declared |= schema.keys(base.load({})).keys()
        tried |= {want.name for want in settings_sweep.wants(base)} | base.overrides.keys()
    assert not declared - tried
    assert {"method.ema.schedule", "train.steps_per_call", "augment.query.noise.std"} <= tried


@pytest.mark.slow
def test_one_run_changes_every_setting_at_once(tmp_path):
    base = BASES[0]
    wanted = settings_sweep.wants(base)
    row = settings_sweep.first_row(base, wanted)
    assert len(row) > len({want.name for want in wanted}) / 2
    assert not settings_sweep.take(base, row, tmp_path / "run")
