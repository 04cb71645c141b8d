"""replace: another mount in place of one that stands, with no instant without either.

| step | what | file |
| --- | --- | --- |
| wait | for another replacement here: a lock that ends with the process | waiting.py |
| resolve | the top mount, by descriptor and unique id; a replacement that was killed half-way is ended | standing.py |
| build | the new mount, detached | building.py |
| carry | clones of what stands below go into it | carrying.py, bystanders.py |
| check | the caller looks at it: the last chance to leave everything as it was | switching.py |
| tuck | it is attached beneath: everybody still sees the old one | switching.py, ../../handles/beneath.py |
| switch | the old one is detached: everybody sees the new one | standing.py |
"""

from __future__ import annotations

from mountfd.verbs.replace.planning import plan
from mountfd.verbs.replace.switching import Previous, replace, route

__all__ = ["Previous", "plan", "replace", "route"]
