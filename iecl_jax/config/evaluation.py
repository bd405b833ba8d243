"""Every setting of a job that measures a checkpoint: knn, linear_probe, jacobian."""

from iecl_jax.config.pretrain import Pretrain, View
from iecl_jax.config.rules import (
    BELOW_ONE,
    COUNT,
    COUNT_OR_NONE,
    INSIDE_SHARE,
    NOT_NEGATIVE,
    POSITIVE,
    RATES,
    SEED,
)
from iecl_jax.config.section import Section, key


class KNN(Section):
    """Weighted kNN (Wu et al. 2018)."""

    k = key(0, COUNT_OR_NONE, "neighbours; 0 = as during pretraining")
    temperature = key(0.0, NOT_NEGATIVE, "of the weights; 0 = as during pretraining")


class Probe(Section):
    """The linear evaluation of section 4.1."""

    batch_size = key(512, COUNT, "images of a step, over all devices")
    num_epochs = key(200, COUNT, "epochs")
    learning_rate = key(0.03, POSITIVE, "at this batch size, not scaled; cosine to 0")
    momentum = key(0.9, BELOW_ONE, "of SGD")
    weight_decay = key(1e-5, NOT_NEGATIVE, "of the kernel")
    feature_norm = key("layer_norm", ("layer_norm", "none"), "of the features, no parameters")
    augment = View
    cached = key(False, None, "a grid of learning rates on features computed once")
    learning_rates = key((0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), RATES, "that grid")
    holdout = key(0.1, INSIDE_SHARE, "share of train that chooses from the grid")


class Jacobian(Section):
    """SAIB's Jacobian and the norms of the encoder's convolutions."""

    num_groups = key(4, COUNT, "groups of query views, each with a Jacobian of its own")
    statistics = key("running", ("running", "batch"), "of SAIB's BN; batch: as in training")
    exact_up_to = key(1536, COUNT_OR_NONE, "dimensions of a group that get all singular values")
    depth = key(64, COUNT, "Lanczos steps above that")
    num_probes = key(8, COUNT, "random vectors a group, above that")


JOBS: dict[str, dict[str, type[Section]]] = {
    "knn": {"knn": KNN},
    "linear_probe": {"probe": Probe},
    "jacobian": {"jacobian": Jacobian},
}


class Evaluation(Section):
    """What all evaluations of a checkpoint share; the rest depends on the job."""

    job = key("knn", tuple(JOBS), "what is measured")
    seed = key(42, SEED, "of everything random")
    checkpoint = key("", None, "a pretraining run's workdir, or one of its checkpoints/STEP")
    best = key(False, None, "of a workdir, the checkpoint of best kNN instead of the newest")

    class data(Section):
        """The images."""

        dir = key("", None, 'where the data lie; "" = where the pretraining run found them')
        cache = key("none", ("none", "host", "device"), "where decoded uint8 images are kept")

    @staticmethod
    def inside(own, given):
        """The settings of the job, and of an untrained network where one takes the checkpoint's
        place."""
        untrained = {"pretrain": Pretrain} if "pretrain" in given else {}
        return JOBS.get(own["job"], {}) | untrained
