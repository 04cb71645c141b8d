"""Each way to assemble, forced in turn."""

from __future__ import annotations

import pytest

ROUTES = ("descriptor", "path", "string")


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one route of assemble after the other."""
    name: str = request.param
    monkeypatch.setenv("MOUNTFD_ROUTE", f"assemble:{name}")
    return name
