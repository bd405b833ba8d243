"""Every setting of a pretraining run: default (IE-CL's, Table 1), rule, and what it is.

`python -m iecl_jax.main --config=FILE --print_config` prints those of a config with their values.
"""

from collections.abc import Sequence
from typing import Any

from iecl_jax.config import kinds
from iecl_jax.config.rules import (
    BELOW_ONE,
    CHANNELS_OR_NONE,
    COUNT,
    COUNT_OR_NONE,
    NOT_NEGATIVE,
    POSITIVE,
    SCALES_OR_NONE,
    SEED,
    Rule,
)
from iecl_jax.config.section import Section, key


def _are_operators(names: Sequence[str]) -> bool:
    sections = [kinds.stem(name) for name in names]
    words = all(name.isidentifier() and name not in ("operators", "size") for name in sections)
    return words and len(set(sections)) == len(sections) and "crop" not in names[1:]


def _are_views(names: Sequence[str]) -> bool:
    words = all(name.isidentifier() and name != "views" for name in names)
    return words and len(set(names)) == len(names) >= 2


OPERATORS = Rule(
    _are_operators, "different operators, files named by a word, with 'crop' first or nowhere"
)
VIEWS = Rule(_are_views, "two different words or more: anchor, query and further views")


class Data(Section):
    """Where the images come from."""

    name = key("imagenet2012", None, "a file of iecl_jax/data/sources, a .py file or a TFDS set")
    dir = key("", None, 'TFDS\'s folder ("" = ~/tensorflow_datasets), or that of an image_folder')
    image_size = key(224, COUNT, "pixels, side of each view")
    cache = key("none", ("none", "host", "device"), "where decoded uint8 images are kept")
    num_threads = key(16, COUNT, "decoding threads of each process")
    prefetch = key(2, COUNT_OR_NONE, "batches decoded, and batches put on the device, ahead")
    mean = key((), CHANNELS_OR_NONE, "of each channel in [0, 1], subtracted; () = the source's")
    std = key((), SCALES_OR_NONE, "of each channel, divided by; () = the source's")

    @staticmethod
    def also(own, given):
        """The settings of the source's file."""
        return kinds.settings("data", own["name"])


class Train(Section):
    """The length and the arithmetic of training."""

    batch_size = key(256, COUNT, "images of a step, over all devices")
    num_epochs = key(100, COUNT_OR_NONE, "epochs, where num_steps is 0")
    num_steps = key(0, COUNT_OR_NONE, "steps; wins over num_epochs when set")
    precision = key("float32", ("float32", "bfloat16", "float16"), "of the activations")
    steps_per_call = key(1, COUNT, "steps in one call of the device, at most")
    log_every_steps = key(100, COUNT, "steps between two lines of the log")


class Method(Section):
    """The method, and the settings that its file declares."""

    name = key("moco_v2", None, "a file of iecl_jax/methods, or the path of a .py file like them")

    @staticmethod
    def also(own, given):
        """The settings of the method's file."""
        return kinds.settings("method", own["name"])


class Encoder(Section):
    """The network whose features are learned."""

    name = key("resnet50", None, "resnet10, 18, 34, 50, 101, or the path of an encoder's file")
    bn_group = key(0, COUNT_OR_NONE, "images that share BN statistics; 0 = the global batch")

    @staticmethod
    def also(own, given):
        """The settings of the encoder's file."""
        return kinds.settings("encoder", own["name"])


class Projector(Section):
    """The MLP behind the encoder."""

    num_layers = key(3, COUNT, "layers")
    hidden_dim = key(4096, COUNT, "units of a hidden layer")
    output_dim = key(512, COUNT, "dimensions of an embedding")
    hidden_bn = key(True, None, "BN after hidden layers")
    output_bn = key(True, None, "BN without scale and bias after the last layer")


class Saib(Section):
    """The block that adds entropy to a view (section 3.3)."""

    enabled = key(True, None, "whether there is one")
    side = key("query", ("query", "anchor", "both"), "the view that passes through it")
    variant = key("paper", ("paper", "expansive"), "expansive: J = I + W'DW, so log|det J| >= 0")
    num_blocks = key(1, COUNT, "blocks in a row (Table 4)")
    group_size = key(32, COUNT, "images that are mixed: the channels of its convolutions")
    patch_size = key(16, COUNT, "pixels, side of a patch")
    inner_skip = key(True, None, "P' = P + (a + f(a)); False: P' = P + f(a)")
    residual_scale = key(1.0, NOT_NEGATIVE, "first scale of f's last BN; expansive: of E[W'W]")


