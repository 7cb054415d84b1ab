"""Which runs are long: `FAULT_FULL=1` has every count and every fault; without it a part of them, and that is said."""

from __future__ import annotations

import os

import pytest

FULL = bool(os.environ.get("FAULT_FULL"))
only_in_full = pytest.mark.skipif(not FULL, reason="FAULT_FULL IS NOT SET: this long run was left out")
