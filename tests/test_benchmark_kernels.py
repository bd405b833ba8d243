"""The kernels of a compiled program, and the bytes that they move, read from its text."""

import importlib.util

import pytest

from iecl_jax.tools.benchmark import compiled, kernels

pytestmark = pytest.mark.quick
BN = "batch norm, with the ReLU behind it"

# As a GPU's compiler writes it. f32[8,4] has 128 bytes, bf16[8,4] 64.
TEXT = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_twice (p.0: f32[8,4], p.1: f32[8,4]) -> (f32[8,4], f32[]) {
  %p.0 = f32[8,4]{1,0} parameter(0)
  %p.1 = f32[8,4]{1,0} parameter(1)
  %zero = f32[] constant(0)
  %m = f32[8,4]{1,0} multiply(%p.0, %p.1), metadata={op_name="step/bn1/mul"}
  %r = f32[] reduce(%m, %zero), dimensions={0,1}, to_apply=%add
  ROOT %t = (f32[8,4]{1,0}, /*index=1*/f32[]) tuple(%m, %r)
}

%fused_slices (p.0: f32[8,4], p.1: s32[], p.2: f32[1,4]) -> f32[8,4] {
  %p.0 = f32[8,4]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %p.2 = f32[1,4]{1,0} parameter(2)
  %flat = f32[8,4]{1,0} bitcast(%p.0)
  %row = f32[1,4]{1,0} dynamic-slice(%flat, %p.1, %p.1), dynamic_slice_sizes={1,4}
  %new = f32[1,4]{1,0} add(%row, %p.2)
  ROOT %in_place = f32[8,4]{1,0} dynamic-update-slice(%p.0, %new, %p.1, %p.1)
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %rows = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,4]{1,0} slice(%rows), slice={[0:1], [0:4]}
  %next = f32[8,4]{1,0} fusion(%rows, %i, %row), kind=kLoop, calls=%fused_slices
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%i, %next)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %n = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%small (x: f32[8,4]) -> f32[] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %c = f32[] constant(0)
}

%large (x: f32[8,4]) -> f32[] {
  %x = f32[8,4]{1,0} parameter(0)
  %z = f32[] constant(0)
  ROOT %r = f32[] reduce(%x, %z), dimensions={0,1}, to_apply=%add
}

ENTRY %main (x.1: f32[8,4], k.1: f32[4,4]) -> f32[] {
  %x.1 = f32[8,4]{1,0} parameter(0), metadata={op_name="x"}
  %k.1 = f32[4,4]{1,0} parameter(1)
  %dot = (bf16[8,4]{1,0:T(8,128)}, s8[4096]{0}) custom-call(%x.1, /*index=1*/%k.1), \
custom_call_target="__cublas$lt$matmul", metadata={op_name="step/dense/dot"}
  %value = bf16[8,4]{1,0} get-tuple-element(%dot), index=0
  %conv = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%value, %k.1), \
custom_call_target="__cudnn$convForward"
  %y = f32[8,4]{1,0} get-tuple-element(%conv), index=0
  %both = (f32[8,4]{1,0}, f32[]) fusion(%y, %y), kind=kInput, calls=%fused_twice
  %z = f32[8,4]{1,0} get-tuple-element(%both), index=0
  %kept = f32[8,4]{1,0} copy(%z)
  %start = s32[] constant(0)
  %state = (s32[], f32[8,4]{1,0}) tuple(%start, %kept)
  %loop = (s32[], f32[8,4]{1,0}) while(%state), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %open = (s32[], f32[8,4]{1,0}) while(%loop), condition=%condition, body=%body
  %rows = f32[8,4]{1,0} get-tuple-element(%open), index=1
  %which = pred[] constant(true)
  ROOT %chosen = f32[] conditional(%which, %rows, %rows), true_computation=%small, \
