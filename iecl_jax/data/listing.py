"""Lists the images of a folder: which files and folders are read, and in which order."""

import collections
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from iecl_jax.data import files

# What Pillow reads by itself. Of a file with several pictures, it gives the first.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".avif"),
)
# Folders that systems and network drives make among the user's own.
SYSTEM_FOLDERS = (
    *("@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),
    *("__macosx", "network trash folder", "temporary items", "lost+found", "__pycache__"),
)
_NAMED = 5  # paths that a sentence names


class Listing(NamedTuple):
    """What lies below a folder.

    Attributes:
      root: the folder.
      images: the paths of all images, sorted. A link to an image is an image of its own.
      empty: names of the folders in `root` itself that have no image, sorted.
      notes: a sentence for each kind of thing that is left out.
    """

    root: Path
    images: list[Path]
    empty: list[str]
    notes: list[str]


def list_images(root: Path) -> Listing:
    """Lists all images below `root`, by the ending of their names.

    Links are followed, but each folder is read once, however many links lead to it, and none that
    contains `root`. What is hidden (a name that begins with a dot) and what a system made is left
    out, and so are the folders of runs, and pipes, sockets and devices, which could block for ever.

    Raises:
      ValueError: a folder cannot be read, or a link leads nowhere.
    """
    images: list[Path] = []
    left_out = _LeftOut()
    folders, links = [root], collections.deque[Path]()
    above, seen, top_folders = set(root.resolve().parents), set(), set()
    # Links come last: a folder that lies below `root` is found under its own name.
    while folders or links:
        is_link = not folders
        folder = links.popleft() if is_link else folders.pop()
        if (place := _place(folder)) in seen or (is_link and folder.resolve() in above):
            left_out.links.append(folder)
            continue
        seen.add(place)
        inside = entries(folder)
        if folder != root and _is_run(folder):
            left_out.runs.append(folder)
            continue
        if folder.parent == root != folder:  # the parent of "." is "."
            top_folders.add(folder.name)
        for entry in inside:
            path, kind = Path(folder, entry.name), _kind(entry)
            if is_hidden(entry.name, is_folder=kind in ("folder", "link")):
                left_out.hidden.append(path)
            elif kind == "folder":
                folders.append(path)
            elif kind == "link":
                links.append(path)
            elif not entry.name.lower().endswith(SUFFIXES):
                if kind == "nowhere":
                    raise ValueError(f"The link {shown(path)} leads nowhere: mend or remove it.")
                left_out.suffixes[path.suffix.lower() or "(no ending)"] += 1
            elif kind == "special":
                left_out.special.append(path)
            else:  # A link that leads nowhere counts as an image, and then as a broken one.
                images.append(path)
    depth = len(root.parts)
    with_images = {path.parts[depth] for path in images}
    return Listing(root, sorted(images), sorted(top_folders - with_images), left_out.notes(root))


def entries(folder: Path) -> list[os.DirEntry]:
    """Returns what lies in a folder, sorted by name.

    Raises:
      ValueError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error


def is_hidden(name: str, *, is_folder: bool) -> bool:
    """Returns whether a name is that of a hidden file or folder, or of a folder of the system."""
    return name.startswith(".") or (is_folder and name.lower() in SYSTEM_FOLDERS)


def shown(path: Path | str) -> str:
    """Returns a path as text that any terminal and file can take: odd characters are escaped."""
    text = str(path)
    return text if text.isprintable() else repr(text)[1:-1]


def some(paths: Sequence[Path | str]) -> str:
    """Returns the first paths as words: "a, b and 7 more"."""
    more = len(paths) - _NAMED
    return ", ".join(map(shown, paths[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def digest(paths: Sequence[Path], root: Path) -> str:
    """Returns the SHA-256 (hex) of the images' paths below `root` and their sizes in bytes."""
    sha = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size if path.exists() else None  # None = a link that leads nowhere
        sha.update(os.fsencode(path.relative_to(root)) + f" {size}\n".encode())
    return sha.hexdigest()


class _LeftOut:
    """Collects what a listing leaves out."""

    def __init__(self) -> None:
        self.hidden: list[Path] = []
        self.runs: list[Path] = []
        self.links: list[Path] = []
        self.special: list[Path] = []
        self.suffixes: collections.Counter[str] = collections.Counter()

    def notes(self, root: Path) -> list[str]:
        counts = [f"{count} {suffix}" for suffix, count in self.suffixes.most_common()]
        found: list[tuple[str, Sequence[Path | str]]] = [
            ("files of other kinds", counts),
            ("what is hidden or the system's", sorted(self.hidden)),
            ("folders of runs", sorted(self.runs)),
            ("links to folders that are read already or lie above", sorted(self.links)),
            ("what is no file (pipe, socket or device)", sorted(self.special)),
        ]
        return [f"{shown(root)}: left out {what}: {some(which)}." for what, which in found if which]


def _unreadable(folder: Path, error: OSError) -> ValueError:
    return ValueError(
        f"The folder {shown(folder)} cannot be read ({error.strerror}): make it readable, or move "
        "it away."
    )


def _is_run(folder: Path) -> bool:
    try:
        return files.is_run(folder)
    except OSError as error:  # its names may be listed, but nothing in it opened
        raise _unreadable(folder, error) from error


def _place(folder: Path) -> tuple[int, int]:
    """Returns what identifies a folder, whatever the path to it."""
    try:
        found = folder.stat()
    except OSError:
        return -1, hash(folder)  # `entries` reports it
    return found.st_dev, found.st_ino


def _kind(entry: os.DirEntry) -> str:
    """Returns "folder", "file", "link" (to a folder), "nowhere" (a link) or "special"."""
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if entry.is_file(follow_symlinks=False):  # costs no call to the system
        return "file"
    if not entry.is_symlink():
        return "special"
    try:
        mode = entry.stat().st_mode
    except OSError:
        return "nowhere"
    if stat.S_ISDIR(mode):
        return "link"
    return "file" if stat.S_ISREG(mode) else "special"
