"""Random trees of mounts, made by mount(2): names of every kind, binds, stacks, propagation, several namespaces."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC = 256, 1024, 2048, 4096, 8192, 16384
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_STRICTATIME, MS_LAZYTIME = 1 << 24, 1 << 25
MNT_DETACH = 2

FLAGS = (
    *(MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOSYMFOLLOW),
    *(MS_NOATIME, MS_NODIRATIME, MS_STRICTATIME, MS_SYNCHRONOUS, MS_LAZYTIME),
)
KINDS = (MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_SHARED, MS_SHARED)
NAMES = (
    *(b"plain", b"a b", b"two\nlines", b"tab\there", b"back\\slash", b"\\x41", b"\\040", b"#hash", b"cr\rhere"),
    *(b"not\xff\xfeutf", b"\xc3\xbcml\xc3\xa4ut", b"\xe6\xbc\xa2\xe5\xad\x97", b"esc\x1b[31m", b'quo"te', b"com,ma"),
    *(b"col:on", b"- x", b" lead", b"trail ", b"\x7fdel", b"\xc2\x85nel", b"\xe2\x80\xa8ls"),
    *(b"x" * 200, b"%41", b"deep"),
)
SOURCES = (
    *(b"none", b"tmpfs", b"", b"#x", b"LABEL=foo", b"UUID=1-2", b"/dev/none"),
    *(b"a b", b"so\nurce", b"\xff", b"[x]", b"\\x"),
)
MOST = 60

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


class Forest:
    """Mounts below one directory, the same for the same seed; gone at the end of the `with` statement."""

    def __init__(self, place: Path, seed: int, *, steps: int = 70) -> None:
        """Grow it: a third of the steps after the other namespaces were made, so that some travels there."""
        self.place = os.fsencode(place)
        self.random = Random(seed)  # noqa: S311 (it must be repeatable)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._mount(b"forest", self.place, b"tmpfs", 0, b"mode=755")
        self.directories, self.files = [self.place], [self.place + b"/file"]
        Path(os.fsdecode(self.files[0])).touch()
        self.most = _count() + MOST
        for _ in range(6):
            self._make()
        self._grow(steps * 2 // 3)
        for propagation in self.random.sample(("private", "slave", "unchanged"), 2):
            self._fork(propagation)
        self._grow(steps // 3)

    def __enter__(self) -> Self:
        """Give the forest."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Fell it."""
        for process in self.processes:
            process.kill()
            process.communicate()
        while _libc.umount2(self.place, MNT_DETACH) == 0:
            continue  # it may be a stack

    def paths(self) -> list[bytes]:
        """Give paths to ask about: directories and files, mounts and not, and some that aren't there."""
        return [*self.directories, *self.files, self.place + b"/not there"]

    def _grow(self, steps: int) -> None:
        for _ in range(steps):
            deeds = [self._make, self._fill, self._fill, self._bind, self._bind, self._propagate, self._attributes]
            self.random.choice([*deeds, self._move, self._overlay, self._unmount])()
            if _count() > self.most:
                break

    def _fork(self, propagation: str) -> None:
        line = ["unshare", "--mount", "--propagation", propagation, "sh", "-c", "echo; exec sleep 600"]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        self.processes.append(process)

    # --- deeds; what the kernel refuses just doesn't happen -------------------------------------------------------
    def _make(self) -> None:
        for _ in range(3):
            path = self._directory() + b"/" + self.random.choice(NAMES)
            if len(path) > 2000 or os.path.lexists(path):
                continue
            try:
                if self.random.random() < 0.3:
                    Path(os.fsdecode(path)).touch()
                    self.files.append(path)
                else:
                    os.mkdir(path)
                    self.directories.append(path)
            except OSError:
                continue

    def _fill(self) -> None:
        kind = self.random.choice((b"tmpfs", b"tmpfs", b"tmpfs", b"ramfs"))
        data = self.random.choice((b"", b"size=1m,nr_inodes=100", b"mode=700")) if kind == b"tmpfs" else b""
        self._mount(self._source(), self._directory(), kind, self._flags(), data)
        self._make()

    def _bind(self) -> None:
        pick = self._file if self.random.random() < 0.3 else self._directory
        flags = MS_BIND | (MS_REC if self.random.random() < 0.2 else 0)
        self._mount(pick(), pick(), b"", flags, b"")

    def _propagate(self) -> None:
        self._mount(b"", self._directory(), b"", self.random.choice(KINDS) | self.random.choice((0, MS_REC)), b"")

    def _attributes(self) -> None:
        self._mount(b"", self._directory(), b"", MS_REMOUNT | MS_BIND | self._flags(), b"")

    def _move(self) -> None:
        self._mount(self._directory(), self._directory(), b"", MS_MOVE, b"")

    def _overlay(self) -> None:
        layers = [self._directory() for _ in range(2)]
        for odd in (b"\\", b":", b","):
            layers = [layer.replace(odd, b"\\" + odd) for layer in layers]
        data = b"lowerdir=" + b":".join(layers)
        self._mount(b"over lay", self._directory(), b"overlay", self._flags(), data)

    def _unmount(self) -> None:
        path = self._directory()
        if path != self.place:
            _libc.umount2(path, MNT_DETACH)

    # --- choices ---------------------------------------------------------------------------------------------------
    def _directory(self) -> bytes:
        # Rarely the place itself: a mount there hides all the others.
        return self.random.choice(self.directories[1:] * 8 + self.directories[:1])

    def _file(self) -> bytes:
        return self.random.choice(self.files)

    def _source(self) -> bytes:
        return self.random.choice((*SOURCES, b"s" * 255))

    def _flags(self) -> int:
        flags = 0
        for flag in self.random.sample(FLAGS, self.random.choice((0, 0, 1, 3))):
            flags |= flag
        return flags

    @staticmethod
    def _mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes) -> None:
        _libc.mount(source, target, kind or None, flags, data or None)


def _count() -> int:
    return Path("/proc/self/mountinfo").read_bytes().count(b"\n")
