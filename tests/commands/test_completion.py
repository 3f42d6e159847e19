"""``cregkit --print-completion``: the script that a shell reads, and what it completes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from cregkit import commands

COMPLETE = """
source "$1"
shift
complete -p cregkit >/dev/null || exit 3
COMP_WORDS=(cregkit "$@")
COMP_CWORD=$#
COMPREPLY=()
complete=$(complete -p cregkit | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$complete" cregkit "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(capsys, tmp_path):
    pytest.importorskip("shtab")
    assert commands.main(["--print-completion", "bash"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    path = tmp_path / "cregkit.bash"
    path.write_text(out)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["de"], {"demo"}),
        ([""], {*commands.COMMANDS}),
        (["demo", "--s"], {"--seeds"}),
        (["bench", "--p"], {"--peers", "--png"}),
        (["check", "--nothing"], {""}),
        (["demo", "--json", "result"], {"results.json"}),
    ],
)
def test_bash_completes_commands_options_and_files(words, completions, script, tmp_path):
    (tmp_path / "results.json").touch()
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", script, *words], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert completions == set(done.stdout.rstrip("\n").split("\n")) - {
        "-h",
        "--help",
        "--version",
        "--print-completion",
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_every_script_names_every_command(shell, capsys):
    pytest.importorskip("shtab")
    assert commands.main(["--print-completion", shell]) == 0
    out = capsys.readouterr().out
    assert [name for name in commands.COMMANDS if name not in out] == []


def test_without_shtab_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert commands.main(["--print-completion", "bash"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "cregkit: --print-completion needs shtab: pip install 'cregkit[completion]'\n")


def test_another_shell_is_refused_in_one_line(capsys):
    assert commands.main(["--print-completion", "csh"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "'csh'" in err
