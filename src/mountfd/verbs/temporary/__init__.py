"""temporary: work on a mount's content for a while.

| what | who can see it | after kill -9 | file |
| --- | --- | --- | --- |
| temporary | nobody else: it is attached nowhere | nothing is left | unseen.py |
| temporary_path | everybody in this namespace: it has a path | `sweep` finds and clears it | seen.py, sweeping.py |

How both take away what is mounted there: clearing.py.
"""

from __future__ import annotations

from mountfd.verbs.temporary.seen import temporary_path
from mountfd.verbs.temporary.sweeping import Finding, sweep
from mountfd.verbs.temporary.unseen import temporary

__all__ = ["Finding", "sweep", "temporary", "temporary_path"]
