"""Finds the collectives, which send data between devices, in the text of an XLA program.

The text is either `compiled.as_text()`, the program that runs, or
`lowered.as_text("hlo", debug_info=True)`, the program before the compiler drops and combines
collectives.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "collective-broadcast",
)
_INSTRUCTION = re.compile(rf" = (?P<shape>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?:[a-z]+(?P<bits>\d+)\w*|pred)\[(?P<sizes>[\d,]*)\]")
OP_NAME = re.compile(r'op_name="(?P<name>[^"]*)"')


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
      kind: one of KINDS.
      operands: number of arrays that it sends together.
      bytes: size of its results on one device.
      source: XLA's op_name: the path of JAX's names to the operation; "" if it has none.
    """

    kind: str
    operands: int
    bytes: int
    source: str


def collectives(text: str) -> list[Collective]:
    """Returns every collective in the text of an HLO module, in order.

    A collective that is split into a start and a done counts once. So does one inside a loop,
    however many iterations the loop has.
    """
    return list(_collectives(text))


def summary(found: Iterable[Collective]) -> dict[str, dict[str, int]]:
    """Returns {kind: {"count", "operands", "bytes"}}: sums over the collectives of each kind."""
    sums: dict[str, dict[str, int]] = {}
    for each in found:
        of_kind = sums.setdefault(each.kind, {"count": 0, "operands": 0, "bytes": 0})
        of_kind["count"] += 1
        of_kind["operands"] += each.operands
        of_kind["bytes"] += each.bytes
    return sums


def _collectives(text: str) -> Iterator[Collective]:
    for line in text.splitlines():
        match = _INSTRUCTION.search(line)
        if not match:
            continue
        operands = top_level(inside(line, match.end() - 1))
        results = array_bytes(match["shape"])
        if match["start"] and match["kind"] != "all-reduce":
            # A start returns a tuple: the operands, the results, and what the backend adds.
            results = results[len(operands) : 2 * len(operands)]
        name = OP_NAME.search(line)
        yield Collective(match["kind"], len(operands), sum(results), name["name"] if name else "")


def array_bytes(shape: str) -> list[int]:
    """Returns the bytes of each array of a shape: `f32[2,3]{1,0}` or a tuple of such shapes."""
    return [
        math.prod(int(size) for size in array["sizes"].split(",") if size)
        * math.ceil(int(array["bits"] or 8) / 8)
        for array in _ARRAY.finditer(shape)
    ]


def inside(line: str, opening: int) -> str:
    """Returns the text between the parenthesis at `opening` and its closing parenthesis."""
    depth = 0
    for i, character in enumerate(line[opening:], opening):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return line[opening + 1 : i]
    raise ValueError(f"a parenthesis is not closed in the HLO line {line.strip()[:80]!r}.")


def top_level(operands: str) -> list[str]:
    """Splits at the commas outside all brackets."""
    parts, depth = [""], 0
    for character in operands:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]
