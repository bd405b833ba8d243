"""Methods with SAIB keep the contract of tests/conformance.py.

Two by default: with a momentum network and without. The others are slow tests.
"""

from conformance import *  # noqa: F403
from conformance import cases

case = cases(saib=True, quick=("moco_v2", "vicreg"))
