"""IE-CL with ResNet-18 at batch 256: Table 2a of the paper.

    python -m iecl_jax.main --config=configs/resnet18.py:cifar10

The argument is the data set: cifar10, cifar100, stl10 (1000 epochs) or imagenet (300 epochs).
Published linear top-1 (not measured here): 92.1, 69.5, 91.9 and 59.4 %.
"""

import ml_collections

from configs import common, imagenet_r50

CIFAR10_STATS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_STATS = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
STL10_STATS = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)


def get_config(arg: str = "cifar10") -> ml_collections.ConfigDict:
    name, smoke = common.parse_arg(
        arg, default="cifar10", choices=["cifar10", "cifar100", "stl10", "imagenet"]
    )
    config = imagenet_r50.get_config()
    config.encoder.name = "resnet18"
    if name == "imagenet":
        config.train.num_epochs = 300
    else:
        config.train.num_epochs = 1000
        config.eval.update({"every_epochs": 50, "knn_k": 200, "knn_temperature": 0.1})
        config.data.update({"name": name, "cache": "device", "num_threads": 4})
    if name.startswith("cifar"):
        config.data.image_size = 32
        config.saib.patch_size = 4
        config.encoder.stem = "cifar"
        stats = CIFAR10_STATS if name == "cifar10" else CIFAR100_STATS
        config.augment = common.simclr_small_augment(*stats)
    elif name == "stl10":
        config.data.update({"image_size": 96, "cache": "host"})
        config.saib.patch_size = 12
        config.augment.mean, config.augment.std = STL10_STATS
    if smoke:
        common.make_smoke(config)
    return config
