"""What users care about, tried in a guest through the public API: native, fallback (which), partly, or refused (why).

Nothing here asks for a version or for a feature's name: each trial does the thing, looks at the result, and tells from
the trace which way it went.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mountfd
from mountfd import (
    Denied,
    IdMap,
    KernelError,
    Layer,
    Mount,
    MountfdError,
    MountNamespace,
    MountSpec,
    NotSupported,
    Overlay,
)
from mountfd.lowlevel import calls, drop_caches
from mountfd.verbs.examine import examine
from tests.support import private
from tests.support.images import image_file
from tests.support.layers import SHIFTED, fill, inside, layers, pair
from tests.support.mounting import MNT_DETACH, MS_SHARED, bind, change, tmpfs, umount
from tests.support.namespaces import in_user_namespace
from tests.support.others import NOBODY, in_child

__all__ = ["BROKEN", "FALLBACK", "NATIVE", "PARTLY", "REFUSED", "TRIALS", "attempt"]

NATIVE, FALLBACK, PARTLY, REFUSED, BROKEN = "native", "fallback", "partly", "refused", "broken"

_TOLD = ("fstype", "source", "attrs", "propagation", "options")


class Trace:
    """The lines of a trace, while it lasts."""

    def __init__(self) -> None:
        """Begin with none."""
        self.lines: list[str] = []

    def made(self, *words: str) -> bool:
        """Say whether a call that succeeded has all of these words in its line."""
        return any(all(word in line for word in words) and " = -1 " not in line for line in self.lines)

    def route(self, verb: str) -> str:
        """Name the route that a verb took."""
        return next(line.split()[3].rstrip(",") for line in self.lines if line.startswith(f"# {verb}: route "))


def native(*, when: object = True, otherwise: str = "") -> str:
    """Put it into a word."""
    return NATIVE if when else f"{FALLBACK}: {otherwise}"


def attempt(act: Callable[[Path, Trace], str]) -> str:
    """Do one of TRIALS in a directory of its own; give a text that begins with one of the five words."""
    trace = Trace()
    with _directory() as place, mountfd.trace(trace.lines.append):
        try:
            return act(place, trace)
        except NotSupported as error:
            return f"{REFUSED}: {error.feature or error}"
        except MountfdError as error:
            return f"{BROKEN}: {error!r}"
        except Exception as error:  # noqa: BLE001 (a finding, handed to the host)
            return f"{BROKEN}: {error!r}"
        finally:
            drop_caches()


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="trial-"))
    private.mount_tmpfs(place)
    yield place
    private.detach(place)
    place.rmdir()


@contextlib.contextmanager
def _idmappable(place: Path) -> Iterator[Path]:
    """Give the directory, or where a tmpfs can't be idmapped one on a disk's filesystem."""
    kinds = examine()["idmapped"]
    assert isinstance(kinds, dict)
    if kinds["tmpfs"]:
        yield place
    else:
        with _on_disk() as there:
            yield there


@contextlib.contextmanager
def _on_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        yield Path(home)


# --- root filesystems ----------------------------------------------------------------------------------------------
def _overlay(count: int, place: Path, trace: Trace) -> str:
    below = place / ("a name that makes the text of all the layers longer than one page" if count > 9 else "few")
    with mountfd.assemble(Overlay(layers(below, count), *pair(place))) as mount:
        assert (inside(mount) / f"own{count - 1}").exists()
    return _overlay_route(trace)


def _overlay_idmapped(place: Path, trace: Trace) -> str:
    with _idmappable(place) as there:
        return _assemble_idmapped(there, trace)


def _assemble_idmapped(place: Path, trace: Trace) -> str:
    with mountfd.assemble(Overlay(layers(place, 2), *pair(place), idmap=SHIFTED)) as mount:
        assert (inside(mount) / "own0").stat().st_uid == 100000
    return _overlay_route(trace)


def _overlay_idmapped_upper(place: Path, trace: Trace) -> str:
    with _idmappable(place) as there:
        return _assemble_idmapped_upper(there, trace)


def _assemble_idmapped_upper(place: Path, trace: Trace) -> str:
    upper, work = pair(place)
    with mountfd.assemble(Overlay(layers(place, 2), Layer(upper, SHIFTED), work, idmap=SHIFTED)) as mount:
        os.chown(inside(mount) / "own0", 100007, 100007)
    assert (upper / "own0").stat().st_uid == 7
    return _overlay_route(trace)


def _overlay_route(trace: Trace) -> str:
    route = trace.route("assemble")
    words = {"path": "layers by path, in a namespace of a thread", "string": "one option string, over short names"}
    return native(when=route == "descriptor", otherwise=words.get(route, route))


def _overlay_by_anybody(place: Path, _trace: Trace) -> str:
    """Without privilege: in a user namespace of one's own."""
    place.chmod(0o777)
    lower = layers(place, 2)
    there = place / "there"
    there.mkdir(mode=0o777)
    there.chmod(0o777)

    def act() -> str:
        in_user_namespace()
        trace = Trace()
        with mountfd.trace(trace.lines.append), mountfd.assemble(Overlay(lower, *pair(there))) as mount:
            (inside(mount) / "new").touch()
        return _overlay_route(trace)

    try:
        return in_child(act, user=NOBODY)
    except Denied as error:
        return f"{REFUSED}: {error.strerror}"


