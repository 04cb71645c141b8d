"""Each way to assemble, forced in turn."""

from __future__ import annotations

import pytest

from mountfd import has
from tests.support.layers import ASSEMBLE
from tests.support.need import need, need_real_root


@pytest.fixture(params=ASSEMBLE)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one route of assemble after the other, as far as the kernel has it."""
    name: str = request.param
    feature = ASSEMBLE[name]
    need(has(feature), f"{feature.name} (Linux {feature.since})")
    monkeypatch.setenv("MOUNTFD_ROUTE", f"assemble:{name}")
    return name


@pytest.fixture
def real_root() -> None:
    """Skip where ids can't be mapped at will; what root of a user namespace can do has a file of its own."""
    need_real_root()
