"""Each way to assemble, forced in turn."""

from __future__ import annotations

import pytest

from tests.support.need import need_real_root

ROUTES = ("descriptor", "path", "string")


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one route of assemble after the other."""
    name: str = request.param
    monkeypatch.setenv("MOUNTFD_ROUTE", f"assemble:{name}")
    return name


@pytest.fixture
def real_root() -> None:
    """Skip where ids can't be mapped at will; what root of a user namespace can do has a file of its own."""
    need_real_root()
