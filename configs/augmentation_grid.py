"""Fig. 3 of the paper: one operator on the query and one on the anchor, on ImageNet-100.

    python -m iecl_jax.main --config=configs/augmentation_grid.py:saib,crop

The arguments are the query's operator and the anchor's. Each is one of crop, color, noise, rotate,
blur and saib. Apart from its operator, a view is only resized; of an oblong image it shows the
central square. Strengths and probabilities are SimCLR's where SimCLR has the operator; noise and
rotation are always applied. All pairs use ResNet-18 with spectral normalisation. A pair with SAIB
also has IE-CL's entropy and KL terms.

Published linear top-1 (not measured here): from 51.1 % (saib,crop) to 4.0 %, see configs/tables.py.
"""

import ml_collections

from iecl_jax.configs import common, resnet18

OPERATORS: dict[str, dict[str, dict[str, object]]] = {
    "crop": {"crop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}},
    "color": {
        "jitter": {"prob": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2},
        "gray": {"prob": 0.2},
    },
    "noise": {"noise": {"prob": 1.0}},
    "rotate": {"rotate": {"prob": 1.0}},
    "blur": {"blur": {"prob": 0.5}},
    "saib": {},
}
# (SAIB on the query, SAIB on the anchor) -> saib.side
SIDES = {(True, False): "query", (False, True): "anchor", (True, True): "both"}


def get_config(arg: str = "crop,crop") -> ml_collections.ConfigDict:
    words, scale = common.split_scale(arg, common.SCALES)
    words = words or ["crop", "crop"]
    if len(words) != 2 or not set(words) <= set(OPERATORS):
        wanted = f"QUERY,ANCHOR with two of {', '.join(OPERATORS)}"
        raise common.unknown_variant(arg, wanted, common.SCALES, tuple(OPERATORS))
    query, anchor = words
    config = resnet18.get_config("imagenet")
    config.data.name = "imagenet100"
    config.train.num_epochs = 100
    if "saib" in words:
        config.saib.side = SIDES[query == "saib", anchor == "saib"]
    else:
        config.saib.enabled = False
        config.objective.kl.weight = config.objective.entropy.weight = 0.0
    config = common.at_scale(config, scale)
    for name, operator in (("query", query), ("anchor", anchor)):
        view = config.augment[name]
        # Turns off every operator that the default config has on; the chosen one follows.
        view.crop.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0)})
        for other in ("flip", "jitter", "gray", "blur"):
            view[other].prob = 0.0
        view.update(OPERATORS[operator])
    return config
