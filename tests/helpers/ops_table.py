"""The table of ops, types and layouts in cregkit/kernels/README.md: ``python tests/helpers/ops_table.py`` writes it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from defects import FLOAT32_ARRAYS

from cregkit.verify import cases, shapes
from cregkit.verify.dtypes import DTYPES

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PAGE = ROOT / "cregkit" / "kernels" / "README.md"
PLACE = re.compile(r"(?<=<!-- written by tests/helpers/ops_table.py -->\n).*?(?=\n\n)", re.DOTALL)
FORM = re.compile(r"(_forward|(_inference)?_backward)?$")
LAYOUTS = {
    shapes.ROWS: "..., C",
    shapes.MATRICES: "`axis=(-2, -1)`",
    shapes.CHANNELS_FIRST: "`axis=1`",
    shapes.LEADING: "`axis=0`",
    shapes.COLUMNS: "N, C",
    shapes.PLANES: "N, C, ...",
    shapes.CHANNELS_LAST: "..., C",
    shapes.GROUPS: "N, C, ...",
    shapes.GROUPS_LAST: "..., C",
    shapes.MAPS: "N, C, ...",
    shapes.IMAGES: "N, C, H, W",
    shapes.IMAGES_LAST: "N, H, W, C",
    shapes.ELEMENTS: "any",
    shapes.WEIGHTS: "units, ...",
}


def table() -> str:
    """One row for the ops whose tensors have the same types and layouts."""
    families: dict[str, list[cases.Case]] = defaultdict(list)
    for case in cases.FLOAT32_CASES:
        families[FORM.sub("", case.op)].append(case)
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for family, members in families.items():
        forms = list(dict.fromkeys(case.op.removeprefix(family) for case in members))
        tensors = types(members[0])
        layouts = dict.fromkeys(LAYOUTS[case.shapes] for case in members) if tensors != "none" else ["any"]
        rows[tensors, "; ".join(layouts)].append(family + (f"{{{','.join(forms)}}}" if len(forms) > 1 else ""))
    cells = ((" ".join(f"`{op}`" for op in ops), *key) for key, ops in rows.items())
    return "\n".join(["| ops | tensors | layouts |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in cells)])


def types(case: cases.Case) -> str:
    """The types of the op's tensors."""
    if case.op not in dict(FLOAT32_ARRAYS):
        return "none"
    return "float32, float16, bfloat16" if case.dtypes == DTYPES else "float32"


if __name__ == "__main__":
    PAGE.write_text(PLACE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
