"""The page that `mountfd graph --format html` writes, in a browser that finds no host."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import select
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountfd import mounts
from mountfd.model.graph import graph
from mountfd.model.info import FIELDS
from tests.support.mounting import MS_SHARED, MS_SLAVE, bind, change, tmpfs, umount
from tests.support.need import need_command
from tests.support.program import mountfd

OFFLINE = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
OFFLINE += ["--host-resolver-rules=MAP * ~NOTFOUND"]


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """Make a shared mount with a peer, a receiver, and one that receives and passes on."""
    root = tmpfs(scratch / "w")
    shared = tmpfs(root / "shared")
    change(shared, MS_SHARED)
    bind(shared, root / "peer")
    change(bind(shared, root / "slave"), MS_SLAVE)
    change(bind(root / "slave", root / "both"), MS_SHARED)
    yield root
    umount(root, 2)


@pytest.fixture
def page(place: Path, tmp_path: Path) -> Path:
    return drawn("--under", str(place), place=tmp_path)


def drawn(*words: str, place: Path) -> Path:
    need_command("dot")
    done = mountfd("graph", *words, "--format", "html", "--output", str(place / "page.html"))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    return place / "page.html"


def key_of(place: Path, name: str) -> str:
    found = graph([("here", mounts(place, fields=FIELDS))])
    return next(node.key for node in found.nodes() if node.mount.point == f"{place}/{name}")


def browse(page: Path, profile: Path, *words: str, at: str = "") -> str:
    """Load a page, do what the words say, and end."""
    line = [need_command("chromium"), *OFFLINE, f"--user-data-dir={profile}", "--virtual-time-budget=3000"]
    done = subprocess.run([*line, *words, page.as_uri() + at], capture_output=True, check=True, timeout=60)
    assert b"Refused to" not in done.stderr
    assert b"Uncaught" not in done.stderr
    return done.stdout.decode()


class Browser:
    """A browser with a page, told what to do through a pair of pipes."""

    def __init__(self, profile: Path) -> None:
        """Start it."""
        there, self._commands = os.pipe()
        self._answers, back = os.pipe()
        self._unread, self._count, self._session = b"", 0, ""
        self._events: set[str | None] = set()
        # It reads commands from descriptor 3 and answers on 4.
        script = f'exec 3<&{there} 4>&{back}; exec "$@"'
        line = ["bash", "-c", script, "bash", need_command("chromium"), *OFFLINE, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [*line, "--remote-debugging-pipe", "about:blank"], pass_fds=(there, back), stderr=subprocess.DEVNULL
        )
        os.close(there)
        os.close(back)

    def load(self, page: Path) -> None:
        """Load a page, and wait until it is there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Page.navigate", url=page.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._read()

    def reload(self) -> None:
        """Load the page again."""
        self._events.clear()
        self.call("Page.reload")
        while "Page.loadEventFired" not in self._events:
            self._read()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command and its result."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": params}
        command |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            pass
        assert "result" in answer, answer
        return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        """Give the next message, an answer or an event."""
        while b"\0" not in self._unread:
            assert select.select([self._answers], [], [], 30)[0], "the browser says nothing"
            piece = os.read(self._answers, 65536)
            assert piece, "the browser has ended"
            self._unread += piece
        first, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        self._events.add(message.get("method"))
        return message

    def ask(self, expression: str) -> Any:
        """Evaluate an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press keys."""
        for key in keys:
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key)

    def close(self) -> None:
        """End it: it goes when nobody gives it commands any more."""
        os.close(self._commands)
        os.close(self._answers)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def classes(dom: str, key: str) -> set[str]:
    found = re.search(rf'<g id="{key}" class="([^"]*)"', dom)
    assert found is not None, key
    return set(found[1].split())


def test_the_search_marks_what_fits_and_hides_other_rows(place: Path, page: Path, tmp_path: Path) -> None:
    dom = browse(page, tmp_path / "profile", "--dump-dom", at=f"#find={place.name}/SLAVE")
    assert "hit" in classes(dom, key_of(place, "slave"))
    assert "hit" not in classes(dom, key_of(place, "peer"))
    assert re.search(r'<output id="count"[^>]*>1 of 4</output>', dom)
    assert len(re.findall(r"<tr data-key=\"m[^>]*hidden", dom)) == 3


def test_a_mount_that_is_chosen_shows_its_facts_and_lights_up_what_it_reaches(
    place: Path, page: Path, tmp_path: Path
) -> None:
    key = key_of(place, "both")
    dom = browse(page, tmp_path / "profile", "--dump-dom", at=f"#{key_of(place, 'peer')}")
    assert all("lit" in classes(dom, key_of(place, name)) for name in ("peer", "shared", "slave", "both"))
    panel = dom.partition('<aside id="facts"')[2].partition("</aside>")[0]
    assert f"<dt>mounted on</dt><dd>{place}/peer</dd>" in panel
    assert f"<li>{place}/both" in panel
    dom = browse(page, tmp_path / "profile", "--dump-dom", at=f"#{key}")
    assert {"lit", "here"} <= classes(dom, key)
    assert "lit" not in classes(dom, key_of(place, "peer"))
    assert "appears nowhere else" in dom


