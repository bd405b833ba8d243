"""Collectives read from the text of a program, and those of `iecl_jax.models.collectives`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax.models import collectives
from iecl_jax.tools.benchmark import hlo

pytestmark = pytest.mark.quick

# What a GPU's compiler writes: pairs of start and done, several arrays in one, comments in tuples.
ASYNCHRONOUS = """
ENTRY %main {
  %all-reduce-start = (f32[3,3]{1,0}, /*index=1*/f32[]) all-reduce-start(%a, /*index=1*/%b), \
to_apply=%add, metadata={op_name="step/psum(x)"}
  %all-reduce-done = (f32[3,3]{1,0}, f32[]) all-reduce-done(%all-reduce-start)
  %g = ((bf16[2,4]{1,0:T(2,128)}, f32[2]{0}), (bf16[16,4]{1,0}, f32[16]{0})) \
all-gather-start(%c, %d), dimensions={0}
  %h = (bf16[16,4]{1,0}, f32[16]{0}) all-gather-done(%g)
  %r = ((f32[16]{0}), f32[2]{0}) reduce-scatter-start(%e), dimensions={0}
  %p = pred[8]{0} collective-permute(%f), source_target_pairs={{0,1}}
}
"""


def test_pairs_and_tuples_are_read():
    assert hlo.collectives(ASYNCHRONOUS) == [
        ("all-reduce", 2, 40, "step/psum(x)"),
        ("all-gather", 2, 192, ""),
        ("reduce-scatter", 1, 8, ""),
        ("collective-permute", 1, 8, ""),
    ]


def test_an_unfinished_line_is_an_error():
    with pytest.raises(ValueError, match="not closed"):
        hlo.collectives("%a = f32[2] all-reduce(%b")


def mapped(function, **options):
    return jax.pmap(function, axis_name="i", devices=jax.devices()[:2], **options)


def test_a_program_has_the_collectives_it_was_written_with():
    def step(x):
        with jax.named_scope("first"):
            total = jax.lax.psum(x, "i")
        rows = jax.lax.all_gather(total * x, "i", tiled=True)
        return jax.lax.pmax(rows.sum(), "i")

    lowered = mapped(step).lower(jax.ShapeDtypeStruct((2, 4, 5), jnp.float32))
    asked = hlo.collectives(lowered.as_text("hlo", debug_info=True))
    assert [each[:3] for each in asked] == [
        ("all-reduce", 1, 80),
        ("all-gather", 1, 160),
        ("all-reduce", 1, 4),
    ]
    assert "first" in asked[0].source
    assert hlo.summary(asked) == {
        "all-reduce": {"count": 2, "operands": 2, "bytes": 84},
        "all-gather": {"count": 1, "operands": 1, "bytes": 160},
    }
    sent = hlo.collectives(lowered.compile().as_text())
    assert hlo.summary(sent) == hlo.summary(asked)


def tree():
    rng = np.random.default_rng(0)
    return {"a": rng.normal(size=(2, 3, 2)), "b": rng.normal(size=(2, 3)), "c": rng.normal(size=2)}


def sent_by(function, values):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), values)
    text = mapped(function).lower(shapes).as_text("hlo")
    return hlo.summary(hlo.collectives(text))


def test_the_mean_of_a_tree_is_one_all_reduce():
    values = jax.tree.map(np.float32, tree())
    mean = functools.partial(collectives.mean, axis_name="i")
    got = mapped(mean)(values)
    for name, leaf in values.items():
        np.testing.assert_allclose(got[name][1], leaf.mean(0), rtol=1e-6)
    assert sent_by(mean, values) == {"all-reduce": {"count": 1, "operands": 1, "bytes": 40}}


def test_a_tree_is_gathered_at_once_in_global_order():
    values = {name: np.float32(tree()[name]) for name in ("a", "b")}
    gather = functools.partial(collectives.gather, axis_name="i")
    got = mapped(gather)(values)
    for name, leaf in values.items():
        np.testing.assert_array_equal(got[name][0], leaf.reshape(-1, *leaf.shape[2:]))
    assert sent_by(gather, values) == {"all-gather": {"count": 1, "operands": 1, "bytes": 72}}


def test_neighbours_and_one_device():
    x = np.float32([[1], [3]])
    gather = functools.partial(collectives.gather, axis_name="i")
    np.testing.assert_array_equal(mapped(functools.partial(gather, devices=1))(x), [[1], [3]])
    np.testing.assert_array_equal(mapped(functools.partial(gather, devices=2))(x), [[1, 3]] * 2)
    for function in (gather, functools.partial(collectives.mean, axis_name="i")):
        alone = jax.pmap(function, axis_name="i", devices=jax.devices()[:1])
        text = alone.lower(x[:1]).as_text("hlo")
        assert not hlo.collectives(text)
        np.testing.assert_array_equal(alone(x[:1]), [[1]])
