"""Every number, flag and layout of ours against the newest kernel headers.

One C program is made out of our names, compiled against the headers and asked for the values, so a name that the
headers don't have fails as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
from enum import IntFlag
from typing import TYPE_CHECKING

import pytest

from mountfd.abi import calls, flags, layouts, numbers
from tests.support.debian import unpacked
from tests.support.need import need, need_command

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    Constant = tuple[str, int]

HEADERS = (
    "linux/capability.h",
    "linux/fanotify.h",
    "linux/fcntl.h",
    "linux/fs.h",
    "linux/loop.h",
    "linux/major.h",
    "linux/mount.h",
    "linux/nsfs.h",
    "linux/openat2.h",
    "linux/pidfd.h",
    "linux/prctl.h",
    "linux/sched.h",
    "linux/sockios.h",
    "linux/stat.h",
    "linux/un.h",
    "linux/wait.h",
    "asm/unistd.h",
)

# --- how our names are spelled in C --------------------------------------------------------------------------------
NUMBERS_WITHOUT_HEADER = {
    "FSCONFIG_STRING_MAX",  # a limit inside fs/fsopen.c
    "FIRST_UNIQUE_ID",  # where fs/namespace.c begins to count
}
NUMBERS_IN_C = {
    "LINUX_CAPABILITY_VERSION_3": "_LINUX_CAPABILITY_VERSION_3",
    "WALL": "__WALL",
}

PREFIXES: dict[type[IntFlag], str] = {
    flags.Attr: "MOUNT_ATTR_",
    flags.CloneFlag: "CLONE_",
    flags.FanInit: "FAN_",
    flags.FanMark: "FAN_MARK_",
    flags.FanMask: "FAN_",
    flags.FsMount: "FSMOUNT_",
    flags.FsOpen: "FSOPEN_",
    flags.FsPick: "FSPICK_",
    flags.MountFlag: "MS_",
    flags.MoveMount: "MOVE_MOUNT_",
    flags.OpenTree: "OPEN_TREE_",
    flags.Propagation: "MS_",
    flags.Resolve: "RESOLVE_",
    flags.StatMount: "STATMOUNT_",
    flags.StatMountFlag: "STATMOUNT_",
    flags.Statx: "STATX_",
    flags.StatxAttr: "STATX_ATTR_",
    flags.Umount: "MNT_",
}
MEMBERS_IN_C = {
    "Attr.ATIME_MASK": "MOUNT_ATTR__ATIME",
    "Umount.NOFOLLOW": "UMOUNT_NOFOLLOW",
}
# umount2(2)'s flags are in no kernel header, only in the libc's, which is kept apart from the kernel's mount.h.
FROM_LIBC = {flags.Umount}

STRUCTURES: dict[type[ctypes.Structure], str] = {
    layouts.CapData: "__typeof__(struct __user_cap_data_struct[2])",
    layouts.CapHeader: "struct __user_cap_header_struct",
    layouts.FanEvent: "struct fanotify_event_metadata",
    layouts.FanMountInfo: "struct fanotify_event_info_mnt",
    layouts.LoopConfig: "struct loop_config",
    layouts.LoopInfo64: "struct loop_info64",
    layouts.MntIdReq: "struct mnt_id_req",
    layouts.MntNsInfo: "struct mnt_ns_info",
    layouts.MountAttr: "struct mount_attr",
    layouts.NsIdReq: "struct ns_id_req",
    layouts.OpenHow: "struct open_how",
    layouts.StatMountBuffer: "struct statmount",
    layouts.StatxBuffer: "struct statx",
    layouts.StatxTimestamp: "struct statx_timestamp",
}
FIELDS_IN_C = {
    "CapData.effective": "[0].effective",
    "CapData.permitted": "[0].permitted",
    "CapData.inheritable": "[0].inheritable",
    "CapData.effective_high": "[1].effective",
    "CapData.permitted_high": "[1].permitted",
    "CapData.inheritable_high": "[1].inheritable",
    "FanMountInfo.info_type": ".hdr.info_type",
    "FanMountInfo.pad": ".hdr.pad",
    "FanMountInfo.len": ".hdr.len",
    "LoopConfig.reserved": ".__reserved",
    "StatMountBuffer.spare2": ".__spare2",
    "StatxBuffer.spare0": ".__spare0",
    "StatxBuffer.spare2": ".__spare2",
    "StatxBuffer.spare3": ".__spare3",
    "StatxTimestamp.reserved": ".__reserved",
}
FIELDS_WITHOUT_NAME = {
    "FanMountInfo.pad2",  # the gap that the compiler leaves before a __u64
}

# --- what the headers have beyond ours, on purpose -----------------------------------------------------------------
COMPLETE_AS_OF = (7, 2)
NOT_OURS = {
    "MOUNT_ATTR_SIZE_VER0",  # in numbers.py
    "MOVE_MOUNT__MASK",  # grows with each kernel
    "MS_ACTIVE",  # the kernel's own, as are BORN, NOREMOTELOCK, NOSEC, NOUSER, SUBMOUNT
    "MS_BORN",
    "MS_MGC_MSK",  # from before Linux 2.4, as is MGC_VAL
    "MS_MGC_VAL",
    "MS_NOREMOTELOCK",
    "MS_NOSEC",
    "MS_NOUSER",
    "MS_RMT_MASK",  # a sum of others
    "MS_SUBMOUNT",
    "MS_VERBOSE",  # SILENT's old name
    "STATX_ALL",  # deprecated
    "STATX__RESERVED",  # refused
}
FAMILIES = (
    "FSCONFIG_",
    "FSMOUNT_",
    "FSOPEN_",
    "FSPICK_",
    "MOUNT_ATTR_",
    "MOVE_MOUNT_",
    "MS_",
    "OPEN_TREE_",
    "RESOLVE_",
    "STATMOUNT_",
    "STATX_",
)


def our_numbers() -> list[Constant]:
    """Give every number with its name in C."""
    return [
        (NUMBERS_IN_C.get(name, re.sub("^SYS_", "__NR_", name)), value)
        for name, value in vars(numbers).items()
        if isinstance(value, int) and not name.startswith("_") and name not in NUMBERS_WITHOUT_HEADER
    ]


def our_flags(family: type[IntFlag]) -> list[Constant]:
    """Give every member of a flag word with its name in C."""
    return [
        (MEMBERS_IN_C.get(f"{family.__name__}.{name}", PREFIXES[family] + name), member.value)
        for name, member in family.__members__.items()
    ]


def our_fields(structure: type[ctypes.Structure]) -> list[Constant]:
    """Give a structure's size and its fields' offsets and sizes, each as an expression in C."""
    name = STRUCTURES[structure]
    found = [(f"sizeof({name})", ctypes.sizeof(structure))]
    for field, *_ in structure._fields_:
        key = f"{structure.__name__}.{field}"
        if key not in FIELDS_WITHOUT_NAME:
            place, descriptor = f"(*({name} *)0){FIELDS_IN_C.get(key, '.' + field)}", getattr(structure, field)
            found += [(f"(size_t)&{place}", descriptor.offset), (f"sizeof {place}", descriptor.size)]
    return found


SHOW = r"""
#define SHOW(c) printf("{\"c\": \"%s\", \"value\": %s%llu}\n", #c, (c) < 0 ? "-" : "", \
                       (unsigned long long)((c) < 0 ? -(c) : (c)))
