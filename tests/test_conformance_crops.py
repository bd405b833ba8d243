"""The conformance suite on a method with small views, which share BN statistics with their like."""

import pytest
from conformance import *  # noqa: F403
from conformance import make_case, tiny_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case():
    return make_case(tiny_config("byol", saib=True, crops=True, **{"method.batch_stats": "size"}))
