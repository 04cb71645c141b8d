"""What `doctor` found, as lines for a person."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
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
    inside = facts["inside"] or {}
    if "refused" in inside:
        yield f"inside     no user namespace of your own: {inside['refused']}"
    elif inside:
        yield "inside     a user namespace of your own, as `mountfd run` makes it: what the second column is about"
    for verb, route in facts["routes"].items():
        there = f"; inside: {inside['routes'][verb]}" if "routes" in inside else ""
        yield f"route      {verb}: {route}{there}"
    yield ""
    yield from _features(facts["features"], inside.get("features", {}))
    yield ""
    for name, value in facts["limits"].items():
        yield f"limit      {name} = {'unknown' if value is None else value}"
    yield ""
    words = {True: "can be idmapped", False: "can't be idmapped", None: "couldn't be tried"}
    for answer, word in words.items():
        kinds = [name for name, found in facts["idmapped"].items() if found is answer]
        if kinds:
            yield f"{word}: {', '.join(kinds)}"


def _features(features: Iterable[Mapping[str, Any]], inside: Mapping[str, bool]) -> Iterator[str]:
    """Put each feature into a line: whether it is here, for ordinary users also whether it is inside, and its use."""
    features = list(features)
    width = max(len(feature["name"]) for feature in features)
    for feature in features:
        found = [feature["present"], *([inside[feature["name"]]] if inside else [])]
        text = feature["use"] if found[-1] else f"{feature['use']}; instead: {feature['otherwise']}"
        marks = "  ".join(f"{_yes(each):<3}" for each in found)
        yield f"{marks}  {feature['name']:<{width}}  Linux {feature['since']:<5} {text}"


def _yes(value: object) -> str:
    return "yes" if value else "no"
