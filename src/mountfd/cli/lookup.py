"""`mountfd lookup`: one mount, every field."""

from __future__ import annotations

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.cli.arguments import Arguments
    from mountfd.cli.terminal import Screen
    from mountfd.model.info import MountInfo
    from mountfd.view.columns import Column
    from mountfd.view.tree import Node

__all__ = ["FAILED", "SPEC", "run"]

FAILED = exits.USAGE
_FIRST_UNIQUE = 1 << 31

SPEC = Spec(
    "lookup",
    "Tell everything about one mount: the one that PATH or a descriptor lies on, or the one with an id.",
    "[PATH]",
    [
        Option("-i --id", "the mount with this id, unique or reused, instead of PATH", metavar="N"),
        Option("--fd", "the mount of this descriptor, which the caller left open, instead of PATH", metavar="N"),
        Option("--nofollow", "where PATH is a symlink, ask about the link itself"),
        Option("-o --output", "these columns, in one row; all for every one", metavar="COLUMNS"),
        Option("-n --noheadings", "no line with the columns' names"),
        Option("-r --raw", "fields separated by single blanks, with escapes"),
        Option("-J --json", "one JSON document of the shape that `list --json` has"),
    ],
    epilog="The exit status is 0, or 1 where there is no such mount.",
)


def run(arguments: Arguments) -> int:
    """Look it up and show it."""
    from mountfd.cli.terminal import Screen, put  # noqa: PLC0415 (after the words are understood)
    from mountfd.view.columns import EVERY, choose, fields_of  # noqa: PLC0415
    from mountfd.view.tree import Node  # noqa: PLC0415

    said = arguments.text("output")
    columns = choose(None if said == "all" else said, EVERY)
    node = Node(_find(arguments, (*fields_of(columns), "id_old")))
    put(_pieces(node, columns, arguments, Screen(None)))
    return exits.OK


def _find(arguments: Arguments, fields: tuple[str, ...]) -> MountInfo:
    from mountfd.verbs.query import lookup, mounts  # noqa: PLC0415 (after the words are understood)

    given = [*arguments.operands, *arguments.texts("id"), *arguments.texts("fd")]
    if len(given) != 1:
        raise InvalidSpec("lookup takes one of PATH, --id and --fd", part="lookup")
    if arguments.operands:
        return lookup(given[0], fields=fields, follow=not arguments.on("nofollow"))
    if not (given[0].isascii() and given[0].isdecimal()):
        raise InvalidSpec(f"{given[0]!r} is not a number", part="--id" if arguments.on("id") else "--fd")
    number = int(given[0])
    if arguments.on("fd"):
        return lookup(fd=number, fields=fields)
    # The two kinds of id never meet: unique ones begin where the others end.
    return mounts(fields=fields).by_id(number) if number < _FIRST_UNIQUE else lookup(id=number, fields=fields)


def _pieces(node: Node, columns: list[Column], arguments: Arguments, screen: Screen) -> Iterator[str]:
    from mountfd.view import listing  # noqa: PLC0415 (after the words are understood)

    headings = not arguments.on("noheadings")
    if arguments.on("json"):
        from mountfd.view.mounts_json import document  # noqa: PLC0415 (only when asked)

        yield from document([node], columns, is_ascii=screen.is_ascii)
        return
    if arguments.on("raw"):
        found = listing.raw_lines([node], columns, headings=headings)
    elif arguments.text("output") is None:
        found = listing.fields(node, columns, is_ascii=screen.is_ascii)
    else:
        found = listing.lines([node], columns, is_ascii=screen.is_ascii, headings=headings)
    for line in found:
        yield line + "\n"
