"""The recipes of the compared methods: the settings, heads, optimizer and views of each.

A recipe is solo-learn's (ResNet-18, batch 256, 1000 epochs on CIFAR or 400 on ImageNet-100) except
for the differences that docs/methods.md lists. `ie_cl` is the default config of
configs/imagenet_r50.py: moco_v2 without a queue, with SAIB, its terms and spectral normalisation.
`light_moco` is moco_v2 too, with SoftNCE, and `swav_authors` is swav as its authors train it.
"""

from typing import Any

COSINE_TO_ONE = {"schedule": "cosine", "start": 0.99, "end": 1.0}
LARS = {"name": "lars", "trust_coefficient": 0.02, "trust_clip": True}
NO_BN = {"hidden_bn": False, "output_bn": False}
NO_LAST_BN = {"hidden_bn": True, "output_bn": False}
# MinEnt has the rate 1e-3 at batch 128, and PyTorch's Adam, with which everything decays.
MINENT_ADAM = {"name": "adam", "learning_rate": 2e-3, "weight_decay": 1e-6, "decay": "all"}
# 500 steps of 128 images are 1.28 epochs of CIFAR.
MINENT_SCHEDULE = {"warmup_epochs": 1.28, "decay": "drops", "drop_epochs": (50.0, 25.0)}


def _projector(num_layers: int, hidden_dim: int, output_dim: int, **bn: bool) -> dict[str, Any]:
    sizes = {"num_layers": num_layers, "hidden_dim": hidden_dim, "output_dim": output_dim}
    return sizes | ({"hidden_bn": True, "output_bn": True} | bn)


def _predictor(hidden_dim: int) -> dict[str, int]:
    return {"num_layers": 2, "hidden_dim": hidden_dim}


