"""containerd's own mount package, which calls `mountfd-overlay` for a snapshot's mounts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.layers import fill
from tests.support.need import need, need_command, need_real_root
from tests.support.program import SCRIPT
from tests.support.specs import count

PROGRAM = Path(__file__).parents[1] / "support" / "containerd.go"
GOPATH = "/usr/share/gocode"  # where Debian's packages have the sources of libraries


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a program with containerd's mount package."""
    go = need_command("go")
    need(os.path.isdir(f"{GOPATH}/src/github.com/containerd/containerd/mount"), "containerd's sources")
    built = tmp_path_factory.mktemp("containerd") / "containerd"
    env = {**os.environ, "GO111MODULE": "off", "GOPATH": GOPATH, "GOCACHE": str(built.with_name("cache"))}
    subprocess.run([go, "build", "-o", built, PROGRAM], check=True, env=env)
    return built


def test_an_overlay_is_mounted_looked_up_and_taken_away(containerd: Path, place: Path) -> None:
    need_real_root()
    need_command("mount.fuse3")
    fill(place / "a", {"own": "a"})
    fill(place / "b", {"deep": "b"})
    for name in ("upper", "work", "point", "bin"):
        fill(place / name)
    (place / "bin/mountfd-overlay").symlink_to(SCRIPT)
    options = f"index=off,workdir={place}/work,upperdir={place}/upper,lowerdir={place}/a:{place}/b"
    env = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}"}
    done = subprocess.run([containerd, place, options], check=False, capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr, done.returncode) == ("b overlay true\nkept <nil>\n", "", 0)
    assert (place / "upper/new").read_text() == "kept"
    assert count(place / "point") == 0
