"""The short form of kill_and_resume.py: one SIGKILL, one SIGTERM."""

import signal

import kill_and_resume


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path):
    lines = kill_and_resume.check(
        tmp_path, signals=[signal.SIGKILL, signal.SIGTERM], steps=120, seed=0
    )
    assert [line.split(":")[0] for line in lines] == [
        "left alone",
        "SIGKILL",
        "SIGTERM",
        "interrupted",
    ]
