from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from xml.etree import ElementTree as ET

import pytest

from mountfd.abi.flags import Propagation
from mountfd.model.graph import Graph, graph
from mountfd.model.info import MountInfo, from_fields
from mountfd.model.table import MountTable
from mountfd.view import dot, html
from mountfd.view.graph_json import as_values
from mountfd.view.graph_text import lines
from mountfd.view.text import printable
from tests.support.need import need_command

RECORDED = b"""\
1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
2 1 8:1 /srv /srv/copy rw shared:1 - ext4 /dev/sda1 rw
3 1 0:5 / /mnt rw shared:7 master:1 - tmpfs a\\040b rw
4 3 0:6 / /mnt rw - tmpfs top rw
5 1 0:8 / /one rw shared:9 - tmpfs none rw
6 1 0:9 / /no rw unbindable - tmpfs none rw
"""
OTHER = b"11 0 8:1 / / rw master:1 - ext4 /dev/sda1 rw\n12 11 0:5 / /mnt rw master:7 - tmpfs a\\040b rw\n"

HOSTILE = [
    "/</script><script>alert(1)</script>",
    "/'\"><img src=x onerror=alert(1)>",
    '/\\N\\G\\l\\\\ \\"] }',
    "/&lt;&#65;&amp;amp; &nbsp;",
    "/line\nfeed\ttab\r\x1b[31m\x7f",
    "/not utf8 \udcff\udc80",
    "/--> ]]> <!-- </svg> <title>",
    "/%%SVG%% %%SCRIPT%% ${x} `y`",
    "/many   blanks  ",
    "/\ufffe\uffff\u2028\u202e é 漢",
    '/a:b -> c [label=x]; "',
    "#",
    "",
]


def found() -> Graph:
    return graph([("here", MountTable.parse(RECORDED)), ("there", MountTable.parse(OTHER))])


def hostile() -> Graph:
    def mount(number: int, name: str) -> MountInfo:
        flags = Propagation.SHARED if number % 2 else Propagation.SLAVE
        groups = {"peer_group": 1, "master": 0} if number % 2 else {"peer_group": 0, "master": 1}
        places = {
            "id": number,
            "parent_id": 0,
            "point": name,
            "root": "/",
            "source": name,
            "fstype": name,
            "options": name,
        }
        return from_fields({**places, **groups, "propagation": flags, "dev": (0, number)})

    return graph([(name or "none", [mount(number, name)]) for number, name in enumerate(HOSTILE, 1)])


def laid_out(graph: Graph) -> str:
    text = "".join(dot.document(graph))
    done = subprocess.run([need_command("dot"), "-Tsvg"], input=text.encode(), capture_output=True, check=True)
    assert b"rror" not in done.stderr
    return done.stdout.decode()


# --- text ----------------------------------------------------------------------------------------------------------
def test_a_group_is_a_section_with_what_receives_from_it_below() -> None:
    assert list(lines(found())) == [
        "●1  2 peers, 2 receive",
        "  ●    /          ext4   /dev/sda1        here",
        "  ●    /srv/copy  ext4   /dev/sda1[/srv]  here",
        "  └─▶  /mnt       tmpfs  a b              here   passes on to ●7, ▽ covered",
        "  └─▶  /          ext4   /dev/sda1        there",
        "",
        "●7 ◀─ ●1  1 mount, 1 receives",
        "  ●    /mnt       tmpfs  a b              here   ▽ covered",
        "  └─▶  /mnt       tmpfs  a b              there",
        "",
        "shared, but nothing here sends to them or receives from them",
        "  ●9   /one       tmpfs  none             here",
        "",
        "private",
        "  ○    /mnt       tmpfs  top              here",
        "",
        "namespaces",
        "  here   5 mounts and 1 private mount, unbindable",
        "  there  2 mounts",
    ]