"""


def _printer(function: str, includes: Iterable[str], expressions: Iterable[str]) -> str:
    """Make a function in C that prints each expression and its value as a line of JSON."""
    lines = [f"#include <{header}>" for header in ("stddef.h", "stdio.h", *includes)]
    lines += [SHOW, f"void {function}(void)", "{", *(f"    SHOW({c});" for c in expressions), "}", ""]
    return "\n".join(lines)


def _gcc(*arguments: str | Path, source: str | None = None) -> str:
    """Run the compiler; what it complains about is the failure's message."""
    done = subprocess.run(
        [need_command("gcc"), *arguments], input=source, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        pytest.fail(done.stderr, pytrace=False)
    return done.stdout


@pytest.fixture(scope="module")
def newest() -> Path:
    """Give the newest kernel headers' include directory."""
    return unpacked("linux-libc-dev") / "usr" / "include"


@pytest.fixture(scope="module")
def search(newest: Path) -> list[str | Path]:
    """Give the compiler's options for these headers."""
    native = newest / _gcc("-print-multiarch").strip()
    need(native != newest and native.is_dir(), f"kernel headers for {native.name or 'this architecture'}")
    return ["-isystem", newest, "-isystem", native]


@pytest.fixture(scope="module")
def answers(search: list[str | Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Ask the C compiler for the value of each of our names."""
    kernels = [name for name, _ in our_numbers()]
    kernels += [name for family in PREFIXES if family not in FROM_LIBC for name, _ in our_flags(family)]
    kernels += [expression for structure in STRUCTURES for expression, _ in our_fields(structure)]
    libcs = [name for family in FROM_LIBC for name, _ in our_flags(family)]

    place = tmp_path_factory.mktemp("headers")
    (place / "kernel.c").write_text(_printer("kernel", HEADERS, dict.fromkeys(kernels)))
    (place / "libc.c").write_text(_printer("libc", ["sys/mount.h"], libcs))
    (place / "main.c").write_text("void kernel(void), libc(void);\nint main(void) { kernel(); libc(); return 0; }\n")
    _gcc("-w", *search, "-c", "-o", place / "kernel.o", place / "kernel.c")
    _gcc("-w", "-o", place / "print", place / "main.c", place / "libc.c", place / "kernel.o")
    printed = subprocess.run([place / "print"], capture_output=True, text=True, check=True, timeout=60).stdout
    return {answer["c"]: answer["value"] for answer in map(json.loads, printed.splitlines())}


def differences(ours: Iterable[Constant], answers: dict[str, int]) -> list[str]:
    """Put into words where our value isn't C's."""
    return [f"{name} is {answers[name]:#x} in C, {value:#x} here" for name, value in ours if answers[name] != value]


def test_numbers(answers: dict[str, int]) -> None:
    assert len(our_numbers()) > 60
    assert differences(our_numbers(), answers) == []


@pytest.mark.parametrize("family", PREFIXES, ids=lambda family: family.__name__)
def test_flags(family: type[IntFlag], answers: dict[str, int]) -> None:
    assert our_flags(family)
    assert differences(our_flags(family), answers) == []


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.__name__)
def test_layout(structure: type[ctypes.Structure], answers: dict[str, int]) -> None:
    """Fields without gaps and of C's total size leave no room for one of C's that we don't have."""
    assert differences(our_fields(structure), answers) == []
    assert sum(getattr(structure, field).size for field, *_ in structure._fields_) == ctypes.sizeof(structure)


@pytest.mark.parametrize(
    ("module", "table", "kind"), [(flags, PREFIXES, IntFlag), (layouts, STRUCTURES, ctypes.Structure)]
)
def test_nothing_is_left_unchecked(module: object, table: dict[type, str], kind: type) -> None:
    defined = {value for value in vars(module).values() if isinstance(value, type) and issubclass(value, kind)}
    assert defined - {kind} == set(table)


def test_nothing_is_missing(newest: Path, search: list[str | Path]) -> None:
    """The families of the mount calls have every member that the headers have."""
    source = "".join(f"#include <{header}>\n" for header in HEADERS)
    macros = re.findall(r"^#define (\w+) ", _gcc(*search, "-E", "-dM", "-", source=source), re.MULTILINE)
    enumerators = re.findall(r"\bFSCONFIG_\w+", (newest / "linux/mount.h").read_text())
    ours = {name for family in PREFIXES for name, _ in our_flags(family)} | {name for name, _ in our_numbers()}
    missing = {name for name in {*macros, *enumerators} if name.startswith(FAMILIES)} - ours - NOT_OURS

    version = (newest / "linux/version.h").read_text()
    seen = tuple(int(re.findall(rf"LINUX_VERSION_{part} (\d+)", version)[0]) for part in ("MAJOR", "PATCHLEVEL"))
    if missing and seen > COMPLETE_AS_OF:
        pytest.xfail(f"Linux {seen[0]}.{seen[1]} has learned {', '.join(sorted(missing))}")
    assert missing == set()


# --- other architectures -------------------------------------------------------------------------------------------
ARCHITECTURES = ("aarch64", "arm", "i386", "loongarch64", "powerpc64le", "riscv64", "s390x", "x86_64")


def _assertions(ours: Iterable[Constant], *prefixes: str) -> str:
    """Make C that only compiles with the numbers of ours that an architecture could have changed."""
    chosen = [(name, value) for name, value in ours if name.startswith(prefixes)]
    assert chosen
    return "".join(f'_Static_assert({name} == {value}, "{name} is {value} here");\n' for name, value in chosen)


def _compile_for(architecture: str, newest: Path, assertions: str) -> None:
    native = newest / f"{architecture}-linux-gnu{'eabihf' if architecture == 'arm' else ''}"
    search = ("-nostdinc", "-isystem", native, "-isystem", newest)
    source = "".join(f"#include <{header}>\n" for header in HEADERS) + assertions
    _gcc("-undef", "-D__ARM_EABI__", *search, "-fsyntax-only", "-x", "c", "-", source=source)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_calls_have_one_number_everywhere(architecture: str, newest: Path) -> None:
    _compile_for(architecture, newest, _assertions(our_numbers(), "__NR_", "LOOP_"))
    _compile_for(architecture, newest, _assertions(our_flags(flags.OpenTree), "OPEN_TREE_"))


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=pytest.mark.xfail(name == "powerpc64le", reason="its ioctl(2) requests differ"))
        for name in ARCHITECTURES
    ],
)
def test_requests_have_one_number_everywhere(architecture: str, newest: Path) -> None:
    _compile_for(architecture, newest, _assertions(our_numbers(), "NS_GET_", "NS_MNT_", "PIDFD_"))


