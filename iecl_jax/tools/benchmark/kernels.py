"""Reads, from the text of a program compiled for a GPU, its kernels and the bytes that they move.

The text is `compiled.as_text()`. Each instruction of the scheduled program that computes or copies
is a kernel. Its bytes are those of the operands that it reads and of the results that it writes:

- A value that a kernel reads several times counts once, as if a cache held it.
- Of an operand of which a fusion only takes slices, the slices count. So does the updated part of
  a value that is updated in place.
- The workspaces of cuDNN and cuBLAS do not count.
- The body of a loop counts once for each iteration. If their number is not known to the compiler,
  it counts once, and the loop is in `Program.open_loops`. The branch that moves most counts.
"""

import collections
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from iecl_jax.tools.benchmark import hlo

CONVOLUTION, PRODUCT, FUSION, COPY, OTHER = "cuDNN", "cuBLAS", "fusion", "copy", "other"
KINDS = (FUSION, CONVOLUTION, PRODUCT, COPY, OTHER)
_FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast"))
_FREE |= {"after-all", "partition-id", "replica-id", "opt-barrier"}
_PASSED_ON = ("get-tuple-element", "bitcast")
_SLICES = ("slice", "dynamic-slice", "gather")
_UPDATE = "dynamic-update-slice"
_HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ")
_CALL = re.compile(r"(?P<op>[\w\-]+)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Kernel(NamedTuple):
    """An instruction that runs, with its repetitions.

    Attributes:
      name: its name in the program.
      kind: one of KINDS.
      bytes: what one run reads and writes.
      runs: how often it runs in a call of the program.
      source: XLA's op_name, see `hlo.Collective`.
    """

    name: str
    kind: str
    bytes: int
    runs: int
    source: str


class Program(NamedTuple):
    """The kernels of a program, in order, and the names of the loops of unknown length."""

    kernels: list[Kernel]
    open_loops: list[str]


class _Instruction(NamedTuple):
    name: str
    shape: str
    op: str
    operands: list[str]
    text: str  # what follows the operands
    root: bool
    number: str  # what stands for the operands of a parameter: its number

    @property
    def size(self) -> int:
        return sum(hlo.array_bytes(self.shape))

    def called(self, key: str) -> str:
        """Returns the computation of an attribute."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.text)
        assert found, f"{self.name} has no {key}"
        return found[1]


_Computation = dict[str, _Instruction]


def read(text: str) -> Program:
    """Returns the kernels of the text of a compiled HLO module.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry = _computations(text)
    if not entry:
        raise ValueError("this text is no HLO module: it has no ENTRY computation.")
    open_loops: list[str] = []
    return Program(_kernels(computations, entry, 1, open_loops), open_loops)


def total(kernels: Iterable[Kernel]) -> int:
    """Returns the bytes that the kernels move in one call of the program."""
    return sum(kernel.bytes * kernel.runs for kernel in kernels)


def counts(kernels: Iterable[Kernel]) -> dict[str, int]:
    """Returns the number of runs of each of KINDS."""
    found = collections.Counter[str]()
    for kernel in kernels:
        found[kernel.kind] += kernel.runs
    return {kind: found[kind] for kind in KINDS}


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
    """Returns the computations by name, and the name of the entry."""
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif current is None and (header := _HEADER.match(line)):
            current = computations.setdefault(header["name"], {})
            entry = header["name"] if header["entry"] else entry
        elif current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    return computations, entry


def _instruction(line: str) -> _Instruction | None:
    match = _LINE.match(line)
    if not match:
        return None
    rest = line[match.end() :]
    tuple_end = len(hlo.inside(rest, 0)) + 2 if rest.startswith("(") else 0
    shape = rest[:tuple_end] or rest.split(" ", 1)[0]
    call = _CALL.match(rest, len(shape) + 1)
    if not call:
        return None
    arguments = hlo.inside(rest, call.end() - 1)
    return _Instruction(
        name=match["name"],
        shape=shape,
        op=call["op"],
        operands=[name for part in hlo.top_level(arguments) for name in _NAME.findall(part)],
        text=rest[call.end() + len(arguments) :],
        root=bool(match["root"]),
        number=arguments,
    )


def _kernels(
    computations: Mapping[str, _Computation], name: str, runs: int, open_loops: list[str]
) -> list[Kernel]:
    """Returns the kernels of `runs` calls of a computation; adds to `open_loops`."""
    found: list[Kernel] = []
    here = computations[name]
    for each in here.values():
        if each.op == "while":
            trips = _TRIPS.search(each.text)
            if not trips:
                open_loops.append(each.name)
            times = runs * (int(trips[1]) if trips else 1)
            for part in ("condition", "body"):
                found += _kernels(computations, each.called(part), times, open_loops)
        elif each.op == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", each.text)
            names = (
                _NAME.findall(branches[1])
                if branches
                else [each.called(f"{side}_computation") for side in ("true", "false")]
            )
            parts = [_kernels(computations, branch, runs, open_loops) for branch in names]
            found += max(parts, key=lambda branch: total(branch))
        elif each.op in ("call", "async-start"):
            key = "to_apply" if "to_apply=" in each.text else "calls"
            found += _kernels(computations, each.called(key), runs, open_loops)
        elif each.op not in _FREE and not each.op.endswith(("-done", "-update")):
            moved = _moved(computations, here, each)
            found.append(
                Kernel(each.name, _kind(each), moved, runs, _source(computations, here, each))
            )
    return found


def _source(
    computations: Mapping[str, _Computation], here: _Computation, each: _Instruction
) -> str:
    """Returns the op_name: its own, the last one inside a fusion, or that of the copied value."""
    if source := hlo.OP_NAME.search(each.text):
        return source["name"]
    if each.op == "fusion":
        inside = [*computations[each.called("calls")].values()]
        named = (hlo.OP_NAME.search(instruction.text) for instruction in reversed(inside))
        return next((source["name"] for source in named if source), "")
    if each.op in (*_PASSED_ON, "copy", "copy-start") and each.operands:
        return _source(computations, here, here[each.operands[0]])
    return ""


def _kind(each: _Instruction) -> str:
    if each.op == "fusion":
        return FUSION
    if each.op in ("copy", "copy-start"):
        return COPY
    target = _TARGET.search(each.text)
    if target and target[1].startswith("__cudnn"):
        return CONVOLUTION
    if target and target[1].startswith("__cublas"):
        return PRODUCT
    return OTHER


def _moved(computations: Mapping[str, _Computation], here: _Computation, each: _Instruction) -> int:
    """Returns the bytes that an instruction reads and writes."""
    sizes = {name: here[name].size for name in each.operands if name in here}
    if each.op in _SLICES:
        return 2 * each.size + sum(sizes[name] for name in each.operands[1:])
    if each.op == _UPDATE:
        return 2 * sizes[each.operands[1]]
    if each.op.endswith("-start"):  # Its result is a tuple of operands and results.
        return 2 * sum(sizes.values())
    if each.op == "custom-call":
        results = hlo.array_bytes(each.shape)
        workspace = _kind(each) != OTHER and len(results) > 1
        return sum(sizes.values()) + sum(results[: -1 if workspace else None])
    if each.op != "fusion":
        return sum(sizes.values()) + each.size
    fused = computations[each.called("calls")]
    users = collections.defaultdict(list)
    for inner in fused.values():
        for name in dict.fromkeys(inner.operands):
            users[name].append(inner)
    read: dict[str, int] = {}
    for inner in fused.values():
        if inner.op == "parameter":
            name = each.operands[int(inner.number)]
            read[name] = max(read.get(name, 0), _read(inner, users, fused))
    return sum(read.values()) + _written(fused)


def _read(value: _Instruction, users: Mapping[str, list[_Instruction]], fused: _Computation) -> int:
    """Returns how many bytes of a value its users inside a fusion read."""
    needed = 0
    for user in users[value.name]:
        if user.op in _SLICES and user.operands[0] == value.name:
            needed += user.size
        elif user.op == "bitcast":
            needed += _read(user, users, fused)
        elif user.op != _UPDATE or user.operands[0] != value.name:
            return value.size
    return min(needed, value.size)


def _written(fused: _Computation) -> int:
    """Returns how many bytes a fusion writes."""
    root = next(each for each in fused.values() if each.root)
    results = [fused[name] for name in root.operands] if root.op == "tuple" else [root]
    written = 0
    for result in results:
        while result.op == "bitcast":
            result = fused[result.operands[0]]
        in_place = result.op == _UPDATE
        written += fused[result.operands[1]].size if in_place else result.size
    return written
