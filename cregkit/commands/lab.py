"""What ``cregkit lab`` runs: the list, one experiment, or all of them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cregkit._files import check_writable
from cregkit.commands.console import Console
from cregkit.lab import figures, page, writing
from cregkit.lab.demo import machine_line
from cregkit.lab.experiments import EXPERIMENTS
from cregkit.lab.experiments.framework import Experiment, Result, Settings
from cregkit.lab.experiments.running import run as run_experiment

LIST, ALL, DISTRIBUTED = "list", "all", "distributed"


class LabError(Exception):
    """A mistake in the call, told in one line."""


@dataclass(frozen=True)
class Options:
    """The options of ``cregkit lab``."""

    name: str
    seeds: int | None = None
    epochs: int | None = None
    json_path: str | None = None
    csv_path: str | None = None
    png_path: str | None = None
    html_path: str | None = None

    @property
    def settings(self) -> Settings:
        """How often and how long."""
        return Settings(self.seeds, self.epochs)

    @property
    def paths(self) -> list[str]:
        """The files to write."""
        return [path for path in (self.json_path, self.csv_path, self.png_path, self.html_path) if path]


def run(options: Options) -> None:
    """Run what was asked for, print it and write the files.

    Whatever ends the run early, what was measured so far is printed and written first.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the run.
        LabError: there is no such experiment, or the options do not go together.
        OSError: a file cannot be written; seen before the run begins where it can be.
        ImportError: the experiment needs a package that is not installed.
    """
    if options.name == DISTRIBUTED:
        _run_distributed(options)
        return
    experiments = _chosen(options)
    console = Console()
    if options.name == LIST:
        _print_list(console)
        return
    for path in options.paths:
        check_writable(path)
    console.line(machine_line())
    results: list[Result] = []
    try:
        for experiment in experiments:
            results.append(_run(experiment, options.settings, console))
            if not results[-1].complete:
                raise KeyboardInterrupt
    finally:
        if results:
            _write(results, options, console)


def _run_distributed(options: Options) -> None:
    """Train in as many processes as ``mpiexec`` has started; no experiment over seeds, so it takes few options."""
    if replace(options, epochs=None, json_path=None) != Options(DISTRIBUTED):
        raise LabError("distributed takes --epochs and --json alone")
    from cregkit.lab import distributed

    distributed.run(options.epochs, options.json_path)


def _chosen(options: Options) -> list[Experiment]:
    """Return the experiments to run, once the options are seen to go together."""
    if options.name == LIST:
        if options.paths or options.settings != Settings():
            raise LabError("list takes no options; name an experiment")
        return []
    if options.name == ALL:
        if options.png_path:
            raise LabError("--png takes one experiment; all of them go with --html")
        return list(EXPERIMENTS.values())
    if options.name not in EXPERIMENTS:
        known = ", ".join((*EXPERIMENTS, ALL, DISTRIBUTED))
        raise LabError(f"unknown experiment {options.name!r}; there are {known}")
    if options.png_path and not _can_draw():
        raise LabError("--png needs matplotlib: pip install 'cregkit[lab]'")
    return [EXPERIMENTS[options.name]]


def _print_list(console: Console) -> None:
    width = max(map(len, EXPERIMENTS))
    for name, experiment in EXPERIMENTS.items():
        console.line(f"{name:<{width}}  {experiment.question}")
        console.line(f"{'':<{width}}  {experiment.seeds} seeds, {experiment.epochs} epochs")


def _run(experiment: Experiment, settings: Settings, console: Console) -> Result:
    console.line(f"\n{experiment.name}: {experiment.question}\n{experiment.setup}\n")
    seeds = settings.seeds or experiment.seeds
    with console.progress(seeds * len(experiment.rows)) as step:
        result = run_experiment(experiment, settings, step)
    headers = [*experiment.labels, *(column.header for column in experiment.columns)]
    if result.table.rows:
        console.table(result.caption, headers, result.table.cells(experiment.columns))
    if result.sentence:
        console.line(f"\n{result.sentence}")
    for claim, verdict in result.claims:
        console.line(f"  {verdict:<12}  {claim.text}: {claim.shown(result.table)}")
    return result


def _write(results: Sequence[Result], options: Options, console: Console) -> None:
    if options.json_path:
        writing.write_json(options.json_path, results)
    if options.csv_path:
        writing.write_csv(options.csv_path, results)
    if options.png_path and (picture := _picture(results[0])):
        with open(options.png_path, "wb") as file:
            file.write(picture)
    if options.html_path:
        page.write(options.html_path, results, machine_line(), _picture)
        if not _can_draw():
            console.line("the page has no pictures: matplotlib is not installed; pip install 'cregkit[lab]'")
    for path in options.paths:
        if os.path.exists(path):
            console.line(f"written {os.path.abspath(path)}")


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _picture(result: Result) -> bytes | None:
    """Return the picture, if all rows are there and so is matplotlib."""
    return figures.png(result) if _can_draw() and not result.table.missing else None
