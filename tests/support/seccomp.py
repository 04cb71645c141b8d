"""A real seccomp filter for a child process: named system calls answer an errno instead of being made."""

from __future__ import annotations

import ctypes
import os
import struct

from tests.support.need import need

__all__ = ["NUMBERS", "forbid"]

# asm/unistd.h; the newer ones have one number on every architecture.
NUMBERS = {"statmount": 457, "listmount": 458, "statx": {"x86_64": 332, "aarch64": 291}.get(os.uname().machine, -1)}

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid(*names: str, errno: int) -> None:
    """Let this process's calls of these names fail from now on. There is no way back: call it in a child."""
    numbers = [NUMBERS[name] for name in names]
    need(-1 not in numbers, "the number of statx(2) on this machine")
    code = struct.pack("=HBBI", _LOAD, 0, 0, 0)
    for left, number in reversed(list(enumerate(reversed(numbers)))):
        code += struct.pack("=HBBI", _EQUAL, left + 1, 0, number)
    code += struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW) + struct.pack("=HBBI", _RETURN, 0, 0, _ERRNO | errno)
    program = _Program(len(code) // 8, code)
    for option, value, pointer in (
        (_NO_NEW_PRIVS, 1, None),
        (_SET_SECCOMP, _MODE_FILTER, ctypes.cast(ctypes.byref(program), ctypes.c_void_p)),
    ):
        if _libc.prctl(option, value, pointer, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
