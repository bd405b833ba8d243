"""Signals in a long call of compiled code, as while a program compiles, and outside of the loop."""

import os
import signal
import subprocess
import sys
import time

import pytest

from iecl_jax.run import preemption

pytestmark = pytest.mark.quick

BUSY = """
import hashlib
from iecl_jax.run.preemption import Preemption
with Preemption():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(number):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    with subprocess.Popen([sys.executable, "-c", BUSY], **pipes) as process:
        assert process.stdout.readline() == b"busy\n"
        process.send_signal(number)
        if number == signal.SIGINT:
            assert process.stderr.readline() == b"\n"
            assert process.stderr.readline().startswith(b"Ctrl-C: saves and stops.")
        time.sleep(preemption.REPEAT_SECONDS + 0.5)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number


WHOLE = """
import sys, time
from iecl_jax.run import preemption
with preemption.ending_with_its_code():
    try:
        print("inside", flush=True)
        time.sleep(float(sys.argv[1]))
    finally:
        print("closed", flush=True)
print("behind", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "inside, behind, at, code, printed",
    [
        (60, 0, "inside", preemption.EXIT_CODE, "closed"),
        (0, 2, "behind", 0, ""),
    ],
)
def test_a_signal_outside_of_the_loop_has_its_code_and_none_changes_that_of_a_finished_program(
    inside, behind, at, code, printed
):
    command = [sys.executable, "-c", WHOLE, str(inside), str(behind)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        while process.stdout.readline().strip() != at:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == code
        assert process.stdout.read().strip() == printed


COLLECTING = """
import gc, signal, sys, time
from iecl_jax.run import preemption

def collected(phase, info):
    gc.callbacks.remove(collected)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.1)

with preemption.ending_with_its_code():
    if sys.argv[1] == "in the loop":
        with preemption.Preemption() as asked:
            with asked.interrupting(True):
                gc.callbacks.append(collected)
                gc.collect()
                time.sleep(1)
            sys.exit(0 if asked.due() else 1)
    gc.callbacks.append(collected)
    gc.collect()
    time.sleep(60)
"""


@pytest.mark.parametrize("where, code", [("in the loop", 0), ("outside", preemption.EXIT_CODE)])
def test_a_signal_while_garbage_is_collected_counts_and_prints_nothing(where, code):
    command = [sys.executable, "-c", COLLECTING, where]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (code, "", "")
