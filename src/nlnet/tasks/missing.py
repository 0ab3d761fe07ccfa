"""Evaluation samples that could not be read, over all ranks."""

from collections.abc import Iterable, Mapping, Sequence

from nlnet.errors import UserError

Missing = tuple[str, str]
"""The key of a sample and why it could not be read."""


def check_missing(
    failed: Sequence[Missing], allowed: int, what: str = "videos", errors: Mapping[str, str] | None = None
) -> None:
    """Stop if more than `allowed` validation samples could not be read; `errors` are the first ones by cause.

    Raises UserError.
    """
    if len(failed) > allowed:
        first = "".join(f"; the first {cause}: {error}" for cause, error in (errors or {}).items())
        raise UserError(
            f"{len(failed)} validation {what} could not be read: {_named(failed)}{first};"
            f" repair them, or allow it with data.max_missing_eval={len(failed)}"
        )


def describe_missing(read: int, failed: Sequence[Missing], what: str = "videos") -> str:
    """What stands beside the metrics of `read` samples where others failed."""
    return f"{read} of {read + len(failed)} {what}; could not read {_named(failed)}"


def first_errors(of_ranks: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The first error of each cause, on any rank."""
    found: dict[str, str] = {}
    for errors in of_ranks:
        found = dict(errors) | found
    return found


def _named(failed: Sequence[Missing]) -> str:
    return ", ".join(f"{key} ({cause})" for key, cause in failed[:10]) + (", ..." if len(failed) > 10 else "")
