r"""The tokeniser of the text transforms.

A word is a run of letters, digits and underscores, each with the combining marks that follow it. It starts and ends at
grapheme cluster boundaries. The rules are the word boundaries of Unicode Standard Annex #29, "Unicode Text
Segmentation", with these changes:

1. A URL is one word: ``scheme://`` or ``www.`` and the text that follows, without trailing punctuation. Brackets in a
   URL must be balanced. An IPv6 address in brackets with a port is one word too: ``[::1]:8080``.
2. An abbreviation of single letters includes its last dot (``U.S.A.``, ``e.g.``), except at the end of a line, where
   the dot ends the sentence.
3. Runs are joined into one word by

   - an apostrophe or a middle dot: ``don't``, ``l’été``, ``col·lecció``;
   - up to four of ``- . : / \ @ & + = # ~ % * ^ ° × ′ ″``, dashes shorter than the em dash and currency symbols:
     ``192.168.0.1``, ``1.2.3-rc1``, ``a.b+c@d.co.uk``, ``fe80::1``, ``and/or``; not ``..`` and ``--``, which are an
     ellipsis and a dash;
   - a comma, a semicolon or a no-break space between digits: ``1,000,000.50``;
   - a quotation mark between Hebrew letters;
   - a question mark before ``name=``, as in a URL without its scheme;
   - ``<=``, ``>=`` and ``!=`` before a number: ``python>=3.10``;
   - brackets directly after a run: ``item(s)``.

4. A word includes certain prefixes (the sign, currency symbol or dot of a number, ``@``, ``#``, ``/`` or ``./`` of a
   path, the hyphens of ``--flag``) and suffixes (``%``, ``°``, a currency symbol, ``C++``, ``C#``, ``folder/``, the
   hyphen in ``pre- and post-war``).
5. In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) a run up to the next space or
   punctuation is one word: segmentation would need a dictionary. Insert spaces or U+200B between words to split them.

Emoji, flags and other symbols are not words: they stay in place like punctuation.

Every repetition in the patterns is bounded or possessive, so matching takes time linear in the length of the text.
"""

from __future__ import annotations

from functools import cache
from typing import Any

_BASE = (
    r"[[\p{Alphabetic}\p{N}\p{WB=ALetter}\p{WB=Hebrew_Letter}\p{WB=Katakana}\p{WB=Numeric}]"
    r"--[\p{M}\p{Extended_Pictographic}\p{GCB=Prepend}]]"
)
_MARK = r"[[\p{M}\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]--[\p{GCB=Prepend}\u202A-\u202E\u2066-\u2069]]"
_RUN = rf"(?:\p{{GCB=Prepend}}*+[{_BASE}\p{{Pc}}]{_MARK}*+)++"

_IN_BRACKETS = r"""[^\s()\[\]<>"]*+"""
_URL = rf"""
(?:[A-Za-z][A-Za-z0-9+.\-]{{0,30}}+:/{{2,3}}+|(?i:www)\.)
(?:[.,;:!?'*]*+(?:(?:{_BASE}|[\p{{Pc}}/\#&=%~+\-$@|\\]){_MARK}*+|\({_IN_BRACKETS}\)|\[{_IN_BRACKETS}\]))++
"""
_HOST = r"\[[0-9A-Fa-f]{0,4}+:[0-9A-Fa-f:.]{1,40}+(?:%\w{1,16}+)?+\]:\d{1,5}+(?!\w)"
_ABBREVIATION = rf"(?:\p{{L}}\p{{M}}*+\.){{2,}}+(?!{_BASE})(?=[^\S\r\n]*+\S)"

_OPENING = r"""(?<![^\s\p{Ps}\p{Pi}"'])"""  # the text, a space or an opening bracket or quote stands before
_START = rf"""
(?: {_OPENING}(?:[\-+\u2212±~≈≤≥]|\p{{Sc}}){{0,2}}+\.?+(?=\d)  # a number
|   {_OPENING}(?:(?:~|\.{{1,2}}+)?+[/\\]{{1,2}}+\.?+|\.|::)(?=[{_BASE}\p{{Pc}}])  # a path, a hidden file, IPv6
|   (?<=[^\S\r\n])-{{1,2}}+(?={_BASE})  # an option
|   [@\#§№\p{{Sc}}](?=[{_BASE}\p{{Pc}}])
)"""
_MIDDLE = r"[['\p{WB=MidNumLet}\p{WB=MidLetter}\u30FB\uFF65]--[.:\uFE13\uFE52\uFE55\uFF0E\uFF1A]]"  # no stops, colons
_SIGN = r"[[.:/\\@&+=\#~%*\^°\xD7\u2032\u2033་༌\p{Sc}\p{Pd}]--[\u2014\u2015\u2E3A\u2E3B\uFE31\uFE58]]"  # no em dashes
_JOINED = rf"""
(?:
    (?: {_MIDDLE}{_MARK}*+
    |   (?:(?!\.\.(?![/\\])|--){_SIGN}{_MARK}*+){{1,4}}+
    |   (?<=\d)[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=MidLetter}}\u00A0\u2009\u202F](?=\d)
    |   (?<=\p{{Hebrew}})"(?=\p{{Hebrew}})
    |   \?(?=[\p{{L}}\p{{N}}_.\-]{{1,64}}+=)
    |   [<>!]=(?=\d)
    ){_RUN}
|   \({_RUN}\)
|   \[{_RUN}\]
)"""
_END = r"(?:[%‰°\u2032\u2033॰\#\p{Sc}/\\]|\+{1,2}+|::|[\-\u2010](?=\s)|(?<=\p{Hebrew})')"

_PLAIN = rf"{_START}?+\p{{Pc}}{{0,4}}+(?=\p{{GCB=Prepend}}*+{_BASE}){_RUN}{_JOINED}*+{_END}?+"
_WORD = rf"((?<!\p{{GCB=Prepend}})(?:{_URL}|{_HOST}|{_ABBREVIATION}|{_PLAIN}){_MARK}*+)"
_WRITTEN = r"[\p{L}\p{M}\p{WB=Format}\p{WB=ZWJ}\p{Pd}\s'\u2019]++"


def split(text: str) -> tuple[list[str], list[str]]:
    """Split a text into its n words and the n + 1 gaps before, between and after them.

    Parameters
    ----------
    text
        Any text.

    Returns
    -------
    words : list of n strings
        The words.
    gaps : list of n + 1 strings
        The text between the words, possibly empty.

    Raises
    ------
    ImportError
        The package regex, which supports Unicode properties, is not installed.

    Examples
    --------
    >>> from cregkit.augment.words import split
    >>> split("It's 3.14, see https://a.b/c?d=e.")
    (["It's", '3.14', 'see', 'https://a.b/c?d=e'], ['', ' ', ', ', ' ', '.'])
    """
    pieces = _compiled(_WORD).split(text)
    return pieces[1::2], pieces[::2]


def is_written_out(word: str) -> bool:
    """Return whether a word consists of letters, hyphens, apostrophes and spaces only (no number, file name, URL)."""
    return _compiled(_WRITTEN).fullmatch(word) is not None


@cache
def _compiled(pattern: str) -> Any:
    try:
        import regex
    except ImportError as error:
        raise ImportError("words of text need the package regex: pip install 'cregkit[augment]'") from error
    return regex.compile(pattern, regex.VERSION1 | regex.VERBOSE)
