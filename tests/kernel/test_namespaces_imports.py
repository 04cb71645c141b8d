"""Nothing of a namespace's root is imported: whoever fills it could have put any module there."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mountfd
from mountfd import MountNamespace
from tests.support.layers import fill
from tests.support.need import need, need_real_root
from tests.support.others import in_child
from tests.support.program import SCRIPT

need_real_root()

# Of a fresh process, which has loaded nothing yet that it doesn't need.
INSIDE = """
import mountfd
from mountfd import MountNamespace, MountSpec, Overlay
with MountNamespace.new(ROOT) as made:
    made.call(lambda: mountfd.mount(MountSpec("tmpfs", "x"), "/a"))
    made.call(lambda: mountfd.assemble(Overlay(["/b", "/c"])).attach("/d").close())
    def temporary():
        with mountfd.temporary(MountSpec("tmpfs", "x")):
            pass
    made.call(temporary)
    made.call(lambda: mountfd.unmount("/a"))
    if mountfd.has(mountfd.Feature.STATMOUNT):  # else it is asked of /proc, which isn't there
        made.call(lambda: mountfd.replace("/d", "/b").close())
    print(sorted(info.point for info in made.mounts(fields=("point",))))
    try:
        made.call(lambda: mountfd.mount(MountSpec("ext4", "/nowhere"), "/a"))
    except mountfd.Missing as error:
        print(type(error).__name__)
"""


def test_what_mountfd_does_in_it_is_loaded_before(scratch: Path) -> None:
    root = scratch / "root"
    for name in "abcd":
        fill(root / name)
    source = f"import sys; sys.path.insert(0, {str(SCRIPT.parents[1] / 'src')!r})\nROOT = {str(root)!r}"
    done = subprocess.run([sys.executable, "-I", "-c", source + INSIDE], check=False, capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", "['/', '/d']\nMissing\n")


@pytest.fixture
def root(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a root that holds a module where this process looks for modules."""
    (scratch / "modules").mkdir()
    root = scratch / "root"
    fill(root / str(scratch / "modules").lstrip("/"), {"planted.py": "RAN = True"})
    monkeypatch.syspath_prepend(str(scratch / "modules"))
    importlib.invalidate_caches()
    yield_none = sys.modules.pop("planted", None)
    assert yield_none is None
    return root


def load() -> None:
    importlib.import_module("planted")


def test_a_module_of_its_root_is_refused_by_name(root: Path) -> None:
    with MountNamespace.new(root) as made, pytest.raises(ImportError, match="planted isn't loaded yet"):
        made.call(load)
    assert "planted" not in sys.modules


def test_a_thread_that_is_started_there_is_refused_too(root: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            load()
        except ImportError as error:
            refused.append(str(error))

    def start() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with MountNamespace.new(root) as made:
        made.call(start)
    assert len(refused) == 1
    assert "planted" not in sys.modules


def test_others_go_on_importing_meanwhile(root: Path, scratch: Path) -> None:
    fill(scratch / "modules", {"harmless.py": "RAN = True"})
    inside, outside = threading.Event(), threading.Event()

    def stay() -> bool:
        inside.set()
        return outside.wait(20)

    stayed: list[bool] = []
    with MountNamespace.new(root) as made:
        thread = threading.Thread(target=lambda: stayed.append(made.call(stay)))
        thread.start()
        try:
            assert inside.wait(20)
            assert importlib.import_module("harmless").RAN
        finally:
            outside.set()
            thread.join()
            sys.modules.pop("harmless", None)
    assert stayed == [True]


def test_what_is_loaded_already_can_be_named(root: Path) -> None:
    def use() -> object:
        import json

        return json.loads("1")

    with MountNamespace.new(root) as made:
        assert made.call(use) == 1


def test_a_replacement_in_another_namespace_imports_nothing_there(scratch: Path) -> None:
    need(mountfd.has(mountfd.Feature.STATMOUNT), "STATMOUNT (Linux 6.8): else it is asked of /proc, which isn't there")
    for name in ("root/point", "one", "two"):
        fill(scratch / name, {"file": name})
    with MountNamespace.new(scratch / "root") as made, mountfd.Mount.clone(scratch / "one") as one:
        made.attach(one, "/point")
        with mountfd.replace("/point", scratch / "two", namespaces=[made]):
            assert made.call(lambda: Path("/point/file").read_text()) == "two"


def test_a_thread_that_outlives_the_call_is_refused_too(root: Path) -> None:
    go = threading.Event()
    refused: list[str] = []

    def other() -> None:
        go.wait(20)
        try:
            load()
        except ImportError as error:
            refused.append(str(error))

    threads: list[threading.Thread] = []

    def start() -> None:
        threads.append(threading.Thread(target=other))
        threads[0].start()

    with MountNamespace.new(root) as made:
        made.call(start)
    go.set()
    threads[0].join()
    assert len(refused) == 1
    assert "planted" not in sys.modules


def test_what_the_root_says_of_itself_is_not_believed(root: Path) -> None:
    fill(root / f"proc/{os.getpid()}")
    (root / f"proc/{os.getpid()}/root").symlink_to("/")
    test_a_thread_that_is_started_there_is_refused_too(root)


def test_a_codec_that_was_refused_is_found_afterwards(root: Path) -> None:
    name = next(name for name in ("cp037", "cp1140", "cp875", "cp424") if f"encodings.{name}" not in sys.modules)

    def use() -> bytes:
        return "x".encode(name)

    with MountNamespace.new(root) as made, pytest.raises(LookupError, match="isn't loaded yet"):
        made.call(use)
    assert use()


def test_a_process_that_moves_to_another_root_imports_from_there(root: Path, scratch: Path) -> None:
    def act() -> bool:
        with MountNamespace.new(root) as made:
            made.call(lambda: None)
        os.chroot(root)
        os.chdir("/")
        importlib.invalidate_caches()
        load()
        return bool(sys.modules["planted"].RAN)

    assert in_child(act)
