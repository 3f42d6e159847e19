"""English text available on every machine with Python and NumPy: the Zen of Python and licences."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sysconfig
from importlib.metadata import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Text(NamedTuple):
    """A text as character codes, with its alphabet and sources."""

    codes: NDArray[np.int64]
    alphabet: str
    sources: str

    def decode(self, codes: NDArray[np.int64]) -> str:
        """Return the text of ``codes``."""
        return "".join(self.alphabet[code] for code in codes)


def read_text(characters: int) -> Text:
    """Return the beginning of the available text, as ASCII with white space collapsed.

    Sources are the module ``this``, the licence of Python (if installed) and that of NumPy and its bundled libraries:
    ten to sixty thousand characters, depending on the machine.

    Parameters
    ----------
    characters
        Most characters to return.

    Returns
    -------
    Text
        The text.
    """
    parts = {"the module this": _zen()}
    licence = Path(sysconfig.get_path("stdlib"), "LICENSE.txt")
    if licence.is_file():
        parts["Python's LICENSE.txt"] = licence.read_text(encoding="utf-8", errors="ignore")
    for file in files("numpy") or ():
        if file.name == "LICENSE.txt" and "dist-info" in str(file):
            parts["NumPy's LICENSE.txt"] = file.read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", " ".join(parts.values()).encode("ascii", "ignore").decode())[:characters]
    alphabet = "".join(sorted(set(text)))
    codes = np.array([alphabet.index(character) for character in text], dtype=np.int64)
    return Text(codes, alphabet, ", ".join(parts))


def _zen() -> str:
    """Return the Zen of Python; its module prints it on first import."""
    with contextlib.redirect_stdout(io.StringIO()):
        this = importlib.import_module("this")
    return "".join(this.d.get(character, character) for character in this.s)
