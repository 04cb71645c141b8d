"""query: questions about mounts, answered without reading the mount table wherever the kernel lets one ask directly.

| question | asked by | file |
| --- | --- | --- |
| is this path a mount? | one statx(2) | point.py, place.py |
| what is this mount? | statx(2) and statmount(2) | lookup.py, asking.py |
| what stands below it? | listmount(2) and a statmount(2) each | listing.py |
| what stands in this namespace? | /proc/self/mountinfo, decoded lazily | listing.py |
| what stands in another one? | listmount(2) and statmount(2) with its id; else a thread goes there | elsewhere.py |
| any of these, where the kernel or a filter has no such call | descriptors, fdinfo and the table | oldway.py |
"""

from __future__ import annotations

from mountfd.verbs.query.listing import mounts
from mountfd.verbs.query.lookup import lookup
from mountfd.verbs.query.point import is_mount

__all__ = ["is_mount", "lookup", "mounts"]
