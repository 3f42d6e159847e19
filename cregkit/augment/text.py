"""Text transforms: lists of sentences in, lists of sentences out.

Punctuation and spacing are preserved, and a sentence never becomes empty. ``cregkit.augment.words`` defines a word; its
tokeniser needs the package regex (extra ``[augment]``), which is imported on first use. A replacement takes the case of
the word it replaces (lower, Capitalised or UPPER) if both consist of letters only.

References
----------
Wei and Zou (2019), "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks",
arXiv:1901.11196.
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
    """Base class of transforms that process one sentence at a time."""

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> list[str]:
        """Transform each sentence with its own random numbers."""
        own = derive_seed(seed, 0)
        return [self._transformed(sentence, index[i : i + 1], own) for i, sentence in enumerate(checked_sentences(x))]

    def _transformed(self, sentence: str, index: Index, seed: int) -> str:
        words, gaps = split(sentence)
        if not words:
            return sentence
        return self._rewritten(words, gaps, uniform(index, self._numbers(len(words)), seed)[0])

    def _numbers(self, words: int) -> int:
        """Return how many random numbers a sentence of ``words`` words needs."""
        raise NotImplementedError

    def _rewritten(self, words: list[str], gaps: list[str], u: NDArray[np.float64]) -> str:
        """Return the transformed sentence.

        ``words`` holds n >= 1 words, ``gaps`` the n + 1 pieces of text before, between and after them, and ``u`` the
        random numbers.
        """
        raise NotImplementedError


class SynonymReplacement(TextTransform):
    """Replace each word that has synonyms by one of them with probability ``p``.

    Parameters
    ----------
    thesaurus
        A mapping from lower-case words to lists of synonyms, or a function that takes a word (in lower case and Unicode
        normal form NFC) and returns its synonyms, an empty list for unknown words. ``wordnet_synonyms`` makes one from
        WordNet.
    p
        Probability per word, in [0, 1].

    Raises
    ------
    ImportError
        The package regex is not installed.
    TypeError
        An argument has the wrong type.
    ValueError
        ``p`` lies outside [0, 1], or the thesaurus has no synonyms.

    Examples
    --------
    >>> from cregkit.augment import SynonymReplacement
    >>> replace = SynonymReplacement({"quick": ["fast"], "dog": ["hound"]}, p=1.0)
    >>> replace(["The quick fox and the dog."], index=[0], seed=0)
    ['The fast fox and the hound.']
    """

    def __init__(self, thesaurus: Thesaurus, p: float = 0.1) -> None:
        """Validate and store the settings."""
        if isinstance(thesaurus, Mapping):
            known = {_composed(word): _checked_synonyms(word, synonyms) for word, synonyms in thesaurus.items()}
            if not any(known.values()):
                raise ValueError(
                    "thesaurus must map at least one word to a synonym, got no synonyms: no sentence would change"
                )
            self._look_up: Callable[[str], Sequence[str]] = lambda word: known.get(word, ())
        elif callable(thesaurus):
            self._look_up = thesaurus
        else:
            raise TypeError(f"thesaurus must be a mapping or a function, got {validate.shown(thesaurus)}")
        self.thesaurus, self.p = thesaurus, validate.real("p", p, 0, 1)

    def __getstate__(self) -> dict[str, Any]:
        """Return the constructor arguments, for pickling."""
        return {"thesaurus": self.thesaurus, "p": self.p}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from the constructor arguments."""
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
    """Delete each word, with the spaces before it, with probability ``p``.

    At least one word and all line breaks remain.

    Parameters
    ----------
    p
        Probability per word, in [0, 1].

    Raises
    ------
    ImportError
        The package regex is not installed.

    Examples
    --------
    >>> from cregkit.augment import RandomDeletion
    >>> RandomDeletion(p=0.3)(["The quick brown fox jumps over the lazy dog."], index=[0], seed=0)
    ['The brown fox over dog.']
    """

    def __init__(self, p: float = 0.1) -> None:
        """Validate and store the setting."""
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
    """Swap two random words of the sentence, ``n`` times.

    Parameters
    ----------
    n
        Number of swaps, at least 1.

    Raises
    ------
    ImportError
        The package regex is not installed.

    Examples
    --------
    >>> from cregkit.augment import RandomSwap
    >>> RandomSwap()(["The quick brown fox jumps over the lazy dog."], index=[0], seed=0)
    ['The over brown fox jumps quick the lazy dog.']
    """

    def __init__(self, n: int = 1) -> None:
        """Validate and store the setting."""
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
    """Replace each sentence by its back-translation with probability ``p``.

    The translation model is the caller's: this package contains none. A sentence whose translation is empty is left
    unchanged.

    Parameters
    ----------
    translate
        Function that takes a list of distinct sentences and returns their back-translations in the same order, for
        example two calls of a translation model. Runs are reproducible only if it is deterministic.
    p
        Probability per sentence, in [0, 1].
    batch_size
        Most sentences per call of ``translate``, at least 1.
    cache_size
        Most translations to keep, so that a repeated sentence is translated once; at least 1.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value, or ``translate`` returns another number of sentences than it is given.

    References
    ----------
    Sennrich, Haddow and Birch (2016), "Improving Neural Machine Translation Models with Monolingual Data",
    arXiv:1511.06709.

    Examples
    --------
    >>> from cregkit.augment import BackTranslation
    >>> def translate(sentences):
    ...     return [sentence.replace("quick", "fast") for sentence in sentences]
    >>> BackTranslation(translate)(["The quick fox."], index=[0], seed=0)
    ['The fast fox.']
    """

    def __init__(
        self,
        translate: Callable[[list[str]], Sequence[str]],
        p: float = 1.0,
        *,
        batch_size: int = 32,
        cache_size: int = 100_000,
    ) -> None:
        """Validate and store the settings."""
        if not callable(translate):
            raise TypeError(f"translate must be a function of a list of sentences, got {validate.shown(translate)}")
        self.translate, self.p = translate, validate.real("p", p, 0, 1)
        self.batch_size = validate.positive_int("batch_size", batch_size)
        self.cache_size = validate.positive_int("cache_size", cache_size)
        self._cache: OrderedDict[str, str] = OrderedDict()

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> list[str]:
        """Translate the selected sentences that are not cached, ``batch_size`` at a time."""
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
    """Return a function that looks up the synonyms of a word in WordNet, for ``SynonymReplacement``.

    Synonyms come in a fixed order, those of the most frequent sense first. Only lower-case single words are returned.

    Parameters
    ----------
    directory
        Directory with WordNet's ``index.*``, ``data.*`` and ``*.exc`` files, as installed by Debian's ``wordnet-base``.
        It is added to ``nltk.data.path`` of this process, because NLTK reads only from directories listed there.

    Returns
    -------
    function
        Maps a word to the list of its synonyms.

    Raises
    ------
    ImportError
        NLTK is not installed.
    FileNotFoundError
        The directory does not contain WordNet.

    References
    ----------
    Miller (1995), "WordNet: A Lexical Database for English", Communications of the ACM 38(11).

    Examples
    --------
    >>> from cregkit.augment import wordnet_synonyms
    >>> synonyms = wordnet_synonyms()
    >>> synonyms("big")[:2]
    ['large', 'bad']
    """
    return WordNet(os.fspath(directory))


