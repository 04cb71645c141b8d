"""Where programs of the system are: along PATH, or else where they usually are, which some users' PATH leaves out."""

from __future__ import annotations

__all__ = ["PATH", "find_program"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str) -> str | None:
    """Find a program, or None."""
    import shutil  # noqa: PLC0415 (few start programs)

    return shutil.which(name) or shutil.which(name, path=PATH)
