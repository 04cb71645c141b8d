"""Lines of mountinfo are read as the kernel writes them, whatever bytes are in the names."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfd.abi.flags import Attr, MountFlag, Propagation
from mountfd.errors import InvalidSpec
from mountfd.model.info import MountInfo
from mountfd.model.mountinfo import parse, parse_line, parse_names, parse_recorded, points, unescape
from mountfd.model.table import MountTable

LINE = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"


def escape(name: bytes) -> bytes:
    """Escape as the kernel does."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in name)


def test_a_line_of_the_manual() -> None:
    told = {name: value for name, value in parse_line(LINE).as_dict().items() if value is not None}
    assert told == {
        "id_old": 36,
        "parent_id_old": 35,
        "dev": (98, 0),
        "root": "/mnt1",
        "point": "/mnt2",
        "attrs": Attr.NOATIME,
        "propagation": Propagation.SLAVE,
        "peer_group": 0,
        "master": 1,
        "propagate_from": 0,
        "fstype": "ext3",
        "source": "/dev/root",
        "sb_flags": MountFlag(0),
        "options": "errors=continue",
    }


names = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name)


@given(point=names, root=names, source=st.binary(max_size=30), options=names, extra=st.lists(st.sampled_from(
    [b"shared:7", b"master:3", b"propagate_from:2", b"unbindable", b"new", b"new:12", b"-x"])))  # fmt: skip
def test_any_bytes_come_back(point: bytes, root: bytes, source: bytes, options: bytes, extra: list[bytes]) -> None:
    fields = [b"1 2 3:4", escape(b"/" + root), escape(b"/" + point), b"rw", *extra, b"- fuse.sub", escape(source)]
    table = b" ".join([*fields, b"rw," + escape(options)]) + b"\n"
    (info,) = parse_recorded(table)
    found = [os.fsencode(text or "") for text in (info.root, info.point, info.source, info.options)]
    assert found == [b"/" + root, b"/" + point, source, options]
    assert (info.fstype, info.subtype) == ("fuse", "sub")
    assert info.peer_group == (7 if b"shared:7" in extra else 0)
    names_only = b" ".join([escape(source), escape(b"/" + point), b"fuse.sub", b"rw 0 0\n"])
    (named,) = parse_names(names_only)
    assert [named.point, named.source, named.fstype, named.subtype] == [info.point, info.source, "fuse", "sub"]


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (rb"a\040b", b"a b"),
        (rb"\134040", rb"\040"),
        (rb"\011\012\134", b"\t\n\\"),
        (rb"\377", b"\xff"),
        (rb"\400", rb"\400"),
        (rb"\08x", rb"\08x"),
        (rb"\04", rb"\04"),
        (rb"back\slash", rb"back\slash"),
        (b"\\", b"\\"),
        (b"", b""),
    ],
)
def test_escapes_are_three_octal_digits_and_nothing_else_is_one(field: bytes, wanted: bytes) -> None:
    assert unescape(field) == wanted


@pytest.mark.parametrize(
    ("words", "attrs"),
    [
        ("rw,relatime", Attr.RELATIME),
        ("rw", Attr.STRICTATIME),
        ("ro,nosuid,nodev,noexec", Attr.RDONLY | Attr.NOSUID | Attr.NODEV | Attr.NOEXEC | Attr.STRICTATIME),
        ("rw,noatime,nodiratime", Attr.NOATIME | Attr.NODIRATIME),
        ("rw,relatime,nosymfollow,idmapped", Attr.NOSYMFOLLOW | Attr.IDMAP),
    ],
)
def test_attributes(words: str, attrs: Attr) -> None:
    assert parse_line(LINE.replace(b"rw,noatime", words.encode())).attrs == attrs


