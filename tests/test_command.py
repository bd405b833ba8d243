"""The command line: the folder of a run, sentences for mistakes, and whose code is run."""

import json
import os
import pathlib
import re
import shlex

import pytest
import saved_run
import tiny_run
from absl import flags
from absl.testing import flagsaver

from iecl_jax import config as config_lib
from iecl_jax import main
from iecl_jax.config import files, own_files, paths
from iecl_jax.evals.parts import frozen
from iecl_jax.run import flag_parsing
from iecl_jax.run.default_folder import default_folder, name
from iecl_jax.tools import arguments
from iecl_jax.tools.figures import augmentations, report

QUICKSTART = "configs/quickstart.py"
flags.FLAGS.mark_as_parsed()


def folder_of(flag, *overrides):
    loaded = config_lib.parse(flag, overrides)
    return str(default_folder(flag, loaded.config, loaded.changed))


def refused(*words):
    """The sentence with which a command line is refused."""
    with pytest.raises(SystemExit) as ended, flagsaver.flagsaver():
        main.run(main.parse(["main", *words]))
    assert "\n" not in ended.value.code
    return ended.value.code


# --- The folder ---


@pytest.mark.parametrize(
    "flag, overrides, folder",
    [
        (QUICKSTART, [], "quickstart"),
        (QUICKSTART, ["--config.seed=1"], "quickstart-seed=1"),
        (QUICKSTART, ["--config.seed=42"], "quickstart"),  # the value that it has anyway
        (QUICKSTART, ["--config.saib.variant=expansive"], "quickstart-saib.variant=expansive"),
        ("configs/resnet18.py:cifar10,byol,smoke", [], "resnet18-cifar10-byol-smoke"),
        (f"{QUICKSTART},smoke", ["--config.method.name=ie_cl"], "quickstart-smoke"),
        ("configs/knn.py,smoke", ["--config.knn.k=3"], "knn-smoke-knn.k=3"),
    ],
)
def test_the_folder_says_what_the_command_changed(flag, overrides, folder):
    assert folder_of(flag, *overrides) == f"runs/{folder}"


def test_the_order_of_the_words_does_not_matter():
    words = ["--config.seed=1", "--config.train.num_epochs=3"]
    assert folder_of(QUICKSTART, *words) == folder_of(QUICKSTART, *reversed(words))
    assert folder_of("./configs/quickstart.py", *words) == folder_of(QUICKSTART, *words)


def test_long_and_odd_values_are_shortened_and_still_differ():
    found = {
        name(QUICKSTART, {"data.dir": directory, "seed": seed})
        for directory in ("/a/photos", "/b/photos", "photos", "C:photos?", "x" * 300)
        for seed in (1, 2)
    }
    assert len(found) == 10
    for each in found:
        assert len(each) < 100
        assert not set(each) & set("/ :?*\\'\"")
    assert "quickstart-data.dir=photos-seed=1" in found


