"""Every method without SAIB keeps the contract of tests/conformance.py."""

from conformance import *  # noqa: F403
from conformance import cases

# These two run with SAIB in every suite.
case = cases(saib=False, slow=("byol", "vicreg"))
