"""Weighted cosine k-nearest-neighbour classification (Wu et al. 2018, arXiv:1805.01978, §3.4).

The score of class c is the sum of exp(s_i / T) over those of the k nearest bank examples that have
label c, where s_i is the cosine similarity to the query. MoCo's Colab notebook and DINO evaluate
the same way.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from iecl_jax.evals.measures.features import require_finite
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
    """Returns the predicted class of each query.

    The bank is sent to the device in chunks, and each query keeps its k nearest so far. The device
    therefore holds about M * (F + 2k) + bank_chunk * F + query_chunk * bank_chunk floats for any N.
    Of equally similar bank examples, the one with the lower index counts as nearer. Of classes with
    equal scores, the lower one is predicted.

    Args:
      bank: float [N, F]; the rows are l2-normalised here, they need not have unit length.
      bank_labels: int [N]; examples labelled -1 are ignored.
      queries: float [M, F]; also l2-normalised here.
      k: number of neighbours.
      temperature: T > 0.
      num_classes: number of classes; every label is below it.
      query_chunk: number of queries compared at once.
      bank_chunk: number of bank examples compared at once.

    Returns:
      The predicted classes, int32 [M].

    Raises:
      FloatingPointError: a feature is not finite.
      ValueError: k is below 1 or above the number of labelled bank examples, T is not positive, or
        a label is not below num_classes.
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

    chunked = {"query_chunk": query_chunk, "bank_chunk": bank_chunk}
    similarities, classes = _nearest(bank, labels, queries, k=k, **chunked)
    votes = _vote(similarities, classes, jnp.float32(temperature), num_classes=num_classes)
    return np.asarray(votes).reshape(-1)[: len(queries)]


def nearest(bank: Array, queries: Array, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k nearest bank examples of each query, nearest first.

    Args:
      bank: float [N, F], N at least k; the rows are l2-normalised here.
      queries: float [M, F]; also l2-normalised here.
      k: number of neighbours.

    Returns:
      (cosine similarities float32 [M, k], rows of the bank int32 [M, k]).
    """
    places = np.arange(len(bank), dtype=np.int32)
    found = _nearest(bank, places, queries, k=k, query_chunk=1024, bank_chunk=16384)
    similarities, rows = (np.asarray(part).reshape(-1, k)[: len(queries)] for part in found)
    return similarities, rows


def _nearest(
    bank: Array, tags: np.ndarray, queries: Array, *, k: int, query_chunk: int, bank_chunk: int
) -> tuple[jax.Array, jax.Array]:
    """Returns similarities and tags (int32 [N], below 0 = ignored) of the k nearest of each query.

    Both are [chunks, Q, k], where the last chunk is padded.
    """
    require_finite(queries, "the features of the queries")
    require_finite(bank, "the features of the bank")
    query_chunk = max(1, min(query_chunk, len(queries)))
    bank_chunk = min(bank_chunk, len(tags))
    chunks = _normalize(_pad(queries, query_chunk)).reshape(-1, query_chunk, queries.shape[1])
    similarities = jnp.full((*chunks.shape[:2], k), -jnp.inf, jnp.float32)
    found = jnp.full((*chunks.shape[:2], k), -1, jnp.int32)
    for start in range(0, len(tags), bank_chunk):
        part = slice(start, start + bank_chunk)
        rows = _pad(bank[part], bank_chunk)
        row_tags = np.full(bank_chunk, -1, np.int32)
        row_tags[: len(tags[part])] = tags[part]
        similarities, found = _nearer(similarities, found, chunks, rows, row_tags)
    return similarities, found


def knn_accuracy(
    bank: Array, bank_labels: Array, queries: Array, query_labels: Array, **settings
) -> float:
    """Returns the share of the labelled queries that `knn_predict` classifies correctly.

    Args:
      bank, bank_labels, queries, settings: the arguments of `knn_predict`.
      query_labels: int [M]; queries labelled -1 are not counted.

    Returns:
      The accuracy in [0, 1].

    Raises:
      ValueError: no query is labelled, or `knn_predict` raises it.
    """
    truth = np.asarray(query_labels)
    if not (truth >= 0).any():
        raise ValueError("no query is labelled, so kNN has no accuracy: use a labelled split.")
    return share_right(knn_predict(bank, bank_labels, queries, **settings), truth)


def share_right(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Returns the share of the labelled examples (truth int [M], -1 = unlabelled) in [0, 1]."""
    labelled = truth >= 0
    return float(np.mean(predicted[labelled] == truth[labelled]))


def _pad(rows: Array, multiple: int) -> jax.Array:
    """Returns the rows [n, F] as float32, padded with zeros to a multiple of `multiple` rows."""
    rows = jnp.asarray(rows, jnp.float32)
    return jnp.pad(rows, ((0, -len(rows) % multiple), (0, 0)))


def _normalize(x: jax.Array) -> jax.Array:
    """Returns x / ||x|| along the last axis; rows of zeros stay zero."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@jax.jit
def _nearer(
    similarities: jax.Array,
    classes: jax.Array,
    queries: jax.Array,
    bank: jax.Array,
    bank_labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Merges the k nearest neighbours so far with the examples of a bank chunk.

    `similarities` and `classes` are [chunks, Q, k], nearest first; `queries` is [chunks, Q, F] with
    unit rows. The neighbours so far come first in the merge. Since `top_k` prefers lower positions,
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
    """Returns the class with the largest sum of exp(s / T), int32 [chunks, Q].

    The largest similarity is subtracted first, which scales all scores equally and keeps exp finite
    for a small T.
    """

    def vote(chunk):
        s, c = chunk
        weight = jnp.exp((s - s[:, :1]) / temperature)
        own = c[:, :, None] == jnp.arange(num_classes, dtype=jnp.int32)[None, None]
        score = jnp.sum(jnp.where(own, weight[:, :, None], 0.0), axis=1)
        return jnp.argmax(score, axis=1).astype(jnp.int32)

    return jax.lax.map(vote, (similarities, classes))
