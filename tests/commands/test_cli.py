"""The command line: its output, exit codes, and one line for each error, without a traceback."""

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
from cregkit import commands
from cregkit._version import __version__
from cregkit.commands import console
from cregkit.lab import sheet

COMMAND = [sys.executable, "-W", "error", "-m", "cregkit"]


def test_version_is_printed(capsys):
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cregkit {__version__}\n"


def test_info_shows_the_whole_configuration(capsys):
    assert commands.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    config = cregkit.show_config()
    assert [line.split("  ")[0].replace(" ", "_") for line in lines] == list(config)
    shown = dict(zip(config, lines, strict=True))
    assert shown["isa"].split()[-1] == config["isa"]
    assert all(isa in shown["isa_available"] for isa in config["isa_available"])


def test_help_names_every_command_and_gives_examples(capsys):
    assert commands.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, summary in commands.COMMANDS.items():
        assert name in text
        assert summary in text
        assert commands.main([name, "--help"]) == 0
        assert f"  cregkit {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "to start, python -m cregkit demo"),
        (["dmeo"], "'dmeo'"),
        (["demo", "--seeds", "0"], "--seeds: must be a whole number of at least 1, got '0'"),
        (["demo", "--seeds", "many"], "got 'many'"),
        (["demo", "--epochs", "1.5"], "--epochs"),
        (["demo", "--colour"], "cregkit demo: unrecognized arguments: --colour (see cregkit demo --help)"),
        (["demo", "--json", "missing/result.json"], "missing/result.json: No such file or directory"),
        (["demo", "--png", "."], ".: Is a directory"),
    ],
)
def test_a_wrong_argument_prints_one_line_and_writes_nothing(argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("cregkit")
    assert named in err
    assert os.listdir(tmp_path) == []


def test_the_process_ends_with_code_2_and_no_traceback():
    done = subprocess.run([*COMMAND, "nonsense"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_instruction_set_prints_one_line():
    environment = {**os.environ, "CREGKIT_ISA": "abacus"}
    done = subprocess.run([*COMMAND, "info"], capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "CREGKIT_ISA" in done.stderr


def test_an_interrupt_prints_one_line_and_ends_with_code_130(tmp_path):
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
def test_a_closed_pipe_prints_no_error(argument):
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


def test_a_plain_table_aligns_its_columns():
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
        assert commands.main(["augment", str(tmp_path / "image.png"), "--out", str(file), "--samples", "2"]) == 0
    sheets = [image.imread(file) for file in files]
    assert np.array_equal(*sheets)
    assert np.ptp(sheets[0]) > 0.5
    assert "8 transforms, 2 samples each" in capsys.readouterr().out


UPRIGHT = np.zeros((24, 40), np.uint8)  # its eight orientations all differ
UPRIGHT[:8, :16], UPRIGHT[16:] = 255, 160
# How a camera turns an upright image for each EXIF orientation (exif.org, EXIF 2.3, tag 274).
CAMERA = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.swapaxes(x[::-1, ::-1], 0, 1),
    8: lambda x: np.rot90(x, -1),
}
FORMATS = [
    *(("png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("jpeg", mode) for mode in ("L", "RGB", "CMYK", "YCbCr")),
    *(("tiff", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")),
    *(("webp", mode) for mode in ("RGB", "RGBA")),
]


@pytest.mark.parametrize("orientation", CAMERA)
@pytest.mark.parametrize(("kind", "mode"), FORMATS)
def test_augment_shows_a_photo_upright(kind, mode, orientation, tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    values = UPRIGHT if mode != "1" else np.where(UPRIGHT, 255, 0).astype(np.uint8)
    turned = np.ascontiguousarray(CAMERA[orientation](values))
    image = pillow.fromarray(turned.astype(np.uint16) * 257 if mode == "I;16" else turned)
    exif = pillow.Exif()
    exif[274] = orientation
    file = tmp_path / f"photo.{kind}"
    options = {"jpeg": {"quality": 100}, "webp": {"lossless": True}}.get(kind, {})
    (image if mode == "I;16" else image.convert(mode)).save(file, exif=exif, **options)
    shown = sheet.read(str(file))
    assert shown.dtype == np.float32
    assert shown.shape == (3 if mode in ("P", "RGB", "RGBA", "CMYK", "YCbCr") else 1, 24, 40)
    np.testing.assert_allclose(shown, np.broadcast_to(values / np.float32(255), shown.shape), rtol=0, atol=0.03)


def test_augment_shows_transparent_pixels_white(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    palette = pillow.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png", transparency=1)
    wanted = [[[1, 1], [0, 1]], [[0, 1], [0, 1]], [[0, 1], [1, 1]]]
    assert np.array_equal(sheet.read(str(tmp_path / "palette.png")), wanted)


def test_augment_shows_float_images_clipped_to_0_and_1(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for values, shown in (([[0.25, 0.5]], [0.25, 0.5]), ([[-1, 3]], [0, 1]), ([[0, 200, np.inf]], [0, 1, 1])):
        pillow.fromarray(np.array(values, np.float32)).save(tmp_path / "float.tiff")
        assert sheet.read(str(tmp_path / "float.tiff")).ravel().tolist() == shown


def test_augment_refuses_a_damaged_photo_in_one_line(tmp_path, capsys):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    file = tmp_path / "photo.png"
    pillow.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:900])
    assert commands.main(["augment", str(file), "--out", str(tmp_path / "sheet.png")]) == 2
    error = capsys.readouterr().err
    assert "photo.png is not a readable image (" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.png", "--out", "sheet.png"], "No such file"),
        ([__file__, "--out", "sheet.png"], "is not a readable image"),
        (["no.png"], "required: --out"),
        (["no.png", "--out", "sheet.png", "--seed", "-1"], "must be a whole number from 0"),
    ],
)
def test_augment_refuses_wrong_arguments_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.chdir(tmp_path)
    assert commands.main(["augment", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
