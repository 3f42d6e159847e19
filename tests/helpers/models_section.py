"""A section "models" as bench/bench_models.py stores it, with a row of every kind."""

from __future__ import annotations

from typing import Any


def row(model: str, phase: str = "training", mode: str = "float32", **times: float) -> dict[str, Any]:
    """A row whose times relative to stock, 100 ms, are given."""
    relative = {"stock": 1.0, "converted": 0.9, "enabled": 0.8, **times}
    return {
        "model": model,
        "library": "timm",
        "batch": "4 x 96 px",
        "mode": mode,
        "phase": phase,
        **{f"{state}_ms": 100 * ratio for state, ratio in relative.items()},
        **{state: ratio for state, ratio in relative.items() if state != "stock"},
        **{f"{state}_interval": [relative[state] - 0.02, relative[state] + 0.02] for state in ("converted", "enabled")},
        "spread": 0.01,
        "rounds": 9,
    }


SECTION: dict[str, Any] = {
    "circumstances": {
        "cpu": "Intel(R) Xeon(R) Processor",
        "isa": "avx512",
        "threads": 2,
        "cregkit": "0.1",
        "commit": "0123456789ab",
        "versions": {"torch": "2.14.1", "timm": "1.0.31"},
        "load": 0.1,
        "date": "2026-11-30",
    },
    "figures": [
        row("ViT-tiny", without_dropout=0.75, without_both=0.7),
        row("ViT-tiny", "inference", converted=0.99, enabled=1.03),
        row("ResNet-50", converted=0.8, enabled=0.6, without_both=0.5),
        row("ResNet-50", "inference", converted=1.0, enabled=1.0),
        row("ViT-tiny", mode="bfloat16", without_dropout=0.6, without_both=0.5),
        row("ViT-tiny", "inference", mode="bfloat16", converted=1.0, enabled=1.0),
        row("ViT-tiny", mode="compiled", without_dropout=0.9),
        {
            "model": "OPT", "library": "transformers", "batch": "2 x 128 tokens", "mode": "float32",
            "phase": "training", "failed": "gradient, converted: model.weight is less accurate than stock's",
        },
    ],
}  # fmt: skip
