"""The ``cregkit`` command: one entry of ``COMMANDS`` for each subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import cregkit
from cregkit._version import __version__
from cregkit.commands.console import Console

# What a shell reports for a process that SIGINT or SIGPIPE ended.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


class Command(NamedTuple):
    """A subcommand: its name, help, the arguments it adds to its parser, and what it runs."""

    name: str
    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _info(_: argparse.Namespace) -> int:
    config = cregkit.show_config()
    width = max(map(len, config))
    console = Console()
    for key, value in config.items():
        console.line(f"{key.replace('_', ' '):<{width}}  {_shown(value)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')}: {_shown(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _check(_: argparse.Namespace) -> int:
    from cregkit.verify import check

    return 0 if check.run(Console()) else 1


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=_count, default=5, metavar="N", help="networks per configuration (default: 5)")
    parser.add_argument("--epochs", type=_count, default=300, metavar="N", help="epochs of each (default: 300)")
    parser.add_argument("--json", metavar="FILE", help="write settings, machine, histories and summary to FILE")
    parser.add_argument(
        "--png",
        metavar="FILE",
        default="cregkit-demo.png",
        help="where the picture goes, if matplotlib is installed (default: cregkit-demo.png)",
    )
    parser.add_argument("--quiet", action="store_true", help="print the final table and its conclusion only")


def _demo(arguments: argparse.Namespace) -> int:
    from cregkit.lab import demo

    demo.run(
        seeds=arguments.seeds,
        epochs=arguments.epochs,
        json_path=arguments.json,
        png_path=arguments.png,
        quiet=arguments.quiet,
    )
    return 0


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="three shapes of each op, in under a minute")
    parser.add_argument("--held-out", action="store_true", help="the shapes that nothing was tuned on")
    parser.add_argument(
        "--peers",
        type=lambda text: [name for name in text.split(",") if name],
        metavar="NAMES",
        help="of torch,torch.compile,onnxruntime,jax,oracle; default: what is installed",
    )
    parser.add_argument("--json", metavar="FILE", help="write machine, times and verdicts to FILE")
    parser.add_argument("--png", metavar="FILE", help="draw the share of the copy's bandwidth over size")
    parser.add_argument("--compare", metavar="OLD.json", help="say what became slower since that run")
    parser.add_argument("--wheel", metavar="FILE", help="judge the size of this wheel too")


def _bench(arguments: argparse.Namespace) -> int:
    from cregkit.benchmark.report import ReportError
    from cregkit.commands import bench as command

    options = command.Options(
        quick=arguments.quick,
        held_out=arguments.held_out,
        peers=arguments.peers,
        json_path=arguments.json,
        png_path=arguments.png,
        compare_path=arguments.compare,
        wheel_path=arguments.wheel,
    )
    try:
        return 0 if command.run(options) else 1
    except (command.PeerError, ReportError) as error:
        print(f"cregkit bench: {error}", file=sys.stderr)
        return 2


def _advise_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train-acc", type=_number, metavar="PERCENT", help="accuracy on the training set, 0 to 100")
    parser.add_argument("--test-acc", type=_number, metavar="PERCENT", help="accuracy on the test or validation set")
    parser.add_argument(
        "--history",
        metavar="FILE",
        help="a training log instead: our history as JSON or CSV, or the CSV of Keras' or Lightning's CSVLogger",
    )
    parser.add_argument("--model", choices=("mlp", "cnn", "transformer", "llm"), help="kind of model")
    parser.add_argument("--batch-size", type=_count, metavar="N", help="samples per training step")
    parser.add_argument("--optimizer", choices=("adam", "sgd"), help="optimiser in use")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the advice as JSON to FILE, or print it"
    )
    parser.add_argument("--prompt", action="store_true", help="print the advisor as a prompt for a language model")


def _advise(arguments: argparse.Namespace) -> int:
    from cregkit.commands import advise as command

    options = command.Options(
        train_acc=arguments.train_acc,
        test_acc=arguments.test_acc,
        history_path=arguments.history,
        model=arguments.model,
        batch_size=arguments.batch_size,
        optimizer=arguments.optimizer,
        json_path=arguments.json,
        prompt=arguments.prompt,
    )
    try:
        command.run(options)
    except ValueError as error:
        print(f"cregkit advise: {error}", file=sys.stderr)
        return 2
    return 0


def _lab_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="an experiment, list, all or distributed")
    parser.add_argument("--seeds", type=_count, metavar="N", help="repetitions (default: the experiment's own)")
    parser.add_argument("--epochs", type=_count, metavar="N", help="epochs of each training (default: likewise)")
    parser.add_argument("--json", metavar="FILE", help="write machine, figures of every seed, curves and verdicts")
    parser.add_argument("--csv", metavar="FILE", help="write experiment, row, seed, figure and value, one to a line")
    parser.add_argument("--png", metavar="FILE", help="draw the picture of one experiment")
    parser.add_argument("--html", metavar="FILE", help="write one page with tables and pictures inside")


def _lab(arguments: argparse.Namespace) -> int:
    from cregkit.commands import lab as command

    options = command.Options(
        name=arguments.name,
        seeds=arguments.seeds,
        epochs=arguments.epochs,
        json_path=arguments.json,
        csv_path=arguments.csv,
        png_path=arguments.png,
        html_path=arguments.html,
    )
    try:
        command.run(options)
    except command.LabError as error:
        print(f"cregkit lab: {error}", file=sys.stderr)
        return 2
    return 0


def _augment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a PNG or JPEG, or what else Pillow reads")
    parser.add_argument("--out", metavar="FILE", required=True, help="where the contact sheet goes, a PNG")
    parser.add_argument(
        "--samples", type=_count, default=6, metavar="N", help="outcomes of each transform (default: 6)"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="0 to 2**64 - 1 (default: 0)")


def _augment(arguments: argparse.Namespace) -> int:
    from cregkit.lab import sheet

    try:
        sheet.run(arguments.image, arguments.out, arguments.samples, arguments.seed)
    except sheet.SheetError as error:
        print(f"cregkit augment: {error}", file=sys.stderr)
        return 2
    return 0


COMMANDS = (
    Command(
        "info",
        "say which code this machine runs, on how many threads, and why",
        """\
