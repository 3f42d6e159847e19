"""Transforms of sentences: lists of strings. Punctuation and spacing stay; a sentence never becomes empty.

``cregkit.augment.words`` says what a word is; finding them needs the package regex (extra ``[augment]``), which is
imported when they are first looked for. What stands at a word's place takes over its case: lower, Capitalised or UPPER,
if both are letters alone.
Wei and Zou (2019), "EDA: Easy Data Augmentation Techniques", arXiv:1901.11196.
"""

from __future__ import annotations

import io
import itertools
import os
import unicodedata
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.augment.base import Index, Transform, uniform
from cregkit.augment.words import is_written_out, split
from cregkit.kernels.noise import derive_seed

Thesaurus: TypeAlias = "Mapping[str, Sequence[str]] | Callable[[str], Sequence[str]]"

_BREAKS = ("\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")  # those of str.splitlines
_SPACES = "\t \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u202f\u205f\u3000"
_OPENERS = "\"'([{<«\u2039“\u2018„\u201a「『\uff08【《〈¿¡"


class TextTransform(Transform):
    """A transform of sentences, one by one."""

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> list[str]:
        """Transform each sentence with numbers of its own."""
        own = derive_seed(seed, 0)
        return [self._transformed(sentence, index[i : i + 1], own) for i, sentence in enumerate(checked_sentences(x))]

    def _transformed(self, sentence: str, index: Index, seed: int) -> str:
        words, gaps = split(sentence)
        if not words:
            return sentence
        return self._rewritten(words, gaps, uniform(index, self._numbers(len(words)), seed)[0])

    def _numbers(self, words: int) -> int:
        """Return how many random numbers a sentence of so many words needs."""
        raise NotImplementedError

    def _rewritten(self, words: list[str], gaps: list[str], u: NDArray[np.float64]) -> str:
        """Return the sentence of the words, at least one, and of the gaps before, between and after them."""
        raise NotImplementedError


class SynonymReplacement(TextTransform):
    """Each word that the thesaurus knows becomes one of its synonyms with probability ``p``.

    Args:
        thesaurus: a mapping from words in lower case to their synonyms, or a function that returns those of a word,
            which it gets in lower case and Unicode's form NFC; words it does not know have none. ``wordnet_synonyms``
            makes one from WordNet.
        p: 0 to 1.
    """

    def __init__(self, thesaurus: Thesaurus, p: float = 0.1) -> None:
        """Keep the settings."""
        if isinstance(thesaurus, Mapping):
            known = {_composed(word): _checked_synonyms(word, synonyms) for word, synonyms in thesaurus.items()}
            if not any(known.values()):
                raise ValueError("thesaurus must map at least one word to a synonym, got none: nothing would change")
            self._look_up: Callable[[str], Sequence[str]] = lambda word: known.get(word, ())
        elif callable(thesaurus):
            self._look_up = thesaurus
        else:
            raise TypeError(f"thesaurus must be a mapping or a function, got {type(thesaurus).__name__}")
        self.thesaurus, self.p = thesaurus, validate.real("p", p, 0, 1)

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes a copy, in another process too."""
        return {"thesaurus": self.thesaurus, "p": self.p}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the copy."""
        self.__init__(**state)  # type: ignore[misc]

    def _numbers(self, words: int) -> int:
        return 2 * words

    def _rewritten(self, words: list[str], gaps: list[str], u: NDArray[np.float64]) -> str:
        replaced = list(words)
        for i in np.flatnonzero(u[::2] < self.p):
            word = _composed(words[i].lower())
            synonyms = _checked_synonyms(word, self._look_up(word))
            if synonyms:
                replaced[i] = in_case_of(synonyms[int(u[2 * i + 1] * len(synonyms))], words[i])
        return _joined(replaced, gaps)


class RandomDeletion(TextTransform):
    """Each word goes with probability ``p``, and the spaces before it. Line breaks stay, and at least one word."""

    def __init__(self, p: float = 0.1) -> None:
        """Keep the probability, 0 to 1."""
        self.p = validate.real("p", p, 0, 1)

    def _numbers(self, words: int) -> int:
        return words + 1

    def _rewritten(self, words: list[str], gaps: list[str], u: NDArray[np.float64]) -> str:
        keep = u[1:] >= self.p
        if not keep.any():
            keep[int(u[0] * len(words))] = True
        first = int(np.argmax(keep))
        kept = list(words)
        if _is_capitalised(words[0]):
            kept[first] = in_case_of(words[first], words[0])
        pieces = [gaps[0]]
        for i, word in enumerate(kept):
            if keep[i]:
                pieces += [word, gaps[i + 1]]
            else:
                pieces[-1:] = _closed(pieces[-1], gaps[i + 1], is_first=i < first, is_last=i == len(kept) - 1)
        return "".join(pieces)


