"""Holders as values, their sentences, and what a person and a program get to read of them."""

from __future__ import annotations

import json
import pickle

import pytest

from mountfd.errors import Busy
from mountfd.model.holder import KINDS, UNSEEN, Holder
from mountfd.view.holders import document, lines

NGINX = Holder("file", blocks=True, pid=812, command="nginx", uid=33, fd=7, path="/srv/data/log", mount_id=2**31)
CLOSED = [Holder("process", blocks=None, pid=pid, command="x", uid=0) for pid in (1, 2, 77)]


def test_equal_facts_make_equal_holders_and_one_entry_of_a_set() -> None:
    again = Holder(**NGINX.as_dict())  # type: ignore[arg-type]  # as it gave them
    assert again == NGINX
    assert len({again, NGINX, Holder("file", blocks=True, pid=813)}) == 2
    assert NGINX != "process 812"


def test_a_holder_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        NGINX.pid = 1
    with pytest.raises(AttributeError):
        del NGINX.pid
    with pytest.raises(AttributeError):
        setattr(NGINX, "mo" + "re", 1)


def test_holders_travel_inside_of_a_pickled_error() -> None:
    error = Busy(16, "umount2", (b"/srv",))
    error.holders = (NGINX, *CLOSED)
    assert pickle.loads(pickle.dumps(error)).holders == error.holders


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_sentence_even_where_nothing_else_is_known(kind: str) -> None:
    for blocks in (True, False, None):
        words = Holder(kind, blocks=blocks).words
        assert words
        assert not words.endswith(".")
        assert "None" not in words.replace("descriptor None", "")
        assert words in repr(Holder(kind, blocks=blocks))


def test_what_cannot_be_looked_into_is_a_kind() -> None:
    assert set(UNSEEN) < set(KINDS)


def test_the_sentence_says_what_a_person_needs_to_act() -> None:
    assert NGINX.words == "process 812 (nginx, uid 33) has /srv/data/log open as descriptor 7"
    assert Holder("cwd", blocks=True, pid=5, path="/srv").words == "process 5 has /srv as its current directory"
    assert Holder("cwd", blocks=True, pid=5, path="/srv", is_own=True).words.startswith("process 5 (this one) has")
    assert Holder("mount", blocks=True, point="/srv/a").words == "another mount stands on it, at /srv/a"
    assert Holder("loop", blocks=True, device="/dev/loop3", path="/srv/i").words.endswith(
        "/dev/loop3 is backed by /srv/i"
    )
    copy = Holder("copy", blocks=False, point="/srv", ns_id=9, pid=4, command="sh", uid=0)
    assert (
        copy.words == "the same filesystem is mounted at /srv in mount namespace 9, in which process 4 (sh, uid 0) is"
    )
    through = Holder("cwd", blocks=True, pid=5, path="/srv", point="/srv", ns_id=9)
    assert through.words.endswith(", through /srv in mount namespace 9, which is unmounted along with it")


def test_a_mount_that_is_known_is_named_and_one_that_is_not_is_not_said_to_stand_nowhere() -> None:
    copy = Holder("socket", blocks=False, pid=5, fd=3, path="/a/s", mount_id=9, point="/a")
    assert copy.words.endswith("(descriptor 3), through /a, another mount of this filesystem")
    assert Holder("socket", blocks=False, pid=5, path="/a/s").words.endswith(", on another mount of this filesystem")
    lost = Holder("file", blocks=False, pid=5, fd=3, path="/a/s", mount_id=9)
    assert lost.words.endswith("stands in no namespace that can be seen")


def test_neither_a_copy_nor_an_overlay_ever_makes_an_unmount_fail() -> None:
    for kind in KINDS:
        can = kind not in {"copy", "overlay"}
        assert [Holder(kind, blocks=blocks).may_block for blocks in (True, None, False)] == [can, can, False]


def test_an_overlay_is_told_by_what_is_known_of_it() -> None:
    assert Holder("overlay", blocks=False, point="/m", path="/a").words == "the overlay on /m has /a as a layer"
    assert Holder("overlay", blocks=False, point="/m").words == "the overlay on /m has a layer here"
    assert Holder("overlay", blocks=None, point="/m", ns_id=7).words.startswith(
        "the overlay on /m in mount namespace 7 may have a layer here"
    )


def test_overlays_that_may_have_a_layer_share_a_line() -> None:
    maybe = [Holder("overlay", blocks=None, point=point) for point in ("/m", "/n\n")]
    shown = list(lines([Holder("overlay", blocks=False, point="/k", path="/a"), *maybe]))
    assert shown[1] == "  overlay  the overlay on /k has /a as a layer"
    assert shown[3].startswith("  overlay  2 overlays may have layers here, to which no path leads: /m, /n")
    assert len(shown) == 4
    assert len(list(lines(maybe[:1]))) == 3


def test_both_questions_have_a_heading_of_their_own() -> None:
    shown = list(lines([NGINX, Holder("copy", blocks=False, point="/mnt"), *CLOSED]))
    assert [line.partition(":")[0] for line in shown if not line.startswith(" ")] == ["busy", "alive", "unknown"]
    assert shown[1] == "  file     process 812 (nginx, uid 33) has /srv/data/log open as descriptor 7"
    assert shown[3] == "  copy     the same filesystem is mounted at /mnt"
    assert shown[5] == "  process  3 processes of other users can't be looked into: 1, 2, 77"


def test_one_process_that_cannot_be_looked_into_has_its_own_line_and_is_not_taken_for_a_holder() -> None:
    shown = list(lines(CLOSED[:1]))
    assert shown[0] == "nobody that can be seen holds it"
    assert shown[-1] == "  process  process 1 (x, uid 0) can't be looked into"


def test_nobody_is_said() -> None:
    assert list(lines([])) == ["nobody that can be seen holds it"]


def test_a_name_cannot_break_a_line_or_write_to_a_terminal() -> None:
    odd = Holder("file", blocks=True, pid=5, command="a\nb", fd=3, path="/srv/\x1b[31m\n\udcff")
    shown = list(lines([odd]))
    assert len(shown) == 2
    assert shown[1].isprintable()


def test_the_document_has_only_what_is_known_and_bytes_of_what_is_not_text() -> None:
    odd = Holder("file", blocks=True, pid=5, fd=3, path="/srv/\udcff")
    found = json.loads(json.dumps(document("/srv", 2**31, [odd, *CLOSED])))
    assert (found["target"], found["id"], found["alive"]) == ("/srv", 2**31, [])
    (busy,) = found["busy"]
    assert (busy["kind"], busy["pid"], busy["fd"], busy["is_own"]) == ("file", 5, 3, False)
    assert (busy["path"], busy["path_b64"]) == ("/srv/�", "L3Nydi//")
    assert "point" not in busy
    assert [entry["pid"] for entry in found["unknown"]] == [1, 2, 77]
