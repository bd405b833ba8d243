"""Runs `iecl_jax.main` and kills it with SIGKILL when it touches a file for the Nth time.

    python tests/killed_at.py WORD N [FLAGS of iecl_jax.main]

To touch is to open, to rename, to make or to remove a file whose path contains WORD. N = 0 kills
never. At the end, "touched WORD: COUNT" says how often the whole run did it.
"""

import os
import runpy
import signal
import sys

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


class Touches:
    """An audit hook that counts the touches of a word, and kills at one of them."""

    def __init__(self, word: str, fatal: int):
        self.word, self.fatal, self.count = word, fatal, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in EVENTS and any(self.word in str(argument) for argument in arguments[:2]):
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    touches = Touches(sys.argv[1], int(sys.argv[2]))
    sys.addaudithook(touches)
    sys.argv = ["iecl_jax.main", *sys.argv[3:]]
    try:
        runpy.run_module("iecl_jax.main", run_name="__main__", alter_sys=True)
    finally:
        print(f"touched {touches.word}: {touches.count}", file=sys.stderr)