# --- mounts --------------------------------------------------------------------------------------------------------
def _bind_idmapped(place: Path, _trace: Trace) -> str:
    (place / "to").mkdir()
    with _idmappable(place) as there:
        source = fill(there / "from", {"file": ""})
        mountfd.mount(MountSpec("none", str(source), options=["bind", "X-mount.idmap=b:0:100000:10"]), place / "to")
        assert (place / "to/file").stat().st_uid == 100000
        umount(place / "to")
    return native()


def _clone_detached(place: Path, _trace: Trace) -> str:
    with Mount.clone(place) as first:
        try:
            second = Mount.clone_fd(first.fileno())
        except KernelError as error:
            return f"{REFUSED}: {error.strerror}"
        second.close()
    return native()


def _temporary_tree(place: Path, trace: Trace) -> str:
    fill(place / "from/sub", {"file": ""})
    specs = [
        MountSpec("none", str(place / "from"), options=["bind"]),
        MountSpec("tmpfs", "tmpfs", "sub"),
    ]
    with mountfd.temporary(specs) as root:
        assert os.listdir(os.open("sub", os.O_RDONLY, dir_fd=root.fileno())) == []
    return native(when=not trace.made("unshare("), otherwise="attached one by one in a namespace of a thread")


def _erofs_file(place: Path, _trace: Trace) -> str:
    (place / "point").mkdir()
    with _on_disk() as home:  # a tmpfs's files can't be erofs's source
        image = image_file("erofs", home, {"file": "hello"})
        mountfd.mount(MountSpec("erofs", str(image), options=["ro"]), place / "point")
        assert (place / "point/file").read_text() == "hello"
        source = mountfd.lookup(place / "point", fields=("source",)).source
        umount(place / "point")
    return native(when=source == str(image), otherwise="on a loop device")


# --- replace -------------------------------------------------------------------------------------------------------
def _replace(place: Path, *, shared: bool, submount: bool) -> str:
    home = tmpfs(place / "home")
    if shared:
        change(home, MS_SHARED)
        bind(home, place / "peer")
    target = tmpfs(home / "target")
    fill(home / "new", {"v": "new"})
    if submount:
        fill(home / "new/sub")
        fill(tmpfs(target / "sub"), {"kept": ""})

    def done(*, allow_gap: bool) -> bool:
        with mountfd.replace(target, home / "new", allow_gap=allow_gap) as previous:
            views = [target, place / "peer/target"] if shared else [target]
            assert all((view / "v").read_text() == "new" for view in views)
            assert not submount or all((view / "sub/kept").exists() for view in views)
            return previous.gap

    try:
        return native(when=not done(allow_gap=False), otherwise="with a gap")
    except NotSupported as error:
        refusal = f"{REFUSED}: {error.feature}"
    try:
        return f"{refusal}; with allow_gap it is done" if done(allow_gap=True) else native()
    except NotSupported:
        return refusal


# --- namespaces ----------------------------------------------------------------------------------------------------
def _namespace(place: Path, trace: Trace) -> str:
    fill(place / "root", {"file": ""})
    with Mount.clone(place / "root") as root, MountNamespace.new(root) as made:
        assert made.call(lambda: os.listdir("/")) == ["file"]
    route = trace.route("namespace")
    return native(when=route == "open_tree", otherwise=f"{route}: a tiny one copied, and pivot_root(2)")


def _namespace_of_another_owner(place: Path, _trace: Trace) -> str:
    fill(place / "root", {"file": ""})
    with (
        mountfd.UserNamespace.new(IdMap.parse("0:100000:65536")) as owner,
        MountNamespace.new(place / "root", owner=owner) as made,
    ):
        holder = calls.ioctl_fd(made.fileno(), 0xB701, 0)  # NS_GET_USERNS
        try:
            assert os.path.sameopenfile(holder, owner.fileno())
        finally:
            os.close(holder)
    return native()


# --- questions -----------------------------------------------------------------------------------------------------
def _lookup(place: Path, trace: Trace) -> str:
    info = mountfd.lookup(place)
    assert info.point == str(place)
    assert info.options is not None
    if not trace.made("statmount("):
        return native(when=False, otherwise="/proc/self/mountinfo")
    return native(when=not trace.made("mountinfo"), otherwise="statmount(2), and the table for what it doesn't tell")


