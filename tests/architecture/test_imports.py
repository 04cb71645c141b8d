"""Imports run downwards only, start-up stays cheap, files stay small."""

from __future__ import annotations

import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from mountfd.verbs.loading import LATE
from tests.architecture.source import PACKAGE, Import, imports, modules

EVERYTHING = {"abi", "cli", "errors", "handles", "lowlevel", "model", "snapshotter", "verbs", "view", ""}

# What each room may know besides itself; "" is the package's own __init__.
MAY_IMPORT = {
    "errors": set[str](),
    "abi": {"errors"},
    "model": {"errors", "abi.flags"},
    "handles": {"errors", "abi", "model"},
    "verbs": {"errors", "abi", "model", "handles"},
    "view": {"errors", "model"},
    "lowlevel": {"errors", "abi", "handles"},
    "cli": EVERYTHING - {"snapshotter"},
    "snapshotter": EVERYTHING - {"cli"},
    "": EVERYTHING - {"cli", "snapshotter"},
    "__main__": {"cli"},
}

# What these modules cost at start-up is in no proportion to what a single mount costs.
HOT = ("abi", "handles", "errors", "verbs.query")
HEAVY = {"dataclasses", "logging", "pathlib", "re", "subprocess", "typing"}

LONGEST = 420


def test_imports_run_downwards() -> None:
    assert [str(record) for record in imports() if not _downwards(record)] == []


def test_every_room_is_known() -> None:
    assert {_room(name) for name in modules()} <= set(MAY_IMPORT)


def test_only_abi_knows_ctypes() -> None:
    users = [str(record) for record in imports() if _top(record.of) == "ctypes" and _room(record.by) != "abi"]
    assert users == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph: dict[str, set[str]] = {}
    for record in imports():
        if record.when == "load" and _top(record.of) == "mountfd":
            graph.setdefault(record.by, set()).add(record.of)
    graphlib.TopologicalSorter(graph).prepare()


def test_hot_modules_name_nothing_heavy() -> None:
    heavy = [
        str(record)
        for record in imports()
        if record.when == "load" and _top(record.of) in HEAVY and _below(_inner(record.by), HOT)
    ]
    assert heavy == []


@pytest.mark.parametrize("hot", ["mountfd", *(f"mountfd.{name}" for name in (*HOT, "handles.mount"))])
def test_hot_modules_load_nothing_heavy(hot: str) -> None:
    if hot not in modules():
        pytest.skip(f"missing: {hot}")
    program = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import {hot}; print(*sys.modules)"
    # -S: site and the .pth files of other packages load what they like.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, capture_output=True, text=True)
    assert HEAVY.intersection(done.stdout.split()) == set()


def test_files_are_short() -> None:
    lines = {name: len(path.read_bytes().splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    package = tmp_path / "mountfd"
    (package / "verbs").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "verbs" / "__init__.py").write_text("from . import one\nfrom ..errors import Gone\n")
    (package / "errors.py").write_text("def late():\n    import re\n")
    (package / "verbs" / "one.py").write_text(
        "import os.path\nTYPE_CHECKING = False\n"
        "if TYPE_CHECKING:\n    from typing import Self\nelse:\n    import ctypes\n"
    )
    assert imports(package) == [
        Import("mountfd.errors", "re", 2, "call"),
        Import("mountfd.verbs", "mountfd.verbs.one", 1, "load"),
        Import("mountfd.verbs", "mountfd.errors", 2, "load"),
        Import("mountfd.verbs.one", "os.path", 1, "load"),
        Import("mountfd.verbs.one", "typing", 4, "typing"),
        Import("mountfd.verbs.one", "ctypes", 6, "load"),
    ]


def _downwards(record: Import) -> bool:
    if _top(record.of) != "mountfd":
        return True
    room = _room(record.by)
    return _room(record.of) == room or _below(_inner(record.of), MAY_IMPORT[room])


def _below(inner: str, names: set[str] | tuple[str, ...]) -> bool:
    return any(inner == name or (name and inner.startswith(f"{name}.")) for name in names)


def _inner(module: str) -> str:
    return module.partition(".")[2]


def _room(module: str) -> str:
    return _top(_inner(module))


def _top(module: str) -> str:
    return module.partition(".")[0]


def test_what_functions_import_can_be_loaded_before_another_root_is_entered() -> None:
    rooms = EVERYTHING - {"cli", "view"}
    late = {_top(record.of) for record in imports() if record.when == "call" and _room(record.by) in rooms}
    assert late - {"mountfd", "pkgutil"} == set(LATE)