class WordNet:
    """The synonyms of a word in a WordNet directory, over all its senses, the most frequent sense first."""

    def __init__(self, directory: str) -> None:
        """Open the directory (see ``wordnet_synonyms``)."""
        self.directory = directory
        if not os.path.isfile(os.path.join(directory, "data.noun")):
            raise FileNotFoundError(
                2,
                "directory must contain WordNet, data.noun is missing; on Debian: apt install wordnet-base",
                directory,
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
        """Pickle as a call that opens the directory again."""
        return WordNet, (self.directory,)


def _reader(directory: str) -> Any:
    try:
        import nltk.data
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError as error:
        raise ImportError("WordNet needs NLTK: pip install 'cregkit[augment]'") from error

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """NLTK's reader, made to work without the file ``lexnames``, of which it needs only the number of lines."""

        def open(self, file: str) -> Any:
            if file == "lexnames" and not os.path.exists(os.path.join(directory, file)):
                return io.StringIO("".join(f"{i:02}\tfile.{i:02}\t0\n" for i in range(45)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> dict[str, str]:
            """Return an empty mapping: the mapping between WordNet versions is needed for other languages only."""
            return {}

    if directory not in nltk.data.path:
        nltk.data.path.append(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # NLTK warns that Open Multilingual WordNet is missing
        return Reader(directory, None)


def _composed(word: str) -> str:
    return unicodedata.normalize("NFC", word)


def in_case_of(word: str, like: str) -> str:
    """Return ``word`` in the case of ``like``: UPPER, Capitalised, or with a lower-case first letter."""
    # Unchanged if either word contains anything but letters (a URL, for example), or if the change of case would not
    # round-trip: the mapping of Turkish ı and İ depends on the language.
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
    """Return the gaps ``before`` and ``after`` a deleted word, joined; an empty second gap is left out.

    The spaces before the word are removed. If the word opened a line, a bracket or a quotation, the spaces, commas and
    colons after it are removed instead. A space remains between the neighbouring words. ``is_first`` means that no word
    remains before these gaps, ``is_last`` that no word follows them.
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
        raise TypeError(f"thesaurus must give a list of synonyms, got {validate.shown(synonyms)} for {word!r}")
    for synonym in synonyms:
        if not isinstance(synonym, str) or not synonym.strip():
            raise ValueError(f"thesaurus must give non-empty strings, got {synonym!r} for {word!r}")
    return synonyms


def checked_sentences(x: Any) -> Sequence[str]:
    """Return ``x`` if it is a sequence of strings, else raise TypeError."""
    if isinstance(x, str) or not isinstance(x, Sequence):
        raise TypeError(f"x must be a list of sentences, got {validate.shown(x)}")
    for sentence in x:
        if not isinstance(sentence, str):
            raise TypeError(f"x must hold strings, got {validate.shown(sentence)}")
    return x
