"""The basement, for experts: raw calls, flags, layouts and numbers as the kernel names them.

    calls      one function for each call, errors already raised as exceptions of the family
    flags      flag words            numbers    commands, requests, limits
    layouts    the structures        drop_caches()    close the kept user namespaces

Descriptors that these functions return are plain numbers: close them yourself.
"""

from __future__ import annotations

from mountfd.abi import calls, flags, layouts, numbers
from mountfd.handles.fd import OwnedFd
from mountfd.handles.namespace import drop_caches

__all__ = ["OwnedFd", "calls", "drop_caches", "flags", "layouts", "numbers"]
