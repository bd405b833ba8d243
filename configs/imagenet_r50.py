"""Table 1 of the paper: ImageNet with ResNet-50. The base of all pretraining configs.

    python -m iecl_jax.main --config=configs/imagenet_r50.py:100
    python -m iecl_jax.main --config=configs/imagenet_r50.py:100,byol

The first argument is the number of epochs: 100, 200, 400 or 800. The second one is
METHOD[+saib][+sn][+blur] with a METHOD of configs/methods.py; the default is IE-CL. A method has
the batch size that the table prints, `train.batch_size` changes it. `:100,smoke` takes a few steps
of a tiny network on generated images; `:100,small` is a version on CIFAR-10 for two CPU cores.

All values of IE-CL are the defaults in iecl_jax/config/pretrain.py, which lists all settings;
`--print_config` prints those of any config. Every other pretraining config starts from this one.

Published linear top-1 of IE-CL (not measured here): 68.3, 70.9, 71.7 and 73.2 %. configs/tables.py
has those of the other methods.
"""

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.configs import common, methods

EPOCHS = ("100", "200", "400", "800")
# Where it is not IE-CL's, 256. BYOL is not in the table: Table 4 of the paper of SimSiam has it.
BATCH_SIZES = {"simclr": 4096, "byol": 4096, "nnclr": 1024}


def get_config(arg: str = "100") -> ml_collections.ConfigDict:
    words, scale = common.split_scale(arg, common.SCALES)
    epochs, method = (words + ["100", "ie_cl"][len(words) :])[:2]
    parsed = methods.parse(method)
    if len(words) > 2 or epochs not in EPOCHS or parsed is None:
        wanted = f"EPOCHS or EPOCHS,METHOD with one of {', '.join(EPOCHS)} and {methods.WANTED}"
        raise common.unknown_variant(arg, wanted, common.SCALES, (*EPOCHS, *methods.WORDS))
    config = config_lib.new("pretrain")
    config.train.num_epochs = int(epochs)
    config.train.batch_size = BATCH_SIZES.get(parsed[0], config.train.batch_size)
    return methods.use(config, method, scale)