class RandomSwap(TextTransform):
    """Two words, anywhere in the sentence, change places, ``n`` times."""

    def __init__(self, n: int = 1) -> None:
        """Keep the number of swaps."""
        self.n = validate.positive_int("n", n)

    def _numbers(self, words: int) -> int:
        return 2 * self.n

    def _rewritten(self, words: list[str], gaps: list[str], u: NDArray[np.float64]) -> str:
        n = len(words)
        swapped = list(words)
        for one, other in u.reshape(-1, 2) if n > 1 else ():
            i = int(one * n)
            j = (i + 1 + int(other * (n - 1))) % n
            swapped[i], swapped[j] = swapped[j], swapped[i]
        return _joined([in_case_of(new, old) for new, old in zip(swapped, words, strict=True)], gaps)


class BackTranslation(Transform):
    """Each sentence becomes its translation there and back with probability ``p``.

    No model ships with this package: ``translate`` is yours, such as two calls of a translation model. It gets lists of
    different sentences and returns as many; what it said is kept, for at most ``cache_size`` sentences, so that each is
    translated once. It must give the same for the same sentence, if runs are to be the same. A sentence that comes back
    empty stays as it was.
    Sennrich, Haddow and Birch (2016), "Improving Neural Machine Translation Models with Monolingual Data".
    """

    def __init__(
        self,
        translate: Callable[[list[str]], Sequence[str]],
        p: float = 1.0,
        *,
        batch_size: int = 32,
        cache_size: int = 100_000,
    ) -> None:
        """Keep the settings."""
        if not callable(translate):
            raise TypeError(f"translate must be a function of a list of sentences, got {type(translate).__name__}")
        self.translate, self.p = translate, validate.real("p", p, 0, 1)
        self.batch_size = validate.positive_int("batch_size", batch_size)
        self.cache_size = validate.positive_int("cache_size", cache_size)
        self._cache: OrderedDict[str, str] = OrderedDict()

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> list[str]:
        """Translate the sentences that are chosen and not known yet, ``batch_size`` at a time."""
        chosen = uniform(index, 1, derive_seed(seed, 0))[:, 0] < self.p
        wanted = dict.fromkeys(s for s, is_chosen in zip(checked_sentences(x), chosen, strict=True) if is_chosen)
        known = {sentence: self._cache[sentence] for sentence in wanted if sentence in self._cache}
        unknown = [sentence for sentence in wanted if sentence not in known]
        for start in range(0, len(unknown), self.batch_size):
            known.update(self._translated(unknown[start : start + self.batch_size]))
        self._cache.update(known)
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return [known[s] if is_chosen else s for s, is_chosen in zip(x, chosen, strict=True)]

    def _translated(self, sentences: list[str]) -> dict[str, str]:
        translations = list(self.translate(list(sentences)))
        if len(translations) != len(sentences) or not all(isinstance(t, str) for t in translations):
            raise ValueError(
                f"translate must return a string for each of {len(sentences)} sentences, got {len(translations)}: "
                f"{translations[:3]!r}"
            )
        return {s: t if t.strip() else s for s, t in zip(sentences, translations, strict=True)}


def wordnet_synonyms(directory: str | os.PathLike[str] = "/usr/share/wordnet") -> Callable[[str], list[str]]:
    """Return a function that gives WordNet's synonyms of a word, in a fixed order, single words in lower case alone.

    Args:
        directory: holds WordNet's ``index.*``, ``data.*`` and ``*.exc``, as Debian's ``wordnet-base`` installs them.
            NLTK reads from places it was told of alone, so it is added to ``nltk.data.path`` of this process.

    Raises:
        ImportError: NLTK, which reads it, is not installed.
        FileNotFoundError: there is no WordNet in the directory.

    Miller (1995), "WordNet: A Lexical Database for English".
    """
    return WordNet(os.fspath(directory))


