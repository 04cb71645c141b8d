"""A mount namespace in use: functions called in it, mounts attached where others live, files that keep it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import Attr, FsContext, InvalidSpec, KernelError, Missing, Mount, MountNamespace, NotDirectory
from mountfd.lowlevel import calls
from tests.support.inject import lacking, watching
from tests.support.mounting import tmpfs, umount
from tests.support.namespaces import bare_root, points
from tests.support.need import need


@pytest.fixture
def root(scratch: Path) -> Path:
    return bare_root(scratch / "root")


@pytest.fixture
def namespace(root: Path) -> Iterator[MountNamespace]:
    with MountNamespace.new(root) as made:
        yield made


def fresh() -> Mount:
    with FsContext.open("tmpfs") as context:
        return context.create().mount(Attr.NODEV)


# --- call ----------------------------------------------------------------------------------------------------------
def test_a_function_runs_inside_and_its_result_and_error_come_back(namespace: MountNamespace) -> None:
    assert namespace.call(lambda: sorted(os.listdir("/"))) == ["bin", "mnt", "proc", "tmp"]
    with pytest.raises(ZeroDivisionError):
        namespace.call(lambda: 1 // 0)
    assert Path("/etc").is_dir()


def test_each_call_begins_at_the_root_on_a_thread_of_its_own(namespace: MountNamespace) -> None:
    def go() -> str:
        before = os.getcwd()
        os.chdir("/mnt")
        return before

    assert [namespace.call(go), namespace.call(go)] == ["/", "/"]
    assert namespace.call(threading.get_ident) != threading.get_ident()


def test_from_many_threads_each_in_its_own(scratch: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            place = scratch / str(number)
            place.mkdir()
            (place / f"file-{number}").touch()
            with MountNamespace.new(place) as made:
                for _ in range(20):
                    assert made.call(lambda: os.listdir("/")) == [f"file-{number}"]
        except BaseException as error:  # noqa: BLE001 (shown below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_no_module_is_looked_for_in_the_root_while_a_command_is_started(root: Path, scratch: Path) -> None:
    """A root may hold anything: files of the interpreter's names, too."""
    script = (
        "import sys, os; sys.path.insert(0, sys.argv[1])\n"
        "import mountfd\n"
        "with mountfd.MountNamespace.new(sys.argv[2]) as made:\n"
        "    seen = set()\n"
        "    sys.addaudithook(lambda event, args: seen.add(args[0]) if event == 'import' else None)\n"
        "    made.run(['true'], env={'PATH': '/bin'})\n"
        "    seen.clear()\n"
        "    made.run(['true'], env={'PATH': '/bin'})\n"
        "    print(sorted(seen))\n"
        "    import threading\n"
        "    inside = []\n"
        "    here = lambda e, a: inside.append(a[0]) if e == 'import' and os.stat('/').st_dev != dev else None\n"
        "    dev = os.stat('/').st_dev\n"
        "    sys.addaudithook(here)\n"
        "    for words in (['none'], ['/bin/true']):\n"
        "        try:\n"
        "            made.run(words, cwd='/mnt')\n"
        "        except OSError as error:\n"
        "            pass\n"
        "    print(inside)\n"
    )
    source = str(Path(mountfd.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, source, str(root)], check=False, capture_output=True, text=True
    )
    assert (done.stderr, done.stdout) == ("", "[]\n[]\n")


# --- attach --------------------------------------------------------------------------------------------------------
def test_a_mount_is_attached_where_a_process_lives(namespace: MountNamespace) -> None:
    reading, writing = os.pipe()
    there: list[int] = []

    def live() -> None:
        there.append(namespace.run(["/bin/sh", "-c", f"read x <&{reading} && test -e /mnt/new"], pass_fds=[reading]))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with fresh() as mount:
            (Path(f"/proc/self/fd/{mount.fileno()}") / "new").touch()
            namespace.attach(mount, "/mnt")
            assert [info.id for info in namespace.mounts(fields=("id", "point")) if info.point == "/mnt"] == [mount.id]
    finally:
        os.write(writing, b"\n")
        thread.join()
        os.close(reading)
        os.close(writing)
    assert there == [0]
    assert points(namespace) == ["/", "/mnt"]


def test_a_relative_target_starts_at_its_root(namespace: MountNamespace) -> None:
    with fresh() as mount:
        namespace.attach(mount, "mnt")
    assert points(namespace) == ["/", "/mnt"]


def test_a_target_cannot_lead_out(namespace: MountNamespace, scratch: Path) -> None:
    (scratch / "root" / "way").symlink_to("../../../..")
    with fresh() as mount:
        namespace.attach(mount, "/way/way/mnt")
    assert points(namespace) == ["/", "/mnt"]


@pytest.mark.parametrize(("target", "kind"), [("/none", Missing), ("/bin/busybox", KernelError)])
def test_a_target_that_does_not_fit(namespace: MountNamespace, target: str, kind: type[KernelError]) -> None:
    with fresh() as mount:
        with pytest.raises(kind):
            namespace.attach(mount, target)
        namespace.attach(mount, "/mnt")


def test_a_final_symlink_is_not_followed(namespace: MountNamespace, scratch: Path) -> None:
    (scratch / "root" / "link").symlink_to("mnt")
    with fresh() as mount, pytest.raises(KernelError) as caught:
        namespace.attach(mount, "/link")
    assert "symbolic link" in str(caught.value.hint)


def test_what_stands_here_cannot_be_attached_there(namespace: MountNamespace, scratch: Path) -> None:
    tmpfs(scratch / "here")
    with Mount.open(scratch / "here") as mount, pytest.raises(KernelError):
        namespace.attach(mount, "/mnt")
    umount(scratch / "here")


