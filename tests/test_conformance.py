"""Every method without SAIB keeps the contract of tests/conformance.py.

Its bfloat16 step is a slow test, since the one with SAIB holds it: `pytest -m slow`.
"""

import conformance
import pytest
from conformance import *  # noqa: F403
from conformance import cases

case = cases(saib=False)
test_a_bfloat16_step_stays_finite = pytest.mark.slow(conformance.test_a_bfloat16_step_stays_finite)
