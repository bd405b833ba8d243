import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax.evals.measures import features


def _batches(num_examples, batch_size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_examples, 4, 4, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, num_examples)

    def iterate():
        for start in range(0, num_examples, batch_size):
            real = len(labels[start : start + batch_size])
            batch = {
                "image": np.zeros((batch_size, 4, 4, 3), np.uint8),
                "label": np.full(batch_size, 99),
                "mask": np.arange(batch_size) < real,
            }
            batch["image"][:real] = images[start : start + real]
            batch["label"][:real] = labels[start : start + real]
            yield batch

    return images, labels, iterate()


@pytest.mark.parametrize("num_examples", [1, 8, 13, 14])
def test_keeps_order_and_drops_padding(num_examples):
    images, labels, batches = _batches(14, 4)
    encode = jax.jit(lambda x: x.reshape(len(x), -1).astype(jnp.float32) * 2)
    got, got_labels = features.extract(encode, batches, num_examples=num_examples)
    assert got.dtype == np.float32
    assert got_labels.dtype == np.int32
    np.testing.assert_array_equal(got, images.reshape(14, -1)[:num_examples] * 2.0)
    np.testing.assert_array_equal(got_labels, labels[:num_examples])


def test_padding_may_stand_anywhere():
    batch = {
        "image": np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(3, 3),
        "label": np.array([7, 8, 9, 6]),
        "mask": np.array([False, True, False, True]),
    }
    got, labels = features.extract(lambda x: x.reshape(4, 3), [batch], num_examples=2)
    np.testing.assert_array_equal(got[:, 0], [1, 3])
    np.testing.assert_array_equal(labels, [8, 6])


def test_next_batch_is_dispatched_before_the_previous_is_fetched():
    events = []

    class Output:
        def __init__(self, place, images):
            self.place, self.images = place, images

        def __array__(self, dtype=None, copy=None):
            events.append(f"fetch {self.place}")
            return self.images.reshape(len(self.images), -1).astype(np.float32)

    def encode(images):
        events.append(f"dispatch {sum(e.startswith('d') for e in events)}")
        return Output(int(events[-1].split()[1]), images)

    _, _, batches = _batches(12, 4)
    features.extract(encode, batches, num_examples=12)
    assert events == ["dispatch 0", "dispatch 1", "fetch 0", "dispatch 2", "fetch 1", "fetch 2"]


def test_too_few_images_and_none_asked():
    _, _, batches = _batches(6, 4)
    with pytest.raises(ValueError, match="hold 6 images, fewer than num_examples=7"):
        features.extract(lambda x: x.reshape(len(x), -1), batches, num_examples=7)
    with pytest.raises(ValueError, match="num_examples is 0"):
        features.extract(lambda x: x, [], num_examples=0)
