"""The short form of kill_and_resume.py: one SIGKILL, one SIGTERM."""

import signal

import kill_and_resume
import pytest


@pytest.mark.slow
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path):
    command = kill_and_resume.Command("tests/tiny_run.py", steps=500, every_steps=50)
    signals = [signal.SIGKILL, signal.SIGTERM]
    lines = kill_and_resume.check(tmp_path, command, signals=signals, seed=0)
    assert [line.split(":")[0] for line in lines] == [
        "left alone",
        "SIGKILL",
        "SIGTERM",
        "interrupted",
    ]
