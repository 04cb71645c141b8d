from __future__ import annotations

import base64
import json

import pytest

from mountfd.errors import InvalidSpec
from mountfd.model.mountinfo import parse_recorded
from mountfd.view import listing
from mountfd.view.columns import COLUMNS, DEFAULT, DEFAULT_JSON, Column, by_name, choose
from mountfd.view.mounts_json import document
from mountfd.view.painted import by_hand, by_rich
from mountfd.view.people import rows
from mountfd.view.text import fitted, printable, raw, width
from mountfd.view.tree import Node, nest

RECORDED = b"""\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,discard
2 1 0:5 / /mnt rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow shared:7 master:1 - tmpfs a\\040b ro,sync,size=4k
3 2 0:6 /part /mnt ro master:7 propagate_from:1 - fuse.sshfs  rw
4 3 0:7 / /mnt/\xff unbindable - tmpfs none rw
5 1 0:8 / /z rw,relatime unbindable - tmpfs none rw
""".replace(b"\xff unbindable", b"\xff rw unbindable")


def roots() -> list[Node]:
    return nest(parse_recorded(RECORDED))


def values(name: str) -> list[object]:
    nodes = [Node(mount) for mount in parse_recorded(RECORDED)]
    return [by_name(name).value(node) for node in nodes]


def test_options_are_words_in_the_kernel_s_order_and_read_only_where_either_is() -> None:
    assert values("VFS-OPTIONS")[:3] == ["rw,relatime", "rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow", "ro"]
    assert values("FS-OPTIONS")[:3] == ["rw,discard", "ro,sync,size=4k", "rw"]
    assert values("OPTIONS")[:3] == [
        "rw,relatime,discard",
        "ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow,sync,size=4k",
        "ro",
    ]


def test_a_source_says_which_part_is_shown_also_where_it_is_empty() -> None:
    assert values("SOURCE")[:4] == ["/dev/sda1", "a b", "[/part]", "none"]


def test_propagation_is_said_in_findmnt_s_words() -> None:
    assert values("PROPAGATION")[:4] == ["shared", "shared,slave", "private,slave", "private,unbindable"]
    assert values("OPT-FIELDS")[1:4] == ["shared:7 master:1", "master:7 propagate_from:1", "unbindable"]
    assert values("PEER-GROUP") == [1, 7, None, None, None]


def test_every_column_can_tell_of_a_mount_of_which_nothing_is_known() -> None:
    from mountfd.model.info import from_fields

    node = Node(from_fields({}))
    assert {column.value(node) for column in COLUMNS} == {None}


def test_columns_are_chosen_in_any_case_added_with_a_plus_and_an_unknown_one_is_named() -> None:
    assert [column.name for column in choose("target,maj:min", DEFAULT)] == ["TARGET", "MAJ:MIN"]
    assert [column.name for column in choose("+id", DEFAULT)][-2:] == ["OPTIONS", "ID"]
    with pytest.raises(InvalidSpec, match="'NOPE'"):
        choose("ID,NOPE", DEFAULT)


def test_json_is_findmnt_s_shape_and_bytes_that_are_not_utf8_come_in_base64_too() -> None:
    found = json.loads("".join(document(roots(), DEFAULT_JSON)))
    root = found["filesystems"][0]
    assert [child["target"] for child in root["children"]] == ["/mnt", "/z"]
    odd = root["children"][0]["children"][0]["children"][0]
    assert odd["target"] == "/mnt/\ufffd"
    assert base64.b64decode(odd["target_b64"]) == b"/mnt/\xff"
    assert "children" not in odd


def test_json_of_nothing_is_an_empty_list_and_of_a_deep_stack_no_recursion() -> None:
    assert json.loads("".join(document([], DEFAULT))) == {"filesystems": []}
    deep = b"".join(b"%d %d 0:1 / / rw - tmpfs t rw\n" % (number, number - 1) for number in range(1, 2001))
    text = "".join(document(nest(parse_recorded(deep)), [by_name("ID")]))
    assert text.count("{") == text.count("}") == 2001


def test_columns_are_aligned_and_the_tree_is_drawn_in_target() -> None:
    columns = [by_name("TARGET"), by_name("ID")]
    assert list(listing.lines(roots(), columns, is_tree=True)) == [
        "TARGET          ID",
        "/                1",
        "├─/mnt           2",
        "│ └─/mnt         3",
        "│   └─/mnt/\\xff  4",
        "└─/z             5",
    ]
    assert list(listing.lines(roots(), columns, is_tree=True, is_ascii=True, headings=False))[2] == "| `-/mnt        3"


