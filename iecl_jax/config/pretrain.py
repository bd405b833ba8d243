"""The settings of a pretraining run: each key's default, rule and meaning.

The defaults are those of IE-CL in Table 1 of the paper. The command
`python -m iecl_jax.main --config=FILE --print_config` lists every key of a config with its value.
"""

from collections.abc import Sequence
from typing import Any

from iecl_jax.config import kinds
from iecl_jax.config.rules import (
    BELOW_ONE,
    CHANNELS_OR_NONE,
    COUNT,
    COUNT_OR_NONE,
    FEW,
    FEW_OR_NONE,
    NOT_NEGATIVE,
    PIXELS,
    PIXELS_OR_NONE,
    POSITIVE,
    SCALES_OR_NONE,
    SEED,
    SHARE,
    WIDTH,
    Rule,
)
from iecl_jax.config.section import Section, key


def _are_operators(names: Sequence[str]) -> bool:
    """Returns whether all names can be sections of a view, differ, and have `crop` only first."""
    sections = [kinds.stem(name) for name in names]
    words = all(name.isidentifier() and name not in ("operators", "size") for name in sections)
    return words and len(set(sections)) == len(sections) and "crop" not in names[1:]


def _are_views(names: Sequence[str]) -> bool:
    """Returns whether there are two different names or more, which can be sections."""
    words = all(name.isidentifier() and name != "views" for name in names)
    return words and len(set(names)) == len(names) >= 2


OPERATORS = Rule(
    _are_operators, "different operators, files named by a word, with 'crop' first or nowhere"
)
CACHES = ("auto", "none", "host", "device")
# One image has no variance: losses would be NaN, and batch norm would make it 0.
BATCH = Rule(lambda value: 2 <= value <= 10**9, "from 2 to 10**9")
BN_GROUP = Rule(lambda value: value == 0 or 2 <= value <= 10**9, "0, or from 2 to 10**9")
BIT_DEPTH = Rule(lambda bits: 8 <= bits <= 16, "from 8 to 16")
DROPS = Rule(
    lambda epochs: len(epochs) <= 1000 and min(epochs, default=0) >= 0,
    "() or numbers of at least 0",
)
VIEWS = Rule(_are_views, "two different words or more: anchor, query and further views")


class Data(Section):
    """The data source, and how images are read."""

    name = key(
        "imagenet2012",
        None,
        "a file name of iecl_jax/data/sources, the path of a .py file or a TFDS name",
    )
    dir = key("", None, 'folder of TFDS data ("" = ~/tensorflow_datasets) or of the image_folder')
    image_size = key(224, PIXELS, "side of a view in pixels, unless the view has a size of its own")
    cache = key("auto", CACHES, "where decoded uint8 images are kept; auto: as suits the images")
    num_threads = key(16, FEW, "decoding threads per process")
    num_workers = key(
        0, FEW_OR_NONE, "processes that decode instead of threads, if images are not kept decoded"
    )
    prefetch = key(
        2, FEW_OR_NONE, "batches decoded ahead of the step, and as many put on the device ahead"
    )
    mean = key(
        (), CHANNELS_OR_NONE, "mean per channel of values in [0, 1], subtracted; () = the source's"
    )
    std = key((), SCALES_OR_NONE, "standard deviation per channel, the divisor; () = the source's")

    alpha = key(
        "white", ("white", "drop"), "transparent images: laid over white, or their alpha dropped"
    )
    bit_depth = key(
        16, BIT_DEPTH, "bits that are used in files of 16 per channel; 12 = values up to 4095"
    )
    exif_rotation = key(False, None, "turn photographs upright, as their EXIF orientation says")
    max_pixels = key(178_956_970, COUNT, "pixels of the largest file that is read as an image")

    @staticmethod
    def also(own, given):
        """Returns the settings that the source's file declares."""
        return kinds.settings("data", own["name"])


class Train(Section):
    """Batch size, length, precision and logging of training."""

    batch_size = key(256, BATCH, "images per step, summed over all devices")
    num_epochs = key(100, COUNT_OR_NONE, "epochs, used if num_steps is 0")
    num_steps = key(0, COUNT_OR_NONE, "steps; replaces num_epochs if above 0")
    precision = key(
        "float32",
        ("float32", "bfloat16", "float16"),
        "type of the activations; parameters are float32",
    )
    accumulate = key(
        1,
        FEW,
        "parts of the images of a device that pass the encoder one after another, for less memory",
    )
    steps_per_call = key(1, FEW, "largest number of steps in one call of the device")
    log_every_steps = key(100, COUNT, "steps between two entries of the log")


class Method(Section):
    """The self-supervised method; its file declares further settings."""

    name = key("moco_v2", None, "a file name of iecl_jax/methods or the path of a .py file")

    @staticmethod
    def also(own, given):
        """Returns the settings that the method's file declares."""
        return kinds.settings("method", own["name"])


