"""bench/results/ and what it gives: RESULTS.md, the figures of other pages, the pictures."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from models_section import row
from support import bench_script

from cregkit.benchmark import goals, timing
from cregkit.benchmark.report import FORMAT
from cregkit.benchmark.suite import COPY, OURS, OURS_FLOAT32, OURS_OUT

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
record, render, run_all, suite_script = map(bench_script, ("record", "render", "run_all", "bench_suite"))

BEFORE = {
    "cpu": "Some CPU",
    "isa": "avx2",
    "threads": 2,
    "cregkit": "1.0",
    "commit": "abc",
    "load": 0.1,
    "stolen": 0.5,
    "versions": {"torch": "2.0"},
    "date": "2026-01-02",
}


def section(figures):
    return {"circumstances": BEFORE, "figures": figures}


def measured(seconds):
    return {"median": seconds, "quartile": seconds, "mad": 0.0, "best": seconds, "n": 9}


def op(case, shape, **seconds):
    names = {"ours": OURS, "out": OURS_OUT, "float32": OURS_FLOAT32, "copy": f"{COPY}numpy"}
    times = {names.get(name, name): measured(1e-6 * us) for name, us in seconds.items()}
    return {"case": case, "shape": shape, "n_bytes": 8, "times": times, "void": {}}


def run(rows, judged):
    machine = {"peers": {"torch": "2.0"}, "cpu": "Some CPU", "threads": 2, "date": "2026-01-02 10:00"}
    return {
        "format": FORMAT,
        "machine": machine,
        "rows": rows,
        "complete": True,
        "goals": [goals.Goal(*goal).__dict__ for goal in judged],
    }


STEP = {"step": "MLP", "stock": 1.5, "converted": 1.02, "enabled": 1.04, "limit": 1.05, "against": "without"}
SMALL = {"step": "small", "stock": 1.2, "converted": 1.25, "enabled": 1.26, "limit": 1.0, "against": "stock"}
WINDOWS = {"cregkit": [1.0, 3.0], "1 thread": [1.1, 1.0]}
CELL = {"size": "in cache", "shape": [4, 16], "scaling": "strong", "threads": [1, 2]}
TIMES = {"stock": 3.0, "stock without dropout": 2.0, "converted": 2.5, "enabled": 2.0, "kernel": 1.0}
BATCHES = (("(1,)", "flip", 8.0), ("(1,)", "turn", 4.0), ("(2,)", "flip", 3.0), ("(2,)", "turn", 1.0))
ROWS = [
    op("layer_norm", [4096, 1024], ours=256, out=128, torch=320, onnxruntime=400, oracle=8, copy=64),
    op("rms_norm", [4096, 1024], ours=80, out=64, onnxruntime=90, copy=64),
    op("layer_norm[float16]", [4096, 1024], ours=128, out=128, float32=256, torch=512, copy=64),
]
SECTIONS = {
    "ops": section(
        {
            "tuned": run(
                ROWS,
                [
                    ("addition + norm", "np.empty_like (0.2 us)", 2.0, 1.5, "where"),
                    ("another", "a peer", 2.0, 1.0, "where"),
                    ("unmeasured", "a peer", 2.0, None),
                    ("reached", "a peer", 2.0, 2.5, "where"),
                ],
            ),
            "held out": run([], [("addition + norm", "np.empty_like (0.3 us)", 2.0, 1.75, "elsewhere")]),
        }
    ),
    "steps": section([STEP, SMALL]),
    "overhead": section(
        [
            {"op": "dropout", "elements": 1024, "us": {"stock": 3.0, "kernel": 4.0}, "used": False},
            {"op": "dropout", "elements": 2048, "us": {"stock": 9.0, "kernel": 4.0}, "used": True},
        ]
    ),
    "contention": section(
        {
            "windows": 3,
            "seconds": 0.2,
            "loads": {
                load: [{"worst": {"cregkit": [mean, 2.0], "1 thread": [1.0, 9.0]}}, {"worst": WINDOWS}]
                for load, mean in (("idle", 1.5), ("busy-1", 1.25))
            },
        }
    ),
    "scaling": section(
        {
            "cores": 2,
            "caches": {"L1 32K": 2},
            "numa_nodes": 1,
            "loops": {"1": 1e-6},
            "cells": [
                {**CELL, "op": name, "seconds": seconds}
                for name, seconds in (
                    ("a", {"cregkit": [2.0, 1.0], "memcpy": [1.0, 1.0], "torch": [4.0, 1.0]}),
                    ("b", {"cregkit": [2.0, 2.0], "memcpy": [1.0, 1.0]}),
                )
            ],
        }
    ),
    "augmentation": section(
        [
            {"batch": batch, "transform": name, "ms": {"cregkit": 2.0, "albumentations": theirs}}
            for batch, name, theirs in BATCHES
        ]
    ),
    "mpi": section(
        {
            "samples": 64,
            "cores": 2,
            "latency": 1e-6,
            "bandwidth": 8e9,
            "measured": [
                {"ranks": ranks, "step": 0.004 * ranks, "messages": 0.001, "gradient_bytes": 5.3e6} for ranks in (1, 2)
            ],
            "predicted": [{"ranks": 64, "step": 0.005, "visible": 0.001}],
        }
    ),
    "optimizer": section([{"arrays": "1 x 1,000", "ratios": [0.5, 2.0, 0.75], "ms": 1.5, "of_memcpy": 0.9}]),
    "estimators": section(
        {
            "rows": [
                {
                    "data": "wine",
                    "batch": 32,
                    "scores": [[90.0, 92.0], [91.0, 95.0], [90.0, 91.0]],
                    "seconds": [[3.0, 2.0], [1.0, 1.5], [1.0, 1.0]],
                }
            ]
        }
    ),
}  # fmt: skip
SHOWN = {
    "ops": [
        "| addition + norm | np.empty_like (0.2 us) | ≥ 2 | 1.50 | 1.75 | MISSED | where | bound by memory "
        "([limit](../csrc/TUNING.md#dropout-addition-and-a-norm-dropout_add_normh)) |",
        "| another | a peer | ≥ 2 | 1.00 | - | MISSED | where | not known |",
        "| reached | a peer | ≥ 2 | 2.50 | - | reached | where |  |",
        "| layer_norm | 4096x1024 | 256 | 128 | oracle | 8.00 | 0.03 | 50% |",
        "| rms_norm | 4096x1024 | 80.00 | 64.00 | onnxruntime | 90.00 | 1.12 | 100% |",
        "| layer_norm[float16] | 4096x1024 | 128 | 128 | torch | 512 | 4.00 | 50% | 256 | 2.00 |",
        "| layer_norm / rms_norm | 4096x1024 | 32 | 2.00 |",
    ],
    "steps": [
        "| MLP | 1.50 | 1.02 | 1.04 | ≤ 1.05: reached |",
        "| small | 1.20 | 1.25 | 1.26 | ≤ 1: MISSED (of PyTorch's) |",
    ],
    "overhead": ["| op | 1024 | 2048 |", "| dropout | 0.75 | **2.25** |"],
    "contention": [
        "| idle | 1.50 / 3.00 | 1.10 / 9.00 | - |",
        "| busy-1 | 1.25 / 3.00 | 1.10 / 9.00 | ≤ 1.18: MISSED, "
        "[limit](../csrc/TUNING.md#parallel-loops-cregkitkernels_threadspyx) |",
    ],
    "scaling": ["| strong | in cache | 2 | 1.41 | 1.00 | 4.00 | 1.00, b 4x16 | ≥ 1.7: MISSED |"],
    "augmentation": [
        "| transform | batch (1,) | batch (2,) | target |",
        "| flip | 2.00 ms, 4.0x | 2.00 ms, 1.5x | ≥ 1: reached |",
        "| turn | 2.00 ms, 2.0x | 2.00 ms, 0.5x | ≥ 1: MISSED |",
    ],
    "mpi": [
        "Measured on 2 cores, 64 samples per rank, 5.3 MB of gradients:",
        "| 2 | 8.00 | 1.00 | 16000 |",
        "Predicted from a latency of 1.0 us and a bandwidth of 8.0 GB/s:",
        "| 64 | 5.00 | 1.00 | 80% |",
    ],
    "optimizer": ["| 1 x 1,000 | 1.50 | 0.75 (0.50-2.00) | 0.90 | ≥ 1: MISSED |"],
    "estimators": [
        "| wine | 32 | 91.00 ± 1.41 | 93.00 ± 2.83 | +2.00 ± 1.00 | 90.50 ± 0.71 | -0.50 ± 0.50 | 2.000 | 1.000 | 2.00 "
        "| ≥ 1: reached |"
    ],
}
"""Lines of the text of each kind in RESULTS.md."""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the pages, with the planted sections but for the pictures' kinds."""
    for page in (render.RESULTS, *(page for kind in render.KINDS.values() for page in kind.pages)):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    results = tmp_path / "bench" / "results"
    results.mkdir()
    (results / "run.json").write_text(json.dumps({k: SECTIONS[k] for k in SECTIONS if not render.KINDS[k].picture}))
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", results)
    return tmp_path


