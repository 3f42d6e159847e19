"""Self-contained HTML pages: their style, readable on narrow and on dark screens, their head, pictures within them."""

from __future__ import annotations

import base64
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #666; --line: #ddd; --accent: #1f5f8b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181b; --faint: #a0a0a0; --line: #3a3d42; --accent: #7db8e0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
img { display: block; width: 100%; max-width: 35rem; height: auto; margin: 1rem auto; background: #fff;
  border-radius: 6px; }
"""


def opening(title: str, style: str = "") -> str:
    """Return the start of a page, up to its body; ``style`` is added to that of all pages."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>"
    )


def image(png: bytes, alt: str) -> str:
    """Return a picture as part of the page."""
    source = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{source}">'
