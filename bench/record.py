"""Where measurements are kept: bench/results/, one JSON file for each machine and date.

A file holds a section for each kind of measurement ("ops", "steps", "models" ...); a section holds the circumstances
(CPU, commit, versions, load, stolen time) and the figures of one run of one script. ``python bench/render.py`` writes
RESULTS.md, the README's table and the pictures from the newest section of each kind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import cregkit
from cregkit._files import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy", "torch", "torchvision", "timm", "transformers", "diffusers", "onnxruntime", "jax", "scikit-learn",
    "albumentations", "mpi4py",
)  # fmt: skip

Section = dict[str, Any]
"""The ``circumstances`` and ``figures`` of a run."""


def processor_time() -> tuple[int, int]:
    """The time that the processors worked, and the time that the host of a virtual machine withheld, in ticks."""
    try:
        times = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0, 0
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, times[:8])
    return user + nice + system + irq + softirq, steal


AT_START = processor_time()


def stolen() -> float | None:
    """The part of the time since this script began that the host withheld, in percent; None where it is not known."""
    worked, withheld = (now - then for now, then in zip(processor_time(), AT_START, strict=True))
    return round(100 * withheld / (worked + withheld), 1) if worked else None


def commit() -> str | None:
    """The commit of the sources, followed by "+ changes" if they differ from it; None outside a Git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/cregkit", ":/csrc", ":/setup.py")
        return git("rev-parse", "--short=12", "HEAD") + (" + changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def circumstances() -> dict[str, Any]:
    """The machine, the commit, the versions of the packages found, the load and the date."""
    config = cregkit.show_config()
    versions = {package: version for package in PACKAGES if (version := version_of(package))}
    return {
        "cpu": config["cpu"],
        "isa": config["isa"],
        "threads": config["threads"],
        "cregkit": config["version"],
        "commit": commit(),
        "versions": versions,
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def machine(of: dict[str, Any]) -> str:
    """The circumstances in one line."""
    threads = f"{of['threads']} thread{'s'[: of['threads'] > 1]}"
    versions = [f"{package} {version}" for package, version in of["versions"].items()]
    known = [f"{name} {of[name]}" for name in ("commit", "load") if of[name] is not None]
    known += [f"stolen time {of['stolen']} %"] if of.get("stolen") is not None else []
    return ", ".join([of["cpu"], of["isa"], threads, f"cregkit {of['cregkit']}", *versions, *known, of["date"]])


def machine_in_short(of: dict[str, Any]) -> str:
    """CPU, instruction set, threads and date, for a sentence."""
    return f"{of['cpu']}, {of['isa']}, {of['threads']} thread{'s'[: of['threads'] > 1]}, {of['date']}"


def file_of_today() -> Path:
    """The file of this machine and date."""
    config = cregkit.show_config()
    words = re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", "", config["cpu"].lower()))
    return RESULTS / f"{time.strftime('%Y-%m-%d')}-{'-'.join([*words, config['isa']])}.json"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add --record to a script's options; ``store`` takes its value."""
    parser.add_argument(
        "--record",
        nargs="?",
        type=Path,
        const=file_of_today(),
        metavar="FILE",
        help="store the figures in FILE (default: this machine's file of today in bench/results/)",
    )


def store(path: Path, kind: str, before: dict[str, Any], figures: Any) -> None:
    """Write the section of one kind, with the ``circumstances()`` before the run; other sections stay."""
    sections = json.loads(path.read_text()) if path.exists() else {}
    sections[kind] = {"circumstances": {**before, "stolen": stolen()}, "figures": figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(str(path), dict(sorted(sections.items())))


def newest(kind: str) -> Section | None:
    """The section of this kind with the latest date, or None."""
    sections = [json.loads(path.read_text()).get(kind) for path in sorted(RESULTS.glob("*.json"))]
    return max(filter(None, sections), key=lambda section: section["circumstances"]["date"], default=None)
