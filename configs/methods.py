"""The words that make another method of the config of IE-CL; configs/recipes.py has its recipe."""

import copy
import itertools

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.config import kinds, section
from iecl_jax.configs import common
from iecl_jax.configs.recipes import (
    AT_SMALL_SCALE,
    CLUSTERS,
    ON_IMAGENET,
    ON_STL10,
    RECIPES,
    VIEWS,
)

# A method without a recipe has its file's defaults, and the heads, optimizer and views of IE-CL.
METHODS = (*RECIPES, *(name for name in kinds.names("method") if name not in RECIPES))
NAMES = ("ie_cl", *METHODS)
WORDS = (*NAMES, "saib", "terms", "sn", "crops", "blur")
FORM = "METHOD[+saib|+terms][+sn][+crops][+blur]"
WANTED = f"ie_cl or {FORM} with METHOD one of {', '.join(METHODS)}"


def parse(word: str) -> tuple[str, list[str]] | None:
    """Splits a word of the form FORM into (method, additions); None if it has another."""
    name, *additions = word.split("+")
    choices = ("", "saib", "terms"), ("", "sn"), ("", "crops"), ("", "blur")
    ends = [[part for part in parts if part] for parts in itertools.product(*choices)]
    known = additions in (ends if name in METHODS else ends[:1])
    return (name, additions) if name in NAMES and known else None


def use(config: ml_collections.ConfigDict, word: str, scale: str = "") -> ml_collections.ConfigDict:
    """Changes the default config, IE-CL, to another method and scale, in place, and returns it.

    Args:
      config: a config of IE-CL; the size of its images selects the recipe.
      word: a word of the form FORM. `saib` adds SAIB on the query with the entropy and
        KL terms of IE-CL. `terms` adds these terms on the plain query: the control experiment for
        SAIB. `sn` adds spectral normalisation. `crops` adds six small views, or two at a smaller
        scale, for a method whose loss uses them. `blur` blurs each view with probability 0.5, also
        small ones and those of a smaller scale. `ie_cl` has all but the blur and takes no addition.
      scale: one of common.SCALES, or "".

    Raises:
      ValueError: the loss of the method does not use small views.
    """
    parsed = parse(word)
    assert parsed is not None
    name, additions = parsed
    if name != "ie_cl":
        _follow_recipe(config, name)
        if "sn" in additions or "spectral_norm" in config.encoder:
            config.encoder.spectral_norm = "sn" in additions
        config.saib.enabled = "saib" in additions
        if not {"saib", "terms"} & set(additions):
            config.objective.kl.weight = config.objective.entropy.weight = 0.0
    common.at_scale(config, scale)
    if scale == "small":
        config.update(AT_SMALL_SCALE.get(name, {}))
    if "crops" in additions:
        _use_crops(config, name, count=2 if scale else 6)
    for view in config.augment.views if "blur" in additions else ():
        config.augment[view].blur.prob = 0.5
    return config


def _follow_recipe(config: ml_collections.ConfigDict, name: str) -> None:
    """Gives a config the settings of a method's recipe."""
    small_images = config.encoder.get("stem") == "cifar"
    recipe = copy.deepcopy(RECIPES.get(name, {}))
    of_data = [] if small_images else [ON_IMAGENET]
    of_data += [ON_STL10] if config.data.name == "stl10" else []
    for part, changes in (item for each in of_data for item in each.get(name, {}).items()):
        recipe[part] = changes if part == "views" else recipe.get(part, {}) | changes
    views, _ = recipe.pop("views", None), recipe.pop("crops", None)
    config.method = ml_collections.ConfigDict({"name": name} | recipe.pop("method", {}))
    config.method = config_lib.complete(config).method  # Adds the defaults of missing keys.
    if name == "deepcluster":
        config.method.num_clusters = CLUSTERS[config.data.name]
    for part, changes in recipe.items():
        config[part].update(changes)
    if views:
        config.augment.anchor, config.augment.query, _ = _views(views, small_images=small_images)


def _use_crops(config: ml_collections.ConfigDict, name: str, *, count: int) -> None:
    """Gives a config `count` small views, and the first two of the same recipe.

    Raises:
      ValueError: the loss of the method does not use them.
    """
    if "crops" not in config.method:
        able = [each for each in METHODS if _takes_crops(each)]
        raise ValueError(
            f"{name}+crops: the loss of {name} does not use small views: take out +crops, or use "
            f"one of {', '.join(able)}."
        )
    small_images = config.encoder.get("stem") == "cifar"
    recipe = "small images" if small_images else RECIPES.get(name, {}).get("crops", "swav")
    config.method.crops = True
    augment = config.augment
    augment.anchor, augment.query, small = _views(f"crops, {recipe}", small_images=small_images)
    # 18 of 32 px in solo-learn's, 96 of 224 px in all others.
    share = 18 / 32 if small_images else 96 / 224
    small.size = round(share * config.data.image_size)
    common.add_views(augment, {f"crop{i}": small for i in range(1, count + 1)})


def _takes_crops(name: str) -> bool:
    file = RECIPES.get(name, {}).get("method", {}).get("name", name)
    return "crops" in section.keys(kinds.settings("method", file))


def _views(recipe: str, *, small_images: bool) -> list[ml_collections.ConfigDict]:
    """Returns the settings of a recipe's anchor, query and small views. Small images get no blur.

    A recipe without small views returns those of the query for them.
    """
    given = VIEWS[recipe]
    of_each = [given[min(place, len(given) - 1)] for place in range(3)]
    return [
        common.view(**({"blur_prob": 0.5} | ops | ({"blur_prob": 0.0} if small_images else {})))
        for ops in of_each
    ]
