"""Each way to assemble, forced in turn."""

from __future__ import annotations

import pytest

from tests.kernel.conftest import real_root, route

__all__ = ["real_root", "route"]

pytest.register_assert_rewrite("tests.faults.stock")