def test_pages_and_pictures_are_what_the_files_give():
    """To write them, run bench/render.py."""
    assert list(render.differences()) == []


def test_every_kind_has_planted_figures():
    assert set(SHOWN) <= set(render.KINDS)


@pytest.mark.parametrize("kind", SHOWN)
def test_a_kind_is_shown_with_its_circumstances_and_targets(kind):
    page = render.results_page({kind: SECTIONS[kind]}).split("\n")
    assert (
        "Some CPU, avx2, 2 threads, cregkit 1.0, torch 2.0, commit abc, load 0.1, stolen time 0.5 %, 2026-01-02."
        in page
    )
    assert [line for line in page if line in SHOWN[kind]] == SHOWN[kind]
    assert page.count(render.UNMEASURED) == len(render.KINDS) - 1
    assert (f"![{render.KINDS[kind].title}]({kind}.png)" in page) == bool(render.KINDS[kind].picture)


def test_what_was_not_measured_is_not_in_the_table_of_targets():
    assert "unmeasured" not in render.results_page(SECTIONS)


def test_the_readme_names_three_models_and_the_fastest_other_library():
    text = "a\n<!-- bench: models -->\nold\n<!-- end -->\nb\n<!-- bench: ops -->\n<!-- end -->\nc\n"
    rows = [row("BERT", enabled=0.8), row("ResNet-50", enabled=1.0), row("ViT-tiny", enabled=0.64)]
    models = {"circumstances": SECTIONS["ops"]["circumstances"], "figures": rows}
    assert render.filled("README.md", text, {**SECTIONS, "models": models}) == (
        """\
a
<!-- bench: models -->
![Training steps of 3 models with cregkit, relative to PyTorch's](bench/models.png)

With `cregkit.torch.enable()`, a training step takes this part of PyTorch's time: 0.80 for BERT, 1.00 for ResNet-50;
0.80 in the geometric mean of 3 models
(Some CPU, avx2, 2 threads, 2026-01-02, PyTorch 2.0; `python bench/bench_models.py`).
<!-- end -->
b
<!-- bench: ops -->
Single ops beside the fastest other library (Some CPU, avx2, 2 threads, 2026-01-02; `cregkit bench`):

| op | shape | fastest other library | its time | cregkit | speed-up |
| --- | --- | --- | --- | --- | --- |
| LayerNorm | 4096 x 1024 | PyTorch | 320 us | 256 us | 1.2x |
| RMSNorm | 4096 x 1024 | ONNX Runtime | 90 us | 80 us | 1.1x |
<!-- end -->
c
"""
    )


