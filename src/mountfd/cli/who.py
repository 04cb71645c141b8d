"""`mountfd who`: who keeps a mount busy, and who keeps its filesystem alive."""

from __future__ import annotations

from mountfd.cli import exits
from mountfd.cli.arguments import Option, Spec
from mountfd.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountfd.cli.arguments import Arguments
    from mountfd.model.holder import Holder

__all__ = ["SPEC", "run"]

SPEC = Spec(
    "who",
    "Tell who keeps the mount that TARGET lies on busy, and who keeps its filesystem alive although umount works.",
    "[TARGET]",
    [
        Option(
            "-i --id", "the mount with this unique id instead of TARGET, also when it was lazily unmounted", metavar="N"
        ),
        Option("-q --quiet", "say it by the exit status alone"),
        Option("-J --json", "one JSON document: target, id, and the lists busy, alive and unknown"),
    ],
    epilog="The exit status is 0 when somebody is seen to hold it, 1 when nobody is, 32 when it can't be found out.\n"
    "Other users' processes can't be looked into, and are named, as are overlays whose layers can't be told. What\n"
    "nobody can see: descriptors on their way through a socket or registered with io_uring.",
)


def run(arguments: Arguments) -> int:
    """Find them and show them."""
    from mountfd.verbs.holders import examine, find_target  # noqa: PLC0415 (after the words are understood)

    said = arguments.text("id")
    if len(arguments.operands) + (said is not None) != 1:
        raise InvalidSpec("who takes either TARGET or --id", part="who")
    if said is not None and not (said.isascii() and said.isdecimal()):
        raise InvalidSpec(f"{said!r} is not a number", part="--id")
    target = find_target(arguments.operands[0]) if said is None else find_target(None, int(said))
    found = examine(target)
    if not arguments.on("quiet"):
        from mountfd.cli.messages import say  # noqa: PLC0415
        from mountfd.cli.terminal import put  # noqa: PLC0415
        from mountfd.verbs.query import is_mount  # noqa: PLC0415

        shown = arguments.operands[0] if said is None else target.point
        if said is None and target.point is not None and not is_mount(arguments.operands[0]):
            say(f"{shown!r} is no mount itself: this is about the mount at {target.point!r}, on which it lies")
        put(_pieces(shown, target.id, found, as_json=arguments.on("json")))
    return exits.OK if any(holder.blocks is not None for holder in found) else exits.NOTHING


def _pieces(target: str | None, number: int | None, found: list[Holder], *, as_json: bool) -> Iterator[str]:
    from mountfd.cli.terminal import Screen  # noqa: PLC0415
    from mountfd.view import holders  # noqa: PLC0415

    if as_json:
        import json  # noqa: PLC0415 (only when asked)

        yield json.dumps(holders.document(target, number, found)) + "\n"
        return
    for line in holders.lines(found, is_ascii=Screen(None).is_ascii):
        yield line + "\n"
