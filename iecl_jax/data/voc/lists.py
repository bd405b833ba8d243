"""Says which images a split has: those of its list, or where that is missing, some by the seed."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from iecl_jax import console
from iecl_jax.data.listing import shown, some

TEST_SHARE = 0.2  # of the images, where neither split has a list


def read(path: Path, known: Collection[str]) -> list[str]:
    """Returns the names of the images in a list, in its order.

    A line is the name of an image without its ending. It may also be a path to it, or such paths to
    an image and its mask, as in lists of SBD.

    Args:
      path: the list.
      known: the names of all images.

    Raises:
      ValueError: the list cannot be read, is empty, or names an image twice or one that is not
        known.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The list {shown(path)} cannot be read ({error}).") from error
    lines = [line.strip() for line in lines if line.strip()]
    names = [line if line in known else Path(line.split()[0]).stem for line in lines]
    if not names:
        raise ValueError(f"The list {shown(path)} is empty: name images in it, one a line.")
    if missing := [line for line, name in zip(lines, names) if name not in known]:
        folder = shown(path.parents[2] / "JPEGImages")
        raise ValueError(
            f"{shown(path)} names images that {folder} does not have ({len(missing)}): "
            f"{some(missing)}. Add the images, or take the lines out."
        )
    if len(set(names)) < len(names):
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        raise ValueError(f"{shown(path)} names images twice: {some(twice)}. Keep one line of each.")
    return names


def draw(
    path: Path,
    having: Collection[str],
    what: str,
    *,
    taken: Collection[str],
    is_test: bool,
    seed: int,
) -> list[str]:
    """Returns the sorted names of a split that has no list, and says so.

    They are all images that the other split leaves. If that has no list either, a fifth of the
    images is drawn for the test.

    Args:
      path: the list that is missing.
      having: the images that can be used.
      what: what these have, for the sentence.
      taken: the images in the list of the other split; empty if that is missing, too.
      is_test: whether the split is the one for the test.
      seed: the seed of the draw.

    Raises:
      ValueError: too few images can be used.
    """
    free = sorted(set(having) - set(taken))
    if len(free) < (1 if taken else 2):
        raise ValueError(
            f"{shown(path)} does not exist, and the images with {what} that no other list has are "
            f"too few to draw one ({len(free)}): write the list, or add images."
        )
    if taken:
        console.say(
            f"{shown(path)} does not exist: the rest of the images with {what} ({len(free)}) is "
            "taken, those that the list of the other split leaves."
        )
        return free
    order = np.random.default_rng(seed).permutation(free).tolist()
    count = max(1, round(TEST_SHARE * len(order)))
    names = sorted(order[:count] if is_test else order[count:])
    console.say(
        f"{shown(path)} does not exist: seed={seed} draws {len(names)} of the {len(order)} images "
        f"with {what}."
    )
    return names
