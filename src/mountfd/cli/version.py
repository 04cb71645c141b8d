"""What --version says."""

from __future__ import annotations

import sys

from mountfd.cli import exits

__all__ = ["show_version"]


def show_version() -> int:
    """Write name and version on standard output."""
    from mountfd import __version__  # noqa: PLC0415 (only when asked)

    sys.stdout.write(f"mountfd {__version__}\n")
    return exits.OK