def test_every_mount_can_be_reached_and_named_without_a_pointer(place: Path, page: Path, tmp_path: Path) -> None:
    dom = browse(page, tmp_path / "profile", "--dump-dom")
    parts = re.findall(r'<g id="m\d+"[^>]*>', dom)
    assert len(parts) == 4
    assert all('role="button"' in part and "aria-label=" in part and "tabindex=" in part for part in parts)
    assert len([part for part in re.findall(r"<g id=[^>]*>", dom) if 'tabindex="0"' in part]) == 1


def test_arrows_walk_through_the_picture_enter_chooses_and_slash_finds(place: Path, page: Path, tmp_path: Path) -> None:
    with contextlib.closing(Browser(tmp_path / "profile")) as browser:
        browser.load(page)
        here = "document.activeElement.id"
        browser.ask("document.querySelector('#picture [tabindex=\"0\"]').focus()")
        start, seen = browser.ask(here), set()
        for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowDown", "ArrowDown", "ArrowDown"):
            browser.press(key)
            seen.add(browser.ask(here))
        assert len(seen | {start}) >= 4
        browser.press("Enter")
        assert browser.ask("location.hash") == f"#{browser.ask(here)}"
        browser.press("/")
        assert browser.ask(here) == "find"
        browser.call("Input.insertText", text="both")
        assert browser.ask("document.getElementById('count').textContent") == "1 of 4"
        browser.press("Enter")
        assert browser.ask("document.querySelector('.here').id") == key_of(place, "both")
        browser.press("Escape")
        assert browser.ask("document.querySelectorAll('.hit, .here, tr[hidden]').length") == 0
        assert browser.ask("document.getElementById('find').value") == ""
        assert browser.ask("performance.getEntriesByType('resource').length") == 0


def test_it_begins_with_all_of_the_picture_s_width_in_sight(place: Path, page: Path, tmp_path: Path) -> None:
    with contextlib.closing(Browser(tmp_path / "profile")) as browser:
        browser.load(page)
        for width, is_cut in ((1100, True), (4000, False)):
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
            )
            browser.reload()
            natural = "document.querySelector('#picture svg').viewBox.baseVal.width * 4 / 3"
            shown = browser.ask("document.querySelector('#picture svg').getBoundingClientRect().width")
            assert (shown < browser.ask(natural) - 1) == is_cut
            assert browser.ask("document.getElementById('picture').scrollWidth") <= browser.ask(
                "document.getElementById('picture').clientWidth"
            )


def test_a_script_that_is_not_the_page_s_own_is_refused(page: Path, tmp_path: Path) -> None:
    page.write_text(page.read_text().replace("</body>", "<script>document.title = 'owned'</script></body>"))
    line = [need_command("chromium"), *OFFLINE, f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()]
    done = subprocess.run(line, capture_output=True, check=True, timeout=60)
    assert b"<title>Mount propagation</title>" in done.stdout


def test_the_page_is_light_or_dark_as_its_reader_is(page: Path, tmp_path: Path) -> None:
    shades = []
    for name, words in (("light", ["preferredColorScheme=1"]), ("dark", ["preferredColorScheme=0"])):
        target = tmp_path / f"{name}.png"
        browse(page, tmp_path / "profile", f"--blink-settings={words[0]}", f"--screenshot={target}")
        shades.append(first_pixel(target.read_bytes()))
    assert min(shades[0]) > 0xE0
    assert max(shades[1]) < 0x30


def test_hostile_names_stay_names_in_a_browser(tmp_path: Path) -> None:
    names = [
        rb"/</script><script>document.title='owned'</script>",
        rb"/'\042><img\040src=x\040onerror=document.title='owned'>",
        rb"/&lt;b&gt;\012\134N",
        b"/\xff--></svg>",
    ]
    rows = [b"%d 0 0:%d / %s rw shared:1 - tmpfs %s rw\n" % (at, at, name, name) for at, name in enumerate(names, 1)]
    (tmp_path / "table").write_bytes(b"".join(rows).replace(rb"\042", b'"'))
    page = drawn("--file", str(tmp_path / "table"), place=tmp_path)
    dom = browse(page, tmp_path / "profile", "--dump-dom", at="#m2")
    assert "<title>Mount propagation</title>" in dom
    assert "<img" not in dom
    assert dom.count("<script") == 1
    cells = [html.unescape(cell) for cell in re.findall(r'<tr data-key="m\d"[^>]*><td>([^<]*)</td>', dom)]
    assert sorted(cells) == sorted(
        [
            "/</script><script>document.title='owned'</script>",
            "/'\"><img src=x onerror=document.title='owned'>",
            "/&lt;b&gt;\\x0a\\N",
            "/\\xff--></svg>",
        ]
    )


def first_pixel(png: bytes) -> tuple[int, ...]:
    """Give the colour of a picture's first pixel, which every filter of PNG leaves as it is."""
    data, at = b"", 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        data += png[at + 8 : at + 8 + size] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += 12 + size
    return tuple(zlib.decompress(data)[1:4])
