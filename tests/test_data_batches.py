"""Order, cache modes, process and device layout, restart, and what happens at the end."""

import contextlib
import itertools
import pathlib
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest

from iecl_jax.configs import imagenet_r50
from iecl_jax.data import TrainBatches, caching, check_batches, eval_batches, open_split
from iecl_jax.data.order import batch_order, process_slice
from iecl_jax.data.train_batches import host_batches, open_decoder

ROOT = pathlib.Path(__file__).parent.parent


def make_config(cache: str = "host", image_size: int = 8, **train) -> ml_collections.ConfigDict:
    config = imagenet_r50.get_config("100,smoke")
    config.data.update({"cache": cache, "image_size": image_size})
    config.train.update({"batch_size": 24, **train})
    return config


def take(config, count: int, start: int = 0) -> list[dict[str, np.ndarray]]:
    with TrainBatches(config, open_split(config.data, "pretrain"), start=start) as batches:
        return [jax.tree.map(np.asarray, batch) for batch in itertools.islice(batches, count)]


def assert_equal(left, right) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("num_images", [24, 101])
def test_epochs_are_different_permutations_without_the_remainder(num_images):
    steps = num_images // 24
    order = batch_order(num_images, 24, seed=42)
    epochs = [np.concatenate([order[e * steps + s] for s in range(steps)]) for e in range(5)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == steps * 24
        assert epoch.min() >= 0
        assert epoch.max() < num_images
    for a, b in itertools.combinations(epochs, 2):
        assert np.mean(a == b) < 0.25
    # What an epoch leaves out differs, so every image is seen.
    assert set(np.concatenate(epochs).tolist()) == set(range(num_images))
    other = batch_order(num_images, 24, seed=43)
    assert not np.array_equal(other[0], epochs[0][:24])


def test_process_slices_tile_the_batch():
    for count in (1, 2, 3, 4, 8):
        places = [np.arange(24)[process_slice(24, index, count)] for index in range(count)]
        np.testing.assert_array_equal(np.concatenate(places), np.arange(24))
        assert {len(part) for part in places} == {24 // count}


@pytest.mark.parametrize("cache", ["none", "host", "device"])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_batch_of_one(cache, count):
    config = make_config(cache)
    split = open_split(config.data, "train")
    with contextlib.closing(open_decoder(config, split, 24)) as decoder:
        whole = host_batches(config, split, decoder)[13]
        parts = [
            host_batches(config, split, decoder, process_index=index, process_count=count)[13]
            for index in range(count)
        ]
    assert_equal(whole, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))


def test_process_count_does_not_move_the_host_crops():
    config = make_config("none", image_size=100)
    split = open_split(config.data, "train")
    with contextlib.closing(open_decoder(config, split, 24)) as decoder:
        whole = host_batches(config, split, decoder)[13]
        half = host_batches(config, split, decoder, process_index=1, process_count=2)[13]
    assert [view.shape for view in whole["image"]] == [(24, 100, 100, 3)] * 2
    assert_equal(half, jax.tree.map(lambda leaf: leaf[12:], whole))


def test_views_added_do_not_change_the_host_s_first_crops():
    config = make_config("none", image_size=100)
    split = open_split(config.data, "train")
    fewer, more = (config.copy_and_resolve_references() for _ in range(2))
    fewer.augment.views = ("anchor",)
    more.augment.views = ("anchor", "query", "small")
    more.augment.small = config.augment.query.copy_and_resolve_references()
    more.augment.small.size = 48
    one, two, three = (take_first(each, split) for each in (fewer, config, more))
    assert [view.shape for view in three] == [(2, 12, size, size, 3) for size in (100, 100, 48)]
    assert_equal(one, two[:1])
    assert_equal(two, three[:2])


def take_first(config, split) -> list[np.ndarray]:
    with TrainBatches(config, split) as batches:
        return jax.tree.map(np.asarray, next(batches)["image"])


def test_cache_modes_give_the_same_batches():
    none, host, device = (take(make_config(cache), 23) for cache in ("none", "host", "device"))
    assert none[0]["image"].shape == (2, 12, 8, 8, 3)
    assert none[0]["image"].dtype == np.uint8
    assert none[0]["label"].dtype == np.int32
    assert_equal(none, host)
    assert_equal(none, device)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(
    "cache, image_size", [("none", 8), ("host", 8), ("device", 8), ("none", 97)]
)
def test_restart_continues_exactly(cache, image_size, prefetch):
    config = make_config(cache, image_size)
    config.data.prefetch = prefetch
    straight = take(config, 13)
    with TrainBatches(config, open_split(config.data, "train")) as batches:
        for _ in range(9):
            next(batches)
        assert batches.position == 9
        assert batches.steps_per_epoch == 256 // 24
        position = batches.position
    # Steps 9 to 12 cross the end of the first epoch, after step 9.
    assert_equal(take(config, 4, start=position), straight[9:])
    assert_equal(take(config, 1, start=12), straight[12:])


def test_images_match_their_labels_and_places():
    config = make_config("device")
    split = open_split(config.data, "train")
    batch = take(config, 1, start=3)[0]
    indices = batch_order(len(split), 24, config.seed)[3].reshape(2, 12)
    for device, slot in ((0, 0), (0, 11), (1, 0), (1, 11)):
        np.testing.assert_array_equal(
            batch["image"][device, slot], split.load(indices[device, slot])
        )
        assert batch["label"][device, slot] == split.labels[indices[device, slot]]


@pytest.mark.parametrize("cache", ["none", "device"])
def test_pmap_takes_the_batch_where_it_lies(cache):
    config = make_config(cache)
    step = jax.pmap(lambda image: image + np.uint8(1))
    with TrainBatches(config, open_split(config.data, "train")) as batches:
        first, second = next(batches), next(batches)
    step(first["image"])
    for shard, device in zip(second["image"].addressable_shards, jax.local_devices()):
        assert shard.device == device
        assert shard.data.shape == (1, 12, 8, 8, 3)
    with jax.transfer_guard("disallow"):
        step(second["image"])


def test_wrong_batches_are_refused():
    split = open_split(make_config().data, "train")
    with pytest.raises(ValueError, match="larger than the 256 images"):
        TrainBatches(make_config(batch_size=258), split)
    with pytest.raises(ValueError, match="multiple of 2 devices"):
        TrainBatches(make_config(batch_size=25), split)
    config = make_config()
    config.seed = -1
    with pytest.raises(ValueError, match="seed=-1"):
        TrainBatches(config, split)
    for cache in ("host", "device"):
        large = make_config(cache, image_size=128)
        with pytest.raises(ValueError, match=r"data\.cache='none'"):
            TrainBatches(large, open_split(large.data, "train"))


def test_cache_device_names_the_memory_it_needs(monkeypatch):
    config = make_config("device")
    split = open_split(config.data, "train")
    stats = {"bytes_limit": 50_000, "bytes_in_use": 10_000}
    monkeypatch.setattr(type(jax.local_devices()[0]), "memory_stats", lambda device: stats)
    with pytest.raises(ValueError, match=r"cache='device' needs 0\.00 GB"):
        TrainBatches(config, split)


def test_a_loading_error_reaches_the_caller():
    config = make_config("none")
    split = open_split(config.data, "train")

    def fail(indices):
        raise OSError("disk on fire")

    object.__setattr__(split, "read", fail)
    with (
        TrainBatches(config, split) as batches,
        pytest.raises(OSError, match="disk on fire"),
    ):
        next(batches)


def test_closed_batches_say_so():
    config = make_config()
    batches = TrainBatches(config, open_split(config.data, "train"))
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize("cache", ["none", "host"])
def test_eval_batches_cover_the_split_in_order(cache):
    config = make_config(cache)
    split = open_split(config.data, "test")
    batches = list(eval_batches(config.data, split, 24))
    assert [batch["image"].shape for batch in batches] == [(24, 8, 8, 3)] * 3
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(mask, np.arange(72) < 64)
    pixels = np.concatenate([batch["image"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels[mask], split.labels)
    np.testing.assert_array_equal(pixels[mask], np.stack([split.load(i) for i in range(64)]))
    assert labels.dtype == np.int32
    assert (labels[~mask] == -1).all()
    assert not pixels[~mask].any()


def test_eval_batches_take_a_subset_in_its_order():
    config = make_config("none", image_size=112)
    split = open_split(config.data, "test")
    (batch,) = eval_batches(config.data, split, 4, indices=np.array([40, 7, 7]))
    assert batch["image"].shape == (4, 112, 112, 3)
    np.testing.assert_array_equal(batch["label"], [*split.labels[[40, 7, 7]], -1])
    np.testing.assert_array_equal(batch["image"][1], batch["image"][2])
    assert (batch["image"][0] != batch["image"][1]).any()


def test_generated_splits_are_disjoint_and_fixed():
    data = make_config().data
    train, test = (open_split(data, name) for name in ("train", "test"))
    assert (len(train), len(test), train.num_classes) == (256, 64, 10)
    seen = {train.load(index).tobytes() for index in range(256)}
    seen |= {test.load(index).tobytes() for index in range(64)}
    assert len(seen) == 320
    assert train.encoded(0) is None
    np.testing.assert_array_equal(np.bincount(test.labels), [6, 6, 6, 6, 6, 6, 7, 7, 7, 7])


@pytest.mark.parametrize("ending", ["", "del batches"])
def test_the_interpreter_ends_quietly(ending):
    code = f"""
from iecl_jax.configs import imagenet_r50
from iecl_jax.data import TrainBatches, open_split
config = imagenet_r50.get_config("100,smoke")
config.data.cache = "none"
batches = TrainBatches(config, open_split(config.data, "train"))
next(batches)
{ending}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


def test_auto_chooses_where_the_images_are_kept(monkeypatch, caplog):
    """Photographs stream; small images are kept where there is room. The batches are the same."""
    caplog.set_level("INFO", "absl")
    large = open_split(make_config("auto", image_size=97).data, "train")
    small = open_split(make_config("auto").data, "train")
    assert caching.num_bytes(small) == 256 * 8 * 8 * 3
    assert [caching.chosen("auto", split) for split in (large, small)] == ["none", "host"]
    assert caching.chosen("device", small) == "device"
    check_batches(make_config("auto", image_size=97), large)
    streamed, kept = (take(make_config(cache), 3) for cache in ("none", "auto"))
    assert "data.cache=auto: host, for 256 images of generated" in caplog.text
    assert_equal(streamed, kept)
    monkeypatch.setattr(caching.memory, "of_device", lambda device: 8 * caching.num_bytes(small))
    assert caching.chosen("auto", small) == "device"
    monkeypatch.setattr(
        caching.memory, "of_device", lambda device: 8 * caching.num_bytes(small) - 1
    )
    monkeypatch.setattr(caching.memory, "of_host", lambda: 4 * caching.num_bytes(small) - 1)
    assert caching.chosen("auto", small) == "none"