false_computation=%large
}
"""


def test_each_kernel_has_the_bytes_that_it_reads_and_writes():
    program = kernels.read(TEXT)
    # A turn of a loop: 5 of the comparison, 32 of the slice; the fusion reads a row, the index and
    # another row, and writes a row.
    turn = [("less", "other", 9), ("row", "other", 32), ("next", "fusion", 16 + 4 + 16 + 16)]
    assert [(each.name, each.kind, each.bytes, each.runs) for each in program.kernels] == [
        ("dot", "cuBLAS", 128 + 64 + 64, 1),
        ("conv", "cuDNN", 64 + 64 + 128, 1),
        ("both", "fusion", 128 + 128 + 4, 1),
        ("kept", "copy", 256, 1),
        *[(*each, 3) for each in turn],
        *[(*each, 1) for each in turn],
        ("r", "other", 128 + 4 + 4, 1),
    ]
    assert program.open_loops == ["open"]
    assert kernels.total(program.kernels) == 256 + 256 + 260 + 256 + 4 * 93 + 136
    assert kernels.counts(program.kernels) == {
        "fusion": 5,
        "cuDNN": 1,
        "cuBLAS": 1,
        "copy": 1,
        "other": 9,
    }


def test_a_kernel_without_a_name_has_that_of_what_it_holds_or_copies():
    sources = {each.name: each.source for each in kernels.read(TEXT).kernels}
    assert sources["dot"] == "step/dense/dot"
    assert sources["both"] == sources["kept"] == "step/bn1/mul"
    assert sources["less"] == ""


def test_text_without_an_entry_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        kernels.read("HloModule empty\n")


@pytest.mark.parametrize(
    "source, part",
    [
        ("jit(_fun)/augment/vmap(vmap())/while", "augmentation"),
        ("jit(_fun)/transpose(jvp(Network.encode))/encoder/layer1_0/bn2/reduce_sum", BN),
        ("jit(_fun)/jvp(Network.encode)/encoder/conv1/conv_general_dilated", "convolutions"),
        (
            "jit(_fun)/transpose(jvp(Network.encode))/encoder/layer1_0/conv3/transpose",
            "convolutions",
        ),
        ("jit(_fun)/jvp(Network.encode)/encoder/max_pool/max", "max-pool"),
        ("jit(_fun)/jvp(Network.encode)/encoder/layer4_1/relu/max", "ReLU, sum of the branches"),
        ("jit(_fun)/jvp(Network.encode)/encoder/conv1/conv1._sigma/mul", "spectral norm"),
        ("jit(_fun)/jvp(Network.heads)/projector/dense2/convert_element_type", "heads"),
        ("jit(_fun)/jvp()/dot_general", compiled.REST),
    ],
)
def test_a_kernel_belongs_to_a_part_of_the_step(source, part):
    assert compiled.part(kernels.Kernel("k", kernels.FUSION, 1, 1, source)) == part


def test_a_machine_without_the_plugin_gets_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs no GPU: run this in an environment with `pip inst"):
        compiled.main(["--config=configs/quickstart.py"])


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--devices=0"], "--devices=0 must be at least 1."),
        (
            ["--config=configs/moco.py", "--hlo=program.txt"],
            "is of one program: give one --config.",
        ),
    ],
)
def test_mistakes_are_one_sentence(flags, sentence, capsys):
    with pytest.raises(SystemExit):
        compiled.main(["--config=configs/quickstart.py", *flags])
    assert sentence in capsys.readouterr().err


def test_the_table_has_the_parts_in_order():
    record = {
        "config": "a.py",
        "kernels": dict.fromkeys(kernels.KINDS, 1),
        "bytes": 2e9,
        "part_bytes": {compiled.REST: 5e8, BN: 15e8},
        "product_flops": 1e12,
        "bytes_ms": 2.0,
        "products_ms": 1.0,
        "memory_argument_bytes": 1e9,
        "memory_temporary_bytes": 1e9,
        "memory_total_bytes": 2e9,
    }
    facts, parts = compiled.tables([record])
    assert "| read and written, GB     | 2.00 |" in facts
    assert parts.splitlines()[2:] == [
        "| batch norm, with the ReLU behind it | 1.50 |",
        "| loss and everything else            | 0.50 |",
    ]
