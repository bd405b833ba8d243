"""DeepCluster and DeepCluster-v2 besides their losses: memory, labels, whitening, a new epoch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clusters
from loss_reference import numeric_gradient
from sklearn.metrics import normalized_mutual_info_score

from iecl_jax import methods
from iecl_jax.losses import principal, pseudo_labels
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.methods import deepcluster, deepcluster_v2
from iecl_jax.methods.parts import clusters, memory

pytestmark = pytest.mark.quick

IMAGES, WIDTH, CLUSTERS = 40, 6, 5


@pytest.mark.parametrize("devices", [1, 2])
def test_the_memory_has_the_newest_unit_rows_of_each_image(devices):
    rng = np.random.default_rng(devices)
    axis_name = "devices" if devices > 1 else None

    def remember(embeddings, index, state):
        written = memory.write(state, index, embeddings, axis_name)
        return written["embeddings"].sum(), written

    step = jax.grad(remember, has_aux=True)
    step = jax.jit(jax.vmap(step, in_axes=(0, 0, None), axis_name=axis_name, axis_size=devices))
    state = memory.init(2, 10, WIDTH)
    assert not state["filled"].any()
    expected = np.zeros((2, 10, WIDTH))
    for index in ([3, 0, 7, 5], [0, 9, 3, 8]):
        rows = rng.normal(size=(4, 2, WIDTH))
        for i, image in enumerate(index):
            expected[:, image] = rows[i] / np.linalg.norm(rows[i], axis=-1, keepdims=True)
        split = jnp.float32(rows.reshape(devices, -1, 2, WIDTH).swapaxes(1, 2))
        gradient, states = step(split, jnp.asarray(index).reshape(devices, -1), state)
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
        for replica in range(devices):
            state = jax.tree.map(lambda leaf, replica=replica: leaf[replica], states)
            np.testing.assert_allclose(state["embeddings"], expected, rtol=1e-5, atol=1e-6)
    assert [*np.flatnonzero(state["filled"])] == [0, 3, 5, 7, 8, 9]
    later = memory.emptied(state)
    assert not later["filled"].any()
    np.testing.assert_array_equal(later["embeddings"], state["embeddings"])


def test_measures_of_new_labels():
    rng = np.random.default_rng(0)
    state = clusters.init(IMAGES, heads=2)
    renewed = jax.jit(functools.partial(clusters.renewed, num_clusters=CLUSTERS))
    labels = rng.integers(0, 3, (IMAGES, 2)).astype(np.int32)
    labels[:7] = -1
    first = renewed(state, labels)
    assert first["cluster_nmi"] == 0
    np.testing.assert_allclose(first["empty_clusters"], 2 / 5)
    shares = [np.bincount(column[7:]).max() / (IMAGES - 7) for column in labels.T]
    np.testing.assert_allclose(first["largest_cluster"], np.mean(shares), rtol=1e-6)
    other = np.where(rng.uniform(size=labels.shape) < 0.7, labels, 3).astype(np.int32)
    other[-5:] = -1
    second = renewed(first, other)
    np.testing.assert_array_equal(second["labels"], other)
    both = (labels >= 0) & (other >= 0)
    agreed = [
        normalized_mutual_info_score(labels[both[:, h], h], other[both[:, h], h]) for h in (0, 1)
    ]
    np.testing.assert_allclose(second["cluster_nmi"], np.mean(agreed), atol=2e-6)
    np.testing.assert_array_equal(
        clusters.of_images(second, jnp.array([3, 1]))["labels"], other[[3, 1]]
    )


def test_weights_are_the_expectation_of_drawing_evenly_from_the_clusters():
    labels = np.random.default_rng(1).integers(0, 4, IMAGES) ** 2 // 3  # of sizes that differ
    losses = np.random.default_rng(2).normal(size=IMAGES)
    sizes = clusters.cluster_sizes(jnp.asarray(labels, jnp.int32), CLUSTERS)
    np.testing.assert_array_equal(sizes, np.bincount(labels, minlength=CLUSTERS))
    weights = np.asarray(deepcluster.class_weights(sizes))[labels]
    evenly = np.mean([losses[labels == k].mean() for k in np.unique(labels)])
    np.testing.assert_allclose((weights * losses).mean(), evenly, rtol=1e-5)
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-6)


def test_whitened_rows_are_those_of_the_singular_value_decomposition():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(IMAGES, WIDTH)) @ rng.normal(size=(WIDTH, WIDTH)) + 3
    for components in (4, 9):
        white = np.asarray(
            jax.jit(principal.whitened, static_argnums=1)(jnp.float32(rows), components)
        )
        left, _, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        expected = left[:, :components] * IMAGES**0.5
        signs = np.sign((white * expected).sum(0))
        np.testing.assert_allclose(white * signs[None], expected, rtol=1e-3, atol=1e-3)
    flat = np.concatenate([rows[:, :3], rows[:, :3]], axis=1)
    white = np.asarray(principal.whitened(jnp.float32(flat), WIDTH))
    np.testing.assert_allclose(white.std(0), [1, 1, 1, 0, 0, 0], atol=1e-3)


def test_cross_entropy_of_labels_and_its_gradient():
    rng = np.random.default_rng(4)
    scores, labels = rng.normal(size=(2, 7, CLUSTERS)), rng.integers(-1, CLUSTERS, 7)
    assert (labels < 0).any()

    def reference(scores):
        p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        return np.where(labels >= 0, -np.log(p[:, range(7), labels]), 0).sum()

    def total(scores):
        losses = pseudo_labels.cross_entropy(scores, jnp.asarray(labels, jnp.int32))
        assert losses.shape == (2, 7)
        return losses.sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.float32(scores))
    np.testing.assert_allclose(value, reference(scores), rtol=1e-5)
    np.testing.assert_allclose(gradient, numeric_gradient(reference, scores), rtol=1e-3, atol=1e-5)


def _method(name, **settings):
    """A method and what it begins with, and its `new_epoch` compiled."""
    config = tiny_clusters.get_config(name)
    config.method.update({"num_clusters": CLUSTERS} | settings)
    config.projector.output_dim = WIDTH
    method = methods.make(config, total_steps=10, num_images=IMAGES)
    views = [jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)] * 2
    # Only shapes, because to compile the network takes long, and it is not called here.
    shapes, of_state = jax.eval_shape(method.init, jax.random.key(0), views)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.float32(0.1 * rng.normal(size=x.shape)), shapes)
    state = {"weights": jnp.ones(CLUSTERS)} | jax.tree.map(
        lambda x: jnp.float32(rng.normal(size=x.shape)) if x.dtype == jnp.float32 else x,
        {name: of_state[name] for name in of_state if name in ("online", "prototypes")},
    )
    heads = of_state["clusters"]["labels"].shape[1]
    state |= {
        "clusters": clusters.init(IMAGES, heads),
        "memory": memory.init(2, IMAGES, WIDTH),
    }
    for name in ("clusters", "memory"):
        assert name not in of_state or jax.tree.map(jnp.shape, state[name]) == jax.tree.map(
            lambda x: x.shape, of_state[name]
        )
    return config, method.new_epoch, params, state, jax.jit(method.new_epoch.function)


def test_an_epoch_of_v2_clusters_the_memory_of_the_one_before():
    _, described, params, state, new_epoch = _method("deepcluster_v2", first_epoch="ignore")
    assert not described.encodes
    assert (state["clusters"]["labels"] == -1).all()
    rows = l2_normalize(jax.random.normal(jax.random.key(1), (2, IMAGES, WIDTH)))
    _, first = new_epoch(params, state, jax.random.key(2), None)
    assert (first["clusters"]["labels"] == -1).all()
    np.testing.assert_array_equal(first["prototypes"], state["prototypes"])
    filled = jnp.arange(IMAGES) % 3 > 0
    known = first | {"memory": {"embeddings": rows, "filled": filled}}
    kept, second = new_epoch(params, known, jax.random.key(3), None)
    assert not second["memory"]["filled"].any()
    jax.tree.map(np.testing.assert_array_equal, kept, params)
    for head, prototypes in enumerate(np.asarray(second["prototypes"])):
        np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-5)
        nearest = (np.asarray(rows[head % 2]) @ prototypes.T).argmax(1)
        labels = np.asarray(second["clusters"]["labels"][:, head])
        np.testing.assert_array_equal(labels, np.where(filled, nearest, -1))
        for k in np.unique(nearest):  # ten iterations are enough for so few rows
            center = np.asarray(rows[head % 2])[labels == k].mean(0)
            np.testing.assert_allclose(center / np.linalg.norm(center), prototypes[k], atol=0.2)
    other = new_epoch(params, known, jax.random.key(4), None)[1]
    assert (other["prototypes"] != second["prototypes"]).any()


def test_the_first_epoch_of_v2_clusters_what_the_untrained_network_makes_of_all_images():
    config, described, params, state, new_epoch = _method("deepcluster_v2", first_epoch="encode")
    assert (described.encodes, described.first_only) == (True, True)
    features = jax.random.normal(jax.random.key(5), (IMAGES, 4))
    assert IMAGES % config.train.batch_size  # the last batch overlaps the one before
    _, first = new_epoch(params, state, jax.random.key(6), features)
    labels = np.asarray(first["clusters"]["labels"])
    assert labels.min() == 0
    assert not first["memory"]["filled"].any()
    assert first["clusters"]["largest_cluster"] < 1
    projections = l2_normalize(deepcluster_v2._project(config, params, features))
    assert projections.shape == (IMAGES, WIDTH)
    np.testing.assert_array_equal((projections @ first["prototypes"][2].T).argmax(1), labels[:, 2])


def test_an_epoch_of_v1_labels_all_images_and_has_a_new_top_layer():
    _, described, params, state, new_epoch = _method("deepcluster", pca_dim=3)
    assert (described.encodes, described.first_only) == (True, False)
    centers = 10 * np.eye(4)[np.arange(IMAGES) % 4]
    features = jnp.float32(centers + np.random.default_rng(6).normal(size=(IMAGES, 4)))
    changed, after = new_epoch(params, state, jax.random.key(7), features)
    labels = np.asarray(after["clusters"]["labels"][:, 0])
    assert {*labels} == set(range(CLUSTERS))  # the empty cluster got half of another one
    for k in range(CLUSTERS):
        assert len({*(np.arange(IMAGES) % 4)[labels == k]}) == 1
    head, before = changed["online"]["head"], params["online"]["head"]
    assert head["kernel"].shape == (4, CLUSTERS)
    assert not (head["kernel"] == before["kernel"]).any()
    assert 0.005 < head["kernel"].std() < 0.02
    assert not head["bias"].any()
    jax.tree.map(
        np.testing.assert_array_equal, changed["online"]["encoder"], params["online"]["encoder"]
    )
    sizes = np.bincount(labels, minlength=CLUSTERS)
    np.testing.assert_allclose(after["weights"], IMAGES / CLUSTERS / sizes, rtol=1e-6)
    _, equal = _method("deepcluster", balance="none")[4](params, state, jax.random.key(7), features)
    np.testing.assert_array_equal(equal["weights"], np.ones(CLUSTERS))


def test_alarms_name_the_number_and_a_way_out():
    config = tiny_clusters.get_config()
    assert methods.alarms(config, {"largest_cluster": 0.3, "empty_clusters": 0.1}) == []
    large, empty = methods.alarms(config, {"largest_cluster": 0.62, "empty_clusters": 0.75})
    assert "62%" in large
    assert "optimizer.learning_rate" in large
    assert "75% of the 8 clusters are empty" in empty
    assert "method.num_clusters" in empty
