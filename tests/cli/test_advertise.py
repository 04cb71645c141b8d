"""`mountfd advertise` as a program."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountfd
from mountfd import Feature
from tests.support.need import need
from tests.support.program import mountfd as program


@pytest.fixture
def service(scratch: Path) -> Iterator[str]:
    path = scratch / "service.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(path))
        yield os.fspath(path)


def test_nothing_was_said(service: str) -> None:
    done = program("advertise", service)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = program("advertise", "--json", service)
    assert json.loads(done.stdout) == {"socket": service, "protocols": {}}


def test_a_kernel_without_it_is_told_by_name(service: str) -> None:
    need(not mountfd.has(Feature.SOCKET_XATTR), "a kernel before Linux 7.1")
    done = program("advertise", service, "varlink=1")
    assert (done.returncode, done.stdout) == (32, "")
    assert "Linux 7.1" in done.stderr


def test_what_is_written_is_shown(service: str) -> None:
    need(mountfd.has(Feature.SOCKET_XATTR), "SOCKET_XATTR (Linux 7.1)")
    done = program("advertise", service, "varlink=1", "rfc5424=a=b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert program("advertise", service).stdout == "rfc5424=a=b\nvarlink=1\n"
    done = program("advertise", "-J", service)
    assert json.loads(done.stdout) == {"socket": service, "protocols": {"rfc5424": "a=b", "varlink": "1"}}


def test_what_is_no_socket_or_not_there(scratch: Path) -> None:
    for path in (scratch, scratch / "none"):
        done = program("advertise", os.fspath(path))
        assert done.returncode in (1, 32)
        assert done.stderr.startswith("mountfd: ")


@pytest.mark.parametrize("words", [[], ["SOCKET", "novalue"], ["SOCKET", "=1"]])
def test_wrong_words_are_status_1(service: str, words: list[str]) -> None:
    done = program("advertise", *[service if word == "SOCKET" else word for word in words])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mountfd: ")
