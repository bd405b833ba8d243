"""Compiles a training step for a GPU that is not there, and counts what its kernels move.

    python -m iecl_jax.tools.benchmark.compiled --config=configs/resnet18.py:cifar10 --gpu=h100 \
        --config.train.precision=bfloat16 --config.train.batch_size=256

It needs CUDA's plug-in of jaxlib (requirements-v100.txt or requirements-cuda13.txt), no GPU and no
data. A config is FILE[:VARIANT] of a pretraining, or of a training on VOC. The tables have

- the kernels of a step, that is the instructions of the compiled program, by kind;
- the bytes that they read and write, see `kernels`, and the part of the network that moves them;
- the operations in products, see `flops`, and the time that follows from the GPU's data sheet: no
  step can be faster than its bytes at the memory's speed and its products at that of the tensor
  cores;
- the memory of a device by XLA. What cuDNN, cuBLAS and NCCL take comes on top.

The compiler chooses no algorithms, since it cannot time any: products are cuBLAS's, and no product
is compiled by Triton. `--hlo=FILE` writes the text of the program.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax import console
from iecl_jax.config import own_files
from iecl_jax.run import command_line, markdown, workdir
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import gpus, kernels, program, report, voc
from iecl_jax.tools.benchmark.flops import product_flops

# The parts of a step, by the first pattern that occurs in XLA's op_name: the path of JAX's names.
PARTS = (
    ("augmentation", r"/augment/"),
    ("optimizer", r"/update/"),
    ("momentum encoder", r"/post_update/"),
    ("spectral norm", r"_sigma|power_iteration|conv\w*/div$"),
    ("SAIB", r"SAIB|/saib"),
    ("convolutions", r"conv\w*/(conv_general_dilated|dot_general|transpose)"),
    ("strided input of 1x1 convolutions", r"conv\w*/(slice|pad)"),
    ("kernels and their gradients", r"conv\d*/"),
    ("batch norm, with the ReLU behind it", r"bn\d*[/.]"),
    ("max-pool", r"max_pool|reduce_window|select_and_scatter|encoder/pad"),
    ("ReLU, sum of the branches", r"encoder/(layer\w+/)?(relu|jit\(|add|select_n|max)"),
    ("heads", r"heads|projector|predictor"),
)
REST = "loss and everything else"
LARGEST = 100


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; a mistake ends the process."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", action="append", required=True, help="FILE[:VARIANT]")
    parser.add_argument("--gpu", choices=sorted(gpus.GPUS), default="h100", help="default h100")
    parser.add_argument("--devices", type=int, default=1, help="GPUs of one machine; default 1")
    parser.add_argument(
        "--largest", type=int, default=0, help="also list the N <= 100 largest kernels"
    )
    parser.add_argument("--json", type=arguments.new_file, help="also write the results here")
    parser.add_argument("--hlo", type=arguments.new_file, help="write the program here")
    args = parser.parse(argv)
    if args.devices < 1:
        parser.error(f"--devices={args.devices} must be at least 1.")
    if args.hlo and len(args.config) > 1:
        parser.error(f"--hlo={args.hlo} is of one program: give one --config.")
    return args


def lower(config: ml_collections.ConfigDict, devices: Sequence[Any]) -> tuple[Any, Any, int]:
    """Returns (jaxpr, lowered, images of the batch) of the step of a pretraining or VOC training.

    Raises:
      ValueError: the config is invalid, or its job does not train.
    """
    if config.job == "pretrain":
        prepared = program.prepare(config, len(devices))
        return *program.lower(prepared, devices), prepared.config.train.batch_size
    task, settings = voc.prepare(config)
    return *voc.lower(task, settings, devices), settings.batch_size


def count(lowered: Any, jaxpr: Any, gpu: gpus.Gpu) -> tuple[report.Record, str]:
    """Compiles a step for described devices.

    Returns:
      (record, text): the text of the program, and "kernels" {kind: number}, "bytes",
      "part_bytes" {part: bytes}, "product_flops" of one device, "bytes_ms" and "products_ms" by the
      GPU's data sheet, "open_loops" (the number of loops that count once), "largest" ([MB, name,
      source] of LARGEST kernels, the largest first), and the values of `program.memory`.
    """
    compiled = lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})
    text = compiled.as_text()
    found, open_loops = kernels.read(text)
    parts: dict[str, int] = {}
    for kernel in found:
        name = part(kernel)
        parts[name] = parts.get(name, 0) + kernel.bytes * kernel.runs
    flops, moved = product_flops(jaxpr), kernels.total(found)
    largest = sorted(found, key=lambda kernel: -kernel.bytes)[:LARGEST]
    record: report.Record = {
        "kernels": kernels.counts(found),
        "bytes": moved,
        "part_bytes": parts,
        "product_flops": flops,
        "bytes_ms": 1e3 * moved / gpu.bandwidth,
        "products_ms": 1e3 * flops / gpu.flops,
        "open_loops": len(open_loops),
        "largest": [[each.bytes / 1e6, each.name, each.source] for each in largest],
    }
    return record | program.memory(compiled), text


def part(kernel: kernels.Kernel) -> str:
    """Returns the part of the step, one of PARTS or REST, that a kernel belongs to."""
    return next((name for name, rule in PARTS if re.search(rule, kernel.source)), REST)


def tables(records: Sequence[report.Record]) -> list[str]:
    """Returns the Markdown tables: the facts of each config, and the bytes of each part."""
    titles = [record["config"] for record in records]

    def row(title: str, values: Sequence[float], form: str = "{:,.2f}") -> list[str]:
        return [title, *(form.format(value) for value in values)]

    facts = [row("kernels", [sum(each["kernels"].values()) for each in records], "{:,}")]
    facts += [
        row(f"of these: {kind}", [each["kernels"][kind] for each in records], "{:,}")
        for kind in kernels.KINDS
    ]
    scaled = {
        "read and written, GB": ("bytes", 1e-9),
        "TFLOP in products": ("product_flops", 1e-12),
        "time of the bytes, ms": ("bytes_ms", 1),
        "time of the products, ms": ("products_ms", 1),
        "arguments, GB": ("memory_argument_bytes", 1e-9),
        "temporaries, GB": ("memory_temporary_bytes", 1e-9),
        "total by XLA, GB": ("memory_total_bytes", 1e-9),
    }
    facts += [
        row(title, [each[key] * factor for each in records])
        for title, (key, factor) in scaled.items()
    ]
    moved = [
        row(name, [each["part_bytes"].get(name, 0) / 1e9 for each in records])
        for name in [*(name for name, _ in PARTS), REST]
        if any(name in each["part_bytes"] for each in records)
    ]
    return [
        markdown.table(["a step, on one device", *titles], facts),
        markdown.table(["read and written by, GB", *titles], moved),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    args = parse(argv)
    records: list[report.Record] = []
    with own_files.sentences():
        gpus.use_no_device()
        gpu = gpus.GPUS[args.gpu]
        for name in args.config:
            config = config_lib.load(name, args.overrides)
            with console.waiting(f"Compiling the step of {name} for {gpu.name}"):
                devices = gpus.described(gpu, args.devices)
                jaxpr, lowered, images = lower(config, devices)
                record, text = count(lowered, jaxpr, gpu)
            records.append({"config": name, "batch_size": images} | record)
            if args.hlo:
                workdir.write_atomically(args.hlo, text)
    if args.json:
        report.write_json(args.json, records)
    for table in tables(records):
        print(table)
    if args.largest:
        for record in records:
            rows = [[source, name, f"{size:.1f}"] for size, name, source in record["largest"]]
            titles = [f"largest kernels of {record['config']}", "name", "MB"]
            print(markdown.table(titles, rows[: args.largest], text=2))
    versions = ", ".join(f"{name} {found}" for name, found in workdir.versions().items() if found)
    batches = ", ".join(str(record["batch_size"]) for record in records)
    print(f"{args.devices} x {gpu.name}, only described; batch {batches}; {versions}")
    if any(record["open_loops"] for record in records):
        loops = ", ".join(str(record["open_loops"]) for record in records)
        print(f"Loops of unknown length, which count once: {loops}")
    print(command_line.shown(command_line.typed()))


if __name__ == "__main__":
    main()
