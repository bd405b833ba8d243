"""Tells a person what the program does: what it waits for, how far it is, and how long it takes.

Everything is said through absl's log at the level INFO, so `--verbosity=-1` silences it, and only
process 0 of several speaks. `start` makes plain lines of the log: a command calls it once. From
then on

- a terminal has one more line, below the others, that changes in place;
- a log file gets a line whenever something is slow, after ten seconds at first, later less often.

Code that uses this module without `start`, such as a test, only writes to the log.
"""

import contextlib
import logging as std_logging
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags, logging

_OWN_CODE = str(pathlib.Path(__file__).parent)
_SOON, _QUIET, _QUIETEST = 2.0, 10.0, 60.0  # seconds


def say(message: str) -> None:
    """Says a line."""
    logging.info("%s", message)


def show(text: str) -> None:
    """Prints a result to the standard output."""
    with _display.paused():
        print(text, flush=True)


def duration(seconds: float) -> str:
    """Returns a duration in words: "40 s", "1 min 40 s", "12 min", "3 h 05 min", "2 d 04 h"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if round(seconds) < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


class Task:
    """Something that takes time: a wait, or with `total` something whose parts can be counted.

    Attributes:
      what: what is done, in a few words.
      total: number of parts; None = they cannot be counted.
      unit: what a part is, such as "step".
      done: number of parts done.
      note: what is known so far, or a function that returns it.
      said: whether its beginning was said.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = ""):
        self.what, self.total, self.unit = what, total, unit
        self.done, self.said = 0, False
        self.note: str | Callable[[], str] = ""
        self.began = time.monotonic()

    def update(self, done: int, note: str | None = None) -> None:
        """Sets the number of parts done and, unless it is None, the note. Writes nothing."""
        self.done = done
        if note is not None:
            self.note = note

    def tell(self) -> None:
        """Says how far it is, unless a terminal shows that anyway."""
        if not _display.on_terminal():
            say(self.line())

    def describe(self) -> str:
        """Returns what is done and how far it is."""
        if self.total is None:
            return self.what
        return f"{self.what}: {self.unit} {self.done:,} of {self.total:,}"

    def line(self) -> str:
        """Returns the task as a line of its own."""
        return f"{self.describe()}, {self.known()}"

    def known(self) -> str:
        """Returns what is known so far, or else the time since it began."""
        return (self.note() if callable(self.note) else self.note) or self.elapsed()

    def elapsed(self) -> str:
        """Returns the time since it began, in words."""
        return duration(time.monotonic() - self.began)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[Task]:
    """Says what is waited for before the block, and how long it took if that was long.

    What was said once is only said again when it takes more than two seconds.
    """
    task = Task(what)
    with _display.showing(task):
        yield task
    if time.monotonic() - task.began >= _QUIET:
        say(f"{what}: {task.elapsed()}")


def showing(task: Task) -> contextlib.AbstractContextManager[Task]:
    """Shows a task while the block runs; a task with `total` is moved on by `Task.update`."""
    return _display.showing(task)


def progress(what: str, total: int, unit: str) -> contextlib.AbstractContextManager[Task]:
    """Shows how many of `total` parts of the block are done, as told to `Task.update`."""
    return showing(Task(what, total, unit))


def start() -> None:
    """Makes plain lines of the log, from INFO on unless --verbosity says otherwise."""
    root = std_logging.getLogger()
    for handler in tuple(root.handlers):
        # absl's, and the one that the first message of a library may have made.
        if handler is logging.get_absl_handler() or type(handler) is std_logging.StreamHandler:
            root.removeHandler(handler)
    if not any(isinstance(each, _Lines) for each in root.handlers):
        root.addHandler(_Lines())
    if logging.get_verbosity() < logging.INFO and not _chosen_verbosity():
        logging.set_verbosity(logging.INFO)
    _display.live = True


