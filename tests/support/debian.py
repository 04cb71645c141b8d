"""Packages of a newer Debian suite, unpacked below the user's cache: headers and kernels to test against.

The archive is the one that the machine's own apt configuration names. Everything that apt keeps goes into a root of
our own, so the machine's lists stay as they are; signatures are checked by apt with the machine's keyrings.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.need import need

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["depends", "unpacked"]

_A_DAY = 24 * 60 * 60
_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)
# What apt says when it can't verify, in each of its versions; that is a failure, never a skip.
_UNVERIFIED = ("GPG error", "NO_PUBKEY", "EXPKEYSIG", "is not signed", "OpenPGP signature verification failed")

# Read after the machine's own configuration, of which proxies and passwords stay in force.
_CONFIGURATION = """\
Dir::State "{root}/state";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Default-Release "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
// A cache below a home directory can't be reached by the user that apt would change to.
APT::Sandbox::User "root";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def unpacked(package: str, suite: str = "sid") -> Path:
    """Give the directory into which the suite's current version of a package is unpacked.

    The archive is asked once a day; without a network, what is there already serves. Skips the test when there is
    neither, and raises RuntimeError when the archive's signature can't be verified.
    """
    home = _home(suite)
    current = home / "current" / package
    with _locked(home / "lock"):
        if current.is_dir() and time.time() - current.lstat().st_mtime < _A_DAY:
            return current.resolve()
        found = _fetch(package, suite, home)
        if found is not None:
            with contextlib.suppress(FileNotFoundError):
                current.unlink()
            current.symlink_to(found)
    need(current.is_dir(), "network to a Debian archive")
    return current.resolve()


def depends(package: str, suite: str, *prefixes: str) -> list[str]:
    """Name the packages with these beginnings that the suite's current version of a package depends on, at any depth.

    The archive is asked once a day; without a network, what it said before serves. Skips the test when there
    is neither.
    """
    home = _home(suite)
    kept = home / "current" / f"{package}.depends"
    with _locked(home / "lock"):
        if not kept.is_file() or time.time() - kept.stat().st_mtime >= _A_DAY:
            archive = _archive() if shutil.which("apt-get") else None
            if archive is not None and _update(archive, suite, home / "apt"):
                found = _depends(home / "apt", package)
                if found:
                    kept.write_text("\n".join(found))
    need(kept.is_file(), f"network to a Debian archive that has {package} of {suite}")
    return [name for name in kept.read_text().split() if name.startswith(prefixes)]


def _depends(root: Path, package: str) -> list[str]:
    weak = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    line = ["apt-cache", "-c", str(root / "apt.conf"), "depends", "--recurse", *weak, package]
    done = subprocess.run(
        line, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False, timeout=600
    )
    lines = [] if done.returncode else done.stdout.splitlines()
    return sorted({line for line in lines if line[:1].isalnum()} - {package})  # indented are the reasons


def _home(suite: str) -> Path:
    """Make the directory that keeps what is known and unpacked of a suite."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    home = Path(cache, "mountfd", "debian", suite)
    try:
        (home / "current").mkdir(parents=True, exist_ok=True)
    except PermissionError:
        need(False, "a cache directory that can be written to")
    return home


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one test process at a time work on the cache."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(package: str, suite: str, home: Path) -> Path | None:
    """Download and unpack what the suite has today, unless it is there; None without apt, archive or network."""
    archive = _archive() if shutil.which("apt-get") and shutil.which("dpkg-deb") else None
    if archive is None or not _update(archive, suite, home / "apt"):
        return None
    offer = _apt(home / "apt", "download", "--print-uris", package)
    if offer.returncode:
        return None
    name = offer.stdout.split()[1]  # 'URI' file-name size hash
    place = home / "packages" / name.removesuffix(".deb")
    if not place.is_dir():
        place.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            if _apt(home / "apt", "download", package, cwd=scratch).returncode:
                return None
            subprocess.run(["dpkg-deb", "-x", name, "unpacked"], cwd=scratch, check=True, timeout=600)
            os.rename(os.path.join(scratch, "unpacked"), place)
    return place


def _archive() -> str | None:
    """Learn the main archive's URL from the machine's configuration."""
    for options in ([], ["--no-release-info"]):  # without lists, entries are shown but not what they hold
        listing = subprocess.run(
            ["apt-get", "indextargets", *options, "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        rows = [line.split("|") for line in listing.stdout.splitlines()]
        if options:
            rows = [["Debian", "Debian", uri] for _, _, uri in rows if "security" not in uri]
        for origin, label, uri in rows:
            if (origin, label) == ("Debian", "Debian"):
                return uri
    return None


def _update(archive: str, suite: str, root: Path) -> bool:
    """Bring our own lists of the suite up to date, and say whether there are any."""
    (root / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (root / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    (root / "state").mkdir(exist_ok=True)
    (root / "status").touch()
    (root / "apt.conf").write_text(_CONFIGURATION.format(root=root))
    keyring = next((f"signed-by={path}" for path in _KEYRINGS if os.path.exists(path)), "")
    (root / "sources.list").write_text(f"deb [target=Packages {keyring}] {archive} {suite} main\n")
    update = _apt(root, "update")
    if any(words in update.stderr for words in _UNVERIFIED):
        raise RuntimeError(f"apt can't verify {suite}; is debian-archive-keyring up to date?\n{update.stderr}")
    return any((root / "lists").glob("*_Packages*"))


def _apt(root: Path, *arguments: str, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run apt-get with our own root."""
    return subprocess.run(
        ["apt-get", "-q", "-c", str(root / "apt.conf"), *arguments],
        env=os.environ | {"LC_ALL": "C"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
