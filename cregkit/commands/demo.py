"""``cregkit demo``: the effect of regularisation on a network that overfits its training set."""

from __future__ import annotations

import argparse
import os

from cregkit._files import check_writable, write_json
from cregkit.benchmark import against_oracle
from cregkit.commands.arguments import count
from cregkit.commands.console import NO_MATPLOTLIB, Console, can_draw
from cregkit.config import machine_line, show_config
from cregkit.lab import demo
from cregkit.lab.data import circle_data
from cregkit.train import History

DESCRIPTION = """\
Train the same network plain, with dropout, with weight decay, with both, and with batch norm, on a small noisy training
set that it overfits. Print training accuracy, test accuracy and their gap for one network of each kind, then mean and
standard deviation over all seeds, and finally the error of layer_norm against the float64 oracle and its speed. Takes
well under a minute.

examples:
  cregkit demo
  cregkit demo --seeds 10 --png regularisation.png
  cregkit demo --seeds 1 --quiet --json result.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of networks and epochs, and the files to write."""
    parser.add_argument("--seeds", type=count, default=5, metavar="N", help="networks per configuration (default: 5)")
    parser.add_argument("--epochs", type=count, default=300, metavar="N", help="epochs of each (default: 300)")
    parser.add_argument("--json", metavar="FILE", help="write settings, machine, histories and summary to FILE")
    parser.add_argument(
        "--png",
        metavar="FILE",
        default="cregkit-demo.png",
        help="write the plot to FILE, if matplotlib is installed (default: cregkit-demo.png)",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the final table and its conclusion")


def run(options: argparse.Namespace) -> int:
    """Train, print, and write the requested files.

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
    OSError
        A file cannot be written; detected before training if possible.
    """
    for path in filter(None, (options.json, options.png)):
        check_writable(path)
    console = Console(quiet=options.quiet)
    console.note(machine_line())
    console.note(_setup_line(options.seeds, options.epochs))
    test = circle_data(demo.TEST_SIZE, seed=demo.TEST_SEED)
    with console.progress(options.seeds * len(demo.CONFIGURATIONS)) as step:
        runs = demo.train_all(test, options.seeds, options.epochs, step)
    for name, of_seeds in runs.items():
        console.note(f"{name} (seed 0)")
        console.note("\n".join(_epoch_lines(of_seeds[0].history)) + "\n")
    _print_table(runs, options, console)
    kernel = against_oracle.layer_norm()
    _print_kernel(kernel, console)
    if options.json:
        write_json(options.json, {"machine": show_config(), **demo.to_dict(runs), "layer_norm": kernel._asdict()})
        console.note(f"numbers {os.path.abspath(options.json)}")
    console.note(_draw(options.png, runs))
    return 0


def _setup_line(seeds: int, epochs: int) -> str:
    return (
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {epochs} epochs: {demo.TRAIN_SIZE} training points with "
        f"{demo.LABEL_NOISE:.0%} wrong labels, {demo.TEST_SIZE} test points with none, "
        f"{demo.NETWORK['hidden_size']} hidden neurons\n"
    )


def _epoch_lines(history: History) -> list[str]:
    """Return a line for the first epoch, the last, and three in between."""
    last = len(history) - 1
    epochs = sorted({min(quarter * len(history) // 4, last) for quarter in range(5)})
    return [
        f"  epoch {epoch:3d}   train {history.train_acc[epoch]:5.1f} %   test {history.test_acc[epoch]:5.1f} %   "
        f"gap {history.gap[epoch]:5.1f}"
        for epoch in epochs
    ]


def _print_table(runs: demo.Runs, options: argparse.Namespace, console: Console) -> None:
    rows = [[name, *(str(demo.spread(of_seeds, figure)) for figure in demo.FIGURES)] for name, of_seeds in runs.items()]
    deviation = "mean ± standard deviation over seeds" if options.seeds > 1 else "one seed"
    console.table(f"Accuracy after {options.epochs} epochs, {deviation}", ["", "train %", "test %", "gap"], rows)
    console.line(demo.conclusion(runs))


def _print_kernel(kernel: against_oracle.AgainstOracle, console: Console) -> None:
    shape = "x".join(map(str, kernel.shape))
    console.note(f"\nparity  layer_norm {shape}: largest error against the float64 oracle {kernel.max_error:.1e}")
    console.note(
        f"speed   layer_norm {shape}: {kernel.microseconds:.0f} us on one thread, "
        f"{kernel.oracle_ratio:.0f}x faster than the NumPy oracle"
    )


def _draw(path: str, runs: demo.Runs) -> str:
    """Draw the plot if matplotlib is installed; return a line with its path, or with the package to install."""
    if not can_draw():
        return f"picture none: {NO_MATPLOTLIB}"
    from cregkit.lab import plot

    plot.draw(path, runs)
    return f"picture {os.path.abspath(path)}"
