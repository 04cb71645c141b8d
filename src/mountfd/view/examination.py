"""What `doctor` found, as lines for a person."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

__all__ = ["lines"]


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Put an examination into lines: present and missing features, what takes their place, limits."""
    user = facts["user"]
    yield f"kernel     {facts['kernel']} on {facts['machine']}"
    where = "the initial user namespace" if user["initial user namespace"] else "a user namespace"
    yield (
        f"user       uid {user['uid']} in {where}, CAP_SYS_ADMIN {_yes(user['CAP_SYS_ADMIN'])}, "
        f"seccomp filter {_yes(user['seccomp filter'])}"
    )
    for verb, route in facts["routes"].items():
        yield f"route      {verb}: {route}"
    yield ""
    width = max(len(feature["name"]) for feature in facts["features"])
    for feature in facts["features"]:
        mark = "yes" if feature["present"] else "no "
        text = feature["use"] if feature["present"] else f"{feature['use']}; instead: {feature['otherwise']}"
        yield f"{mark}  {feature['name']:<{width}}  Linux {feature['since']:<5} {text}"
    yield ""
    for name, value in facts["limits"].items():
        yield f"limit      {name} = {'unknown' if value is None else value}"
    yield ""
    words = {True: "can be idmapped", False: "can't be idmapped", None: "couldn't be tried"}
    for answer, word in words.items():
        kinds = [name for name, found in facts["idmapped"].items() if found is answer]
        if kinds:
            yield f"{word}: {', '.join(kinds)}"


def _yes(value: object) -> str:
    return "yes" if value else "no"
