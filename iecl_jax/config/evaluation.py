"""The settings of a job that evaluates a checkpoint."""

from iecl_jax.config import kinds, section
from iecl_jax.config.pretrain import Data, Pretrain
from iecl_jax.config.rules import CHANNELS_OR_NONE, PIXELS_OR_NONE, SCALES_OR_NONE, SEED
from iecl_jax.config.section import Section, key, without


class Images(Section):
    """The images to evaluate on; by default those of the pretraining."""

    name = key(
        "",
        None,
        'the source, a name as a pretraining has it; "" = that of the pretraining, read as there',
    )
    dir = key(
        "",
        None,
        'folder of the data; "" = that of the pretraining, or of TFDS if the source is another',
    )
    image_size = key(0, PIXELS_OR_NONE, "side in pixels of what the network gets; 0 = as trained")
    cache = Data.cache
    mean = key(
        (), CHANNELS_OR_NONE, "mean per channel of values in [0, 1], subtracted; () = as trained"
    )
    std = key((), SCALES_OR_NONE, "standard deviation per channel, the divisor; () = as trained")

    @staticmethod
    def also(own, given):
        """Returns how a named source is read: its own settings, and those of all sources."""
        name = own["name"]
        return type("Read", (kinds.settings("data", name), _READ), {}) if name else Section


_READ = without(Data, *section.members(Images), "also")


class Evaluation(Section):
    """The settings that all evaluation jobs share; each evaluation adds a section of its own."""

    job = key(
        "knn", None, "the evaluation: a file name of iecl_jax/evals or the path of a .py file"
    )
    seed = key(42, SEED, "seed of all random numbers")
    checkpoint = key(
        "", None, "workdir of a pretraining run, one of its checkpoints/STEP, or a file of weights"
    )
    best = key(False, None, "take the workdir's checkpoint with the best kNN top-1, not the newest")

    pictures = key(
        True, None, "draw neighbours, feature map and classes if all features are computed anyway"
    )

    @staticmethod
    def inside(own, given):
        """Returns the section of the images and that of the evaluation.

        If the config has a section `pretrain`, which builds an untrained network in the place of a
        checkpoint, that section is returned too.
        """
        evaluation = kinds.load("evaluation", own["job"], key="job")
        # A job runs once, so the schedule of a training means nothing to it.
        settings = getattr(evaluation, "Job", None) or without(evaluation.Settings, "when")
        untrained = {"pretrain": Pretrain} if "pretrain" in given else {}
        images = {"data": getattr(evaluation, "Data", Images)}
        return images | {kinds.stem(own["job"]): settings} | untrained
