"""Protocols on a socket's inode: written and read back where the kernel can, refused by name where it can't."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import Feature, InvalidSpec, KernelError, Missing, NotSupported, advertise, advertised
from tests.support.mounting import MS_BIND, umount
from tests.support.need import need


@pytest.fixture
def service(scratch: Path) -> Iterator[Path]:
    path = scratch / "service.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(os.fspath(path))
        yield path


def need_attributes() -> None:
    need(mountfd.has(Feature.SOCKET_XATTR), "SOCKET_XATTR (Linux 7.1)")


# --- on every kernel -------------------------------------------------------------------------------------------------
def test_where_nothing_was_said_there_is_nothing(service: Path) -> None:
    assert advertised(service) == {}
    advertise(service, {})
    assert advertised(service) == {}


def test_a_kernel_without_it_is_told_by_name(service: Path) -> None:
    need(not mountfd.has(Feature.SOCKET_XATTR), "a kernel before Linux 7.1")
    with pytest.raises(NotSupported) as caught:
        advertise(service, {"varlink": "1"})
    assert caught.value.feature == "SOCKET_XATTR"
    assert "Linux 7.1" in str(caught.value.hint)
    assert advertised(service) == {}


@pytest.mark.parametrize("name", ["directory", "file", "pipe"])
def test_what_is_no_socket(scratch: Path, name: str) -> None:
    (scratch / "directory").mkdir()
    (scratch / "file").touch()
    os.mkfifo(scratch / "pipe")
    for act in (lambda: advertise(scratch / name, {"a": "1"}), lambda: advertised(scratch / name)):
        with pytest.raises(InvalidSpec, match="no socket"):
            act()


def test_what_is_not_there(scratch: Path) -> None:
    for act in (lambda: advertise(scratch / "none", {"a": "1"}), lambda: advertised(scratch / "none")):
        with pytest.raises(Missing) as caught:
            act()
        assert caught.value.filename == str(scratch / "none")


@pytest.mark.parametrize("name", ["", "a=b", "a\0b", "x" * 251, "\ud800"])
def test_what_can_be_no_name(service: Path, name: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        advertise(service, {"fine": "1", name: "1"})
    assert caught.value.part == "protocols"
    assert advertised(service) == {}


@pytest.mark.parametrize("value", [1, None, b"1", "x" * 65537])
def test_what_can_be_no_value(service: Path, value: object) -> None:
    with pytest.raises(InvalidSpec):
        advertise(service, {"a": value})  # type: ignore[dict-item]


def test_a_closed_descriptor() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        number = sock.fileno()
    with pytest.raises(KernelError):
        advertised(number)


# --- where the kernel can --------------------------------------------------------------------------------------------
def test_what_is_written_is_read_back(service: Path) -> None:
    need_attributes()
    said = {"rfc5424": "1", "varlink": "", "with space": "ä\udcff\n", "x" * 250: "y" * 4000}
    advertise(service, said)
    assert advertised(service) == said


def test_more_is_added_and_the_same_is_replaced(service: Path) -> None:
    need_attributes()
    advertise(service, {"a": "1", "b": "1"})
    advertise(os.fsencode(service), {"b": "2", "c": "1"})
    assert advertised(service) == {"a": "1", "b": "2", "c": "1"}


def test_a_bind_mount_of_the_socket_shows_it(service: Path, scratch: Path) -> None:
    need_attributes()
    (scratch / "elsewhere").touch()
    mountfd.lowlevel.calls.mount(os.fsencode(service), os.fsencode(scratch / "elsewhere"), None, MS_BIND, None)
    advertise(service, {"a": "1"})
    assert advertised(scratch / "elsewhere") == {"a": "1"}
    umount(scratch / "elsewhere")


def test_a_descriptor_is_the_socket_itself(service: Path) -> None:
    need_attributes()
    with socket.socket(socket.AF_UNIX) as sock:
        advertise(sock.fileno(), {"a": "1"})
        assert advertised(sock.fileno()) == {"a": "1"}
    assert advertised(service) == {}


def test_all_or_none_are_written(service: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_attributes()
    advertise(service, {"a": "old"})
    real = os.setxattr

    def full(path: bytes, name: str, value: bytes) -> None:
        if name == "user.c":
            raise OSError(28, "No space left on device")
        real(path, name, value)

    monkeypatch.setattr(os, "setxattr", full)
    with pytest.raises(KernelError):
        advertise(service, {"a": "new", "b": "new", "c": "new"})
    assert advertised(service) == {"a": "old"}