def test_a_run_of_an_earlier_revision_goes_on_where_it_lies(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(pathlib.Path("configs").absolute())
    monkeypatch.chdir(tmp_path)
    config = config_lib.load(QUICKSTART, ["--config.seed=7"])
    os.makedirs("runs/quickstart")
    pathlib.Path("runs/quickstart/config.json").write_text(config_lib.to_json(config))
    assert folder_of(QUICKSTART, "--config.seed=7") == "runs/quickstart"
    assert folder_of(QUICKSTART, "--config.seed=8") == "runs/quickstart-seed=8"


def test_an_evaluation_lies_in_the_run_that_it_evaluates(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    flag = f"--config.checkpoint={run}"
    assert folder_of("configs/knn.py", flag) == f"{run}/evals/knn"
    assert folder_of("configs/knn.py", flag, "--config.knn.k=3") == f"{run}/evals/knn-knn.k=3"
    of_step = f"--config.checkpoint={run}/checkpoints/40"
    assert folder_of("configs/linear_probe.py", of_step) == f"{run}/evals/linear_probe-step=40"


def test_another_evaluation_of_the_same_name_gets_a_number(tmp_path):
    loaded = config_lib.parse("configs/knn.py", [f"--config.checkpoint={tmp_path}"])
    first = default_folder("configs/knn.py", loaded.config, loaded.changed)
    first.mkdir(parents=True)
    (first / "config.json").write_text(config_lib.to_json(loaded.config))
    assert default_folder("configs/knn.py", loaded.config, loaded.changed) == first
    loaded.config.knn.k = 3  # as if the file had been edited
    second = default_folder("configs/knn.py", loaded.config, loaded.changed)
    assert second == first.with_name("knn-2")


def test_a_run_that_cannot_be_written_to_is_evaluated_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    folder = folder_of("configs/knn.py", f"--config.checkpoint={tmp_path}")
    assert folder.startswith("runs/knn-checkpoint=")


def test_a_changed_run_goes_on_only_where_the_command_says():
    command = main.Command(QUICKSTART, config_lib.load(QUICKSTART), {"seed": 3})
    with flagsaver.flagsaver(allow_config_change=True):
        with pytest.raises(ValueError, match=r"needs --workdir=RUN"):
            main.workdir_of(command)
        assert main.workdir_of(command._replace(changed={})) == "runs/quickstart"


# --- Sentences ---


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([], "name a config, for example --config=configs/quickstart.py."),
        (["--config=configs/methods.py"], "configs/methods.py is no config: it has no get_config"),
        (["--config=configs/quickstrat.py"], "did you mean 'configs/quickstart.py'"),
        (["--config=quickstart"], "did you mean 'configs/quickstart.py'?"),
        (["--config", "quickstart.py"], "did you mean 'configs/quickstart.py'?"),
        (["--config=resnet18:cifar10"], "did you mean 'configs/resnet18.py:cifar10'?"),
        (["quickstart"], "quickstart is no flag: did you mean --config=configs/quickstart.py?"),
        (["configs/quickstart.py", "--config.seed=1"], "mean --config=configs/quickstart.py?"),
        (["resnet18:cifar10"], "did you mean --config=configs/resnet18.py:cifar10?"),
        (["tests/tiny_run.py"], "did you mean --config=tests/tiny_run.py?"),
        (["--workdir", "quickstart"], "name a config, for example"),
        ([f"--config={QUICKSTART}", "--config=b.py"], "--config is given twice, as configs"),
        ([f"--config={QUICKSTART}", "--config.train.batch_size=big"], "must be a whole number."),
        ([f"--config={QUICKSTART}", "--train.batch_size=64"], "write --config.train.batch_size=64"),
        ([f"--config={QUICKSTART}", "--seed=64"], "write --config.seed=64."),
        ([f"--config={QUICKSTART}", "--config.seed"], "--config.seed has no value: write"),
        ([f"--config={QUICKSTART}", "--config.seed=1", "--config.seed=2"], "is given twice, as 1"),
        (
            [f"--config={QUICKSTART}", "--config.train=2"],
            "is a section: set one of its keys, train.",
        ),
        (
            [f"--config={QUICKSTART}", "--workdr=x"],
            "--workdr=x is no flag: did you mean --workdir?",
        ),
        ([f"--config={QUICKSTART}", "--workdir=a", "--workdir=b"], "--workdir is given twice"),
        ([f"--config={QUICKSTART}", "--num_processes=two"], "must be a whole number."),
        ([f"--config={QUICKSTART}", "--cluster=slum"], "must be one of auto, none, slurm"),
        ([f"--config={QUICKSTART}", "--print_config=x"], "--print_config=x must be true or false."),
        ([f"--config={QUICKSTART}", "extra"], "argument 'extra' is not a flag"),
        ([f"--config={QUICKSTART}", "seed=3"], "no flag but a setting: write --config.seed=3."),
        ([f"--config={QUICKSTART}", "config.seed=3"], "but a setting: write --config.seed=3."),
        ([f"--config={QUICKSTART}", "workdir=a"], "did you mean --workdir?"),
        ([f"--config={QUICKSTART}", "--config.train.num_steps=-5"], "train.num_steps=-5 must be"),
        ([f"--config={QUICKSTART}", "--config.data.dir=/typo"], "data.dir='/typo' holds no digits"),
        ([f"--config={QUICKSTART},smoke", "--config.data.dir=/typo"], "is not read by data.name="),
        (
            [f"--config={QUICKSTART}", "--workdir=gs://b/r"],
            "--workdir=gs://b/r is an address of gs",
        ),
        (["--config=configs/knn.py", "--config.checkpoint=s3://b/r"], "is an address of s3"),
        (
            [f"--config={QUICKSTART}", "--workdir=README.md"],
            "--workdir=README.md cannot be made (it is a file): name another",
        ),
        ([f"--config={QUICKSTART}", "--workdir=/dev/null/x"], "cannot be made (Not a directory)"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence):
    assert sentence in refused(*words)


def test_help_is_no_error_and_names_the_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main.parse(["main", "--help"])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python -m iecl_jax.main --config=FILE[:VARIANT]")
    assert "--trust_checkpoint_code" in printed


CONFIGS = [p for p in pathlib.Path("configs").glob("[a-z]*.py") if "get_config" in p.read_text()]


@pytest.mark.parametrize("path", sorted(CONFIGS), ids=str)
def test_every_config_takes_smoke_after_a_comma(path):
    assert config_lib.load(f"{path},smoke") == config_lib.load(f"{path}:smoke")


def test_a_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local("--workdir", "~/x") == tmp_path / "x"
    assert folder_of("configs/knn.py", "--config.checkpoint=~/").startswith(f"{tmp_path}/evals")
    with flagsaver.flagsaver(workdir="~/y"):
        config = config_lib.load(QUICKSTART)
        assert main.workdir_of(main.Command(QUICKSTART, config, {})) == f"{tmp_path}/y"


def test_ie_cl_as_a_method_has_all_its_parts():
    plain = config_lib.load("configs/resnet18.py:cifar10,byol,smoke")
    assert not plain.saib.enabled
    words = ["--config.method.name=ie_cl", "--config.objective.kl.weight=0.5"]
    config = config_lib.load("configs/resnet18.py:cifar10,byol,smoke", words)
    assert (config.method.name, config.method.queue_size) == ("moco_v2", 0)
    assert (config.saib.enabled, config.encoder.spectral_norm) == (True, True)
    assert (config.objective.kl.weight, config.objective.entropy.weight) == (0.5, 0.2)
    config_lib.check(config, 1)
    assert config_lib.load(QUICKSTART, words[:1]) == config_lib.load(QUICKSTART)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("def get_config(:\n    pass\n", "mine.py, line 1: SyntaxError: "),
        ("def get_config():\n    return {}['x']\n", "mine.py, line 2: KeyError: 'x'."),
        ("def get_config():\n    return int('x')\n", "mine.py, line 2: invalid literal for int"),
        ("import nothing_of_that_name\n", "mine.py, line 1: ModuleNotFoundError: "),
        ("def get_config():\n    raise ValueError('take a or b.')\n", "take a or b."),
        ("open('/nowhere/x')\n", "mine.py, line 1: /nowhere/x: No such file or directory."),
        ("\0", "mine.py: "),
    ],
)
def test_an_error_in_a_file_of_ones_own_names_its_line(tmp_path, text, sentence):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        config_lib.load(str(tmp_path / "mine.py"))
    assert sentence in str(caught.value)
    override = f"--config.method.name={tmp_path / 'mine.py'}"
    if "get_config" not in text:
        assert sentence in refused(f"--config={QUICKSTART}", override)


