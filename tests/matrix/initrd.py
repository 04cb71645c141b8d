"""The first filesystem of a guest: a static shell and the modules it takes to come to the real one."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.matrix.kernels import Kernel
from tests.support.need import need

__all__ = ["archive"]

# Asked for by name, with what they depend on; what a kernel has built in, or doesn't know, is not missed.
_MODULES = (
    *("virtio_pci", "virtio_blk", "crc32c_generic", "libcrc32c", "ext4"),
    *("overlay", "erofs", "squashfs", "fuse", "loop", "xfs", "xxhash_generic", "btrfs", "vfat", "nls_ascii"),
    *("nls_iso8859-1", "nls_cp437", "binfmt_misc", "configfs", "autofs4", "unix_diag"),
)

_INIT = """\
#!/busybox sh
b=/busybox
$b mkdir -p /proc /sys /dev /new
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for m in $($b cat /order); do $b insmod /modules/$m.ko 2>/tmp.err || $b cat /tmp.err; done
$b mount -t ext4 /dev/vda /new || { echo "no root filesystem"; $b poweroff -f; }
$b cp /task.json /new/task.json
$b mount -t sysfs sys /new/sys
$b mount -t cgroup2 cgroup /new/sys/fs/cgroup
$b mount --move /dev /new/dev
$b mount --move /proc /new/proc
$b mkdir -p /new/dev/pts /new/dev/shm
$b mount -t devpts pts /new/dev/pts
# As systemd does it: the first filesystem goes away where the kernel lets it (7.0), else it stays beneath.
cd /new
$b mkdir -p run/old
if $b pivot_root . run/old 2>/dev/null; then
    /usr/bin/busybox umount -l /run/old
    exec /guest-init
fi
cd /
exec $b switch_root /new /guest-init
"""


def archive(kernel: Kernel, task: str) -> bytes:
    """Make the archive for a kernel; `task`, a JSON text, comes to lie in the guest's /task.json."""
    busybox = shutil.which("busybox", path="/usr/bin:/bin")
    need(busybox, "busybox(1)")
    modules = dict(_modules(kernel))
    files = {
        "init": _INIT.encode(),
        "busybox": Path(str(busybox)).read_bytes(),
        "task.json": task.encode(),
        "order": "\n".join(modules).encode(),
        **{f"modules/{name}.ko": data for name, data in modules.items()},
    }
    return gzip.compress(_cpio(files), 1)


def _modules(kernel: Kernel) -> Iterator[tuple[str, bytes]]:
    """Give names and contents, each after those that it depends on."""
    there = {}
    for folder in kernel.modules:
        for path in folder.rglob("*.ko*"):
            there[path.name.partition(".ko")[0].replace("-", "_")] = path
    seen = set()

    def with_needs(name: str) -> Iterator[tuple[str, bytes]]:
        name = name.replace("-", "_")
        if name in seen or name not in there:
            return
        seen.add(name)
        data = there[name].read_bytes()
        if there[name].suffix == ".xz":
            data = lzma.decompress(data)
        found = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in found[1].decode().split(",") if found and found[1] else ():
            yield from with_needs(other)
        yield name, data

    for name in _MODULES:
        yield from with_needs(name)


def _cpio(files: Mapping[str, bytes]) -> bytes:
    """Pack files, with the folder that they lie in, as the kernel unpacks them: the "newc" format."""
    entries = [("dev", 0o40755, b""), ("modules", 0o40755, b"")]
    entries += [(name, 0o100755, data) for name, data in files.items()]
    entries += [("TRAILER!!!", 0, b"")]
    pieces = []
    for number, (name, mode, data) in enumerate(entries, 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        pieces += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
    return b"".join(pieces)
