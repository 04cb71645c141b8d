"""`python -m mountfd`: the command line."""

from __future__ import annotations

import sys

from mountfd.cli import main

if __name__ == "__main__":
    sys.exit(main())