def test_a_block_without_figures_says_so():
    text = "<!-- bench: mpi -->\nold\n<!-- end -->\n"
    assert render.filled("cregkit/mpi/README.md", text, {}) == text.replace("old", render.UNMEASURED)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no mark", r"must have marks <!-- bench: KIND --> for \['mpi'\], has \[\]"),
        ("<!-- bench: steps -->\n<!-- end -->", r"for \['mpi'\], has \['steps'\]"),
        ("<!-- bench: mpi -->\n<!-- end -->\n<!-- bench: mpi -->\n<!-- end -->", r"has \['mpi', 'mpi'\]"),
        ("<!-- bench: mpi -->\nno end", "<!-- bench: mpi --> must be followed by a line <!-- end -->"),
    ],
)
def test_missing_and_unknown_marks_are_named(text, complaint):
    with pytest.raises(render.MarkError, match=rf"^cregkit/mpi/README.md: .*{complaint}"):
        render.filled("cregkit/mpi/README.md", text, SECTIONS)


def test_a_block_without_end_does_not_reach_into_the_next():
    text = "<!-- bench: models -->\n\n<!-- bench: ops -->\n<!-- end -->\n"
    with pytest.raises(render.MarkError, match="bench: models --> must be followed"):
        render.filled("README.md", text, SECTIONS)


