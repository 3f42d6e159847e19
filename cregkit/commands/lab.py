"""``cregkit lab``: the list of experiments, one of them, all of them, or training in several processes."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Sequence
from typing import Any

from cregkit._files import check_writable, write_json
from cregkit.commands.arguments import CommandError, count
from cregkit.commands.console import NO_MATPLOTLIB, Console, can_draw
from cregkit.config import machine_line
from cregkit.lab import distributed, figures, page, writing
from cregkit.lab.experiments import EXPERIMENTS
from cregkit.lab.experiments.running import run as run_experiment
from cregkit.lab.framework import Experiment, Result, Settings

DESCRIPTION = """\
Run an experiment: train networks with and without a remedy on several seeds, and print a table (mean and standard
deviation over the seeds), a one-sentence conclusion, and verdicts on common claims: confirmed or contradicted if the
95 % confidence interval of the mean lies wholly inside or outside the claimed range, else undecided. "list" lists the
experiments, "all" runs all of them. Each takes well under a minute on two cores. Ctrl-C ends with the seeds so far.
"distributed" trains one network on the processes that mpiexec has started and reports on each of them.

examples:
  cregkit lab list
  cregkit lab overfit
  cregkit lab batch-size --seeds 10 --png batch-size.png --csv batch-size.csv
  cregkit lab all --html report.html
  mpiexec -n 4 cregkit lab distributed
"""

LIST, ALL, DISTRIBUTED = "list", "all", "distributed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the experiment, its repetitions and epochs, and the files to write."""
    parser.add_argument("name", metavar="NAME", help="an experiment, list, all or distributed")
    parser.add_argument("--seeds", type=count, metavar="N", help="number of seeds (default: the experiment's)")
    parser.add_argument("--epochs", type=count, metavar="N", help="epochs of each training (default: the experiment's)")
    parser.add_argument("--json", metavar="FILE", help="write machine, metrics of every seed, curves and verdicts")
    parser.add_argument("--csv", metavar="FILE", help="write experiment, row, seed, metric and value, one per line")
    parser.add_argument("--png", metavar="FILE", help="write the plot of the experiment as PNG")
    parser.add_argument("--html", metavar="FILE", help="write a self-contained page with tables and plots")


def run(options: argparse.Namespace) -> int:
    """Run the experiments, print the results and write the files.

    If the run ends early, the results so far are printed and written first.

    Parameters
    ----------
    options
        Parsed options.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C ended the run.
    CommandError
        The experiment is unknown, or the options exclude each other.
    OSError
        A file cannot be written; detected before the run if possible.
    ImportError
        The experiment needs a package that is not installed.
    """
    if options.name == LIST:
        _list(options)
    elif options.name == DISTRIBUTED:
        _run_distributed(options)
    else:
        _run_experiments(options)
    return 0


def _list(options: argparse.Namespace) -> None:
    if _given(options):
        raise CommandError("list takes no options; name an experiment")
    console = Console()
    width = max(map(len, EXPERIMENTS))
    for name, experiment in EXPERIMENTS.items():
        console.line(f"{name:<{width}}  {experiment.question}")
        console.line(f"{'':<{width}}  {experiment.seeds} seeds, {experiment.epochs} epochs")


def _given(options: argparse.Namespace) -> set[str]:
    """Return the names of the options that were given."""
    names = ("seeds", "epochs", "json", "csv", "png", "html")
    return {name for name in names if getattr(options, name) is not None}


def _run_distributed(options: argparse.Namespace) -> None:
    """Train on the processes that ``mpiexec`` has started; only ``--epochs`` and ``--json`` apply."""
    if not _given(options) <= {"epochs", "json"}:
        raise CommandError("distributed takes only --epochs and --json")
    distributed.run(options.epochs, functools.partial(_report_distributed, options.json))


def _report_distributed(json_path: str | None, ranks: list[dict[str, Any]], history: dict[str, Any]) -> None:
    console = Console()
    console.line(machine_line())
    console.line(
        f"\ndistributed: scikit-learn's digits, {distributed.N_TRAIN} training images, in {len(ranks)} processes"
    )
    cells = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in rank.values()] for rank in ranks]
    console.table("\nProcesses", list(ranks[0]), cells)
    columns = ("train_loss", "train_acc", "test_loss", "test_acc")
    epochs = zip(*(history[name] for name in columns), strict=True)
    rows = [[str(epoch), *(f"{value:.4f}" for value in of_epoch)] for epoch, of_epoch in enumerate(epochs)]
    console.table("\nMetrics, equal in every process", ["epoch", *columns], rows)
    if json_path:
        write_json(json_path, {"ranks": ranks, "history": history})
        console.line(f"written {json_path}")


def _run_experiments(options: argparse.Namespace) -> None:
    experiments = _chosen(options)
    for path in _paths(options):
        check_writable(path)
    console = Console()
    console.line(machine_line())
    results: list[Result] = []
    try:
        for experiment in experiments:
            results.append(_run_one(experiment, Settings(options.seeds, options.epochs), console))
            if not results[-1].complete:
                raise KeyboardInterrupt
    finally:
        if results:
            _write(results, options, console)


def _chosen(options: argparse.Namespace) -> list[Experiment]:
    """Return the experiments to run after validating the options."""
    if options.name == ALL:
        if options.png:
            raise CommandError("--png takes one experiment; use --html for all")
        return list(EXPERIMENTS.values())
    if options.name not in EXPERIMENTS:
        known = ", ".join((*EXPERIMENTS, LIST, ALL, DISTRIBUTED))
        raise CommandError(f"unknown experiment {options.name!r}; there are {known}")
    if options.png and not can_draw():
        raise CommandError("--png needs matplotlib: pip install 'cregkit[lab]'")
    return [EXPERIMENTS[options.name]]


def _paths(options: argparse.Namespace) -> list[str]:
    """Return the files to write."""
    return [path for path in (options.json, options.csv, options.png, options.html) if path]


def _run_one(experiment: Experiment, settings: Settings, console: Console) -> Result:
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


def _write(results: Sequence[Result], options: argparse.Namespace, console: Console) -> None:
    if options.json:
        writing.write_json(options.json, results)
    if options.csv:
        writing.write_csv(options.csv, results)
    if options.png and (picture := _picture(results[0])):
        with open(options.png, "wb") as file:
            file.write(picture)
    if options.html:
        page.write(options.html, results, machine_line(), _picture)
        if not can_draw():
            console.line(f"the page has no pictures: {NO_MATPLOTLIB}")
    for path in _paths(options):
        if os.path.exists(path):
            console.line(f"written {os.path.abspath(path)}")


def _picture(result: Result) -> bytes | None:
    """Return the plot if no rows are missing and matplotlib is installed."""
    return figures.png(result) if can_draw() and not result.table.missing else None
