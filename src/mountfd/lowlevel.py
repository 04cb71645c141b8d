"""The basement, for experts: raw calls, flags, layouts and numbers as the kernel names them.

    calls      one function for each call, errors already raised as exceptions of the family
    flags      flag words            numbers    commands, requests, limits
    layouts    the structures        drop_caches()    close what is kept open

Descriptors that these functions return are plain numbers: close them yourself.
"""

from __future__ import annotations

from mountfd.abi import calls, flags, layouts, numbers
from mountfd.handles.fd import OwnedFd
from mountfd.handles.kernel_log import drop_idle
from mountfd.handles.namespace import drop_caches as _drop_namespaces
from mountfd.handles.template import drop_templates

__all__ = ["OwnedFd", "calls", "drop_caches", "flags", "layouts", "numbers"]


def drop_caches() -> None:
    """Close what is kept open between calls: user namespaces by their idmap, mount namespaces to copy, kernel's log."""
    _drop_namespaces()
    drop_templates()
    drop_idle()
