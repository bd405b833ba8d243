"""Child processes: what is skipped, what is asked again, and that none outlives its parent."""

import json
import os
import pathlib
import signal
import threading
import time

import fake_main
import ml_collections
import pytest

from iecl_jax import config as config_lib
from iecl_jax.run import workdir
from iecl_jax.tools import runs
from iecl_jax.tools.runs import Run, Runner


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = tmp_path / "c.py"
    path.write_text(fake_main.CONFIG)
    monkeypatch.setattr(runs, "MAIN", (fake_main.__file__,))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return str(path)


def calls(tmp_path):
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def complete(tmp_path, run):
    with Runner(1, tmp_path / "compiled") as runner:
        return runner.complete("it", run)


def test_a_finished_run_is_not_started_again(config, tmp_path, capsys):
    run = Run(f"{config}:a", tmp_path / "r", ("--config.seed=1", "--config.data.dir=x"))
    assert not runs.is_finished(run)
    assert complete(tmp_path, run)
    assert runs.is_finished(run)
    assert complete(tmp_path, run)
    assert len(calls(tmp_path)) == 1
    assert capsys.readouterr().out == "it: done\nit: finished before\n"


@pytest.mark.parametrize(
    "variant, flags",
    [
        ("b", ("--config.seed=1",)),
        ("a", ("--config.seed=2",)),
        ("a", ("--config.seed=1", "--config.rate=0.25")),
        ("a", ("--config.seed=1", "--config.nothing=1")),
    ],
)
def test_a_run_with_another_config_is_asked_and_refused(config, tmp_path, capsys, variant, flags):
    assert complete(tmp_path, Run(f"{config}:a", tmp_path / "r", ("--config.seed=1",)))
    assert not complete(tmp_path, Run(f"{config}:{variant}", tmp_path / "r", flags))
    assert len(calls(tmp_path)) == 2
    log = tmp_path / "r" / "log.txt"
    assert capsys.readouterr().out.endswith(f"it: failed: another config (see {log})\n")
    assert "another config" in log.read_text() or "nothing" in log.read_text()


def test_what_the_files_do_not_tell_is_asked(config, tmp_path):
    run = Run(f"{config}:a", tmp_path / "r", ("--config.seed=1",))
    assert complete(tmp_path, run)
    assert not runs.is_finished(run._replace(flags=("--config.seed=1", "--verbosity=1")))
    assert not runs.is_finished(run._replace(config=f"{config}:nowhere"))
    starts = run.workdir / "provenance.json"
    starts.write_text(json.dumps([{"config_changes": []}, {"config_changes": ["rate: 1 -> 2"]}]))
    assert not runs.is_finished(run)
    starts.write_text("[")
    assert not runs.is_finished(run)


def test_the_text_of_a_config_is_what_main_keeps(config, tmp_path, monkeypatch):
    overrides = ["--config.seed=3", "--config.rate=1", "--config.linear=(0.5, 1.0)"]
    text = config_lib.to_json(config_lib.load(f"{config}:b,small", overrides))
    known = json.loads(text)
    assert (known["seed"], known["rate"], known["linear"]) == (3, 1.0, [0.5, 1.0])
    changed = ml_collections.ConfigDict(known | {"linear": (0.5, 1.0)})
    workdir.prepare(tmp_path / "r", changed, command=[], allow_change=False)
    assert (tmp_path / "r" / "config.json").read_text() == text + "\n"


