"""run: a command inside its own namespaces, on a root filesystem that goes with it.

| who | where | does |
| --- | --- | --- |
| this process | outside.py, following.py | makes what is needed, detached; passes signals on; waits |
| keeper, init, command | inside.py, arrange.py | attach, enter the namespaces, pivot, execute |
| the root | hostroot.py | the host's own `/`, or layers, under an upper layer that is thrown away |
| what stands in it | furnish.py | /dev, /sys, /tmp, binds |

Who has the capabilities for it has everything made outside, and attached before the border to the user namespace is
crossed, which locks it. Others may mount nothing outside, so for them the same is made inside the user namespace, with
what the kernel allows there; unprivileged.py knows whose ids they get. In a user namespace, where the default idmap's
ids don't exist or files can't be idmapped, the command gets the ids that there are, as they are.
"""

from __future__ import annotations

from mountfd.errors import InvalidSpec
from mountfd.handles.mount import Mount
from mountfd.model.command import Command
from mountfd.verbs.run.outside import perform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from mountfd.model.command import Surroundings

__all__ = ["run"]


def run(
    argv: Sequence[str],
    *,
    root: Mount | None = None,
    note: Callable[[str], None] | None = None,
    **surroundings: Unpack[Surroundings],
) -> int:
    """Run a command in namespaces of its own and give its exit status, 128+n when signal n ended it.

    Arguments: argv, the program and its words; root, a detached Mount to be its root filesystem (closed afterwards);
    without one, layers=[...] under a throwaway upper layer, or the host's own `/` likewise; note, told what can't be
    had here and why; the others are Command's: layers, upper, work, idmap, binds, tmpfs, net, env, chdir, hostname,
    pid_namespace.
    By default the command is root inside and an unprivileged id outside, changes nothing on the host, and all that it
    mounted or started is gone when it ends, also when this process is killed; without a pid namespace that is the
    command alone, not what it started.
    Where the caller lacks the capabilities to mount (CAP_SYS_ADMIN and others), or is in a user namespace itself, the
    command has the caller's ids instead: its own and subordinate ones (newuidmap(1)), or those of that namespace.
    Raises: Missing or another KernelError with syscall "execve" when the program can't be executed; what assemble
    raises; NotSupported for what this user can't have.
    Calls: unshare(2), setns(2), move_mount(2), pivot_root(2), Linux 5.12.
    """
    if root is not None and not isinstance(root, Mount):
        raise InvalidSpec(f"root must be a Mount, not {root!r}", part="root")
    return perform(Command(argv, **surroundings), root, note or (lambda _: None))
