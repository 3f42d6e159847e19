"""``cregkit advise``: the advice as text or JSON."""

from __future__ import annotations

import argparse
import json
import re
import sys

from cregkit._files import check_writable, write_json
from cregkit.advice import advisor, page, picture, rules, watch
from cregkit.advice.advisor import advise, prompt
from cregkit.advice.columns import COLUMN_KEYS
from cregkit.advice.result import Advice
from cregkit.advice.text import lines
from cregkit.commands.arguments import CommandError, count, number
from cregkit.commands.console import NO_MATPLOTLIB, Console, Status, can_draw

STDOUT = "-"

DESCRIPTION = """\
Diagnose whether a network underfits, fits well or overfits, and recommend remedies with rates, reasons and the line of
cregkit code for each. Accuracies are in percent; in a log they may be fractions. From a log it also reads the best
epoch, the epoch from which the test loss rises, and the noise of the metrics.

A log is a file of Keras, Lightning, Hugging Face, TensorBoard (event files need the package tensorboard), Ultralytics,
timm, fastai, MMEngine, XGBoost, LightGBM or Weights & Biases, or any CSV, TSV, JSON or JSON lines with columns of usual
names (val_loss, eval/acc, lossTrain, top1, error_rate ...); or a folder of logs. Losses or validation figures alone
suffice. Several runs are judged one by one and together.

The regime follows from the gap between training and test accuracy: over 10 points, 5 to 10, under 5, or good. Underfit
means a gap below 5 and both accuracies below 80 %. If test accuracy is more than 2 points above training accuracy,
check the measurement first. Without both accuracies the test loss decides: turned up, still falling, or settled.

examples:
  cregkit advise --train-acc 99 --test-acc 60 --model mlp
  cregkit advise --history metrics.csv --optimizer adam --batch-size 16
  cregkit advise --history fold1.csv fold2.csv fold3.csv
  cregkit advise --history log.csv --columns train_loss=foo,test_acc=bar
  cregkit advise --history history.json --json advice.json --png advice.png --html advice.html
  cregkit advise --watch metrics.csv --png advice.png
  cregkit advise --prompt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the accuracies or the log to judge, and the settings of the training."""
    parser.add_argument("--train-acc", type=number, metavar="PERCENT", help="accuracy on the training set, 0 to 100")
    parser.add_argument("--test-acc", type=number, metavar="PERCENT", help="accuracy on the test or validation set")
    parser.add_argument(
        "--history",
        metavar="FILE",
        nargs="+",
        help="a training log or a folder of logs instead, or several",
    )
    parser.add_argument(
        "--watch",
        metavar="FILE",
        help="follow a log that is being written: a line per change, a bell at a turn or divergence, advice at Ctrl-C",
    )
    parser.add_argument(
        "--columns",
        type=_columns,
        metavar="FIGURE=COLUMN,...",
        help="columns of the log for train_loss, train_acc, test_loss, test_acc or epoch, if their names do not tell",
    )
    parser.add_argument("--model", choices=list(rules.MODELS), help="kind of model")
    parser.add_argument("--batch-size", type=count, metavar="N", help="samples per training step")
    parser.add_argument("--optimizer", choices=sorted(rules.OPTIMIZERS), help="optimiser in use")
    parser.add_argument(
        "--test-samples", type=count, metavar="N", help="samples of the test set: gives the interval of its accuracy"
    )
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE", help="write the advice as JSON to FILE, or print it"
    )
    parser.add_argument("--png", metavar="FILE", help="draw the curves of the log and the advice as PNG (matplotlib)")
    parser.add_argument("--html", metavar="FILE", help="write a self-contained page with the advice and its picture")
    parser.add_argument("--prompt", action="store_true", help="print the advisor as a prompt for a language model")


def _columns(text: str) -> dict[str, str]:
    """Return ``figure=column,figure=column`` as a dict; a comma within a column's name stays in it."""
    parts = re.split(rf",(?=(?:{'|'.join(COLUMN_KEYS)})=)", text)
    pairs = dict(part.split("=", 1) for part in parts if "=" in part)
    if len(pairs) < len(parts) or not pairs.keys() <= set(COLUMN_KEYS) or not all(pairs.values()):
        raise argparse.ArgumentTypeError(
            f"must be FIGURE=COLUMN,... with {', '.join(COLUMN_KEYS)} as figures, got {text!r}"
        )
    return pairs


def run(options: argparse.Namespace) -> int:
    """Print the advice, or the prompt, or write the advice as JSON.

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
    CommandError
        Options are missing or exclude each other, a value is out of range, or the file is not a log.
    OSError
        A file cannot be read or written.
    """
    console = Console()
    if options.prompt:
        console.line(prompt().rstrip("\n"))
        return 0
    _check(options)
    for path in (options.json, options.png, options.html):
        if path not in (None, STDOUT):
            check_writable(path)
    advice = _advice(options) if options.watch is None else _watched(options)
    _write_pictures(advice, options, console)
    if options.json is None:
        for line in lines(advice):
            console.line(line)
    elif options.json == STDOUT:
        console.line(json.dumps(advice.to_dict(), indent=1))
    else:
        write_json(options.json, advice.to_dict())
    return 0


def _watched(options: argparse.Namespace) -> Advice:
    """Follow the log until Ctrl-C, with its state on stderr, and return the last advice."""
    setting = advisor.setting(options.model, options.batch_size, options.optimizer, options.test_samples)
    status = Status(sys.stderr)
    latest, told = None, ""
    try:
        for found in watch.follow(options.watch, setting, options.columns):
            if isinstance(found, str):
                status.show(found)
                continue
            latest, alarm = found, watch.alarm(found).partition(" ")[0]
            status.show(watch.line(found), bell=alarm not in ("", told))
            told = alarm
    except KeyboardInterrupt:
        if latest is None:
            raise
    finally:
        status.end()
    assert latest is not None  # the loop ends with Ctrl-C alone
    return latest


def _write_pictures(advice: Advice, options: argparse.Namespace, console: Console) -> None:
    if not (options.png or options.html):
        return
    content = picture.png(advice) if can_draw() else None
    if options.png and content is not None:
        with open(options.png, "wb") as file:
            file.write(content)
    if options.html:
        page.write(options.html, advice, content)
        if content is None:
            console.line(f"the page has no picture: {NO_MATPLOTLIB}")


def _check(options: argparse.Namespace) -> None:
    figures = {"--train-acc": options.train_acc, "--test-acc": options.test_acc}
    missing = [name for name, value in figures.items() if value is None]
    log = options.history is not None or options.watch is not None
    if options.history is not None and options.watch is not None:
        raise CommandError("give --history or --watch, not both")
    if log and len(missing) < len(figures):
        raise CommandError("give --train-acc and --test-acc, or --history, not both")
    if options.columns is not None and not log:
        raise CommandError("--columns names columns of a log: give --history FILE too")
    if not log and (options.png or options.html):
        raise CommandError("--png and --html show the curves of a log: give --history FILE")
    if options.png and not can_draw():
        raise CommandError("--png needs matplotlib: pip install 'cregkit[lab]'")
    if not log and missing:
        raise CommandError(
            f"{' and '.join(missing)} missing: give --train-acc and --test-acc in percent, or --history FILE"
        )


def _advice(options: argparse.Namespace) -> Advice:
    try:
        return advise(
            options.train_acc,
            options.test_acc,
            history=options.history,
            columns=options.columns,
            model=options.model,
            batch_size=options.batch_size,
            optimizer=options.optimizer,
            test_samples=options.test_samples,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