def test_marks_are_only_on_pages_that_are_written():
    marked = {
        page.relative_to(ROOT).as_posix()
        for page in [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/**/*.md")]
        if re.search(r"^<!-- bench: ", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert marked == {page for kind in render.KINDS.values() for page in kind.pages}


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("README.md", "steps.png", "bench/steps.png"),
        ("README.md", "../csrc/TUNING.md#limits", "csrc/TUNING.md#limits"),
        ("cregkit/torch/README.md", "../csrc/TUNING.md#limits", "../../csrc/TUNING.md#limits"),
        ("cregkit/torch/README.md", "https://a.org/b", "https://a.org/b"),
        ("cregkit/torch/README.md", "#limits", "#limits"),
    ],
)
def test_links_start_from_the_page(page, link, there):
    assert render.moved(f"see [this]({link})", page) == f"see [this]({there})"


def test_a_changed_figure_is_seen_and_written(tree):
    render.write()
    assert list(render.differences()) == []
    path = record.RESULTS / "run.json"
    changed = json.loads(path.read_text())
    changed["augmentation"]["figures"][1]["ms"]["cregkit"] = 1.0
    path.write_text(json.dumps(changed))
    lines = [line for line in render.differences() if line.startswith(("+|", "-|"))]
    assert lines == 2 * ["-| turn | 2.00 ms, 2.0x | 2.00 ms, 0.5x | ≥ 1: MISSED |",
                         "+| turn | 1.00 ms, 4.0x | 2.00 ms, 0.5x | ≥ 1: MISSED |"]  # fmt: skip
    render.write()
    assert list(render.differences()) == []


def test_a_figure_edited_by_hand_is_seen(tree, capsys):
    render.write()
    page = tree / "cregkit/mpi/README.md"
    page.write_text(page.read_text().replace("16000", "17000"))
    with pytest.raises(SystemExit) as end:
        render.main(["--check"])
    assert end.value.code == "run python bench/render.py"
    assert "-| 2 | 8.00 | 1.00 | 17000 |" in capsys.readouterr().out
    render.main([])
    render.main(["--check"])


@pytest.mark.parametrize("kind", [kind for kind, shown in render.KINDS.items() if shown.picture and kind in SECTIONS])
def test_a_picture_is_that_of_its_section(tree, kind):
    pytest.importorskip("matplotlib")
    path, picture = record.RESULTS / "run.json", tree / "bench" / f"{kind}.png"
    path.write_text(json.dumps({kind: SECTIONS[kind]}))
    assert any(line.startswith(f"bench/{kind}.png: must be drawn from {kind} ") for line in render.differences())
    render.write()
    assert list(render.differences()) == []
    assert render.metadata(picture)["Description"] == "Some CPU, avx2, 2 threads, 2026-01-02"
    drawn = picture.stat().st_mtime_ns
    render.write()
    assert picture.stat().st_mtime_ns == drawn

    changed = copy.deepcopy(SECTIONS[kind])
    changed["circumstances"]["load"] = 0.2
    path.write_text(json.dumps({kind: changed}))
    assert any(line.startswith(f"bench/{kind}.png: ") for line in render.differences())
    path.unlink()
    assert f"bench/{kind}.png: must be drawn from None" in render.differences()
    render.write()
    assert not picture.exists()


def test_the_newest_section_of_each_kind_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    for file, date, kinds in (
        ("a", "2026-01-01", ["steps"]),
        ("b", "2026-01-03", ["steps"]),
        ("c", "2026-01-02", ["steps", "mpi"]),
    ):
        for kind in kinds:
            record.store(tmp_path / f"{file}.json", kind, {"date": date}, file)
    assert [record.newest(kind)["figures"] for kind in ("steps", "mpi")] == ["b", "c"]
    assert record.newest("ops") is None


def test_the_circumstances_are_one_line():
    found = record.circumstances()
    assert record.machine(found).startswith(f"{found['cpu']}, {found['isa']}, ")
    assert record.machine({**BEFORE, "threads": 1, "load": None, "commit": None, "stolen": None}) == (
        "Some CPU, avx2, 1 thread, cregkit 1.0, torch 2.0, 2026-01-02"
    )
    assert record.machine(BEFORE).endswith(", commit abc, load 0.1, stolen time 0.5 %, 2026-01-02")


def test_stolen_time_is_that_since_the_start(monkeypatch):
    monkeypatch.setattr(record, "AT_START", (100, 10))
    monkeypatch.setattr(record, "processor_time", lambda: (175, 35))
    assert record.stolen() == 25.0
    monkeypatch.setattr(record, "processor_time", lambda: (100, 10))
    assert record.stolen() is None


def test_a_working_process_adds_to_the_processors_time():
    if not Path("/proc/stat").exists():
        pytest.skip("counted by Linux alone")
    before, _ = record.processor_time()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert record.processor_time()[0] > before


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.commit() is None


def test_of_a_run_the_rows_of_the_promised_ops_are_kept_to_four_digits():
    rows = [op(case, [4], ours=1.23456) for case in ("l2_penalty", "rms_norm", "group_norm[bfloat16]")]
    kept = suite_script.kept(run(rows, []), with_rows=True)
    assert [row["case"] for row in kept["rows"]] == ["rms_norm", "group_norm[bfloat16]"]
    assert kept["rows"][0]["times"][OURS] == {**measured(1.235e-6), "n": 9}
    assert suite_script.kept(run(rows, []), with_rows=False)["rows"] == []


def test_a_script_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capfd):
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    (tmp_path / "works.py").write_text("import sys; print(sys.argv[1:])")
    monkeypatch.setattr(run_all, "BENCH", tmp_path)
    monkeypatch.setattr(run_all, "SCRIPTS", ((1, "fails.py", ("--quick",)), (1, "works.py", ())))
    assert run_all.run(tmp_path / "run.json") == ["fails.py --quick"]
    assert str(["--record", str(tmp_path / "run.json")]) in capfd.readouterr().out


