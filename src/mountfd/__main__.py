"""`python -m mountfd`: the command line."""

from __future__ import annotations

from mountfd.cli import program

if __name__ == "__main__":
    program()
