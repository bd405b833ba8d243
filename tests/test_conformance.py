"""Every method without SAIB keeps the contract of tests/conformance.py."""

from conformance import *  # noqa: F403
from conformance import cases

case = cases(saib=False)
