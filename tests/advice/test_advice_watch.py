"""``cregkit advise --watch``: a log that another process writes, half-written files, the bell, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support import PYTHONPATH, heeds_ctrl_c

import cregkit as ck
from cregkit import commands
from cregkit.advice import watch
from cregkit.advice.advisor import setting

RISING = (1 + (np.arange(20) - 8) ** 2 / 100).tolist()
PATIENCE = 120  # seconds until a test gives up; none waits that long unless it fails
WRITER = """
import sys
lines = open(sys.argv[1], "w")
for row in sys.stdin:
    lines.write(row.removesuffix("|\\n"))  # "|" at the end of a row: without its end
    lines.flush()
"""


@pytest.fixture
def looks(monkeypatch):
    """Do not wait between two looks at the file."""
    monkeypatch.setattr(watch, "INTERVAL", 0.0)


def followed(path, **options):
    return watch.follow(path, setting(None, None, None), **options)


def test_each_change_gives_the_advice_on_complete_lines(tmp_path, looks):
    path = tmp_path / "log.csv"
    states = followed(path)
    assert next(states) == f"waiting for {path}"
    path.write_text("epoch,loss,val_l")
    assert "waiting: " in next(states)
    path.write_text("epoch,loss,val_loss\n0,0.9,0.8\n1,0.7,0.7")
    advice = next(states)
    assert advice.curves.raw["test_loss"] == (0.8,)
    with path.open("a") as file:
        file.write("5\n2,0.6,0.")
    assert next(states).curves.raw["test_loss"] == (0.8, 0.75)
    path.unlink()
    assert next(states) == f"waiting for {path}"


def test_json_that_is_being_written_is_waited_for(tmp_path, looks):
    path = tmp_path / "history.json"
    text = json.dumps({"loss": [3.0, 2.0], "val_loss": [3.0, 2.5]})
    states = followed(path)
    next(states)
    path.write_text(text[:30])
    assert "broken JSON" in next(states)
    path.write_text(text)
    assert next(states).curves.raw["test_loss"] == (3.0, 2.5)


def test_a_folder_is_followed(tmp_path, looks):
    states = followed(tmp_path)
    assert "waiting: " in next(states)
    (tmp_path / "a.csv").write_text("epoch,val_loss\n0,1\n1,2\n")
    assert next(states).curves.epochs == (0, 1)
    (tmp_path / "b.csv").write_text("epoch,val_loss\n0,7\n1,6\n2,5\n")
    assert len(next(states).runs) == 2


def test_the_columns_are_those_that_are_named(tmp_path, looks):
    (tmp_path / "log.csv").write_text("epoch,foo\n0,1\n1,2\n")
    assert next(followed(tmp_path / "log.csv", columns={"test_loss": "foo"})).curves.raw["test_loss"] == (1.0, 2.0)


@pytest.mark.parametrize(
    ("history", "alarm", "line"),
    [
        ({"val_loss": RISING}, "turned up after epoch 8", "epoch 19: test loss 2.21; turned up after epoch 8"),
        ({"val_loss": RISING[:9]}, "", "epoch 8: test loss 1; still improving"),
        ({"val_loss": [1.0] * 9}, "", "epoch 8: test loss 1; level"),
        ({"val_loss": [2.0, 1.0]}, "", "epoch 1: test loss 1; too few epochs for a trend"),
        (
            {"acc": [0.9] * 20, "val_acc": [(90 - 10 * x) / 100 for x in RISING]},
            "turned down after epoch 8",
            "epoch 19: test accuracy 67.9 %, gap 22.1 points; turned down after epoch 8",
        ),
        (
            {"loss": [1, float("inf")], "val_loss": [1, None]},
            "diverged in epoch 1",
            "epoch 1: test loss 1, gap in loss 0; diverged in epoch 1",
        ),
        ([{"val_loss": RISING}, {"val_loss": [3.0, 2.0]}], "", "epoch 1: test loss 2; too few epochs for a trend"),
    ],
)
def test_the_line_shows_the_latest_run(history, alarm, line):
    advice = ck.advise(history=history)
    assert watch.alarm(advice) == alarm
    assert watch.line(advice) == line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--watch", "a.csv", "--history", "b.csv"], "give --history or --watch, not both"),
        (["--watch", "a.csv", "--train-acc", "99"], "not both"),
    ],
)
def test_the_log_to_watch_is_the_only_source(argv, words, capsys):
    assert commands.main(["advise", *argv]) == 2
    assert words in capsys.readouterr().err


# Processes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path):
    """Start processes in ``tmp_path`` that end with the test."""
    processes = []

    def started(*argv, **options):
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "200"}
        process = subprocess.Popen(
            [sys.executable, *argv], cwd=tmp_path, env=environment, text=True, preexec_fn=heeds_ctrl_c, **options
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        with process:  # closes its pipes
            pass


def wait_for(stream, words):
    """Read lines until one has ``words``; a timer closes the process that writes no such line."""
    for line in stream:
        if words in line:
            return line
    raise AssertionError(f"the stream ended without {words!r}")


def write(writer, *rows):
    writer.stdin.write("".join(f"{row}\n" for row in rows))
    writer.stdin.flush()


def test_a_process_that_writes_is_followed_until_ctrl_c(tmp_path, start):
    watched = start(
        *("-m", "cregkit", "advise", "--watch", "log.csv", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    timer = threading.Timer(PATIENCE, watched.kill)
    timer.start()
    wait_for(watched.stderr, "waiting for log.csv")
    writer = start("-c", WRITER, "log.csv", stdin=subprocess.PIPE)
    write(writer, "epoch,val_loss", *(f"{epoch},{loss}" for epoch, loss in enumerate(RISING[:9])))
    assert "still improving" in wait_for(watched.stderr, "epoch 8: test loss 1;")
    write(writer, *(f"{epoch},{loss}" for epoch, loss in enumerate(RISING[9:], 9)), "20,9|")
    assert "turned up after epoch 8" in wait_for(watched.stderr, "epoch 19: test loss 2.21;")
    watched.send_signal(signal.SIGINT)
    out = watched.stdout.read()
    assert watched.wait() == 0
    timer.cancel()
    advice = json.loads(out)
    assert (advice["regime"], advice["history"]["best_epoch"], advice["history"]["last_epoch"]) == (
        "loss turned up",
        8,
        19,
    )


def test_ctrl_c_before_the_first_figures_ends_without_advice(start):
    watched = start(*("-m", "cregkit", "advise", "--watch", "log.csv"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    timer = threading.Timer(PATIENCE, watched.kill)
    timer.start()
    wait_for(watched.stderr, "waiting for log.csv")
    watched.send_signal(signal.SIGINT)
    assert watched.stdout.read() == ""
    assert watched.wait() == 130
    timer.cancel()
    assert "interrupted" in watched.stderr.read()


def test_a_terminal_gets_one_line_and_a_bell_at_each_turn(tmp_path, start):
    path = tmp_path / "log.csv"
    path.write_text("epoch,val_loss\n" + "".join(f"{epoch},{loss}\n" for epoch, loss in enumerate(RISING[:9])))
    ours, theirs = pty.openpty()
    watched = start(*("-m", "cregkit", "advise", "--watch", "log.csv"), stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = read_until(ours, "still improving")
    assert "\a" not in shown
    with path.open("a") as file:
        file.writelines(f"{epoch},{loss}\n" for epoch, loss in enumerate(RISING[9:], 9))
    shown += read_until(ours, "\a")
    with path.open("a") as file:
        file.write("20,2.5\n")
    shown += read_until(ours, "epoch 20: test loss 2.5; turned up after epoch 8\x1b[K")
    assert shown.count("\a") == 1  # once for one turn
    assert "\n" not in shown
    assert shown.count("\r") >= 3
    watched.send_signal(signal.SIGINT)
    assert "loss turned up: " in watched.stdout.read()
    assert watched.wait() == 0
    os.close(ours)


def read_until(descriptor, words):
    """Return what is written to a terminal up to ``words``."""
    shown, end = "", time.monotonic() + PATIENCE
    while words not in shown:
        assert select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0], shown
        shown += os.read(descriptor, 1 << 16).decode()
    return shown
