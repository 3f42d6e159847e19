"""The command line: what it prints, its exit codes, and that a mistake costs one line and never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support import heeds_ctrl_c

import cregkit
from cregkit import cli, console
from cregkit._version import __version__

COMMAND = [sys.executable, "-W", "error", "-m", "cregkit"]


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cregkit {__version__}\n"


def test_info_shows_all_of_the_configuration(capsys):
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    config = cregkit.show_config()
    assert [line.split("  ")[0].replace(" ", "_") for line in lines] == list(config)
    shown = dict(zip(config, lines, strict=True))
    assert shown["isa"].split()[-1] == config["isa"]
    assert all(isa in shown["isa_available"] for isa in config["isa_available"])


def test_help_names_every_command_and_gives_examples(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert command.name in text
        assert command.summary in text
        assert cli.main([command.name, "--help"]) == 0
        assert f"  cregkit {command.name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "COMMAND"),
        (["dmeo"], "'dmeo'"),
        (["demo", "--seeds", "0"], "--seeds: must be a whole number of at least 1, got '0'"),
        (["demo", "--seeds", "many"], "got 'many'"),
        (["demo", "--epochs", "1.5"], "--epochs"),
        (["demo", "--colour"], "--colour"),
        (["demo", "--json", "missing/result.json"], "missing/result.json: No such file or directory"),
        (["demo", "--png", "."], ".: Is a directory"),
    ],
)
def test_a_mistake_costs_one_line(argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("cregkit")
    assert named in err
    assert os.listdir(tmp_path) == []


def test_exit_code_of_the_process():
    done = subprocess.run([*COMMAND, "nonsense"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_instruction_set_that_is_not_there_costs_one_line():
    environment = {**os.environ, "CREGKIT_ISA": "abacus"}
    done = subprocess.run([*COMMAND, "info"], capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "CREGKIT_ISA" in done.stderr


def test_interrupt_ends_in_one_line(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "demo", "--epochs", "100000", "--png", tmp_path / "demo.png"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=heeds_ctrl_c,
    )
    assert process.stdout.readline().startswith("cregkit")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "cregkit: interrupted\n"


@pytest.mark.parametrize("argument", ["info", "--help"])
def test_a_reader_that_goes_away_is_no_error(argument):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen([*COMMAND, argument], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert err == b""


class _Terminal:
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_plain_table():
    lines = list(console._plain_table("Title", ["", "train %"], [["plain", "98.3"], ["weight decay", "9.0"]]))
    assert lines == [
        "Title",
        "              train %",
        "------------  -------",
        "plain            98.3",
        "weight decay      9.0",
    ]


def test_a_terminal_without_rich_gets_a_plain_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)  # makes its import fail
    out, err = _Terminal(), _Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    plain = console.Console()
    with plain.progress(2) as step:
        step("one")
        step("two")
    plain.table("Title", ["a", "b"], [["c", "d"]])
    assert "1/2 one" in err.text
    assert f"[{'#' * 30}] 2/2 two" in err.text
    assert out.text == "Title\na  b\n-  -\nc  d\n"


def test_a_terminal_with_rich_gets_its_table_and_bar(monkeypatch):
    pytest.importorskip("rich")
    out, err = _Terminal(), _Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    rich = console.Console()
    with rich.progress(2) as step:
        step("one")
        step("two")
    rich.table("Title", ["a", "b"], [["[c]", "1 ± 2"]])
    assert "2/2" in err.text
    assert "[c]" in out.text
    assert "1 ± 2" in out.text


def test_a_quiet_console_has_no_notes_and_no_bar(monkeypatch):
    out, err = _Terminal(), _Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    quiet = console.Console(quiet=True)
    quiet.note("a note")
    quiet.line("a line")
    with quiet.progress(1) as step:
        step("one")
    assert (out.text, err.text) == ("a line\n", "")


def test_a_stream_of_ascii_gets_ascii(monkeypatch):
    out = _Terminal()
    out.encoding = "ascii"
    monkeypatch.setattr(sys, "stdout", out)
    console.Console().line("1 ± 2 μ")
    assert out.text == "1 +- 2 ?\n"


def test_augment_writes_a_contact_sheet(tmp_path, capsys):
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
    pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 4), dtype=np.uint8)
    image.imsave(tmp_path / "image.png", pixels)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        assert cli.main(["augment", str(tmp_path / "image.png"), "--out", str(file), "--samples", "2"]) == 0
    sheets = [image.imread(file) for file in files]
    assert np.array_equal(*sheets)
    assert np.ptp(sheets[0]) > 0.5
    assert "8 transforms, 2 samples each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.png", "--out", "sheet.png"], "No such file"),
        ([__file__, "--out", "sheet.png"], "is no image that can be read"),
        (["no.png"], "required: --out"),
        (["no.png", "--out", "sheet.png", "--seed", "-1"], "must be a whole number from 0"),
    ],
)
def test_augment_tells_a_mistake_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["augment", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
