"""Endless training batches on the devices.

The batches are the same for every kind of cache and for any number of processes and devices.
"""

import functools

import grain
import jax
import ml_collections
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax.data import crops, memory
from iecl_jax.data.caching import chosen
from iecl_jax.data.decoder import Decoder
from iecl_jax.data.order import batch_order, process_slice
from iecl_jax.data.split import Split
from iecl_jax.data.stream import Batch, Stream, local_mesh, put_on_devices


def host_batches(
    config: ml_collections.ConfigDict,
    split: Split,
    decoder: Decoder,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Returns a data set whose element t is this process's part of batch t, as NumPy arrays.

    Args:
      config: a pretraining config.
      split: the images.
      decoder: what decodes, of `open_decoder`.
      process_index, process_count: this process and the number of processes. The part is b places
        of the global batch.

    Returns:
      A data set of dicts. "image" is uint8 [b,H,W,3] if all images are small and of one size; the
      device crops them. Otherwise it is a list of the host's crops, uint8 [b,S_i,S_i,3] for each
      view. "label" is int32 [b], and "index" int32 [b] are the places of the images in the split.
      If they are cached on the devices, it is only {"index"}.
    """
    batch_size = config.train.batch_size
    places = process_slice(batch_size, process_index, process_count)
    order = batch_order(len(split), batch_size, config.seed)

    def indices(step: int, batch: np.ndarray) -> Batch:
        del step
        return {"index": batch[places].astype(np.int32)}

    def gathered(step: int, batch: np.ndarray) -> Batch:
        pixels, labels = split.pixels
        image, label = pixels[batch[places]], labels[batch[places]]
        return {"image": image, "label": label} | indices(step, batch)

    def decoded(step: int, batch: np.ndarray) -> Batch:
        pixels, labels = decoder.decode(split, batch[places], step=step, first=places.start)
        image = pixels[0] if split.image_shape else pixels
        return {"image": image, "label": labels} | indices(step, batch)

    cache = chosen(config.data.cache, split)
    function = {"none": decoded, "host": gathered, "device": indices}[cache]
    return order.map_with_index(function)


def open_decoder(config: ml_collections.ConfigDict, split: Split, num_images: int) -> Decoder:
    """Returns what decodes images as the config says, at most `num_images` at once."""
    data = config.data
    streams = chosen(data.cache, split) == "none"
    if data.num_workers and not streams:
        words = "data.num_workers=%d starts no process, since the images of %s are kept decoded."
        logging.info(words, data.num_workers, split.name)
    views = crops.random_views(config)
    small = split.image_shape
    return Decoder(
        crops.WholeImage(split.reading) if small else views,
        [(*small, 3)] if small else [(size, size, 3) for size in views.sizes],
        num_images,
        num_threads=data.num_threads,
        num_workers=data.num_workers if streams else 0,
    )


class TrainBatches(Stream):
    """Yields {"image": uint8 [D,b,...], "label": int32 [D,b], "index": int32 [D,b]}.

    "image" is an array or a list of arrays, see `host_batches`; this process has D * b images.
    `data.num_threads` threads or `data.num_workers` processes decode.

    Attributes:
      steps_per_epoch: number of batches in an epoch.
      position: see `Stream`.
    """

    def __init__(self, config: ml_collections.ConfigDict, split: Split, *, start: int = 0):
        """Opens the batches from batch number `start` on.

        Raises:
          ValueError: the batch is larger than the split or not a multiple of the number of devices,
            the seed is not in 0 to 2**32 - 1, or `data.cache` does not suit the split.
        """
        check_batches(config, split)
        self.steps_per_epoch = len(split) // config.train.batch_size
        cache = chosen(config.data.cache, split)
        if config.data.cache == "auto":
            logging.info("data.cache=auto: %s, for %d images of %s.", cache, len(split), split.name)
        if cache == "host":
            split.pixels  # noqa: B018  decodes here, not at the first batch
        put = _device_gather(split, local_mesh()) if cache == "device" else put_on_devices

        count = jax.process_count()
        decoder = open_decoder(config, split, config.train.batch_size // count)
        batches = host_batches(
            config, split, decoder, process_index=jax.process_index(), process_count=count
        )
        prefetch = config.data.prefetch
        super().__init__(batches, decoder.close, put=put, prefetch=prefetch, start=start)


def check_batches(config: ml_collections.ConfigDict, split: Split) -> None:
    """Raises ValueError if the config's batch, seed or cache does not suit the split."""
    batch_size, devices = config.train.batch_size, jax.device_count()
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed={config.seed} must be in 0 to 2**32 - 1.")
    if batch_size < 1 or batch_size % devices:
        raise ValueError(f"train.batch_size={batch_size} must be a multiple of {devices} devices.")
    if batch_size > len(split):
        raise ValueError(
            f"train.batch_size={batch_size} is larger than the {len(split)} images of "
            f"{split.name}: lower it, and with it saib.group_size where SAIB is used."
        )
    if config.data.cache in ("host", "device") and split.image_shape is None:
        raise ValueError(
            f"data.cache={config.data.cache!r} needs small images of one size, which {split.name} "
            "does not have: use data.cache='none' or 'auto'."
        )


def _device_gather(split: Split, mesh: Mesh):
    """Puts all images on every local device.

    Returns:
      A function from {"index": int32 [b]} to a batch on the devices.

    Raises:
      ValueError: the images do not fit into the memory of a device.
    """
    pixels, labels = split.pixels
    for device in mesh.devices.flat:
        free = memory.free_of_device(device)
        if free is not None and pixels.nbytes > free:
            raise ValueError(
                f"data.cache='device' needs {pixels.nbytes / 1e9:.2f} GB on each device and "
                f"{device} has {free / 1e9:.2f} GB free: use data.cache='host'."
            )
    everywhere = NamedSharding(mesh, PartitionSpec())
    pixels, labels = jax.device_put((pixels, labels), everywhere)

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec("device")),
        out_specs=PartitionSpec("device"),
    )
    def gather(pixels, labels, index):
        return {"image": pixels[index], "label": labels[index], "index": index}

    return lambda batch: gather(pixels, labels, put_on_devices(batch)["index"])
