from __future__ import annotations

from mountfd.model.points import points

LINE = b"36 35 98:0 / %s rw,noatime %s- %s /dev/root rw\n"


def test_the_type_stands_behind_any_number_of_optional_fields() -> None:
    lines = [LINE % (b"/a", b"", b"ext4"), LINE % (b"/b", b"shared:1 master:2 propagate_from:3 ", b"fuse.x")]
    assert list(points(lines)) == [(b"/a", "ext4"), (b"/b", "fuse.x")]


def test_escapes_are_undone() -> None:
    assert list(points([LINE % (rb"/a\040b\134c\011", b"", b"xfs")])) == [(b"/a b\\c\t", "xfs")]


def test_bytes_that_are_no_text_stay_what_they_are() -> None:
    assert list(points([LINE % (b"/\xff\r", b"", b"xfs")])) == [(b"/\xff\r", "xfs")]
