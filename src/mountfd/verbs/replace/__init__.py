"""replace: another mount in place of one that stands, with no instant without either.

| step | what | file |
| --- | --- | --- |
| wait | for another replacement here or of what stands below: locks that end with the process | waiting.py |
| resolve | the top mount, by descriptor and unique id | standing.py |
| end | a replacement that was killed half-way | ending.py |
| build | the new mount, detached | building.py |
| carry | clones of what stands below go into it | carrying.py, receiving.py |
| refuse | what would be lost in another namespace | bystanders.py |
| check | the caller looks at it: the last chance to leave everything as it was | switching.py |
| tuck | it is attached beneath: everybody still sees the old one | steps.py, ../../handles/beneath.py |
| look | what came in the last moment comes along, too | steps.py, latecomers.py |
| switch | the old one is detached: everybody sees the new one | steps.py, standing.py |
"""

from __future__ import annotations

from mountfd.verbs.replace.planning import Plan, plan
from mountfd.verbs.replace.switching import Previous, replace, route

__all__ = ["Plan", "Previous", "plan", "replace", "route"]