class WordNet:
    """The synonyms of a word in a WordNet directory: those of all its senses, the commonest sense first."""

    def __init__(self, directory: str) -> None:
        """Open the directory; see ``wordnet_synonyms``."""
        self.directory = directory
        if not os.path.isfile(os.path.join(directory, "data.noun")):
            raise FileNotFoundError(
                2, "no WordNet there (data.noun is missing); on Debian: apt install wordnet-base", directory
            )
        self._reader = _reader(directory)
        self._known: dict[str, list[str]] = {}

    def __call__(self, word: str) -> list[str]:
        """Return the synonyms of ``word``."""
        if word not in self._known:
            lemmas = [lemma for synset in self._reader.synsets(word) for lemma in synset.lemma_names()]
            self._known[word] = [w for w in dict.fromkeys(lemmas) if w != word and w.isalpha() and w.islower()]
        return self._known[word]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, in other processes too, open the directory again."""
        return WordNet, (self.directory,)


def _reader(directory: str) -> Any:
    try:
        import nltk.data
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError as error:
        raise ImportError("WordNet needs NLTK: pip install 'cregkit[augment]'") from error

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """NLTK's reader, for directories without the names of the lexicographers' files, which it only counts."""

        def open(self, file: str) -> Any:
            if file == "lexnames" and not os.path.exists(os.path.join(directory, file)):
                return io.StringIO("".join(f"{i:02}\tfile.{i:02}\t0\n" for i in range(45)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> dict[str, str]:
            """Map nothing: only other languages need to know how versions of WordNet correspond."""
            return {}

    if directory not in nltk.data.path:
        nltk.data.path.append(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are no other languages
        return Reader(directory, None)


def _composed(word: str) -> str:
    return unicodedata.normalize("NFC", word)


def in_case_of(word: str, like: str) -> str:
    """Return ``word`` in the case of ``like``: UPPER, Capitalised or as it is, a capital at its start made small.

    What is not letters alone, such as a URL, stays as it is and is no model for others. So does a word that would be
    another in the other case, or could not be brought back from it: what becomes of Turkish ı and İ depends on the
    language.
    """
    if word == like or not (is_written_out(word) and is_written_out(like)):
        return word
    if _is_upper(like):
        cased = word.upper()
    elif word[1:] not in (word[1:].lower(), word[1:].upper()):
        return word
    elif _is_capitalised(like):
        cased = word[:1].title() + word[1:]
    elif like.islower() and _is_capitalised(word):
        cased = word[:1].lower() + word[1:]
    else:
        return word
    is_same = all(form(cased) == form(word) for form in (str.casefold, str.upper))
    return cased if is_same else word


def _is_upper(word: str) -> bool:
    return word.isupper() and sum(map(str.isalpha, word)) > 1


def _is_capitalised(word: str) -> bool:
    return word[:1].istitle() and not _is_upper(word)


def _closed(before: str, after: str, *, is_first: bool, is_last: bool) -> list[str]:
    """Return what two gaps become, the second left out if nothing of it stays, where the word between them was deleted.

    The spaces before the word go. Where the word opened a line, a bracket or a quotation, those after it go, with
    commas and colons. Spaces stay between the words on either side. ``is_first`` says that no word is left before the
    two, ``is_last`` that none came after.
    """
    head, outside = before.rstrip(_SPACES), before.rstrip(_OPENERS)
    opens_line = head.endswith(_BREAKS) or (is_first and not head)
    opens_bracket = outside != before and not outside[-1:].strip()
    if opens_line or opens_bracket:
        after = after.lstrip(_SPACES + ",;:")
    elif is_last or not set(after).isdisjoint(_SPACES + "".join(_BREAKS)):
        before = head
    elif after[-1:] not in _OPENERS:
        before, after = head, after + before[len(head) :]
    return [before, after] if after else [before]


def _joined(words: list[str], gaps: list[str]) -> str:
    return "".join(itertools.chain.from_iterable(zip(gaps, [*words, ""], strict=True)))


def _checked_synonyms(word: str, synonyms: Any) -> Sequence[str]:
    if isinstance(synonyms, str) or not isinstance(synonyms, Sequence):
        raise TypeError(f"thesaurus must give a list of synonyms, got {type(synonyms).__name__} for {word!r}")
    for synonym in synonyms:
        if not isinstance(synonym, str) or not synonym.strip():
            raise ValueError(f"thesaurus must give words, got {synonym!r} for {word!r}")
    return synonyms


def checked_sentences(x: Any) -> Sequence[str]:
    """Return ``x``, which must be a list of strings."""
    if isinstance(x, str) or not isinstance(x, Sequence):
        raise TypeError(f"x must be a list of sentences, got {type(x).__name__}")
    for sentence in x:
        if not isinstance(sentence, str):
            raise TypeError(f"x must hold strings, got {validate.shown(sentence)}")
    return x
