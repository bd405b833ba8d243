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


def test_a_signal_outside_of_the_loop_ends_with_the_code_and_closes_what_is_open():
    before, closed = signal.getsignal(signal.SIGTERM), []

    @preemption.ending_with_its_code()
    def run():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            closed.append(True)

    with pytest.raises(SystemExit) as left:
        run()
    assert (left.value.code, closed) == (preemption.EXIT_CODE, [True])
    assert signal.getsignal(signal.SIGTERM) is before
