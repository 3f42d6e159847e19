"""The report of small ops in PyTorch: from which size on a kernel is faster than PyTorch's op."""

from __future__ import annotations

from record import Section
from report_table import table as markdown


def table(section: Section) -> str:
    """PyTorch's time over the kernel's for each op and size; bold where the kernel is used."""
    by_op: dict[str, dict[int, str]] = {}
    for row in section["figures"]:
        ratio = f"{row['us']['stock'] / row['us']['kernel']:.2f}"
        by_op.setdefault(row["op"], {})[row["elements"]] = f"**{ratio}**" if row["used"] else ratio
    sizes = sorted({row["elements"] for row in section["figures"]})
    return markdown(["op", *map(str, sizes)], [[op, *(cells[size] for size in sizes)] for op, cells in by_op.items()])
