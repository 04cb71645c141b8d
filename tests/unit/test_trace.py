from __future__ import annotations

import mountfd
from mountfd import Root
from mountfd.lowlevel import calls


def look() -> None:
    Root.open(b"/").close()


def test_a_call_is_said_in_words() -> None:
    lines: list[str] = []
    with mountfd.trace(lines.append):
        look()
    look()
    assert len(lines) == 1
    assert lines[0].startswith("openat(AT_FDCWD, '/', ")
    assert "O_PATH" in lines[0]
    assert int(lines[0].rpartition(" ")[2]) >= 0


def test_traces_end_in_any_order() -> None:
    for first_to_end in (0, 1, 2):
        heard: list[list[str]] = [[], [], []]
        traces = [mountfd.trace(lines.append) for lines in heard]
        traces.pop(first_to_end).close()
        look()
        assert [bool(lines) for lines in heard] == [i != first_to_end for i in range(3)]
        traces[0].close()
        traces[1].close()
        assert calls.watcher is None
        look()
        assert max(map(len, heard)) == 1


def test_remarks_reach_every_trace() -> None:
    one: list[str] = []
    two: list[str] = []
    with mountfd.trace(one.append), mountfd.trace(two.append):
        calls.remark("why")
    assert one == two == ["# why"]
