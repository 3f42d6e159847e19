"""Write RESULTS.md, the pictures and the measured figures of README.md and other pages from bench/results/.

    python bench/render.py            # write what differs
    python bench/render.py --check    # print what differs; exit code 1

The newest section of each kind is shown. A page has figures between the marks ``<!-- bench: KIND -->`` and
``<!-- end -->``, each on a line of its own. A picture names the section that it was drawn from in its metadata. To add
a kind, write a module with ``table(section)``, perhaps ``picture(section)``, and add a line to KINDS.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import augmentation_report
import contention_report
import estimators_report
import models_report
import mpi_report
import ops_report
import optimizer_report
import overhead_report
import record
import scaling_report
import steps_report
import training_report
from record import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
BENCH = "bench"
RESULTS = f"{BENCH}/RESULTS.md"
UNMEASURED = "No run is kept."
HEAD = """\
# Results

<!-- written by python bench/render.py from bench/results/: edit neither -->
[README.md](README.md) says how to measure. `MISSED` marks a target of the project that this machine does not reach.
"""


@dataclass(frozen=True)
class Kind:
    """How a kind of measurement is shown: its title, text and picture in RESULTS.md, its text on other pages."""

    title: str
    table: Callable[[Section], str]
    picture: Callable[[Section], Figure] | None = None
    pages: Mapping[str, Callable[[Section], str]] = field(default_factory=dict)


KINDS = {
    "ops": Kind("Single ops", ops_report.table, ops_report.picture, {"README.md": ops_report.headline}),
    "steps": Kind(
        "PyTorch training steps, with and without dropout",
        steps_report.table,
        steps_report.picture,
        {"cregkit/torch/README.md": steps_report.table},
    ),
    "models": Kind(
        "Models of other libraries",
        models_report.table,
        models_report.picture,
        {"README.md": models_report.headline},
    ),
    "training": Kind("Trainings to the end", training_report.table, training_report.picture),
    "overhead": Kind("Small ops in PyTorch: its time over the kernel's, by elements", overhead_report.table),
    "contention": Kind("Layer norm on a busy machine", contention_report.table),
    "scaling": Kind("Number of threads", scaling_report.table, scaling_report.picture),
    "augmentation": Kind(
        "Augmentation, speed-up over albumentations",
        augmentation_report.table,
        pages={"cregkit/augment/README.md": augmentation_report.table},
    ),
    "mpi": Kind("Data-parallel training", mpi_report.table, pages={"cregkit/mpi/README.md": mpi_report.table}),
    "optimizer": Kind("AdamW with clipped gradients and averaged weights", optimizer_report.table),
    "estimators": Kind(
        "Estimators beside scikit-learn's",
        estimators_report.table,
        pages={"cregkit/train/ESTIMATORS.md": estimators_report.table},
    ),
}
"""The kinds in the order of RESULTS.md, by the names of their sections and marks."""


class MarkError(ValueError):
    """The marks of a page are not those of the kinds it shows."""


def results_page(sections: Mapping[str, Section]) -> str:
    """RESULTS.md: each kind with its circumstances, text and picture."""
    parts = [HEAD]
    for kind, shown in KINDS.items():
        parts.append(f"## {shown.title}\n")
        if kind not in sections:
            parts.append(f"{UNMEASURED}\n")
            continue
        parts.append(f"{record.machine(sections[kind]['circumstances'])}.\n\n{shown.table(sections[kind])}\n")
        if shown.picture:
            parts.append(f"![{shown.title}]({kind}.png)\n")
    return "\n".join(parts)


def filled(page: str, text: str, sections: Mapping[str, Section]) -> str:
    """The text of a page with its blocks written anew; raise MarkError if a kind has no marks, or marks no kind."""
    blocks = {kind: shown.pages[page] for kind, shown in KINDS.items() if page in shown.pages}
    found = re.findall(r"^<!-- bench: (.*) -->$", text, re.MULTILINE)
    if sorted(found) != sorted(blocks):
        raise MarkError(f"{page}: must have marks <!-- bench: KIND --> for {sorted(blocks)}, has {sorted(found)}")
    for kind, block in blocks.items():
        inside = moved(block(sections[kind]), page) if kind in sections else UNMEASURED
        place = re.compile(rf"(?<=^<!-- bench: {kind} -->\n)(?:(?!<!-- bench: ).)*?(?=^<!-- end -->$)", re.M | re.S)
        text, count = place.subn(lambda _, inside=inside: f"{inside}\n", text)
        if count != 1:
            raise MarkError(f"{page}: <!-- bench: {kind} --> must be followed by a line <!-- end -->")
    return text


def moved(text: str, page: str) -> str:
    """The text with its links, which start from bench/, starting from the folder of ``page``."""
    start = os.path.dirname(page) or "."
    return re.sub(
        r"(?<=\]\()(?!\w+:)([^)#]+)",
        lambda link: os.path.relpath(os.path.normpath(os.path.join(BENCH, link[1])), start).replace(os.sep, "/"),
        text,
    )


def pages(sections: Mapping[str, Section]) -> dict[str, str]:
    """The text of every page that shows figures, by name."""
    others = sorted({page for shown in KINDS.values() for page in shown.pages})
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in others}
    return {RESULTS: results_page(sections), **{page: filled(page, text, sections) for page, text in texts.items()}}


# ---- pictures ----


def digest(section: Section) -> str:
    """What the metadata of a picture says about its section."""
    return hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()[:16]


def metadata(path: Path) -> dict[str, str]:
    """The texts in a PNG file."""
    found, data, start = {}, path.read_bytes(), 8
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        kind, body = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        if kind == b"tEXt":
            key, _, text = body.decode("latin-1").partition("\0")
            found[key] = text
        start += 12 + length
    return found


def pictures(sections: Mapping[str, Section]) -> Iterator[tuple[Path, dict[str, str] | None]]:
    """Yield the file of each picture and the metadata it must have, None if it must not be there."""
    for kind, shown in KINDS.items():
        if shown.picture:
            about = None
            if kind in sections:
                about = {"Description": record.machine_in_short(sections[kind]["circumstances"])}
                about["Source"] = f"{kind} {digest(sections[kind])}"
            yield ROOT / BENCH / f"{kind}.png", about


def is_current(path: Path, about: dict[str, str] | None) -> bool:
    """Whether a picture is there if it must be, and was drawn from these figures."""
    if about is None or not path.exists():
        return about is None and not path.exists()
    return about.items() <= metadata(path).items()


# ---- the command ----


def differences() -> Iterator[str]:
    """Yield what is not as the files in bench/results/ give it: lines of pages, pictures."""
    sections = measured()
    for page, text in pages(sections).items():
        path = ROOT / page
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        yield from difflib.unified_diff(there.splitlines(), text.splitlines(), page, "bench/results/", lineterm="", n=0)
    for path, about in pictures(sections):
        if not is_current(path, about):
            yield f"{BENCH}/{path.name}: must be drawn from {about and about['Source']}"


def measured() -> dict[str, Section]:
    """The newest section of each kind that has one."""
    return {kind: section for kind in KINDS if (section := record.newest(kind))}


def write() -> None:
    """Write the pages and the pictures that differ."""
    sections = measured()
    for page, text in pages(sections).items():
        (ROOT / page).write_text(text, encoding="utf-8")
    for path, about in pictures(sections):
        draw = KINDS[path.stem].picture
        if is_current(path, about) or draw is None:
            continue
        path.unlink(missing_ok=True)
        if about:
            draw(sections[path.stem]).savefig(path, dpi=120, facecolor="white", metadata=about)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print what differs, write nothing")
    try:
        if not parser.parse_args(arguments).check:
            write()
        elif found := list(differences()):
            print("\n".join(found))
            sys.exit("run python bench/render.py")
    except MarkError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