def test_every_script_of_a_full_run_is_there_and_keeps_figures():
    for _, script, _ in run_all.SCRIPTS:
        assert "add_option(parser)" in (ROOT / "bench" / script).read_text(encoding="utf-8")
    assert sum(minutes for minutes, _, _ in run_all.SCRIPTS) < 75


# ---- what the scripts keep ----


def figures_kept(script, kind, options, tmp_path, monkeypatch):
    """Run a script with --record; return its section, which RESULTS.md can show."""
    path = tmp_path / "run.json"
    monkeypatch.setattr(sys, "argv", ["", *options, "--record", str(path)])
    script.main()
    kept = json.loads(path.read_text())
    assert set(kept) == {kind}
    assert set(kept[kind]["circumstances"]) == set(BEFORE)
    assert render.UNMEASURED not in render.KINDS[kind].table(kept[kind])
    return kept[kind]["figures"]


def test_a_run_beside_busy_processes_is_kept(tmp_path, monkeypatch):
    script = bench_script("bench_contention")
    monkeypatch.setattr(script, "SHAPES", {"tuned": ((2, 8),), "new": ((3, 8), (4, 8))})
    options = ["--loads", "idle,busy-1", "--windows", "1", "--seconds", "0.001", "--only-cregkit"]
    kept = figures_kept(script, "contention", options, tmp_path, monkeypatch)
    assert {load: len(rows) for load, rows in kept["loads"].items()} == {"idle": 6, "busy-1": 6}


