"""Each way to assemble, forced in turn."""

from __future__ import annotations

import pytest

from tests.kernel.conftest import route

__all__ = ["route"]

pytest.register_assert_rewrite("tests.faults.stock")