Print the version, the instruction set chosen and those available, the OpenMP runtime, and the number of threads with
where that number came from.

environment:
  CREGKIT_ISA      use this instruction set instead of the best one
  OMP_NUM_THREADS  use this many threads

example:
  cregkit info
""",
        lambda parser: None,
        _info,
    ),
    Command(
        "check",
        "compare every op with the float64 oracle on this CPU",
        """\
Run every op with every instruction set this CPU has, on one and on several threads, and compare with the float64
oracle. Print the largest error of each as a share of its tolerance (100% is the limit) and whether all of them gave the
same bits. Exit code 1 if an error exceeds its tolerance or bits differ. Takes some seconds.

example:
  cregkit check
""",
        lambda parser: None,
        _check,
    ),
    Command(
        "bench",
        "measure every op against a copy and against other libraries",
        """\
Time every op in turn with the fastest copy of the same bytes and with each peer that is installed: PyTorch,
torch.compile, ONNX Runtime, JAX, and the NumPy oracle at small sizes. Results are checked first: who gives a wrong one
is not timed. Print the times (lower quartiles), the best peer's over ours, the share of the copy's bandwidth, and
whether each speed that is promised was reached. Takes some ten minutes; --quick under one, without torch.compile and
JAX, which compile for seconds, unless they are named. Ctrl-C ends with what was measured so far.

Exit code 1 if an op of ours is wrong or, with --compare, slower than in the older run beyond the noise of both.

examples:
  cregkit bench --quick
  cregkit bench --json new.json --png speed.png --compare old.json
  cregkit bench --held-out --peers torch,onnxruntime