def test_the_environment_keeps_a_cache_of_its_own_choice(config, tmp_path, monkeypatch):
    show = ["-c", "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'])"]
    for chosen in ("elsewhere", None):
        if chosen:
            monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
        else:
            monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        with Runner(1, tmp_path / "compiled") as runner:
            assert runner.call(show, tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == f"elsewhere\n{tmp_path / 'compiled'}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_children_and_starts_no_more(config, tmp_path, capsys, number):
    jobs = [Run(f"{config}:wait", tmp_path / name, ("--config.seed=0",)) for name in "xyz"]

    def send():
        while not all((tmp_path / name / "waits").exists() for name in "xy"):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    def note(*_):
        raise AssertionError("the runner has no handler")

    before = signal.signal(number, note)
    try:
        sender = threading.Thread(target=send)
        sender.start()
        with Runner(2, tmp_path / "compiled") as runner:
            done = runner.map(lambda run: runner.complete(run.workdir.name, run), jobs)
        sender.join()
        assert signal.getsignal(number) is note
    finally:
        signal.signal(number, before)
    assert done == [False, False, False]
    assert len(calls(tmp_path)) == 2
    assert sorted(capsys.readouterr().out.splitlines()) == ["x: stopped", "y: stopped"]
    assert runner.call(["-c", "print(1)"], tmp_path / "log") == 75
    assert not (tmp_path / "log").exists()
    with pytest.raises(SystemExit) as end:
        runner.leave(done)
    assert end.value.code == 75


def test_a_child_is_out_of_reach_of_the_terminals_ctrl_c(tmp_path):
    with Runner(1, tmp_path / "compiled") as runner:
        runner.call(["-c", "import os; print(os.getpgid(0))"], tmp_path / "log")
    assert int((tmp_path / "log").read_text()) != os.getpgid(0)


STUBBORN = """
import pathlib, signal, subprocess, sys, time
if {ignores}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep({seconds})
"""


def is_alive(pid):
    """Whether a process runs; one that is dead and not yet waited for does not."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize(
    "ignores, seconds, code", [(True, 600, runs.TIMED_OUT), (False, 600, runs.TIMED_OUT), (0, 0, 0)]
)
def test_a_command_ends_with_what_it_started(tmp_path, monkeypatch, ignores, seconds, code):
    """At its time, although it ignores SIGTERM, and also if it ends by itself."""
    monkeypatch.setattr(runs, "GRACE", 0.3)
    log, script = tmp_path / "log", STUBBORN.format(ignores=ignores, seconds=seconds)
    with Runner(1, tmp_path / "compiled") as runner:
        for given in (1, 4, 16, 64, 256):  # A busy machine takes its time to start the command.
            found = runner.call(["-I", "-S", "-c", script], log, seconds=given)
            if pid := log.read_text():
                break
    assert found == code
    while is_alive(int(pid)):  # The kernel ends it soon after the signal.
        time.sleep(0.01)


def test_a_command_gets_more_variables_and_another_interpreter(tmp_path):
    with Runner(1, tmp_path / "compiled") as runner:
        words = ["-c", "echo $TONGUE $0", "sh"]
        assert runner.call(words, tmp_path / "log", python="sh", environment={"TONGUE": "c"}) == 0
    assert (tmp_path / "log").read_text() == "c sh\n"


def test_an_error_in_the_parent_ends_the_children(config, tmp_path):
    began = time.monotonic()
    run = Run(f"{config}:wait", tmp_path / "r", ("--config.seed=0",))

    def start_and_fail():
        with Runner(1, tmp_path / "compiled") as runner:
            thread = threading.Thread(target=runner.complete, args=("it", run))
            thread.start()
            while not (run.workdir / "waits").exists():
                time.sleep(0.01)
            try:
                raise RuntimeError("oh")
            finally:
                threads.append(thread)

    threads: list[threading.Thread] = []
    with pytest.raises(RuntimeError, match="oh"):
        start_and_fail()
    threads[0].join()
    assert time.monotonic() - began < 30


def test_the_end_says_how_many_failed():
    runner = Runner(1, pathlib.Path("compiled"))
    runner.leave([True, True])
    with pytest.raises(SystemExit, match="error: 2 runs failed; start again to resume them"):
        runner.leave([True, False, False])


def test_the_progress_says_which_run_says_what(tmp_path):
    runner = Runner(1, tmp_path)
    for row in ("byol", "byol-saib"):
        log = tmp_path / row / "seed-0" / "log.txt"
        log.parent.mkdir(parents=True)
        log.write_text(f"Making the network ...\nTraining {row}\n")
        runner._logs.append(log)
    assert runner._under_way() == "byol/seed-0: Training byol; byol-saib/seed-0: Training byol-saib"