def test_namespaces_are_said_to_be_alike_only_in_what_is_known_of_them() -> None:
    shared = [("one", b"1 0 0:7 / / rw shared:1 - t t rw\n"), ("two", b"2 0 0:7 / / rw shared:1 - t t rw\n")]
    private = b"".join(b"%d 2 0:8 / /p%d rw - t t rw\n" % (at, at) for at in range(3, 6))

    def last(*tables: bytes, everything: bool = False) -> str:
        named = [(name, MountTable.parse(table)) for (name, _), table in zip(shared, tables, strict=False)]
        return list(lines(graph(named, everything=everything)))[-1]

    one, two = (table for _, table in shared)
    assert last(one, two) == "  2 namespaces alike: one, two  1 mount"
    assert last(one, two + private) == (
        "  2 namespaces alike in what is shown: one, two  1 mount and 0 to 3 private mounts in each"
    )
    assert last(private[: len(private) // 3], private) == (
        "  2 namespaces where nothing propagates: one, two  1 to 3 private mounts in each"
    )
    assert last(private) == "  one  3 private mounts"
    assert last(private, private, everything=True) == "  2 namespaces alike: one, two  3 mounts"


def test_one_long_path_widens_its_own_line_alone() -> None:
    long = "/" + "x" * 250
    rows = [
        f"{at} 0 0:7 / {point} rw shared:1 - tmpfs t rw\n" for at, point in enumerate(("/a", "/b/c", long, "/d"), 1)
    ]
    found = list(lines(graph([("here", MountTable.parse("".join(rows).encode()))])))
    assert found[1:5] == [
        "  ●  /a    tmpfs  t  here",
        "  ●  /b/c  tmpfs  t  here",
        "  ●  /d    tmpfs  t  here",
        f"  ●  {long}  tmpfs  t  here",
    ]


def test_paths_that_are_all_long_are_aligned_as_short_ones_are() -> None:
    rows = [f"{at} 0 0:7 / /{'x' * 90}{'y' * at} rw shared:1 - tmpfs t rw\n" for at in range(1, 5)]
    found = list(lines(graph([("here", MountTable.parse("".join(rows).encode()))])))
    assert len({line.index("tmpfs") for line in found[1:5]}) == 1


def test_a_name_that_looks_like_an_escape_is_not_shown_as_the_character_is() -> None:
    rows = [
        f"{at} 0 0:7 / /{name} rw shared:1 - tmpfs {name} rw\n" for at, name in enumerate(("a\\011b", "a\\134x09b"), 1)
    ]
    found = graph([("here", MountTable.parse("".join(rows).encode()))])
    assert [line.split()[1] for line in [*lines(found)][1:3]] == ["/a\\x09b", "/a\\x5cx09b"]
    page = html.page(found, laid_out(found))
    for name in ("a\\x09b", "a\\x5cx09b"):
        assert f"<td>/{name}</td>" in page
        assert f">/{name}</text>" in page
    targets = [mount["target"] for mount in json.loads(json.dumps(as_values(found)))["namespaces"][0]["mounts"]]
    assert targets == ["/a\tb", "/a\\x09b"]


def test_a_group_has_its_colour_wherever_it_appears_and_colour_adds_nothing_else() -> None:
    coloured = list(lines(found(), colour=True))
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == list(lines(found()))
    assert len(set(re.findall(r"\x1b\[(\d+)m●7", "\n".join(coloured)))) == 1


def test_without_utf8_text_is_ascii_and_no_name_can_write_to_the_terminal() -> None:
    assert all(line.isascii() and line.isprintable() for line in lines(hostile(), is_ascii=True))
    assert all(line.isprintable() for line in lines(hostile()))


def test_a_line_ends_at_the_terminal_s_edge() -> None:
    assert max(map(len, lines(found(), room=30))) <= 30


# --- DOT and what Graphviz reads in it -----------------------------------------------------------------------------
def test_dot_is_the_same_each_time() -> None:
    assert [*dot.document(hostile())] == [*dot.document(hostile())]


def test_a_group_of_one_mount_is_that_mount_and_edges_tell_their_ends() -> None:
    ids = [dot.edge_id(edge) for edge in dot.drawn_edges(found())]
    assert ids == [
        "peer--m1--g1",
        "peer--m2--g1",
        "slave--g1--m3",
        "slave--g1--m11",
        "slave--m3--m12",
        "cover--m4--m3",
    ]


def test_graphviz_reads_every_character_as_it_was_meant() -> None:
    graph = hostile()
    root = ET.fromstring(laid_out(graph))  # noqa: S314 (Graphviz' own)
    space = "{http://www.w3.org/2000/svg}"
    texts = {
        part.get("id"): [(text.text or "").replace("\xa0", " ") for text in part.iter(f"{space}text")]
        for part in root.iter(f"{space}g")
    }
    for node, name in zip(graph.nodes(), HOSTILE, strict=True):
        shown = printable(name) or "(unreachable)"
        if len(shown) <= 48:
            assert texts[node.key][0] == shown
        assert node.frame.names[0] == (name or "none")
    labels = [texts[f"ns{at}"][0] for at in range(1, len(HOSTILE) + 1)]
    assert labels == [printable(name or "none").replace("\xa0", " ") for name in HOSTILE]


def test_every_part_of_the_graph_is_a_part_of_the_picture() -> None:
    graph = found()
    ids = {unescape(found) for found in re.findall(r'<g id="([^"]+)"', laid_out(graph))}
    assert {node.key for node in graph.nodes()} < ids
    assert {dot.edge_id(edge) for edge in dot.drawn_edges(graph)} < ids
    assert {"ns1", "ns2", "g1"} < ids


# --- SVG and HTML --------------------------------------------------------------------------------------------------
def test_the_picture_is_one_svg_document_with_the_facts_as_titles() -> None:
    graph = hostile()
    text = html.picture(graph, laid_out(graph))
    root = ET.fromstring(text)  # noqa: S314 (Graphviz' own)
    space = "{http://www.w3.org/2000/svg}"
    titles = {part.get("id"): part.findtext(f"{space}title") for part in root.iter(f"{space}g")}
    for node, name in zip(graph.nodes(), HOSTILE, strict=True):
        assert f"mounted on: {printable(name) or '(unreachable)'}\n" in (titles[node.key] or "")
    for edge in dot.drawn_edges(graph):
        assert re.search("receives from|is a member of", titles[dot.edge_id(edge)] or "")
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}


