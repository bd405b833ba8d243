"""Every method without SAIB keeps the contract of tests/conformance.py."""

from conformance import *  # noqa: F403
from conformance import cases

# Two run with SAIB in every suite; swav has prototypes too, and others a momentum network.
case = cases(saib=False, slow=("byol", "deepcluster", "vicreg", "dino", "all4one", "light_moco"))
