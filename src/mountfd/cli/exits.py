"""Exit statuses: mount(8)'s for what mounts, env(1)'s for what runs a command."""

from __future__ import annotations

OK = 0
USAGE = 1  # incorrect invocation or permissions
NOTHING = 1  # findmnt(8)'s: nothing was found to show
SYSTEM = 2  # out of memory, descriptors ...
INTERRUPTED = 8
FAILURE = 32
SOME = 64  # of several, some succeeded
NOT_A_MOUNT = 32  # mountpoint(1)'s

RUN_FAILED = 125  # the command was never reached
RUN_CANNOT = 126  # it is there but can't be executed
RUN_MISSING = 127  # it isn't there
SIGNALLED = 128  # plus the signal's number
