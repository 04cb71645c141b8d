"""Words of a command line become named values; each command declares its options in a table.

The standard library's parser costs as much start-up time as everything else here together, so this is a small one:
long and short options, `--name value` and `--name=value`, `--` ends them, and so does the first other word where a
command line follows.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Arguments", "Option", "Spec", "UsageError", "parse"]

_WIDTH = 28


class UsageError(Exception):
    """The words don't fit the command; the message says which and why."""


class Option:
    """One option: its names, the word for its value (none: a switch), its help, and whether it may come often."""

    __slots__ = ("help", "key", "many", "metavar", "names")

    def __init__(self, names: str, help: str, *, metavar: str = "", many: bool = False) -> None:  # noqa: A002
        """Read the names from words like "-m --make"; the last one names the value."""
        self.names = names.split()
        self.key = self.names[-1].lstrip("-").replace("-", "_")
        self.help, self.metavar, self.many = help, metavar, many


class Spec:
    """A command: its name, one line about it, its operands and its options.

    Operands are words like `PATH`, `[PATH]` or `CMD...`; the last form takes the rest of the line as it is.
    """

    __slots__ = ("epilog", "name", "operands", "options", "summary")

    def __init__(
        self, name: str, summary: str, operands: str = "", options: Sequence[Option] = (), epilog: str = ""
    ) -> None:
        """Keep them; every command has --json and --trace where they mean something, and --help."""
        self.name, self.summary, self.operands = name, summary, operands.split()
        self.options = [
            *options,
            Option("--trace", "print each system call in words"),
            Option("-h --help", "this text"),
        ]
        self.epilog = epilog

    def usage(self) -> str:
        """Say the form in one line."""
        return " ".join(["usage: mountfd", self.name, "[options]", *self.operands])

    def help_text(self) -> str:
        """Say everything."""
        lines = [self.usage(), "", self.summary, "", "options:"]
        for option in self.options:
            left = ", ".join(option.names) + (f" {option.metavar}" if option.metavar else "")
            gap = " " * (_WIDTH - len(left)) if len(left) < _WIDTH - 1 else "\n" + " " * (_WIDTH + 2)
            lines.append(f"  {left}{gap}{option.help}")
        return "\n".join([*lines, *(["", self.epilog] if self.epilog else [])]) + "\n"


class Arguments:
    """What a command line said; `text`, `texts` and `on` read it by an option's key, `given` has it in its order."""

    __slots__ = ("_values", "given", "operands")

    def __init__(self) -> None:
        """Begin with nothing said."""
        self._values: dict[str, list[str]] = {}
        self.given: list[tuple[str, str]] = []
        self.operands: list[str] = []

    def add(self, key: str, value: str) -> None:
        """Note one value."""
        self._values.setdefault(key, []).append(value)
        self.given.append((key, value))

    def on(self, key: str) -> bool:
        """Tell whether a switch was given."""
        return key in self._values

    def text(self, key: str) -> str | None:
        """Give an option's value, the last one given, or None."""
        return self._values[key][-1] if key in self._values else None

    def texts(self, key: str) -> list[str]:
        """Give all values of an option, in order."""
        return list(self._values.get(key, []))


def parse(spec: Spec, words: Sequence[str]) -> Arguments:
    """Read a command's words. Raises UsageError."""
    options = {name: option for option in spec.options for name in option.names}
    takes_rest = bool(spec.operands) and spec.operands[-1].endswith("...")
    found, rest = Arguments(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            found.operands += rest
            break
        if not word.startswith("-") or word == "-":
            found.operands.append(word)
            if takes_rest and len(found.operands) >= len(spec.operands):
                found.operands += rest
                break
            continue
        _read_option(word, rest, options, found)
    if not found.on("help"):
        _check_operands(spec, found)
    return found


def _read_option(word: str, rest: list[str], options: dict[str, Option], found: Arguments) -> None:
    if not word.startswith("--") and word[:2] in options and len(word) > len("-x"):
        # `-no COLUMNS` is `-n -o COLUMNS`, and `-oCOLUMNS` is `-o COLUMNS`.
        if options[word[:2]].metavar:
            rest.insert(0, word[2:])
        else:
            rest.insert(0, f"-{word[2:]}")
        word = word[:2]
    name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
    option = options.get(name)
    if option is None:
        raise UsageError(f"there is no option {name!r}")
    if not option.metavar:
        if equals:
            raise UsageError(f"{name} takes no value")
        found.add(option.key, "")
        return
    if not equals:
        if not rest:
            raise UsageError(f"{name} needs a value: {option.metavar}")
        value = rest.pop(0)
    if not option.many and found.on(option.key):
        raise UsageError(f"{name} is given twice")
    found.add(option.key, value)


def _check_operands(spec: Spec, found: Arguments) -> None:
    needed = [operand for operand in spec.operands if not operand.startswith("[")]
    if len(found.operands) < len(needed):
        raise UsageError(f"{needed[len(found.operands)].removesuffix('...')} is missing")
    open_ended = bool(spec.operands) and spec.operands[-1].endswith(("...", "...]"))
    if len(found.operands) > len(spec.operands) and not open_ended:
        raise UsageError(f"{found.operands[len(spec.operands)]!r} is one word too many")