@pytest.mark.parametrize(
    ("words", "flags", "options"),
    [
        ("rw", 0, ""),
        ("ro", MountFlag.RDONLY, ""),
        ("rw,sync,dirsync,mand,lazytime,size=1k", 16 | 128 | 64 | MountFlag.LAZYTIME, "size=1k"),
        ("ro,lazytime", MountFlag.RDONLY | MountFlag.LAZYTIME, ""),
        ("rw,size=1k,sync", 0, "size=1k,sync"),
        ("rw,dirsync,sync", MountFlag.DIRSYNC, "sync"),
    ],
)
def test_the_kernels_flag_words_are_no_options(words: str, flags: int, options: str) -> None:
    info = parse_line(LINE.replace(b"rw,errors=continue", words.encode()))
    assert (info.sb_flags, info.options) == (flags, options)


def test_a_carriage_return_and_other_line_breaks_end_no_line() -> None:
    name = "/a\rb\x0b\x0c\x1c\x85\u2028c"
    table = LINE.replace(b"/mnt2", name.encode()) + b"\n" + LINE + b"\n"
    assert [info.point for info in parse(table)] == [name, "/mnt2"]


def test_an_empty_source_and_one_that_looks_like_a_separator() -> None:
    assert parse_line(LINE.replace(b"/dev/root", b"")).source == ""
    assert parse_line(LINE.replace(b"/dev/root", b"-")).source == "-"


def test_options_of_a_megabyte() -> None:
    options = b"lowerdir+=/" + b"x" * 1_000_000
    assert len(parse_line(LINE.replace(b"errors=continue", options)).options or "") == len(options)


def test_a_mount_that_the_kernel_tells_twice_in_a_row_is_one() -> None:
    assert len(parse(b"\n".join([LINE, LINE, LINE.replace(b"36", b"37"), b""]))) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b" ",
        b"36 35 98:0 /mnt1 /mnt2 rw",
        b"36 35 98:0 /mnt1 /mnt2 rw - ext3",
        b"36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root",
        b"36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root errors=continue",
        b"36 35 98 /mnt1 /mnt2 rw - ext3 /dev/root rw",
        b"36 35 98:0:1 /mnt1 /mnt2 rw - ext3 /dev/root rw",
        b"36 -5 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw",
        b"3_6 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw",
        b"36 35 98:0 /mnt1 mnt2 rw - ext3 /dev/root rw",
        b"36 35 98:0 /mnt1 /mnt2 rw shared:x - ext3 /dev/root rw",
        b"36 35 98:0  /mnt2 rw - ext3 /dev/root rw",
        b"36 35 98:0 /mnt1 /mnt2 rw -  /dev/root rw",
        b"/dev/root / ext3 rw 0 0",
        b"\xff\xfe",
    ],
)
def test_a_broken_line_is_named(line: bytes) -> None:
    with pytest.raises(InvalidSpec) as caught:
        MountTable.parse(b"\n".join([LINE, b"", line, LINE.replace(b"36", b"37")]))
    assert caught.value.part == "line 3"
    assert "line 3" in str(caught.value)


def test_a_line_that_was_cut_off_is_named_at_each_place() -> None:
    for end in range(1, LINE.index(b" rw,errors") + 2):
        with pytest.raises(InvalidSpec):
            MountTable.parse(LINE[:end])


def test_text_is_no_recorded_table() -> None:
    with pytest.raises(InvalidSpec):
        MountTable.parse(LINE.decode())  # type: ignore[arg-type]


def test_any_kind_of_bytes_is_one_and_nothing_is_an_empty_one() -> None:
    for kind in (bytes, bytearray, memoryview):
        assert len(MountTable.parse(kind(LINE))) == 1  # type: ignore[arg-type]
    assert len(MountTable.parse(b"")) == len(MountTable.parse(b"\n")) == 0


def test_points_are_bytes_with_types() -> None:
    assert list(points([LINE + b"\n", LINE.replace(b"/mnt2", b"/a\\040\xff") + b"\n"])) == [
        (b"/mnt2", "ext3"),
        (b"/a \xff", "ext3"),
    ]


def test_records_are_equal_when_all_fields_are() -> None:
    assert parse_line(LINE) == parse_line(LINE)
    assert parse_line(LINE) != parse_line(LINE.replace(b"master:1", b"master:2"))
    assert parse_line(LINE) != "something else"
    assert isinstance(parse_line(LINE), MountInfo)
