"""Methods with SAIB keep the contract of tests/conformance.py.

MoCo-v2 by default; the others are slow tests.
"""

from conformance import *  # noqa: F403
from conformance import cases

case = cases(saib=True, quick=("moco_v2",))
