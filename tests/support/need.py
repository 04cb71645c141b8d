"""Skip a test by naming what is missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountfd import Feature, FsContext, IdMap, MountNamespace, NotSupported, has


def need(condition: object, feature: str) -> None:
    """Skip the running test (or, at the top of a file, the whole file) unless the condition holds."""
    if not condition:
        pytest.skip(f"missing: {feature}", allow_module_level=True)


def need_command(name: str) -> str:
    """Give the path of a program, or skip."""
    path = shutil.which(name)
    need(path, f"{name}(1)")
    return str(path)


def need_real_root() -> None:
    """Skip unless this is root of the whole machine, not only of a user namespace."""
    everyone = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    need(os.geteuid() == 0 and everyone, "root outside of any user namespace")


def need_unique_ids() -> None:
    """Skip where the library has no id to give: it gives none that the kernel reuses."""
    need(has(Feature.STATX_MNT_ID_UNIQUE), "STATX_MNT_ID_UNIQUE (Linux 6.8)")


def need_walk_of_namespaces() -> None:
    """Skip where a mount namespace without processes is out of sight."""
    need(namespaces_can_be_walked(), "NS_MNT_GET_NEXT (Linux 6.12)")


def namespaces_can_be_walked() -> bool:
    """Say whether mount namespaces without processes can be seen."""
    try:
        with MountNamespace.current() as own, contextlib.closing(own.others()) as others:  # type: ignore[type-var]
            next(others).close()
    except NotSupported:
        return False
    return True


def need_idmapped_tmpfs() -> None:
    """Skip where a tmpfs, as the scratch directory's, takes no idmap."""
    try:
        with FsContext.open("tmpfs") as context, context.create().mount() as mount:
            mount.idmap(IdMap.parse("0:100000:1"))
    except NotSupported:
        need(condition=False, feature="idmapped tmpfs (Linux 6.3)")


def need_user_xattrs(place: Path) -> None:
    """Skip where a directory takes no attributes of users, as on a tmpfs."""
    try:
        os.setxattr(place, "user.probe", b"")
    except OSError:
        need(condition=False, feature="user xattrs on a tmpfs (Linux 6.6)")
    os.removexattr(place, "user.probe")


def need_user_namespaces(user: int) -> None:
    """Skip unless an ordinary user may make user namespaces."""
    words = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "unshare", "--user", "true"]
    done = subprocess.run(words, check=False, capture_output=True)
    need(done.returncode == 0, "user namespaces for ordinary users")


@contextmanager
def no_user_namespaces() -> Iterator[None]:
    """Let nobody on this machine make a user namespace for a while."""
    sysctl = Path("/proc/sys/user/max_user_namespaces")
    before = sysctl.read_text()
    try:
        sysctl.write_text("0")
    except PermissionError:
        need(condition=False, feature="CAP_SYS_RESOURCE")
    try:
        yield
    finally:
        sysctl.write_text(before)
