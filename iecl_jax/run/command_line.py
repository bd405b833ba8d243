"""The command that started this process, as its user typed it."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence

_MODULE = ["python", "-m", "iecl_jax.main"]


def typed() -> list[str]:
    """Returns the words of the command that started this process.

    `sys.argv` lacks the interpreter, its options and `-m MODULE`, so it does not run. Environment
    variables before the command and redirections after it are not known to a process.
    """
    words = list(sys.orig_argv)
    name = os.path.basename(sys.argv[0])
    # The shell started a script, whose first line names the interpreter.
    if len(words) > 1 and words[1] == sys.argv[0] and shutil.which(name) == words[1]:
        return [name, *words[2:]]
    return words


def shown(words: Sequence[str]) -> str:
    """Returns the words as one line for a shell, quoted where it must be.

    The absolute path of an interpreter, which tools start runs with, is shown as `python`. Earlier
    revisions recorded `sys.argv`, which begins with the path of `main.py`.
    """
    words = [str(word) for word in words]
    if words and os.path.isabs(words[0]) and os.path.basename(words[0]).startswith("python"):
        words = ["python", *words[1:]]
    if words and words[0].endswith("main.py"):
        words = [*_MODULE, *words[1:]]
    return shlex.join(words)