def test_calls_on_architectures_to_come(search: list[str | Path]) -> None:
    source = f"#include <asm-generic/unistd.h>\n{_assertions(our_numbers(), '__NR_')}"
    _gcc(*search, "-fsyntax-only", "-x", "c", "-", source=source)


# --- prototypes ----------------------------------------------------------------------------------------------------
LIBC_HEADERS = (
    "fcntl.h",
    "sched.h",
    "sys/fanotify.h",
    "sys/file.h",
    "sys/ioctl.h",
    "sys/mount.h",
    "sys/pidfd.h",
    "sys/prctl.h",
    "sys/stat.h",
    "unistd.h",
)
IN_C = {
    "fd": "int",
    "int": "int",
    "flags": "unsigned",
    "path": "char *",
    "text": "char *",
    "pointer": "void *",
    "size": "size_t",
    "u64": "unsigned long long",
    "word": "unsigned long",
}
WITHOUT_PROTOTYPE = {
    "capget",  # libcap declares it
    "capset",  # the same
    "listmount",
    "listns",
    "open_tree_attr",
    "openat2",
    "pivot_root",
    "statmount",
}


def test_rows_take_what_the_libc_declares(tmp_path: Path) -> None:
    """Each call of the table, with arguments of the row's types, is one that the libc's prototype lets pass."""
    lines = ["#define _GNU_SOURCE"]
    lines += [f"#if __has_include(<{header}>)\n#include <{header}>\n#endif" for header in LIBC_HEADERS]
    for name, row in calls.ROWS.items():
        symbol = name.removesuffix("_fd") if name == "ioctl_fd" else name
        arguments = ", ".join(f"({IN_C[kind.partition('=')[0]]})0" for _, kind in row.parameters)
        lines.append(f"int {name}_row[sizeof({symbol}({arguments}))];")
    (tmp_path / "rows.c").write_text("\n".join([*lines, ""]))
    strict = [
        "-Werror=int-conversion",
        "-Werror=incompatible-pointer-types",
        "-Wno-error=implicit-function-declaration",
    ]
    done = subprocess.run(
        [need_command("gcc"), *strict, "-fsyntax-only", tmp_path / "rows.c"],
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "error:" not in done.stderr, done.stderr
    undeclared = set(re.findall(r"implicit declaration of function '(\w+)'", done.stderr))
    need("fsopen" not in undeclared, "a libc that declares the mount calls")
    assert undeclared <= WITHOUT_PROTOTYPE
