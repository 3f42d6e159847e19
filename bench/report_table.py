"""What the reports of all kinds share: tables in Markdown, and verdicts on targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TUNING = "../csrc/TUNING.md"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; raise ValueError where a row has more or fewer cells than headers."""
    lines = [headers, ["---"] * len(headers), *rows]
    if wrong := [line for line in lines if len(line) != len(headers)]:
        raise ValueError(f"a row must have {len(headers)} cells, one for each of {headers}, got {wrong[0]}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def target(value: float, limit: float, *, at_most: bool = False) -> str:
    """A target, and whether ``value`` reaches it."""
    reached = value <= limit if at_most else value >= limit
    return f"{'≤' if at_most else '≥'} {limit:g}: {'reached' if reached else 'MISSED'}"


def tuning_link(anchor: str) -> str:
    """A link to a section of csrc/TUNING.md."""
    return f"[limit]({TUNING}#{anchor})"