class Encoder(Section):
    """The network that computes the features; its file declares further settings."""

    name = key(
        "resnet50", None, "a name that a file of iecl_jax/models/encoders offers, or a .py file"
    )
    bn_group = key(0, BN_GROUP, "images that share BN statistics; 0 = the whole global batch")
    init_from = key(
        "", None, 'file of weights or run whose encoder the training starts from; "" = random'
    )

    @staticmethod
    def also(own, given):
        """Returns the settings that the encoder's file declares."""
        return kinds.settings("encoder", own["name"])


class Projector(Section):
    """The MLP that maps features to embeddings."""

    num_layers = key(3, FEW, "number of layers")
    hidden_dim = key(4096, WIDTH, "units of each hidden layer")
    output_dim = key(512, WIDTH, "dimension of the embeddings")
    hidden_bn = key(True, None, "batch norm after each hidden layer")
    output_bn = key(True, None, "batch norm after the last layer")
    output_affine = key(False, None, "scale and bias in the batch norm after the last layer")
    activation = key("relu", ("relu", "gelu"), "function after each hidden layer")


class Saib(Section):
    """SAIB, the block that transforms a view to increase its entropy (section 3.3)."""

    enabled = key(True, None, "whether SAIB transforms a view")
    side = key("query", ("query", "anchor", "both"), "the view that SAIB transforms")
    variant = key(
        "paper", ("paper", "expansive"), "expansive: Jacobian I + W'DW, so log|det J| >= 0"
    )
    num_blocks = key(1, FEW, "number of blocks in a row (Table 4)")
    group_size = key(32, COUNT, "images in a group, which SAIB's convolutions mix as channels")
    patch_size = key(16, COUNT, "side of a patch in pixels")
    inner_skip = key(True, None, "P' = P + (a + f(a)); False: P' = P + f(a)")
    residual_scale = key(
        1.0, NOT_NEGATIVE, "initial scale of f's last BN, or of E[W'W] if expansive"
    )
    conv3x3 = key(
        "conv",
        ("conv", "gradient", "slices"),
        "how its 3x3 convolutions are computed: as such; the kernel's gradient by a product with "
        "shifted slices of the input; or all by such products (the same up to rounding)",
    )


class Objective(Section):
    """The terms that Eq. 17 adds to the method's own loss."""

    class kl(Section):
        """The KL divergence of the query's embeddings from the anchor's."""

        weight = key(0.09, NOT_NEGATIVE, "beta of Eq. 17")
        form = key(
            "closed",
            ("closed", "eq16", "softmax"),
            "formula of the divergence, see losses/divergence.py",
        )
        stop_gradient = key(
            "query", ("query", "anchor", "none"), "the view that gets no gradient from the KL term"
        )

    class entropy(Section):
        """The entropy of the query's embeddings."""

        weight = key(0.2, NOT_NEGATIVE, "lambda of Eq. 17")
        estimator = key(
            "coding_rate",
            ("coding_rate", "gaussian_diagonal", "kozachenko_leonenko", "renyi2"),
            "estimator of the entropy, see docs/estimators.md",
        )
        epsilon = key(0.5, POSITIVE, "distortion epsilon of coding_rate")
        neighbors = key(1, COUNT, "k of kozachenko_leonenko, which uses the k-th nearest neighbour")
        kernel_scale = key(2.0, POSITIVE, "t of renyi2's kernel exp(-t |x - y|^2)")

    saib_decay = key(
        1e-4, NOT_NEGATIVE, "gamma of Eq. 17: weight of half the squared norm of SAIB's kernels"
    )


class Optimizer(Section):
    """The optimizer of the network and of the online probe."""

    name = key(
        "sgd",
        ("sgd", "adam", "adamw", "lars", "larc"),
        "the optimizer; the paper names AdamW, see row 12 of docs/paper.md",
    )
    learning_rate = key(
        0.3, POSITIVE, "peak learning rate at batch size 256; scaled by batch_size / 256"
    )
    momentum = key(0.9, BELOW_ONE, "momentum of sgd, lars and larc; b1 of adam and adamw")
    trust_coefficient = key(0.001, POSITIVE, "trust coefficient of lars and larc")
    trust_clip = key(
        False, None, "limit each layer's rate to the learning rate; lars is then the same as larc"
    )
    scaled = key(
        "kernels",
        ("kernels", "all"),
        "what lars and larc scale: kernels, or norms, biases and positions too, as SwAV's code",
    )
    clip_norm = key(
        0.0,
        NOT_NEGATIVE,
        "largest norm of the gradient of a parameter, of each one by itself; 0 = no limit",
    )
    weight_decay = key(
        1e-5,
        NOT_NEGATIVE,
        "weight decay of the network: SAIB has objective.saib_decay, the online probe none",
    )
    decay = key(
        "kernels",
        ("kernels", "all"),
        "what decays: kernels, or norms, biases and positions too, as in plain PyTorch",
    )
    predictor_schedule = key(
        "cosine",
        ("cosine", "constant"),
        "learning rate of the predictor; constant = always the peak (SimSiam)",
    )
    probe_learning_rate = key(
        0.1, NOT_NEGATIVE, "learning rate of the online linear probe, not scaled"
    )


