"""All experiments as one self-contained, responsive HTML page with tables, plots and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from cregkit._page import image, opening
from cregkit.lab.framework import CONFIRMED, CONTRADICTED, UNDECIDED, Result
from cregkit.lab.spread import CONFIDENCE

_STYLE = f"""
h2 {{ font-size: 1.25rem; margin: 2.5rem 0 .25rem; padding-top: 1rem; border-top: 1px solid var(--line); }}
a {{ color: var(--accent); }}
nav ul {{ padding-left: 1.1rem; }}
.question {{ font-weight: 600; margin: .25rem 0; }}
.setup, footer, caption {{ color: var(--faint); font-size: .875rem; }}
.sentence {{ border-left: 4px solid var(--accent); padding-left: .75rem; }}
.scroll {{ overflow-x: auto; -webkit-overflow-scrolling: touch; }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; white-space: nowrap; }}
caption {{ text-align: left; padding-bottom: .25rem; white-space: normal; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }}
@media (max-width: 30rem) {{ table {{ font-size: .78rem; }} th, td {{ padding: .25rem .3rem; }} }}
th.label, td.label {{ text-align: left; }}
th.label:first-child, td.label:first-child {{ padding-left: 0; }}
ul.claims {{ list-style: none; padding: 0; font-size: .9rem; }}
ul.claims li {{ margin: .35rem 0; }}
.verdict {{ display: inline-block; min-width: 6.5em; padding: 0 .5em; border-radius: 4px; text-align: center;
  font-size: .8rem; color: #fff; }}
.{CONFIRMED} {{ background: #2e6b3a; }} .{CONTRADICTED} {{ background: #a5351c; }} .{UNDECIDED} {{ background: #666; }}
"""


def write(path: str, results: Sequence[Result], machine: str, picture: Callable[[Result], bytes | None]) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The file.
    results
        Results in the order of the page.
    machine
        One line that describes the machine.
    picture
        Function that returns the PNG of a result, or None.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _lines(results, machine, picture))


def _lines(results: Sequence[Result], machine: str, picture: Callable[[Result], bytes | None]) -> Iterator[str]:
    yield opening("Regularisation, measured", _STYLE)
    yield f'<p class="setup">{escape(machine)}</p>\n<nav><ul>'
    for result in results:
        experiment = result.experiment
        yield f'<li><a href="#{experiment.name}">{experiment.name}</a>: {escape(experiment.question)}</li>'
    yield "</ul></nav>"
    for result in results:
        yield from _section(result, picture(result))
    yield (
        f"<footer><p>Tables: mean ± standard deviation over the seeds. A claim is confirmed or contradicted where the "
        f"{CONFIDENCE:.0%} confidence interval of the mean lies wholly inside or outside the claimed range, and "
        f"undecided otherwise.</p></footer>\n</body>\n</html>"
    )


def _section(result: Result, png: bytes | None) -> Iterator[str]:
    experiment = result.experiment
    yield f'<section id="{experiment.name}">\n<h2>{experiment.name}</h2>'
    yield f'<p class="question">{escape(experiment.question)}</p>\n<p class="setup">{escape(experiment.setup)}.</p>'
    yield from _table(result)
    if result.sentence:
        yield f'<p class="sentence">{escape(result.sentence)}</p>'
    if png is not None:
        yield image(png, "Picture of the table above")
    if result.claims:
        yield '<ul class="claims">'
        for claim, verdict in result.claims:
            shown = escape(claim.shown(result.table))
            yield f'<li><span class="verdict {verdict}">{verdict}</span> {escape(claim.text)}: {shown}</li>'
        yield "</ul>"
    yield "</section>"


def _table(result: Result) -> Iterator[str]:
    experiment = result.experiment
    yield f'<div class="scroll"><table>\n<caption>{escape(result.caption)}</caption>\n<thead><tr>'
    yield "".join(f'<th class="label">{escape(label)}</th>' for label in experiment.labels)
    yield "".join(f"<th>{escape(column.header)}</th>" for column in experiment.columns)
    yield "</tr></thead>\n<tbody>"
    for cells in result.table.cells(experiment.columns):
        classes = ['<td class="label">'] * len(experiment.labels) + ["<td>"] * len(experiment.columns)
        yield f"<tr>{''.join(start + escape(cell) + '</td>' for start, cell in zip(classes, cells, strict=True))}</tr>"
    yield "</tbody></table></div>"