def test_a_clone_made_here_is_attached_there(namespace: MountNamespace, scratch: Path) -> None:
    (scratch / "data").mkdir()
    (scratch / "data" / "file").touch()
    with Mount.clone(scratch / "data") as mount:
        namespace.attach(mount.set(Attr.RDONLY), "/mnt")
    assert namespace.run(["/bin/sh", "-c", "test -e /mnt/file && ! touch /mnt/new 2>/dev/null"]) == 0


# --- keep ----------------------------------------------------------------------------------------------------------
def test_kept_at_a_file_it_outlives_its_handle(scratch: Path, root: Path) -> None:
    with MountNamespace.new(root) as made:
        number = made.id
        made.keep(scratch / "kept")
    with MountNamespace.open(scratch / "kept") as found:
        assert found.id == number
        assert found.run(["/bin/sh", "-c", "exit 4"]) == 4
    umount(scratch / "kept")
    with pytest.raises(InvalidSpec):
        MountNamespace.open(scratch / "kept")


def test_every_new_one_can_be_kept(scratch: Path) -> None:
    """Processors hand out ids of stocks of their own, and the kernel binds only what has a higher one than ours."""
    for processor in sorted(os.sched_getaffinity(0)):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {processor})
        try:
            for _ in range(5):
                with MountNamespace.new(scratch) as made:
                    made.keep(scratch / "kept")
                umount(scratch / "kept")
        finally:
            os.sched_setaffinity(0, allowed)


def test_a_file_that_is_there_serves_and_stays(scratch: Path, namespace: MountNamespace) -> None:
    (scratch / "kept").write_text("content")
    namespace.keep(scratch / "kept")
    umount(scratch / "kept")
    assert (scratch / "kept").read_text() == "content"


def test_a_pipe_does_not_make_it_wait(scratch: Path, namespace: MountNamespace) -> None:
    os.mkfifo(scratch / "pipe")
    namespace.keep(scratch / "pipe")
    umount(scratch / "pipe")


def test_no_file_stays_when_it_cannot_be_bound(scratch: Path, namespace: MountNamespace) -> None:
    with watching(lacking("mount", errno=1)), pytest.raises(KernelError):
        namespace.keep(scratch / "kept")
    assert not (scratch / "kept").exists()


def test_our_own_cannot_be_kept_within_itself(scratch: Path) -> None:
    with MountNamespace.current() as own, pytest.raises(KernelError) as caught:
        own.keep(scratch / "kept")
    assert "within itself" in str(caught.value.hint)
    assert not (scratch / "kept").exists()


@pytest.mark.parametrize("place", ["", "none/kept"])
def test_where_nothing_can_be_kept(scratch: Path, namespace: MountNamespace, place: str) -> None:
    with pytest.raises((Missing, NotDirectory)):
        namespace.keep(scratch / place)


# --- id, close -----------------------------------------------------------------------------------------------------
def test_it_is_found_by_its_id_until_it_is_gone(namespace: MountNamespace) -> None:
    number = namespace.id
    with MountNamespace.by_id(number) as found:
        assert found.id == number
    namespace.close()
    with pytest.raises(mountfd.Gone):
        MountNamespace.by_id(number).close()


def test_all_ways_to_take_hold_give_one_that_can_do_everything(namespace: MountNamespace) -> None:
    with (
        MountNamespace.from_fd(namespace.fileno()) as one,
        MountNamespace.open(f"/proc/self/fd/{namespace.fileno()}") as two,
        namespace.dup() as three,
    ):
        for handle in (one, two, three):
            assert handle.run(["/bin/true"]) == 0
            assert handle.call(lambda: os.listdir("/mnt")) == []
    with MountNamespace.by_id(namespace.id) as four:
        assert four.run(["/bin/true"]) == 0


def test_with_the_last_handle_its_mounts_go(scratch: Path, root: Path) -> None:
    tmpfs(scratch / "data")
    with MountNamespace.new(root) as made:
        with Mount.clone(scratch / "data") as mount:
            made.attach(mount, "/mnt")
            number = mount.id
        assert number in [info.id for info in made.mounts(fields=("id",))]
        with made.dup() as other:
            made.close()
            assert points(other) == ["/", "/mnt"]
    with pytest.raises(mountfd.Gone):
        mountfd.lookup(id=number)
    umount(scratch / "data")


def test_a_process_in_it_keeps_it(scratch: Path, root: Path) -> None:
    need(Path("/proc/self/ns/mnt").exists(), "/proc")
    go_reading, go_writing = os.pipe()
    ready_reading, ready_writing = os.pipe()
    statuses: list[int] = []
    made = MountNamespace.new(root)
    number = made.id
    line = ["/bin/sh", "-c", f"echo $$ >&{ready_writing}; read x <&{go_reading}; test -d /bin"]
    thread = threading.Thread(target=lambda: statuses.append(made.run(line, pass_fds=[go_reading, ready_writing])))
    thread.start()
    try:
        pid = int(os.read(ready_reading, 100))
        made.close()
        with MountNamespace.of(pid) as found:
            assert found.id == number
            assert found.pid == pid
    finally:
        os.write(go_writing, b"\n")
        thread.join()
        for fd in (go_reading, go_writing, ready_reading, ready_writing):
            os.close(fd)
    assert statuses == [0]


def test_mounts_are_those_that_a_process_in_it_sees(namespace: MountNamespace) -> None:
    namespace.call(lambda: calls.mount(b"proc", b"/proc", b"proc", 0, None))
    seen = namespace.call(lambda: Path("/proc/thread-self/mountinfo").read_text().count("\n"))
    assert len(namespace.mounts()) == seen == 2
    assert [mount.fstype for mount in namespace.mounts(fields=("fstype", "point"))] == ["tmpfs", "proc"]