class Objective(Section):
    """The terms around the method's own loss (Eq. 17)."""

    class kl(Section):
        """The divergence of the query's embeddings from the anchor's."""

        weight = key(0.09, NOT_NEGATIVE, "beta of Eq. 17")
        form = key("closed", ("closed", "eq16", "softmax"), "how it is computed")
        stop_gradient = key(
            "query", ("query", "anchor", "none"), "the view that gets no gradient from it"
        )

    class entropy(Section):
        """The entropy of the query's embeddings."""

        weight = key(0.2, NOT_NEGATIVE, "lambda of Eq. 17")
        estimator = key(
            "coding_rate",
            ("coding_rate", "gaussian_diagonal", "kozachenko_leonenko", "renyi2"),
            "how it is estimated",
        )
        epsilon = key(0.5, POSITIVE, "distortion of coding_rate")
        neighbors = key(1, COUNT, "k of kozachenko_leonenko")
        kernel_scale = key(2.0, POSITIVE, "t of renyi2")

    saib_decay = key(1e-4, NOT_NEGATIVE, "gamma of Eq. 17: weight of half SAIB's squared kernels")


class Optimizer(Section):
    """The optimizer of the network."""

    name = key("sgd", ("sgd", "adam", "adamw", "lars"), "adamw in the paper's words")
    learning_rate = key(0.3, POSITIVE, "at batch 256; scaled by batch / 256")
    momentum = key(0.9, BELOW_ONE, "of sgd and lars; b1 of adam and adamw")
    trust_coefficient = key(0.001, POSITIVE, "of lars")
    trust_clip = key(False, None, "lars: no layer's rate is above the learning rate")
    weight_decay = key(
        1e-5, NOT_NEGATIVE, "of the network's kernels (not norms, biases, positions)"
    )
    predictor_schedule = key(
        "cosine", ("cosine", "constant"), "constant: a predictor keeps the peak rate (SimSiam)"
    )
    probe_learning_rate = key(0.1, NOT_NEGATIVE, "of the online linear probe, not scaled")


class Schedule(Section):
    """The learning rate over time."""

    warmup_epochs = key(10.0, NOT_NEGATIVE, "epochs, linear from 0; then cosine to 0")


class View(Section):
    """A view: its operators in their order, and a section of settings for each."""

    operators = key(
        ("crop", "flip", "rotate", "jitter", "gray", "blur", "solarize", "noise"),
        OPERATORS,
        "files of iecl_jax/data/augment/operators, or paths of .py files; prob=0 leaves one out",
    )
    size = key(0, COUNT_OR_NONE, "pixels, side of the view; 0 = data.image_size")

    @staticmethod
    def inside(own, given):
        """The settings of each operator's file."""
        return {
            kinds.stem(name): kinds.settings("operator", name, key="operators")
            for name in _words(own["operators"])
            if kinds.stem(name) not in own
        }


class Augment(Section):
    """The views (MoCo-v2's recipe)."""

    views = key(("anchor", "query"), VIEWS, "a section each; further ones come large ones first")

    @staticmethod
    def inside(own, given):
        """A section for each view."""
        return {name: View for name in _words(own["views"]) if name not in own}


def _words(value: Any) -> list[str]:
    """The words of a tuple; of anything else none, which the check of the key will tell."""
    words = value if isinstance(value, tuple | list) else ()
    return [word for word in words if isinstance(word, str)]


class Eval(Section):
    """What is measured during training, and the settings that those evaluations' files declare."""

    every_epochs = key(10, COUNT_OR_NONE, "between evaluations, and galleries; 0 = only at the end")
    batch_size = key(256, COUNT, "images encoded at once")
    names = key(
        ("knn", "online_probe", "linear", "comparison"),
        None,
        "files of iecl_jax/evals, or paths of .py files like them",
    )

    @staticmethod
    def inside(own, given):
        """The settings of each evaluation."""
        return {
            kinds.stem(name): kinds.settings("evaluation", name, key="eval.names")
            for name in _words(own["names"])
            if kinds.stem(name) not in own
        }


class Diagnostics(Section):
    """What the method claims about entropy, measured on images that stay the same."""

    every_steps = key(100, COUNT_OR_NONE, "0 = never")
    num_images = key(256, COUNT, "whose embeddings are measured, at most")
    lanczos_depth = key(32, COUNT, "steps for log|det J| of SAIB on a group of images")
    lanczos_probes = key(4, COUNT, "random vectors it is averaged over")
    min_rank = key(2.0, NOT_NEGATIVE, "RankMe of the features, from 1, below which is collapse")
    min_feature_std = key(0.05, NOT_NEGATIVE, "deviation of the features, 0 to 1, likewise")
    stop_on_collapse = key(False, None, "save and stop instead of a warning")


class Checkpoint(Section):
    """What is kept of a run."""

    every_steps = key(1000, COUNT, "steps between two")
    keep = key(2, COUNT, "newest ones kept")
    keep_every_steps = key(0, COUNT_OR_NONE, "those of multiples of this are kept too; 0 = none")
    keep_best = key(1, COUNT_OR_NONE, "best ones by kNN top-1 kept besides; 0 = none")


class Pretrain(Section):
    """A pretraining run."""

    job = key("pretrain", None, "pretrain, or an evaluation of a checkpoint")
    seed = key(42, SEED, "of the parameters, the data order and every augmentation")
    data, train, method, encoder, projector = Data, Train, Method, Encoder, Projector
    saib, objective, optimizer, schedule = Saib, Objective, Optimizer, Schedule
    augment, eval, diagnostics, checkpoint = Augment, Eval, Diagnostics, Checkpoint