def test_an_error_of_the_system_names_the_path():
    assert own_files.sentence(PermissionError(13, "Permission denied", "/a/b")) == (
        "/a/b: Permission denied."
    )
    assert own_files.sentence(KeyError("x")) is None  # a mistake of the program


# --- Whose code is run ---


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A run by a method's file that leaves a mark when it is run; as from another machine."""
    folder = tmp_path_factory.mktemp("foreign")
    code = folder / "theirs.py"
    mark = f"import pathlib\npathlib.Path({str(folder / 'mark')!r}).touch()\n"
    code.write_text(mark + pathlib.Path(tiny_run.__file__).read_text())
    config = tiny_run.get_config()
    config.method.name = str(code)
    saved_run.save(folder / "run", config)
    return folder


@pytest.fixture
def stranger(foreign, monkeypatch):
    """The folder, for a process that has not run its file."""
    monkeypatch.setattr(own_files, "_ran", set())
    monkeypatch.setattr(own_files, "_trusts_checkpoints", False)
    own_files._import.cache_clear()
    (foreign / "mark").unlink(missing_ok=True)
    return foreign


def test_code_that_a_checkpoint_names_runs_only_if_it_is_trusted(stranger, capsys):
    words = ["--config=configs/knn.py", f"--config.checkpoint={stranger / 'run'}"]
    sentence = refused(*words)
    assert f"method.name='{stranger / 'theirs.py'}'" in sentence
    assert "--trust_checkpoint_code" in sentence
    assert not (stranger / "mark").exists()
    with flagsaver.flagsaver():
        main.run(main.parse(["main", *words, "--trust_checkpoint_code", "--cluster=none"]))
    assert (stranger / "mark").exists()
    assert f"{stranger / 'run'}/evals/knn/results.json" in capsys.readouterr().out


