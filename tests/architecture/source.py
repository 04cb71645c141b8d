"""The library's source as the architecture tests see it: modules, and who imports whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "mountfd"

When = Literal["load", "call", "typing"]


@dataclass(frozen=True)
class Import:
    """One import of one module: by whom, of what, on which line, and when it happens."""

    by: str
    of: str
    line: int
    when: When

    def __str__(self) -> str:
        """Tell where to look."""
        return f"{self.by}:{self.line} imports {self.of}"


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Give the dotted name and the file of every module."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path = PACKAGE) -> list[Import]:
    """Give every import statement of the package, one record for each module that it names."""
    known = modules(package)
    return [
        record
        for name, path in known.items()
        for record in _in_file(name, path, known, ast.parse(path.read_bytes(), str(path)))
    ]


def _in_file(name: str, path: Path, known: dict[str, Path], tree: ast.Module) -> Iterator[Import]:
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node, when in _statements(tree, "load"):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno, when)
        else:
            # One dot is the package that the file is in, each further one goes up.
            above = here[: len(here) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield Import(name, inner if inner in known else source, node.lineno, when)


def _statements(node: ast.AST, when: When) -> Iterator[tuple[ast.Import | ast.ImportFrom, When]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, when
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from _statements(ast.Module(child.body, []), "typing")
            yield from _statements(ast.Module(child.orelse, []), when)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(child, "typing" if when == "typing" else "call")
        else:
            yield from _statements(child, when)
