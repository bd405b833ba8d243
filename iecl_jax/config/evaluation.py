"""Every setting of a job that measures a checkpoint."""

from iecl_jax.config import kinds
from iecl_jax.config.pretrain import Pretrain
from iecl_jax.config.rules import SEED
from iecl_jax.config.section import Section, key


class Evaluation(Section):
    """What all evaluations of a checkpoint share; the rest depends on the job."""

    job = key("knn", None, "a file of iecl_jax/evals, or the path of a .py file like them")
    seed = key(42, SEED, "of everything random")
    checkpoint = key("", None, "a pretraining run's workdir, or one of its checkpoints/STEP")
    best = key(False, None, "of a workdir, the checkpoint of best kNN instead of the newest")

    class data(Section):
        """The images."""

        dir = key("", None, 'where the data lie; "" = where the pretraining run found them')
        cache = key("none", ("none", "host", "device"), "where decoded uint8 images are kept")

    @staticmethod
    def inside(own, given):
        """The settings of the evaluation as a job, and of an untrained network where one takes the
        checkpoint's place."""
        evaluation = kinds.load("evaluation", own["job"], key="job")
        settings = getattr(evaluation, "Job", evaluation.Settings)
        untrained = {"pretrain": Pretrain} if "pretrain" in given else {}
        return {kinds.stem(own["job"]): settings} | untrained