def _chosen_verbosity() -> bool:
    """Returns whether the command line sets absl's flag."""
    return not flags.FLAGS["verbosity"].using_default_value


class _Lines(std_logging.Handler):
    """Prints this package's messages as plain lines, and only the warnings of other packages."""

    def emit(self, record: std_logging.LogRecord) -> None:
        if record.levelno < std_logging.WARNING and not record.pathname.startswith(_OWN_CODE):
            return
        mark = f"{record.levelname.lower()}: " if record.levelno >= std_logging.WARNING else ""
        try:
            _display.print(mark + _text(record), warning=bool(mark))
        except Exception:
            self.handleError(record)


def _text(record: std_logging.LogRecord) -> str:
    """Returns the message; a traceback is for --verbosity=1 only."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None or logging.level_debug():
        return std_logging.Formatter().format(record)
    return f"{record.getMessage()} ({type(error).__name__}: {error})"


class _Display:
    """The tasks under way, of which the innermost is shown.

    Attributes:
      live: True if there is a person to show them to; False = they only go to the log.
    """

    def __init__(self) -> None:
        self.live = False
        self._tasks: list[Task] = []
        self._announced: set[str] = set()
        self._lock = threading.RLock()
        self._last = time.monotonic()
        self._bar: Any = None  # of a terminal
        self._stop_ticking: Callable[[], None] | None = None  # of a log file

    @contextlib.contextmanager
    def showing(self, task: Task) -> Iterator[Task]:
        with self._lock:
            self._tasks.append(task)
            self._begin()
        if task.what not in self._announced and not self.on_terminal():
            self._announced.add(task.what)
            task.said = True
            say(f"{task.what} ...")
        try:
            yield task
        finally:
            with self._lock:
                self._tasks.remove(task)
                self._end()

    def on_terminal(self) -> bool:
        """Returns whether a terminal shows the tasks."""
        return self._bar is not None

    def print(self, text: str, *, warning: bool) -> None:
        self._last = time.monotonic()
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(text, style="yellow" if warning else None, soft_wrap=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the changing line away for what others print."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            try:
                yield
            finally:
                self._last = time.monotonic()
                if self._bar is not None:
                    self._bar.start()

    def _begin(self) -> None:
        if not self.live or not logging.level_info():
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = _bar(lambda: self._tasks[-1:])
                self._bar.start()
                self._bar.console.show_cursor(True)  # A kill would leave the terminal without one.
        elif self._stop_ticking is None:
            self._last = time.monotonic()
            stopped = threading.Event()
            self._stop_ticking = stopped.set
            threading.Thread(target=self._tick, args=(stopped,), daemon=True).start()

    def _end(self) -> None:
        if self._tasks:
            return
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._stop_ticking is not None:
            self._stop_ticking()
            self._stop_ticking = None

    def _tick(self, stopped: threading.Event) -> None:
        """Says the innermost task whenever nothing was said for long."""
        while not stopped.wait(1.0):
            with self._lock:
                task = self._tasks[-1] if self._tasks else None
            if task is None:
                continue
            now = time.monotonic()
            patience = min(_QUIETEST, max(_QUIET, (now - task.began) / 30))
            if not task.said and now - task.began >= _SOON:
                task.said = True
                say(f"{task.what} ...")
            elif now - self._last >= patience:
                say(task.line())


def _bar(shown: Callable[[], list[Task]]) -> Any:
    """Returns the line of a terminal that shows the first of `shown()`, as a rich `Live`."""
    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner
    from rich.table import Table

    console = Console(stderr=True, highlight=False, markup=False)
    spinner = Spinner("dots")

    def render() -> Table:
        table = Table.grid(padding=(0, 1))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        for task in shown():
            pulse = ProgressBar(total=task.total, completed=task.done, width=12)
            table.add_row(spinner, task.describe(), pulse if task.total else "", task.known())
        return table

    return Live(
        get_renderable=render,
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


_display = _Display()
