"""What a person sees: plain lines in a log file, one line that changes on a terminal."""

import logging as std_logging
import os
import pathlib
import pty
import re
import subprocess
import sys
import time

import pytest
from absl import flags, logging

from iecl_jax import console

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def lines(monkeypatch, capsys):
    """Starts the console as a command does; returns what it has written since the last call."""
    monkeypatch.setattr(console, "_display", console._Display())
    root, verbosity = std_logging.getLogger(), logging.get_verbosity()
    flags.FLAGS["verbosity"].using_default_value = True
    before = list(root.handlers)
    root.addHandler(std_logging.StreamHandler())  # as a library may have done
    console.start()
    yield lambda: capsys.readouterr().err.splitlines()
    root.handlers[:] = before
    logging.set_verbosity(verbosity)
    flags.FLAGS["verbosity"].using_default_value = True


def until(condition):
    """Waits for what another thread does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_durations_are_words():
    told = [console.duration(x) for x in (0, 59.4, 59.6, 90, 700, 3599, 3700, 86400 + 3600, 200000)]
    assert told == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "1 min 30 s",
        "12 min",
        "1 h 00 min",
        "1 h 02 min",
        "25 h 00 min",
        "2 d 07 h",
    ]


def test_lines_are_plain_and_warnings_are_marked(lines):
    console.say("It begins.")
    logging.warning("%d files are broken", 2)
    std_logging.getLogger("another").warning("this too")
    std_logging.getLogger("another").info("not this")
    try:
        raise OSError("the disk is full")
    except OSError:
        logging.error("Not saved", exc_info=True)
    assert lines() == [
        "It begins.",
        "warning: 2 files are broken",
        "warning: this too",
        "error: Not saved (OSError: the disk is full)",
    ]


def test_what_is_waited_for_is_said_before_and_only_once(lines):
    for _ in range(2):
        with console.waiting("Compiling"):
            pass
    with console.waiting("Compiling"), console.waiting("Decoding"):
        assert lines() == ["Compiling ...", "Decoding ..."]


def test_a_long_wait_is_never_silent(lines, monkeypatch):
    monkeypatch.setattr(console, "_SOON", 0.0)
    monkeypatch.setattr(console, "_QUIET", 0.05)
    said = []
    with console.progress("Decoding digits", 2000, "image") as shown:
        shown.update(1000)
        until(lambda: said.extend(lines()) or len(said) > 1)
        assert said[0] == "Decoding digits ..."
        assert re.fullmatch(r"Decoding digits: image 1,000 of 2,000, \d+ s", said[1])
        shown.update(2000, "all sound")
        until(lambda: said.extend(lines()) or said[-1].endswith("2,000 of 2,000, all sound"))
    with console.waiting("Compiling"):
        time.sleep(0.1)
    assert re.fullmatch(r"Compiling: \d+ s", lines()[-1])
    with console.waiting("Compiling"):  # said before; now it takes long
        said = []
        until(lambda: said.extend(lines()) or said)
    assert said[0] == "Compiling ..."


def test_a_task_tells_itself_in_a_log_file(lines):
    with console.progress("Training", 4000, "step") as shown:
        shown.update(200, "loss 3.25")
        shown.tell()
        shown.note = lambda: "as it is now"
        shown.tell()
    assert lines()[1:] == [
        "Training: step 200 of 4,000, loss 3.25",
        "Training: step 200 of 4,000, as it is now",
    ]


def test_quiet_is_quiet_but_for_warnings(lines):
    logging.set_verbosity(logging.WARNING)
    with console.waiting("Compiling"):
        console.say("It begins.")
        logging.warning("it is hot")
    assert lines() == ["warning: it is hot"]


def test_results_go_to_the_standard_output(lines, capsys):
    console.show("kNN 91 %")
    assert capsys.readouterr().out == "kNN 91 %\n"


TERMINAL = """
import time
from absl import logging
from iecl_jax import console
console.start()
with console.progress("Training", 4000, "step") as shown:
    shown.update(200, "loss 3.25")
    time.sleep(0.6)
    logging.warning("it is hot")
    console.show("kNN 91 %")
    with console.waiting("Evaluating"):
        time.sleep(0.6)
    shown.tell()
print("the end")
"""


def test_a_terminal_has_one_line_that_changes():
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    try:
        while more := os.read(ours, 65536):
            written += more
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    text = written.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert re.search(r"Training: step 200 of 4,000 .* loss 3\.25", plain)
    assert re.search(r"Evaluating +\d+ s", plain)
    # What stays is on lines of its own, and a line that is replaced is wiped out before.
    for kept in ("warning: it is hot", "kNN 91 %", "the end"):
        assert re.search(rf"(^|[\r\n]){kept}\r\n", plain), kept
    assert plain.endswith("the end\r\n")
    assert text.count("\n") < 10
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # The cursor is visible.
