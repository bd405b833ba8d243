"""Computes the features of a whole data set as NumPy arrays."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np

Batch = Mapping[str, np.ndarray]
Encode = Callable[[np.ndarray], jax.Array | np.ndarray]


def extract(
    encode: Encode, batches: Iterable[Batch], *, num_examples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features and labels of the first `num_examples` images, in order.

    The next batch is dispatched before the previous result is fetched, so the device does not wait
    for the host.

    Args:
      encode: a compiled function, images uint8 [b, H, W, 3] -> float32 [b, F].
      batches: each {"image": uint8 [b, H, W, 3], "label": int [b], "mask": bool [b]}; a mask of
        False marks padding, which is dropped.
      num_examples: N, at least 1.

    Returns:
      (features float32 [N, F], labels int32 [N]).

    Raises:
      ValueError: the batches have fewer than N images without padding, or N < 1.
      FloatingPointError: a feature is not finite.
    """
    if num_examples < 1:
        raise ValueError(f"num_examples is {num_examples}: ask for at least 1.")
    features = np.empty((0, 0), np.float32)
    labels = np.empty(num_examples, np.int32)
    filled = 0
    for output, batch in _one_ahead(encode, batches):
        mask = np.asarray(batch["mask"], bool)
        rows = np.asarray(output)[mask][: num_examples - filled]
        require_finite(rows, f"the features of images {filled} to {filled + len(rows) - 1}")
        if filled == 0:
            features = np.empty((num_examples, rows.shape[1]), np.float32)
        features[filled : filled + len(rows)] = rows
        labels[filled : filled + len(rows)] = np.asarray(batch["label"])[mask][: len(rows)]
        filled += len(rows)
        if filled == num_examples:
            return features, labels
    raise ValueError(
        f"the batches hold {filled} images, fewer than num_examples={num_examples}: "
        "lower num_examples or pass the whole split."
    )


def require_finite(values: np.ndarray | jax.Array, what: str) -> None:
    """Raises FloatingPointError if one of the values, which `what` names, is inf or NaN."""
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{what} are not finite: take another checkpoint.")


def _one_ahead(
    encode: Encode, batches: Iterable[Batch]
) -> Iterator[tuple[jax.Array | np.ndarray, Batch]]:
    """Yields (encode(images), batch), always after the next batch was dispatched."""
    waiting = None
    for batch in batches:
        dispatched = (encode(batch["image"]), batch)
        if waiting is not None:
            yield waiting
        waiting = dispatched
    if waiting is not None:
        yield waiting