def test_nothing_breaks_out_of_the_page() -> None:
    graph = hostile()
    page = html.page(graph, laid_out(graph))
    assert page.count("<script") == page.count("</script") == 1
    assert page.count("<svg") == page.count("</svg>") == 1
    assert "<img" not in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", page)
    assert set(re.findall(r"https?:[^\"' )]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert "%%SVG%%" in page  # the mount of that name, and no place that was left empty
    assert page.count("%%TITLE%%") == 0


def test_the_policy_names_the_script_that_the_page_has() -> None:
    from base64 import b64encode
    from hashlib import sha256

    page = html.page(found(), laid_out(found()))
    script = page.partition("<script>")[2].partition("</script>")[0]
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page


def test_the_page_s_tables_hold_every_mount_and_group() -> None:
    page = html.page(found(), laid_out(found()))
    for key in ("m1", "m2", "m3", "m4", "m5", "m11", "m12", "g1", "g7", "g9"):
        assert page.count(f'<tr data-key="{key}"') == 1


# --- JSON ----------------------------------------------------------------------------------------------------------
def test_json_has_the_same_facts() -> None:
    document = json.loads(json.dumps(as_values(found())))
    here = document["namespaces"][0]
    assert (here["names"], here["private"], here["unbindable"]) == (["here"], [1, 1], [1, 1])
    third = next(mount for mount in here["mounts"] if mount["key"] == "m3")
    assert (third["target"], third["ids"], third["peer_groups"], third["masters"]) == ("/mnt", [3], [7], [1])
    assert (third["covered"], third["covers"], here["mounts"][2]["covers"]) == (True, None, "m3")
    assert document["groups"][0] == {"numbers": [1], "peers": ["m1", "m2"], "receivers": ["m3", "m11"], "from": None}


def test_json_of_odd_bytes_is_unicode_with_the_bytes_beside() -> None:
    text = json.dumps(as_values(hostile()), ensure_ascii=False)
    assert text.encode()
    assert '"target_b64"' in text


@pytest.mark.parametrize("everything", [False, True])
def test_nothing_is_a_picture_too(everything: bool) -> None:
    empty = graph([("here", MountTable([]))], everything=everything)
    assert list(lines(empty)) == ["namespaces", "  here  0 mounts"]
    assert "nothing that propagates" in html.page(empty, laid_out(empty))
