"""Images of a tree on canvases of one size, for a network that sees whole images."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iecl_jax.data import augment
from iecl_jax.data.augment import dense
from iecl_jax.data.voc.tree import Tree


def inputs(
    images: jax.Array, shown: jax.Array, statistics: tuple[Sequence[float], Sequence[float]]
) -> jax.Array:
    """Normalises float32 [b, S, S, 3] in [0, 1]; the padding, outside of `shown`, is 0.

    Args:
      images: the canvases.
      shown: int32 [b, 2], height and width of each image on its canvas.
      statistics: mean and deviation of the channels, see `data.statistics`.
    """
    places = jnp.arange(images.shape[1])
    rows, columns = (places[None] < shown[:, i, None] for i in (0, 1))
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(inside, augment.normalize(images, *statistics), 0.0)


def batches(
    split: Tree, indices: np.ndarray, side: int, *, batch_size: int, num_threads: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields (indices int [n], batch) of images, each as large as a canvas of `side` allows.

    A batch is {"image": uint8 [D, b, S, S, 3], "shown", "source": int32 [D, b, 2]} on D local
    devices: the sizes on the canvas and in the file. All batches have one size, at most about
    `batch_size`; the last is filled up. The next batch is read meanwhile.
    """
    devices = jax.local_device_count()
    size = -(-min(batch_size, len(indices)) // devices) * devices
    canvas = (side, side)

    def read(index: int) -> Mapping[str, np.ndarray]:
        height, width = split.sizes[index]
        source = int(height), int(width)
        at = dense.fitted(source, canvas)
        image = dense.image(split.image(index), at, canvas)
        sizes = {"shown": np.array(at.shown, np.int32), "source": np.array(source, np.int32)}
        return {"image": image} | sizes

    parts = [indices[i : i + size] for i in range(0, len(indices), size)]
    with ThreadPoolExecutor(num_threads) as pool:
        ahead: list[Any] = [pool.map(read, part) for part in parts[:1]]
        for number, part in enumerate(parts, 1):
            rows = list(ahead.pop())
            ahead += [pool.map(read, following) for following in parts[number:][:1]]
            rows += rows[-1:] * (size - len(rows))
            batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            yield part, jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), batch)


def variables(params: Any, stats: Any) -> tuple[Any, Any]:
    """Returns the variables of the encoder and of the head."""
    encoder, head = (
        {"params": params[part], "batch_stats": stats[part]} for part in ("encoder", "head")
    )
    return encoder, head
