"""Table 2a of the paper: four data sets with ResNet-18 at batch 256.

    python -m iecl_jax.main --config=configs/resnet18.py:cifar10
    python -m iecl_jax.main --config=configs/resnet18.py:cifar10,simclr+saib

The first argument is the data set: cifar10, cifar100 or stl10 (1000 epochs), or imagenet (300
epochs). The second one is METHOD[+saib][+sn][+crops][+blur] with a METHOD of configs/methods.py;
the default is IE-CL.

Published linear top-1 of IE-CL (not measured here): 92.1, 69.5, 91.9 and 59.4 %. configs/tables.py
has those of the other methods.
"""

import ml_collections

from iecl_jax.configs import common, imagenet_r50, methods

DATA_SETS = ("cifar10", "cifar100", "stl10", "imagenet")


def get_config(arg: str = "cifar10") -> ml_collections.ConfigDict:
    words, scale = common.split_scale(arg, common.SCALES)
    name, method = (words + ["cifar10", "ie_cl"][len(words) :])[:2]
    if len(words) > 2 or name not in DATA_SETS or methods.parse(method) is None:
        wanted = (
            f"DATASET or DATASET,METHOD with one of {', '.join(DATA_SETS)} and {methods.WANTED}"
        )
        raise common.unknown_variant(arg, wanted, common.SCALES, (*DATA_SETS, *methods.WORDS))
    config = imagenet_r50.get_config()
    config.encoder.name = "resnet18"
    if name == "imagenet":
        config.train.num_epochs = 300
    else:
        config.train.num_epochs = 1000
        config.eval.every_epochs = 50
        config.eval.knn.update({"k": 200, "temperature": 0.1})
        config.data.update({"name": name, "num_threads": 4})
    if name.startswith("cifar"):
        config.data.image_size = 32
        config.saib.patch_size = 4
        config.encoder.stem = "cifar"
        config.augment = common.simclr_small_augment()
    elif name == "stl10":
        config.data.image_size = 96
        config.saib.patch_size = 12
    return methods.use(config, method, scale)
