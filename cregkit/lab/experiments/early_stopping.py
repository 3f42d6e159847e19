"""Early stopping: the best epoch, the accuracy gained there, and the epochs saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cregkit.lab import figures
from cregkit.lab.demo import BATCH_SIZE, TEST_SIZE
from cregkit.lab.experiments import training
from cregkit.lab.experiments.words import compared
from cregkit.lab.framework import Claim, Column, Experiment, Row, Table, Trial, mean_of
from cregkit.train import SGD, Callback, EarlyStopping, FitState, evaluate

HIDDEN = 128
PATIENCE = 20
VALIDATION = 200
REMEDIES: Mapping[str, Mapping[str, float]] = {
    "none": {},
    "dropout": {"dropout": 0.5},
    "weight decay": {"weight_decay": 0.005},
    "dropout + decay": {"dropout": 0.5, "weight_decay": 0.005},
}
ROWS: list[Row] = [(remedy,) for remedy in REMEDIES]
REGULARISED: Row = ("dropout + decay",)


class StopOnPaper(Callback):
    """Early stopping that records when it would have stopped but lets the fit continue, to compare both in one run."""

    def __init__(self, patience: int) -> None:
        """Create the early stopping to simulate."""
        self.stopping = EarlyStopping(patience)

    def on_train_begin(self, state: FitState) -> None:
        """Reset the state of an earlier fit."""
        self.stopping.on_train_begin(state)

    def on_epoch_end(self, state: FitState) -> None:
        """Pass the epoch on, without stopping, until the patience is exhausted."""
        if not self.stopping.stopped:
            self.stopping.on_epoch_end(state)
            state.stop = False


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    task = training.circle(seed)
    (x, y) = task.test
    validation, test = (x[:VALIDATION], y[:VALIDATION]), (x[VALIDATION:], y[VALIDATION:])
    for row in ROWS:
        options = REMEDIES[row[0]]
        network = training.perceptron(task, (HIDDEN,), seed, dropout=options.get("dropout", 0.0))
        optimizer = SGD(network, 0.5, weight_decay=options.get("weight_decay", 0.0))
        watch = StopOnPaper(PATIENCE)
        history = training.train(
            network,
            task._replace(test=validation),
            optimizer,
            epochs,
            seed,
            batch_size=BATCH_SIZE,
            callbacks=[watch],
            watch_test=True,
        )
        _, last = evaluate(network, task.loss, test)
        watch.stopping.restore(network)
        _, best = evaluate(network, task.loss, test)
        saved = watch.stopping.epochs_saved
        best_epoch = watch.stopping.best_epoch
        yield Trial(
            row,
            {
                "best_epoch": float("nan") if best_epoch is None else best_epoch + 1,
                "best_acc": best,
                "last_acc": last,
                "gain": best - last,
                "saved": saved,
                "saved_share": 100 * saved / epochs,
                "seconds_saved": sum(history.seconds[epochs - saved :]),
            },
            {"validation_loss": history.test_loss},
        )


def _conclude(table: Table) -> str:
    return (
        f"With dropout and weight decay the mean best epoch is {table.mean(REGULARISED, 'best_epoch'):.0f}, "
        f"stopping saves {table.mean(REGULARISED, 'saved'):.0f} epochs "
        f"({table.mean(REGULARISED, 'saved_share'):.0f} %, {table.mean(REGULARISED, 'seconds_saved'):.1f} s), and the "
        f"test accuracy of its best epoch, {table.mean(REGULARISED, 'best_acc'):.1f} %, is "
        f"{compared(mean_of(REGULARISED, 'gain')(table))} than after the last."
    )


def _draw(figure: Any, table: Table) -> None:
    ax = figure.subplots()
    for row, colour in zip(table.rows, figures.PALETTE, strict=False):
        curves = table.curves(row, "validation_loss")
        figures.curve_band(ax, curves, colour, row[0])
        best = table.mean(row, "best_epoch")
        ax.axvline(best, color=colour, linewidth=1, linestyle=(0, (2, 3)))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("epoch; dotted: mean best epoch", color=figures.INK)
    figures.title(ax, "validation loss, without stopping")
    figures.tidy(ax)
    figures.legend_below(figure, ax, 4)


EXPERIMENT = Experiment(
    name="early-stopping",
    question="When is the best epoch, and how much does stopping there gain and save?",
    setup=(
        f"{training.CIRCLE_SETUP}, of which {VALIDATION} are for validation and {TEST_SIZE - VALIDATION} for the test; "
        f"{HIDDEN} hidden neurons, SGD, patience {PATIENCE}; training then continues for comparison"
    ),
    seeds=5,
    epochs=1000,
    labels=("remedy",),
    rows=ROWS,
    columns=(
        Column("best_epoch", "best epoch", 0),
        Column("best_acc", "its test %"),
        Column("last_acc", "last epoch's"),
        Column("gain", "gained"),
        Column("saved", "epochs saved", 0),
        Column("seconds_saved", "seconds saved"),
    ),
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[
        Claim(f"the best epoch does better on the test set than the last ({name})", mean_of((name,), "gain"))
        for name in ("none", "dropout + decay")
    ]
    + [
        Claim(
            "stopping early saves more than half of the epochs (dropout + decay)",
            mean_of(REGULARISED, "saved_share"),
            unit="%",
            least=50,
            decimals=0,
        )
    ],
    size=(5.6, 4.2),
)