def test_no_tool_runs_the_code_of_a_checkpoint(stranger):
    with pytest.raises(SystemExit, match=r"theirs\.py.*--trust_checkpoint_code"):
        augmentations.main([f"--workdir={stranger / 'run'}"])
    record = json.loads((stranger / "run" / "config.json").read_text())
    record["eval"]["names"] = [str(stranger / "theirs.py")]
    other = stranger / "other"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text(json.dumps(record))
    report.main([f"--workdir={other}"])
    assert not (stranger / "mark").exists()


def test_trust_in_a_checkpoint_is_for_that_one(stranger):
    with pytest.raises(own_files.Foreign, match="add trust_code=True to run it"):
        frozen.load(stranger / "run")
    frozen.load(stranger / "run", trust_code=True)
    assert own_files.is_foreign("/another/file.py")
    frozen.load(stranger / "run")  # its code has run, and runs again


def test_a_file_that_the_command_names_is_trusted(stranger):
    text = (stranger / "run" / "config.json").read_text()
    with pytest.raises(own_files.Foreign):
        config_lib.from_json(text)
    override = f"--config.method.name={stranger / 'theirs.py'}"
    config_lib.load("configs/imagenet_r50.py:100,smoke", [override])
    assert config_lib.from_json(text).method.name == str(stranger / "theirs.py")


def test_every_key_of_a_checkpoint_that_names_a_file_is_looked_at(monkeypatch):
    monkeypatch.setattr(own_files, "_trusts_checkpoints", False)
    config = config_lib.load("configs/imagenet_r50.py:100,smoke")
    for key, value in config_lib.leaves(config).items():
        if isinstance(value, str | tuple):
            values = {key: "/their/code.py" if isinstance(value, str) else ("crop", "/their/x.py")}
            with pytest.raises(own_files.Foreign, match=key):
                own_files.refuse_foreign(values)


# --- The tools ---


@pytest.mark.parametrize(
    "words",
    [
        ["--rate=2", "--config.seed=1", "--config.a.b=(1, 2)"],
        ["--config.seed=1", "--config.a.b=(1, 2)", "--rate=2"],
        ["--rate=2", "--", "--config.seed=1", "--config.a.b=(1, 2)"],
        ["--config.seed=1", "--rate=2", "--", "--config.a.b=(1, 2)"],
    ],
)
def test_a_tool_takes_overrides_in_any_place(words):
    parser = arguments.Parser("A tool.")
    parser.add_argument("--rate", type=int)
    args = parser.parse(words)
    assert args.rate == 2
    assert args.overrides == ["--config.seed=1", "--config.a.b=(1, 2)"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--sed=1"], "error: --sed=1 is no flag of this command: did you mean --seeds?\n"),
        (["--seed=1"], "--seed=1 is no flag of this command: did you mean --seeds?"),
        (["--config.seed=1", "--config.seed=2"], "--config.seed is given twice"),
        (["--folder=gs://b"], "gs://b is an address of gs"),
    ],
)
def test_a_mistake_in_the_words_of_a_tool_is_one_sentence(words, sentence, capsys):
    parser = arguments.Parser("A tool.")
    parser.add_argument("--seeds")
    parser.add_argument("--folder", type=arguments.folder)
    with pytest.raises(SystemExit) as ended:
        parser.parse(words)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_later_override_replaces_an_earlier_one():
    words = ["--config.seed=1", "--steps=2", "--config.a=b", "--config.seed=3"]
    assert files.merged(words) == ["--steps=2", "--config.seed=3", "--config.a=b"]
    assert flag_parsing.take("seed", ["--seed", "3", "x"]) == ("3", ["x"])


# --- What the documents show ---


def documented() -> list[str]:
    """The calls of `iecl_jax.main` that README and docs show, without those of own files."""
    pages = [pathlib.Path("README.md"), *sorted(pathlib.Path("docs").glob("*.md"))]
    text = "\n".join(page.read_text().replace("\\\n", " ") for page in pages)
    found = re.findall(r"python -m iecl_jax\.main (--config=[^`\n]*)", text)
    own = ("spread_out.py", "mine.py", "centroids.py", "FILE", "…")
    return sorted({each for each in found if not any(word in each for word in own)})


def test_the_documents_show_commands():
    assert len(documented()) > 10


@pytest.mark.parametrize("line", documented())
def test_a_documented_command_is_understood(line):
    words = shlex.split(line.replace("seed=S", "seed=3"))
    with flagsaver.flagsaver():
        command = main.parse(["main", *words])
        assert main.workdir_of(command)


def test_the_best_of_one_checkpoint_is_a_mistake(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "40"
    checkpoint.mkdir(parents=True)
    words = [f"--config.checkpoint={checkpoint}", "--config.best=True"]
    assert "is one already: take it out." in refused("--config=configs/knn.py", *words)
