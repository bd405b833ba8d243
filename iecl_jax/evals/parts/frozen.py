"""Loads the encoder of a run or of a file of weights, to encode any images with it."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iecl_jax import config as config_lib
from iecl_jax import console, methods
from iecl_jax.config import own_files
from iecl_jax.data import given
from iecl_jax.data.images import reading
from iecl_jax.evals.measures import features
from iecl_jax.evals.parts.encoder import Encode, on_pixels, over_devices
from iecl_jax.models import build
from iecl_jax.run.checkpoint import load_for_evaluation

PROJECTION = "projection"


class Encoder:
    """A trained encoder with fixed weights. Make one with `load`.

    Wherever images are taken, they are one of

    - an array uint8 [N, H, W, 3];
    - a list, or anything else to go through once, of paths of image files, PIL images of any mode,
      and arrays uint8 [H, W, 3], whose sizes may differ.

    With S the side that the network was trained with, an image of at most 96 pixels a side is
    resized to S by S. Of a larger one, the shorter side is resized to 8/7 of S, and the centre is
    cut out, as in the evaluations. An array of side S is taken as it is.

    Attributes:
      config: the pretraining config of the run.
      batch_size: the largest number of images encoded at once; memory grows with it.
      shapes: the shape of each output for one image, such as {"pooled": (512,),
        "stage1": (32, 32, 64), ...}.
    """

    def __init__(self, config, weights, batch_size: int):
        """See `load`."""
        self.config, self.batch_size = config, batch_size
        self._method = methods.make(config, total_steps=1)
        self._weights = tuple(
            {"online": weights[name].get("online", {})} for name in ("params", "method_state")
        )
        side = config.data.image_size
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        found = jax.eval_shape(self._method.encode, *self._weights, image)
        self.shapes = {name: output.shape[1:] for name, output in found.items()}
        self._compiled = functools.cache(self._compile)

    def __call__(self, images: given.Images, *, broken: dict[int, str] | None = None) -> np.ndarray:
        """Returns the pooled features of images, float32 [N, F].

        Args:
          images: see the class.
          broken: if it is given, images that cannot be read are left out, and it gets the place of
            each with the reason.

        Raises:
          ValueError: the images are of another kind, shape or type, or one cannot be read.
          OSError: a file is missing.
          FloatingPointError: a feature is not finite.
        """
        return self.features(images, broken=broken)

    def features(
        self,
        images: given.Images,
        stage: str = "pooled",
        *,
        pool: bool = False,
        broken: dict[int, str] | None = None,
    ) -> np.ndarray:
        """Returns an output of the encoder, float32 [N, *shapes[stage]].

        Args:
          images: see the class.
          stage: a name in `shapes`. "stage1", "stage2", ... are maps [N, h, w, C].
          pool: whether to return the mean of a map, [N, C].
          broken: see `__call__`.

        Raises:
          ValueError: there is no such stage, or what `__call__` raises.
          OSError, FloatingPointError: see `__call__`.
        """
        if stage not in self.shapes:
            raise ValueError(
                f"stage={stage!r} is none of this network's: name one of {', '.join(self.shapes)}."
            )
        return self._encode(images, (stage, pool), broken)

    def embed(self, images: given.Images, *, broken: dict[int, str] | None = None) -> np.ndarray:
        """Returns the projector's output, float32 [N, d], not normalised to length 1.

        It has the running statistics of BN, as the encoder. The loss of the training compares these
        vectors; `__call__` usually serves other tasks better.

        Args:
          images: see the class.
          broken: see `__call__`.

        Raises:
          ValueError: there is no projector, or what `__call__` raises.
          OSError, FloatingPointError: see `__call__`.
        """
        return self._encode(images, (PROJECTION, False), broken)

    def _encode(
        self, images: given.Images, output: tuple[str, bool], broken: dict[int, str] | None
    ) -> np.ndarray:
        pixels = given.listed(images)
        encode, shape = self._compiled(*output)
        settings, rows = self.config.data, [np.zeros((0, *shape), np.float32)]
        # One program for each power of two, and not for each number of images.
        most = min(self.batch_size, 1 << max(0, len(pixels) - 1).bit_length())
        with console.progress("Encoding images", len(pixels), "image") as shown:
            for done, batch in given.batches(
                pixels,
                most,
                size=settings.image_size,
                how=reading(settings),
                num_threads=settings.num_threads,
                broken=broken,
            ):
                rows.append(np.asarray(encode(_padded(batch, most)))[: len(batch)])
                features.require_finite(rows[-1], "features")
                shown.update(done)
        return np.concatenate(rows)

    def _compile(self, name: str, pool: bool) -> tuple[Encode, tuple[int, ...]]:
        """Returns a function of pixels uint8 [b, H, W, 3], and the shape of its rows."""
        project = self._projector() if name == PROJECTION else None

        def output(params, method_state, images):
            found = self._method.encode(params, method_state, images)
            if project is not None:
                return project(params, method_state, found["pooled"])
            values = found[name].astype(jnp.float32)
            return values.mean(tuple(range(1, values.ndim - 1))) if pool else values

        side = self.config.data.image_size
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        shape = jax.eval_shape(output, *self._weights, image).shape[1:]
        return over_devices(on_pixels(self.config, output), *self._weights), shape

    def _projector(self) -> Any:
        """Returns a function: (params, method_state, pooled features) -> projections.

        Raises:
          ValueError: the weights have no projector, or one of another form than the config's.
        """
        params, state = (tree["online"] for tree in self._weights)
        if "projector" not in params:
            raise ValueError(
                "these weights have no projector: take the features before it, the output 'pooled'."
            )
        projector = build.projector(self.config)
        pooled = jax.ShapeDtypeStruct((1, *self.shapes["pooled"]), jnp.float32)
        made = jax.eval_shape(lambda x: projector.init(jax.random.key(0), x, train=False), pooled)
        own = {"params": params["projector"], "batch_stats": state.get("projector", {})}
        if _shapes(own) != _shapes(made):
            raise ValueError(
                f"method.name={self.config.method.name!r} has a projector of its own, not that of "
                "config.projector: take the features before it, the output 'pooled'."
            )

        def project(params, state, pooled):
            variables = {
                "params": params["online"]["projector"],
                "batch_stats": state["online"].get("projector", {}),
            }
            return projector.apply(variables, pooled, train=False)

        return project


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array of a tree, by its path."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in found}


def _padded(batch: np.ndarray, rows: int) -> np.ndarray:
    """Returns the batch with rows of zeros, so that all devices have equally many images."""
    devices = jax.local_device_count()
    extra = -(-rows // devices) * devices - len(batch)
    return np.pad(batch, ((0, extra), (0, 0), (0, 0), (0, 0)))


def load(
    checkpoint: str | os.PathLike,
    *,
    best: bool = False,
    batch_size: int = 256,
    trust_code: bool = False,
) -> Encoder:
    """Returns the encoder of a run, or of a file of weights.

    Args:
      checkpoint: the folder of a run, whose newest checkpoint counts, or one of its
        checkpoints/STEP, or a file of weights.
      best: take the run's checkpoint of the best kNN top-1 instead.
      batch_size: the largest number of images encoded at once.
      trust_code: run the Python files that the config of the checkpoint names, if it names any.

    Raises:
      ValueError: there is no whole checkpoint, or it names Python files and is not trusted.
    """
    try:
        with own_files.trusting(trust_code):
            return of_checkpoint(checkpoint, best=best, batch_size=batch_size)
    except own_files.Foreign as error:
        words = str(error).replace(own_files.TRUST_FLAG, "trust_code=True")
        raise own_files.Foreign(words) from None


def of_checkpoint(checkpoint: str | os.PathLike, *, best: bool, batch_size: int) -> Encoder:
    """Does what `load` does, for a command, which has its own flag for trust."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    config, weights = load_for_evaluation(checkpoint, best=best)
    config_lib.check_pretrain(config, num_devices=1)
    return Encoder(config, weights, batch_size)