class Schedule(Section):
    """The learning rate over the run: a linear warm-up, then a decay; and the weight decay."""

    warmup_epochs = key(10.0, NOT_NEGATIVE, "epochs of linear warm-up from 0, before the decay")
    decay = key(
        "cosine",
        ("cosine", "drops"),
        "cosine from the peak down; drops: the peak, which drops near the end",
    )
    end_factor = key(0.0, SHARE, "learning rate at the end of the cosine, as a share of the peak")
    drop_epochs = key((50.0, 25.0), DROPS, "epochs before the end at which the rate drops")
    drop_factor = key(0.2, SHARE, "factor of the learning rate at each drop")
    weight_decay_factor = key(
        1.0,
        NOT_NEGATIVE,
        "factor of the weight decay at the end, which it reaches on a cosine; 1 = constant",
    )


class View(Section):
    """A view: its operators in order, and a section of settings for each operator."""

    operators = key(
        ("crop", "flip", "rotate", "jitter", "gray", "blur", "solarize", "noise"),
        OPERATORS,
        "operators in order, by file name or path of a .py file; prob=0 leaves one out",
    )
    size = key(0, PIXELS_OR_NONE, "side of the view in pixels; 0 = data.image_size")

    @staticmethod
    def inside(own, given):
        """Returns the section of each operator, with the settings that its file declares."""
        return {
            kinds.stem(name): kinds.settings("operator", name, key="operators")
            for name in _words(own["operators"])
            if kinds.stem(name) not in own
        }


class Augment(Section):
    """The views of an image; the defaults are MoCo-v2's recipe."""

    views = key(
        ("anchor", "query"),
        VIEWS,
        "names of the views, a section each; after the first two, larger ones first",
    )

    @staticmethod
    def inside(own, given):
        """Returns a section for each view."""
        return {name: View for name in _words(own["views"]) if name not in own}


def _words(value: Any) -> list[str]:
    """Returns the strings of a tuple or list, and none of any other value.

    A wrong value is not an error here: the check of the key itself reports it.
    """
    words = value if isinstance(value, tuple | list) else ()
    return [word for word in words if isinstance(word, str)]


class Eval(Section):
    """The evaluations during training, and a section of settings for each of them."""

    every_epochs = key(
        10, COUNT_OR_NONE, "epochs between evaluations, and between galleries; 0 = only at the end"
    )
    batch_size = key(256, COUNT, "images encoded at once")
    pictures = key(
        True, None, "at the end, draw neighbours and a map of the features, and count per class"
    )
    names = key(
        ("knn", "online_probe", "linear", "comparison"),
        None,
        "evaluations: file names of iecl_jax/evals or paths of .py files",
    )

    @staticmethod
    def inside(own, given):
        """Returns the section of each evaluation, with the settings that its file declares."""
        return {
            kinds.stem(name): kinds.settings("evaluation", name, key="eval.names")
            for name in _words(own["names"])
            if kinds.stem(name) not in own
        }


class Diagnostics(Section):
    """Measures of entropy, rank and collapse, always on the same images."""

    every_steps = key(100, COUNT_OR_NONE, "steps between two measurements; 0 = never")
    num_images = key(256, COUNT, "largest number of images whose embeddings are measured")
    lanczos_depth = key(32, COUNT, "Lanczos steps for log|det J| of SAIB on a group of images")
    lanczos_probes = key(4, COUNT, "random vectors over which log|det J| is averaged")
    min_rank = key(
        2.0, NOT_NEGATIVE, "RankMe of the features (1 or more) below which they have collapsed"
    )
    min_feature_std = key(
        0.05,
        SHARE,
        "standard deviation of the features (0 to 1) below which they have collapsed",
    )
    stop_on_collapse = key(False, None, "on collapse, save a checkpoint and stop; False: only warn")


class Checkpoint(Section):
    """When checkpoints are saved, and which are kept."""

    every_steps = key(1000, COUNT, "steps between two checkpoints")
    keep = key(2, COUNT, "number of newest checkpoints to keep")
    keep_every_steps = key(
        0, COUNT_OR_NONE, "also keep checkpoints at multiples of this many steps; 0 = none"
    )
    keep_best = key(
        1, COUNT_OR_NONE, "number of checkpoints of best kNN top-1 to keep as well; 0 = none"
    )


class Log(Section):
    """Where the log goes besides metrics.jsonl and TensorBoard's event files."""

    wandb = key(
        "off", ("off", "offline", "online"), "Weights & Biases, which needs the package wandb"
    )
    wandb_project = key("iecl_jax", None, "project of Weights & Biases")


class Pretrain(Section):
    """All settings of a pretraining run."""

    job = key("pretrain", None, "pretrain, or the evaluation of a checkpoint")
    seed = key(42, SEED, "seed of the parameters, the data order and the augmentations")
    data, train, method, encoder, projector = Data, Train, Method, Encoder, Projector
    saib, objective, optimizer, schedule = Saib, Objective, Optimizer, Schedule
    augment, eval, diagnostics, checkpoint = Augment, Eval, Diagnostics, Checkpoint
    log = Log
