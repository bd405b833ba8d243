"""Every method without SAIB keeps the contract of tests/conformance.py."""

from conformance import *  # noqa: F403
from conformance import cases

# Two of these run with SAIB in every suite; others have the same parts as one that is not slow.
SLOW = (
    "byol",
    "vicreg",
    "dino",
    "all4one",
    "light_moco",
    "swav_authors",
    "deepcluster",
    "matrix_ssl",
)
FURTHER = ("minent", "s3oc", "simsiam", "barlow_twins", "nnclr", "moco_v3", "w_mse")
case = cases(saib=False, slow=(*SLOW, *FURTHER))
