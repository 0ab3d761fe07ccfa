"""What a conversion did with every key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from nlnet.errors import UserError


@dataclass
class Report:
    """Every key of a source file and of the network made from it, in one of these groups."""

    mapped: dict[str, str] = field(default_factory=dict)
    """Source key -> our key, values unchanged but for the shape."""
    folded: dict[str, str] = field(default_factory=dict)
    """Source key -> where its values went otherwise, such as the key of which it is a copy."""
    made: dict[str, str] = field(default_factory=dict)
    """Our key -> the constant it got, for what the source has no key for."""
    training: list[str] = field(default_factory=list)
    """Source keys of the optimizer's and the schedule's state."""
    left_over: dict[str, str] = field(default_factory=dict)
    """Source key -> why the network has nothing for it."""
    missing: dict[str, str] = field(default_factory=dict)
    """Our key -> why no source key fills it; it keeps its initial value."""

    def check(self, allow: Sequence[str], where: str) -> None:
        """Raises UserError where a left-over or missing key matches none of the patterns in `allow`."""
        problems = [f"{kind} {key} ({why})" for kind, key, why in self._open() if not _matches(key, allow)]
        if problems:
            shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
            raise UserError(
                f"{where}: {len(problems)} keys without their counterpart: {shown}. Allow them by name if the rest is"
                " what you want (--allow PATTERN, such as 'fc.*'); a missing key keeps its initial value"
            )

    def lines(self) -> Iterator[str]:
        """One line a key."""
        yield from (f"mapped     {key} -> {target}" for key, target in self.mapped.items())
        yield from (f"folded     {key}: {what}" for key, what in self.folded.items())
        yield from (f"made       {key} = {what}" for key, what in self.made.items())
        yield from (f"training   {key}: not a weight" for key in self.training)
        yield from (f"{kind:<10} {key}: {why}" for kind, key, why in self._open())

    def counts(self) -> str:
        """The sizes of all groups in one line."""
        sizes = {name.replace("_", " "): len(getattr(self, name)) for name in self.__dataclass_fields__}
        return ", ".join(f"{size} {name}" for name, size in sizes.items())

    def _open(self) -> Iterator[tuple[str, str, str]]:
        yield from (("left over", key, why) for key, why in self.left_over.items())
        yield from (("missing", key, why) for key, why in self.missing.items())


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