def _ids(place: Path, _trace: Trace) -> str:
    return native(when=mountfd.lookup(place).id is not None, otherwise="ids that the kernel reuses")


def _told(fd: int) -> str:
    info = mountfd.lookup(fd=fd)
    missing = [name for name in _TOLD if getattr(info, name) is None]
    return f"{PARTLY}: without {', '.join(missing)}" if missing else native()


def _lookup_detached(place: Path, _trace: Trace) -> str:
    with Mount.clone(place) as mount:
        return _told(mount.fileno())


def _lookup_detached_tree(place: Path, _trace: Trace) -> str:
    tmpfs(place / "sub")
    with Mount.clone(place, recursive=True) as mount:
        return _told(mount.fileno())


def _lookup_lazily_unmounted(place: Path, _trace: Trace) -> str:
    point = tmpfs(place / "point")
    fd = os.open(point, os.O_PATH)
    try:
        umount(point, MNT_DETACH)
        return _told(fd)
    finally:
        os.close(fd)


def _mounts_elsewhere(_place: Path, trace: Trace) -> str:
    with _sleeper() as pid:
        rows = mountfd.mounts(namespace=pid)
    assert any(row.point == "/proc" for row in rows)
    return native(when=trace.made("listmount("), otherwise="a thread goes there and reads the table")


def _namespaces_all(_place: Path, _trace: Trace) -> str:
    with _sleeper() as pid, MountNamespace.of(pid) as other:
        with MountNamespace.current() as own:
            found = [namespace.id for namespace in own.others()]
        assert other.id in found
    return native()


@contextlib.contextmanager
def _sleeper() -> Iterator[int]:
    line = ["unshare", "--mount", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def _watch(place: Path, *, elsewhere: bool) -> str:
    with contextlib.ExitStack() as stack:
        pid = stack.enter_context(_sleeper()) if elsewhere else None
        events = stack.enter_context(mountfd.watch(namespace=pid))
        if pid is None:
            tmpfs(place / "new")
        else:
            enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "mount", "-t", "tmpfs", "new", "/mnt"]
            subprocess.run(enter, check=True)
        event = next(iter(events))
        assert event.kind == "attach"
        return native(when=events.route == "fanotify", otherwise="each lasting change, by poll(2)")


# --- the rest ------------------------------------------------------------------------------------------------------
def _advertise(place: Path, _trace: Trace) -> str:
    path = place / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        mountfd.advertise(path, {"rfc5424": "1"})
        assert mountfd.advertised(path) == {"rfc5424": "1"}
    return native()


def _run(place: Path, _trace: Trace) -> str:
    with _idmappable(place) as there:
        fill(there / "root/bin")
        shutil.copy("/usr/bin/busybox", there / "root/bin/busybox")
        status = mountfd.run(["/bin/busybox", "sh", "-c", "exit 7"], layers=[str(there / "root")])
        assert status == 7, status
    return native()


TRIALS: dict[str, Callable[[Path, Trace], str]] = {
    "overlay out of 3 layers": partial(_overlay, 3),
    "overlay out of 200 layers with long names": partial(_overlay, 200),
    "overlay with idmapped lower layers": _overlay_idmapped,
    "overlay with an idmapped upper layer": _overlay_idmapped_upper,
    "overlay made by an ordinary user": _overlay_by_anybody,
    "bind mount that is idmapped": _bind_idmapped,
    "erofs image without a loop device": _erofs_file,
    "detached mount cloned": _clone_detached,
    "tree of mounts that nobody sees": _temporary_tree,
    "replace below a private mount": lambda place, _: _replace(place, shared=False, submount=False),
    "replace below a shared mount, in all peers": lambda place, _: _replace(place, shared=True, submount=False),
    "replace carries what is mounted below": lambda place, _: _replace(place, shared=False, submount=True),
    "mount namespace out of a detached mount": _namespace,
    "mount namespace that belongs to another user namespace": _namespace_of_another_owner,
    "command in a root of its own (run)": _run,
    "lookup of a path": _lookup,
    "mount ids that are never reused": _ids,
    "lookup(fd=) of a detached mount": _lookup_detached,
    "lookup(fd=) of a detached tree": _lookup_detached_tree,
    "lookup(fd=) of a lazily unmounted mount": _lookup_lazily_unmounted,
    "mounts of another namespace": _mounts_elsewhere,
    "all mount namespaces": _namespaces_all,
    "watch the own namespace": lambda place, _: _watch(place, elsewhere=False),
    "watch another namespace": lambda place, _: _watch(place, elsewhere=True),
    "protocols advertised on a socket": _advertise,
}


if __name__ == "__main__":
    private.enter()
    for name, act in TRIALS.items():
        print(json.dumps({"kind": "trial", "name": name, "answer": attempt(act)}), flush=True)  # noqa: T201 (for whoever reads it)