def test_a_line_ends_at_the_terminal_s_edge() -> None:
    found = list(listing.lines(roots(), DEFAULT, room=20))
    assert max(map(len, found)) == 20
    assert found[2].endswith("…")


def test_raw_fields_are_one_word_each() -> None:
    found = list(listing.raw_lines(roots(), DEFAULT))
    assert found[2].startswith("/mnt a\\x20b tmpfs ro,")
    assert found[3] == "/mnt [/part] fuse.sshfs ro"
    assert found[4].startswith("/mnt/\\xff none")


@pytest.mark.parametrize(
    ("text", "shown", "in_ascii"),
    [
        ("plain", "plain", "plain"),
        ("ä", "ä", "\\xc3\\xa4"),
        ("\x1b[31m\n\x7f", "\\x1b[31m\\x0a\\x7f", "\\x1b[31m\\x0a\\x7f"),
        ("\udcff", "\\xff", "\\xff"),
        ("a\\b\\x41", "a\\b\\x5cx41", "a\\b\\x5cx41"),
        ("\u2028", "\\xe2\\x80\\xa8", "\\xe2\\x80\\xa8"),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(text: str, shown: str, in_ascii: str) -> None:
    assert (printable(text), printable(text, is_ascii=True)) == (shown, in_ascii)


def test_a_raw_word_holds_no_blank_and_no_backslash_of_its_own() -> None:
    assert raw("a b\\\tü") == "a\\x20b\\x5c\\x09\\xc3\\xbc"


def test_wide_characters_take_two_columns() -> None:
    assert width("漢字") == 4
    assert fitted("漢字漢字", 5, "…") == "漢字…"


# --- for people ----------------------------------------------------------------------------------------------------
PICTURE_COLUMNS: dict[str, Column] = {name: by_name(name) for name in ("TARGET", "FSTYPE", "SOURCE", "OPTIONS")}


def picture(**choices: bool) -> list[str]:
    is_ascii = choices.get("is_ascii", False)
    table = rows(roots(), PICTURE_COLUMNS, is_ascii=is_ascii)
    return list(by_hand(table, colour=choices.get("colour", False), headings=False, room=None, is_ascii=is_ascii))


def test_a_stack_is_one_entry_with_what_it_covers_below_it() -> None:
    assert [line[:63].rstrip() for line in picture()] == [
        "/             ext4        ●1                        /dev/sda1",
        "├─ mnt        fuse.sshfs  ◀─ ●7         ▲ covers 1  [/part]",
        "│  ╎ beneath  tmpfs       ●7 ◀─ ●1      ▽ covered   a b",
        "│  └─ \\xff    tmpfs       ⊘ unbindable              none",
        "└─ z          tmpfs       ⊘ unbindable              none",
    ]


def test_without_utf8_the_picture_is_ascii() -> None:
    assert all(line.isascii() for line in picture(is_ascii=True))
    assert any("<- *7" in line for line in picture(is_ascii=True))


def test_colour_adds_nothing_but_colour() -> None:
    import re

    assert [re.sub(r"\x1b\[\d+m", "", line) for line in picture(colour=True)] == picture()


def test_a_peer_group_has_one_colour_wherever_it_appears() -> None:
    import re

    colours = re.findall(r"\x1b\[(\d+)m●7", "\n".join(picture(colour=True)))
    assert len(colours) == 2
    assert len(set(colours)) == 1


def test_rich_draws_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    import re

    monkeypatch.setenv("TERM", "xterm")
    drawn = list(by_rich(rows(roots(), PICTURE_COLUMNS), headings=False, room=200))
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line).split() for line in drawn]
    assert plain == [line.split() for line in picture()]
    assert any("\x1b[" in line for line in drawn)


def test_a_name_cannot_write_to_the_terminal() -> None:
    evil = parse_recorded(b"1 0 0:1 / /\x1b]0;owned\x07 rw - tmpfs [red]x[/] rw\n")
    for lines in (
        by_hand(rows(nest(evil), PICTURE_COLUMNS), colour=False, headings=False, room=None, is_ascii=False),
        listing.lines(nest(evil), DEFAULT),
        listing.raw_lines(nest(evil), DEFAULT),
    ):
        assert not any("\x1b" in line or "\x07" in line for line in lines)
