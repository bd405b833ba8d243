"""Weighted cosine k-nearest-neighbour classification (Wu et al. 2018, arXiv:1805.01978, §3.4).

Class c scores the sum of exp(s_i / T) over those of the k most similar bank examples that are
labelled c, with s_i the cosine similarity to the query. This is the evaluation of MoCo's colab
notebook and of DINO.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from iecl_jax.losses.product import product

Array = jax.Array | np.ndarray


def knn_predict(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    *,
    k: int,
    temperature: float,
    num_classes: int,
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> np.ndarray:
    """Predicted class of each query.

    The bank visits the device one chunk at a time and each query keeps its k best so far, so the
    device holds about M * (F + 2k) + bank_chunk * F + query_chunk * bank_chunk floats whatever N
    is. Of equally similar bank examples the one with the lower index is the nearer; of equally
    scored classes the lower one is predicted.

    Args:
      bank: float [N, F], of any length (features are l2-normalised here).
      bank_labels: int [N]; examples labelled -1 are left out of the bank.
      queries: float [M, F].
      k: number of neighbours.
      temperature: T > 0.
      num_classes: labels are below it.
      query_chunk: queries compared at once.
      bank_chunk: bank examples compared at once.

    Returns:
      int32 [M].

    Raises:
      ValueError: k is below 1 or above the number of labelled bank examples, T is not positive,
        or a label is not below num_classes.
    """
    labels = np.asarray(bank_labels, np.int32)
    num_labelled = int((labels >= 0).sum())
    if not 1 <= k <= num_labelled:
        raise ValueError(
            f"k={k} neighbours need a bank with as many labelled examples, "
            f"and this one has {num_labelled}: choose k from 1 to that number."
        )
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive: the usual value is 0.07.")
    if labels.max() >= num_classes:
        raise ValueError(f"bank label {labels.max()} needs a num_classes above {num_classes}.")

    num_queries, width = queries.shape
    query_chunk = max(1, min(query_chunk, num_queries))
    bank_chunk = min(bank_chunk, len(labels))
    chunks = _normalize(_pad(queries, query_chunk)).reshape(-1, query_chunk, width)
    similarities = jnp.full((*chunks.shape[:2], k), -jnp.inf, jnp.float32)
    classes = jnp.full((*chunks.shape[:2], k), -1, jnp.int32)
    for start in range(0, len(labels), bank_chunk):
        part = slice(start, start + bank_chunk)
        rows = _pad(bank[part], bank_chunk)
        row_labels = np.full(bank_chunk, -1, np.int32)
        row_labels[: len(labels[part])] = labels[part]
        similarities, classes = _nearer(similarities, classes, chunks, rows, row_labels)
    votes = _vote(similarities, classes, jnp.float32(temperature), num_classes=num_classes)
    return np.asarray(votes).reshape(-1)[:num_queries]


def knn_accuracy(
    bank: Array, bank_labels: Array, queries: Array, query_labels: Array, **settings
) -> float:
    """Share of the labelled queries whose class `knn_predict` finds.

    Args:
      bank, bank_labels, queries, settings: of `knn_predict`.
      query_labels: int [M]; queries labelled -1 are not counted.

    Returns:
      Accuracy in [0, 1].

    Raises:
      ValueError: no query is labelled; and those of `knn_predict`.
    """
    truth = np.asarray(query_labels)
    labelled = truth >= 0
    if not labelled.any():
        raise ValueError("no query is labelled, so kNN has no accuracy: use a labelled split.")
    predicted = knn_predict(bank, bank_labels, queries, **settings)
    return float(np.mean(predicted[labelled] == truth[labelled]))


def _pad(rows: Array, multiple: int) -> jax.Array:
    """Rows [n, F] as float32, with rows of zeros added up to a multiple of `multiple`."""
    rows = jnp.asarray(rows, jnp.float32)
    return jnp.pad(rows, ((0, -len(rows) % multiple), (0, 0)))


def _normalize(x: jax.Array) -> jax.Array:
    """x / ||x|| along the last axis; zero rows stay zero."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@jax.jit
def _nearer(
    similarities: jax.Array,
    classes: jax.Array,
    queries: jax.Array,
    bank: jax.Array,
    bank_labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The k best of the neighbours so far and a bank chunk.

    `similarities` and `classes` are [chunks, Q, k], nearest first; `queries` [chunks, Q, F] has
    unit rows. The neighbours so far stand first in the merge and `top_k` prefers lower places, so
    lower bank indices win ties.
    """
    bank = _normalize(bank)
    k = similarities.shape[-1]

    def merge(chunk):
        best, best_class, query = chunk
        cosine = product(query, bank.T)
        cosine = jnp.where(bank_labels[None] >= 0, cosine, -jnp.inf)
        new, place = jax.lax.top_k(cosine, min(k, len(bank)))
        best, keep = jax.lax.top_k(jnp.concatenate([best, new], axis=1), k)
        candidates = jnp.concatenate([best_class, bank_labels[place]], axis=1)
        return best, jnp.take_along_axis(candidates, keep, axis=1)

    return jax.lax.map(merge, (similarities, classes, queries))


@functools.partial(jax.jit, static_argnames="num_classes")
def _vote(
    similarities: jax.Array, classes: jax.Array, temperature: jax.Array, *, num_classes: int
) -> jax.Array:
    """Class of the largest sum of exp(s / T), int32 [chunks, Q].

    The nearest similarity is subtracted first: it scales all classes alike and keeps exp finite
    for small T.
    """

    def vote(chunk):
        s, c = chunk
        weight = jnp.exp((s - s[:, :1]) / temperature)
        own = c[:, :, None] == jnp.arange(num_classes, dtype=jnp.int32)[None, None]
        score = jnp.sum(jnp.where(own, weight[:, :, None], 0.0), axis=1)
        return jnp.argmax(score, axis=1).astype(jnp.int32)

    return jax.lax.map(vote, (similarities, classes))