""",
        _bench_arguments,
        _bench,
    ),
    Command(
        "demo",
        "train a network with and without regularisation and compare",
        """\
Train the same network plain, with dropout, with weight decay, with both, and with batch normalisation, on a small noisy
training set it can learn by heart. Print accuracy on training and test set and the gap between them while one network
of each kind trains, then the mean and standard deviation over all seeds; last, what layer_norm's error against the
float64 oracle is on this machine, and its speed. Takes well under a minute.

examples:
  cregkit demo
  cregkit demo --seeds 10 --png regularisation.png
  cregkit demo --seeds 1 --quiet --json result.json
""",
        _demo_arguments,
        _demo,
    ),
    Command(
        "advise",
        "say which regularisation a training run needs",
        """\
Say whether a network underfits, fits well or overfits, and which remedies at which rates fit it, each with its reason
and the line of cregkit code that applies it. Accuracies are in percent; a log may have them as fractions. From a log it
also reads the best epoch, when the test loss turned up, and how noisy the figures are.

By the gap between training and test accuracy: over 10 points, 5 to 10, under 5, or good. Underfit: the gap is below 5
and both accuracies are below 80 %. Test accuracy more than 2 points above training accuracy is a fault of measuring.

examples:
  cregkit advise --train-acc 99 --test-acc 60 --model mlp
  cregkit advise --history metrics.csv --optimizer adam --batch-size 16
  cregkit advise --history history.json --json advice.json
  cregkit advise --prompt
""",
        _advise_arguments,
        _advise,
    ),
    Command(
        "lab",
        "run an experiment on regularisation over several seeds",
        """\
Run an experiment: train networks with and without a remedy on several seeds, print one table (mean and standard
deviation over the seeds), one sentence that follows from it, and what the numbers say to common claims: confirmed or
contradicted where the 95 % confidence interval of the mean lies wholly on one side, else undecided. "list" names the
experiments, "all" runs every one. Each takes well under a minute on two cores. Ctrl-C ends with the seeds so far.
"distributed" trains one network on the processes that mpiexec has started and shows what each of them did.

examples:
  cregkit lab list
  cregkit lab overfit
  cregkit lab batch-size --seeds 10 --png batch-size.png --csv batch-size.csv
  cregkit lab all --html report.html
  mpiexec -n 4 cregkit lab distributed
""",
        _lab_arguments,
        _lab,
    ),
    Command(
        "augment",
        "show what augmentation makes of an image",
        """\
Write a contact sheet: the image, and beside it outcomes of crop, flips, rotation, colour jitter, cutout, noise, and of
all of them one after another. The same seed gives the same sheet. A photo is turned upright as its EXIF data say.
Needs matplotlib.

examples:
  cregkit augment cat.png --out sheet.png
  cregkit augment cat.png --out sheet.png --samples 10 --seed 7
""",
        _augment_arguments,
        _augment,
    ),
)


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _count(text: str) -> int:
    """Return ``text`` as an int of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def _seed(text: str) -> int:
    """Return ``text`` as an int in [0, 2**64)."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**64 - 1, got {text!r}")
    return value


def _number(text: str) -> float:
    """Return ``text`` as a float."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cregkit",
        description="Fast, exact regularisation and normalisation layers for the CPU.",
        epilog="Each command explains itself: cregkit demo --help.",
    )
    parser.add_argument("--version", action="version", version=f"cregkit {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # how argparse ends --help, --version and mistakes
        return int(stop.code or 0)
    code: int = arguments.run(arguments)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of the process) and return its exit code.

    0: done. 1: a check failed. 2: a mistake in the call or the environment, told in one line on stderr.
    130: interrupted. 141: whoever read the output went away.
    """
    try:
        code = _run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("cregkit: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as Python advises: a flush may still come
        return _BROKEN_PIPE
    except ImportError as error:  # CREGKIT_ISA asks for what is not there, or the kernels are not built
        print(f"cregkit: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"cregkit: {reason}", file=sys.stderr)
        return 2
    return code