# Method -> overrides by section; "views" names one of VIEWS, and "crops" that of `+crops`
# on images that are not small, if it is not SwAV's. A name that is no file gives the method's own.
RECIPES: dict[str, dict[str, Any]] = {
    "moco_v2": {
        "method": {
            "temperature": 0.2,
            "symmetric": True,
            "queue_size": 32768,
            "ema": {"schedule": "cosine", "start": 0.99, "end": 0.999},
        },
        "projector": _projector(2, 2048, 256, **NO_BN),
        # The recipe has 0.3 and 1e-4 for the mean of both directions. The loss here is their sum,
        # twice as large, so the rate is halved and the weight decay doubled.
        "optimizer": {"name": "sgd", "learning_rate": 0.15, "weight_decay": 2e-4},
        "views": "weak",
    },
    # Light-MoCo has no recipe for CIFAR: this is that of the authors' code for ImageNet
    # (Linwenye/light-moco), with MoCo-v2's queue for CIFAR.
    "light_moco": {
        "method": {
            "name": "moco_v2",
            "temperature": 0.1,
            "symmetric": True,
            "queue_size": 32768,
            "enqueue": "both",
            "ema": {"schedule": "constant", "start": 0.999},
            # 0.2 and 20 are quoted from the paper; strategy 1 is the code's default. There is no
            # smoothing in the epochs of the warm-up.
            "smooth": {"mass": 0.2, "k": 20, "strategy": "uniform", "schedule": "after_warmup"},
        },
        "projector": _projector(2, 2048, 128, **NO_BN),
        # The authors' runs have 0.12 at batch 512.
        "optimizer": {"name": "sgd", "learning_rate": 0.06, "weight_decay": 1e-4},
        "schedule": {"warmup_epochs": 3.0},
        "encoder": {"zero_init_residual": True},
        "views": "moco_v2",
    },
    "moco_v3": {
        "method": {
            "temperature": 0.2,
            "predictor": _predictor(4096),
            "ema": COSINE_TO_ONE,
        },
        "projector": _projector(2, 4096, 256),
        "optimizer": LARS | {"learning_rate": 0.3, "weight_decay": 1e-6},
        "views": "asymmetric",
    },
    "simclr": {
        "method": {"temperature": 0.2},
        "projector": _projector(2, 2048, 256, **NO_BN),
        "optimizer": LARS | {"learning_rate": 0.4, "weight_decay": 1e-4},
        "views": "symmetric",
        "crops": "symmetric",
    },
    "byol": {
        "method": {"predictor": _predictor(4096), "ema": COSINE_TO_ONE},
        "projector": _projector(2, 4096, 256, **NO_LAST_BN),
        "optimizer": LARS | {"learning_rate": 1.0, "weight_decay": 1e-5},
        "views": "asymmetric",
        "crops": "asymmetric",
    },
    "simsiam": {
        "method": {"predictor": _predictor(512)},
        "projector": _projector(3, 2048, 2048),
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.5,
            "weight_decay": 1e-5,
            "predictor_schedule": "constant",
        },
        "views": "weak",
    },
    "barlow_twins": {
        "method": {"loss_scale": 0.1, "off_diagonal_weight": 0.005},
        "projector": _projector(3, 2048, 2048, **NO_LAST_BN),
        "optimizer": LARS | {"learning_rate": 0.3, "weight_decay": 1e-4},
        "views": "asymmetric",
    },
    "vicreg": {
        "method": {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0},
        "projector": _projector(3, 2048, 2048, **NO_LAST_BN),
        "optimizer": LARS | {"learning_rate": 0.3, "weight_decay": 1e-4},
        "views": "vicreg",
    },
    "nnclr": {
        # The recipe has 65536, more than the 50,000 images of CIFAR.
        "method": {"temperature": 0.2, "queue_size": 32768, "predictor": _predictor(4096)},
        "projector": _projector(3, 2048, 256),
        "optimizer": LARS | {"learning_rate": 0.4, "weight_decay": 1e-5},
        "views": "asymmetric",
    },
    "deepcluster": {  # The paper's and the authors' code's; `CLUSTERS` has their number.
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,
            "weight_decay": 1e-5,
        },
        "schedule": {"warmup_epochs": 0.0, "end_factor": 1.0},  # constant
        "views": "plain",
    },
    "deepcluster_v2": {
        # An epoch more of the warm-up than others have, because nothing is learned in the first.
        "method": {"num_clusters": 3000, "num_heads": 3, "first_epoch": "ignore"},
        "projector": _projector(2, 2048, 128, **NO_LAST_BN),
        "optimizer": LARS | {"learning_rate": 0.6, "weight_decay": 1e-6},
        "schedule": {"warmup_epochs": 11.0, "end_factor": 0.001},
        "views": "symmetric",
    },
    "all4one": {
        # The recipe has 98304, more than the 50,000 images of CIFAR.
        "method": {
            "temperature": 0.2,
            "queue_size": 32768,
            "predictor": _predictor(4096),
            "ema": COSINE_TO_ONE,
        },
        "projector": _projector(3, 2048, 256, output_affine=True),
        "optimizer": LARS | {"learning_rate": 1.0, "weight_decay": 1e-5},
        "views": "asymmetric",
    },
    "w_mse": {
        "method": {"whitening_size": 128},
        "projector": _projector(2, 1024, 64, **NO_LAST_BN),
        "optimizer": {"name": "adam", "learning_rate": 2e-3, "weight_decay": 1e-6},
        "views": "w_mse",
    },
    # The authors' recipe is for ResNet-50 on ImageNet (main_pretrain.py of Matrix-SSL); it has none
    # for small images, so there the sizes and the rate of ImageNet are our choice.
    "matrix_ssl": {
        "method": {
            "predictor": _predictor(512),
            "ema": {"schedule": "cosine", "start": 0.996, "end": 1.0},
        },
        "projector": _projector(3, 2048, 2048),
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.5,
            "weight_decay": 1e-5,
            "decay": "all",
        },
        "encoder": {"zero_init_residual": True},
        "views": "matrix_ssl",
    },
    # The authors' recipe (config.py and runner.py of MinEnt). Heads of 2048, 1024, ..., 16 classes;
    # the projector is the first.
    "minent": {
        "method": {"further_heads": (1024, 512, 256, 128, 64, 32, 16)},
        "projector": _projector(3, 1024, 2048, **NO_LAST_BN),
        "optimizer": MINENT_ADAM,
        "schedule": MINENT_SCHEDULE,
        "views": "minent",
    },
    # Ours, because the authors' is not public: optimizer, schedule and views of MinEnt.
    "s3oc": {
        "method": {"levels": (1024, 512, 256, 128, 64), "temperature": 0.1},
        "optimizer": MINENT_ADAM,
        "schedule": MINENT_SCHEDULE,
        "views": "minent",
    },
    "swav": {
        "method": {
            "prototypes": {"count": 3000, "frozen_epochs": 2.0},
            "queue_size": 3840,
            "queue_start_epoch": 50,
        },
        "projector": _projector(2, 2048, 128, **NO_LAST_BN),
        "optimizer": LARS | {"learning_rate": 0.6, "weight_decay": 1e-6},
        "views": "symmetric",
    },
    # SwAV as its authors train it at batch 256 on ImageNet (facebookresearch/swav), with two views.
    "swav_authors": {
        "method": {"name": "swav", "queue_size": 3840, "queue_start_epoch": 15},
        "projector": _projector(2, 2048, 128, **NO_LAST_BN),
        "optimizer": {
            "name": "larc",
            "learning_rate": 0.6,
            "trust_coefficient": 0.001,
            "scaled": "all",
            "weight_decay": 1e-6,
            "decay": "all",
        },
        "schedule": {"warmup_epochs": 0.0, "end_factor": 1e-3},
        "views": "symmetric",
    },
    "dino": {
        "method": {
            "prototypes": {"count": 4096, "frozen_epochs": 1.0},
            "teacher": {"warmup_epochs": 50},
            "ema": COSINE_TO_ONE | {"start": 0.9995},
        },
        "projector": _projector(3, 2048, 256, **NO_BN) | {"activation": "gelu"},
        "optimizer": LARS | {"learning_rate": 0.3, "weight_decay": 1e-6},
        "views": "asymmetric",
    },
}
# Method -> overrides of its recipe on images that are not small.
ON_IMAGENET: dict[str, dict[str, Any]] = {
    "moco_v2": {"method": {"queue_size": 65536}},
    "light_moco": {"method": {"queue_size": 65536}},
    "simclr": {
        "projector": {"hidden_dim": 4096, "output_dim": 512},
        "optimizer": {"learning_rate": 0.3},
    },
    "byol": {
        "method": {"predictor": _predictor(8192)},
        "optimizer": {"learning_rate": 0.5, "weight_decay": 1e-6},
    },
    "nnclr": {"method": {"queue_size": 65536}},
    "all4one": {"method": {"queue_size": 98304}},
    "minent": {"views": "symmetric"},
    "s3oc": {"views": "symmetric"},
}
# Method -> overrides of both on STL-10.
ON_STL10: dict[str, dict[str, Any]] = {
    "minent": {
        "method": {"further_heads": (4096, 2048, 1024, 512, 256, 128, 64)},
        "projector": {"output_dim": 8192},
        "views": "minent",
    },
    "s3oc": {"views": "minent"},
}
# Method -> overrides at scale small. Its thousand steps leave the embeddings of the narrow network
# close to one another: with a recipe's temperatures, or in DINO without BN, assignments stay nearly
# uniform. Rates of 0.05, and teachers that take thousands of steps to follow, hardly move anything.
AT_SMALL_SCALE: dict[str, dict[str, Any]] = {
    "swav": {"method": {"epsilon": 0.03}},
    "swav_authors": {"method": {"epsilon": 0.03}},
    "deepcluster": {"optimizer": {"learning_rate": 0.4}},
    "matrix_ssl": {
        "method": {"ema": {"start": 0.9}},
        "optimizer": {"learning_rate": 1.0},
        "encoder": {"zero_init_residual": False},
    },
    "dino": {
        "method": {
            "teacher": {"temperature": 0.03, "start_temperature": 0.03},
            "ema": {"start": 0.99},
        },
        "projector": {"num_layers": 2, "hidden_bn": True},
    },
}
# Clusters of DeepCluster: ten for each class (Caron et al. 2018, section 4.2).
CLUSTERS = {
    "cifar10": 100,
    "cifar100": 1000,
    "stl10": 100,
    "imagenet100": 1000,
    "imagenet2012": 10000,
}
_HALF, _FULL, _COOL = (0.4, 0.4, 0.4, 0.1), (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.2, 0.1)
_STRONG, _FROM_FIFTH = (0.6, 0.6, 0.6, 0.2), (0.2, 1.0)
# Views of a recipe -> arguments of common.view for anchor, query and small views; the last of them
# stands for those that are missing.
VIEWS: dict[str, list[dict[str, Any]]] = {
    "weak": [{"jitter": _HALF}],
    "moco_v2": [{"jitter": _HALF, "crop_scale": _FROM_FIFTH}],
    "symmetric": [{"jitter": _FULL}],
    "asymmetric": [
        # The anchor is the sharper view: evaluation uses its BN statistics.
        {"jitter": _COOL, "blur_prob": 0.1, "solarize_prob": 0.2},
        {"jitter": _COOL, "blur_prob": 1.0},
    ],
    "matrix_ssl": [
        {"jitter": _COOL, "crop_scale": _FROM_FIFTH, "blur_prob": 0.1, "solarize_prob": 0.2},
        {"jitter": _COOL, "crop_scale": _FROM_FIFTH, "blur_prob": 1.0},
    ],
    "minent": [{"jitter": _HALF, "crop_scale": _FROM_FIFTH, "gray_prob": 0.1, "blur_prob": 0.0}],
    "plain": [{"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0}],  # crop and flip
    "vicreg": [{"jitter": _COOL, "crop_scale": _FROM_FIFTH, "solarize_prob": 0.1}],
    "w_mse": [{"jitter": _FULL, "crop_scale": _FROM_FIFTH, "blur_prob": 0.2}],
    # solo-learn's multi-crop of SwAV on CIFAR, which has none for other methods.
    "crops, small images": [
        {"jitter": _STRONG, "crop_scale": _FROM_FIFTH},
        {"jitter": _STRONG, "crop_scale": _FROM_FIFTH, "solarize_prob": 0.2},
        {"jitter": _FULL, "crop_scale": (0.08, 0.5), "solarize_prob": 0.1},
    ],
    # The code of SwAV: all crops alike, except for their size.
    "crops, swav": [
        {"jitter": _FULL, "crop_scale": (0.14, 1.0)},
        {"jitter": _FULL, "crop_scale": (0.14, 1.0)},
        {"jitter": _FULL, "crop_scale": (0.05, 0.14)},
    ],
}
# solo-learn's multi-crop of BYOL and SimCLR on ImageNet-100: small views of any share.
VIEWS["crops, asymmetric"] = [*VIEWS["asymmetric"], {"jitter": _COOL, "blur_prob": 0.0}]
VIEWS["crops, symmetric"] = [*VIEWS["symmetric"] * 2, {"jitter": _FULL, "blur_prob": 0.0}]