def test_a_run_of_optimisers_is_kept(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    script = bench_script("bench_optimizer")
    monkeypatch.setattr(script, "SIZES", ((2, 10), (1, 20)))
    monkeypatch.setattr(script, "ratios", lambda *_: ([1.0, 2.0, 3.0], 0.001, 0.5))
    kept = figures_kept(script, "optimizer", ["--quick"], tmp_path, monkeypatch)
    assert [row["arrays"] for row in kept] == ["2 x 10", "1 x 20"]


def test_a_run_of_estimators_is_kept(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    script = bench_script("bench_estimators")
    monkeypatch.setattr(script, "CLASSES", {"wine": (script.CLASSES["wine"][0], 1)})
    monkeypatch.setattr(script, "NUMBERS", {"diabetes": (script.NUMBERS["diabetes"][0], 1)})
    kept = figures_kept(script, "estimators", ["--seeds", "2", "--batch-size", "64"], tmp_path, monkeypatch)
    assert [(row["data"], len(row["scores"]), len(row["seconds"][0])) for row in kept["rows"]] == [
        ("wine", 3, 2),
        ("diabetes", 3, 2),
    ]


def test_a_run_over_mpi_is_kept(tmp_path, monkeypatch):
    script = bench_script("bench_mpi")
    one = dict.fromkeys(("step", "messages", "bytes", "gradient_bytes", "exchange_bytes", "exchanges"), 1.0)
    monkeypatch.setattr(script, "measured", lambda _: {**one, "one_way_small": 1.0, "one_way_large": 2.0})
    kept = figures_kept(script, "mpi", [], tmp_path, monkeypatch)
    assert [row["ranks"] for row in kept["measured"]] == [1, 2, 4]
    assert [row["ranks"] for row in kept["predicted"]] == [2, 4, 64, 1024]


@pytest.mark.parametrize(("kind", "options"), [("steps", []), ("overhead", ["--overhead"])])
def test_a_run_of_pytorch_is_kept(kind, options, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    script = bench_script("bench_torch")
    times = {name: timing.Measurement(of, of, 0.0, of, 9) for name, of in TIMES.items()}
    monkeypatch.setattr(script, "steps", lambda *_: times)
    monkeypatch.setattr(script, "check", lambda _: None)
    monkeypatch.setattr(script, "measure", lambda *_: times)
    kept = figures_kept(script, kind, options, tmp_path, monkeypatch)
    if kind == "steps":
        assert kept[0].items() >= {"stock": 1.5, "converted": 1.25, "enabled": 1.0, "without_ms": 2000.0}.items()
        assert len(kept) == len(script.WORKLOADS)
    else:
        assert kept[0]["us"] == {name: 1e6 * of for name, of in TIMES.items()}


def test_a_part_of_the_steps_is_not_kept(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    with pytest.raises(SystemExit):
        figures_kept(bench_script("bench_torch"), "steps", ["--only", "LSTM"], tmp_path, monkeypatch)
    assert "argument --record: keeps a whole run, leave out --only" in capsys.readouterr().err


def test_both_runs_of_the_ops_are_kept(tmp_path, monkeypatch):
    def measure(argv):
        goal = goals.Goal("speed", "a peer", 2.0, 3.0, " ".join(argv[:-1])).__dict__.values()
        Path(argv[-1]).write_text(json.dumps(run(ROWS, [goal])))
        return 0

    monkeypatch.setattr(suite_script.commands, "main", measure)
    kept = figures_kept(suite_script, "ops", [], tmp_path, monkeypatch)
    assert {name: (of["goals"][0]["where"], len(of["rows"])) for name, of in kept.items()} == {
        "tuned": ("bench --dtypes float32,bfloat16 --seconds 0.2 --json", 3),
        "held out": ("bench --held-out --seconds 0.2 --json", 0),
    }


def test_nothing_is_kept_of_wrong_ops(tmp_path, monkeypatch):
    monkeypatch.setattr(suite_script.commands, "main", lambda _: 1)
    with pytest.raises(SystemExit):
        figures_kept(suite_script, "ops", [], tmp_path, monkeypatch)
    assert not (tmp_path / "run.json").exists()
