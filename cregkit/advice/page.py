"""The advice as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from cregkit._files import Path
from cregkit._page import image, opening
from cregkit.advice import rules, text
from cregkit.advice.result import Advice

_STYLE = """
pre { overflow-x: auto; padding: .5rem; border: 1px solid var(--line); border-radius: 4px; font-size: .8rem; }
li { margin: .75rem 0; }
.evidence, .note { color: var(--faint); font-size: .875rem; }
"""


def write(path: Path, advice: Advice, png: bytes | None) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The file.
    advice
        The advice.
    png
        Its picture, None to write the page without one.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _lines(advice, png))


def _lines(advice: Advice, png: bytes | None) -> Iterator[str]:
    yield opening(f"Advice: {advice.regime}", _STYLE)
    yield f'<p>{escape(advice.summary)}</p>\n<p class="evidence">Evidence: {escape(advice.evidence)}.</p>'
    if png is not None:
        yield image(png, f"The curves of the run. {advice.summary}")
    yield "<ul>"
    yield from (f"<li>{escape(line)}</li>" for line in text.history_lines(advice))
    yield "</ul>\n<ol>"
    for remedy in advice.remedies:
        yield f"<li><strong>{escape(text.heading(remedy))}</strong>: {escape(remedy.reason)}"
        yield f'<div class="evidence">Evidence: {escape(remedy.evidence)}.</div><pre>{escape(remedy.code)}</pre></li>'
    yield f'</ol>\n<p class="note">These lines need: <code>{escape(rules.IMPORTS)}</code></p>'
    yield from (f'<p class="note">Note: {escape(warning)}.</p>' for warning in advice.warnings)
    yield "</body>\n</html>"
