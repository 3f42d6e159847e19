"""Augmentation of text: words change, punctuation, case and streams stay, and no sentence becomes empty."""

from __future__ import annotations

import os
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cregkit import augment as aug

WORDNET = "/usr/share/wordnet"
FOX = "The quick brown FOX, it's said, jumps over a lazy dog!"
THESAURUS = {"quick": ["fast", "swift"], "fox": ["vixen"], "the": ["a"], "dog": ["hound"], "lazy": []}
SENTENCES = [FOX, "Hello.", "...", "", "One two", "Ça va bien, mon ami ?"]
WORD = re.compile(r"\w+")


def shape_of(sentence: str) -> str:
    return WORD.sub("w", sentence)


def test_synonyms_keep_case_and_punctuation() -> None:
    (y,) = aug.SynonymReplacement(THESAURUS, 1.0)([FOX], index=[0], seed=1)
    assert re.fullmatch(r"A (fast|swift) brown VIXEN, it's said, jumps over a lazy hound!", y)
    both = {aug.SynonymReplacement(THESAURUS, 1.0)(["quick"], index=[i], seed=1)[0] for i in range(30)}
    assert both == {"fast", "swift"}
    by_function = aug.SynonymReplacement(lambda word: THESAURUS.get(word, []), 1.0)
    assert by_function([FOX], index=[0], seed=1) == [y]
    assert aug.SynonymReplacement(THESAURUS, 0.0)([FOX], index=[0], seed=1) == [FOX]


def test_swaps_keep_words_places_and_capitals() -> None:
    for i in range(50):
        (y,) = aug.RandomSwap(2)([FOX], index=[i], seed=3)
        assert sorted(WORD.findall(y.lower())) == sorted(WORD.findall(FOX.lower()))
        assert shape_of(y.replace("'", "")) == shape_of(FOX.replace("'", ""))
        assert y[0].isupper()
    assert aug.RandomSwap()(["one two"], index=[0], seed=3) == ["two one"]
    assert aug.RandomSwap()(["One two"], index=[0], seed=3) == ["Two one"]
    assert aug.RandomSwap(9)(["Hello.", "..."], index=[0, 1], seed=3) == ["Hello.", "..."]


def test_deletion_leaves_at_least_a_word() -> None:
    lengths = []
    for i in range(300):
        (y,) = aug.RandomDeletion(0.5)([FOX], index=[i], seed=3)
        found = WORD.findall(y.lower())
        lengths.append(len(found))
        rest = iter(WORD.findall(FOX.lower()))
        assert all(word in rest for word in found), "in their order"
        assert found
        assert y[0].isupper()
        assert y.endswith("!")
        assert "  " not in y
    assert abs(sum(lengths) / 300 - 5.5) < 0.6  # 11 words, it's counts as one of ten
    assert aug.RandomDeletion(1.0)(["A b c."], index=[5], seed=1)[0] in ("A.", "B.", "C.")


TRANSFORMS = [
    aug.SynonymReplacement(THESAURUS, 0.7),
    aug.RandomDeletion(0.5),
    aug.RandomSwap(3),
    aug.BackTranslation(lambda sentences: [s[::-1] for s in sentences], 0.5),
    aug.Compose(aug.RandomDeletion(0.3), aug.RandomApply(aug.RandomSwap(), 0.5)),
    aug.OneOf(aug.RandomSwap(), aug.RandomDeletion(0.9)),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
@given(sentences=st.lists(st.one_of(st.sampled_from(SENTENCES), st.text(max_size=30)), min_size=1, max_size=6))
def test_any_sentences(transform: Any, sentences: list[str]) -> None:
    before, index = list(sentences), range(7, 7 + len(sentences))
    whole = transform(sentences, index=index, seed=5, epoch=1)
    assert sentences == before
    assert [transform([s], index=[i], seed=5, epoch=1)[0] for s, i in zip(sentences, index, strict=True)] == whole
    assert all(bool(y.strip()) >= bool(x.strip()) for x, y in zip(sentences, whole, strict=True))


def test_back_translation_asks_once_and_in_batches() -> None:
    asked: list[list[str]] = []

    def translate(sentences: list[str]) -> list[str]:
        asked.append(list(sentences))
        return ["" if s == "b" else s.upper() for s in sentences]

    transform = aug.BackTranslation(translate, batch_size=2, cache_size=4)
    assert transform(list("abcab"), index=range(5), seed=1) == ["A", "b", "C", "A", "b"]
    assert asked == [["a", "b"], ["c"]]
    transform(list("cba"), index=range(3), seed=1)
    assert len(asked) == 2
    transform(list("defg"), index=range(4), seed=1)
    transform(list("a"), index=[0], seed=1)
    assert asked[2:] == [["d", "e"], ["f", "g"], ["a"]]


needs_wordnet = pytest.mark.skipif(
    not os.path.exists(f"{WORDNET}/data.noun"), reason="Debian's wordnet-base is not installed"
)


@needs_wordnet
def test_synonyms_of_wordnet() -> None:
    pytest.importorskip("nltk", reason="NLTK is not installed")
    synonyms = aug.wordnet_synonyms(WORDNET)
    assert "large" in synonyms("big")
    assert "hound" in synonyms("dog")
    assert synonyms("qwertz") == []
    assert synonyms("dogs") == ["dog", *synonyms("dog")]
    transform = aug.SynonymReplacement(synonyms, 1.0)
    (y,) = transform(["A big house!"], index=[0], seed=1)
    assert y.endswith("!")
    assert y != "A big house!"
    assert pickle.loads(pickle.dumps(transform))(["A big house!"], index=[0], seed=1) == [y]


def test_a_directory_without_wordnet(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"no WordNet there .*wordnet-base"):
        aug.wordnet_synonyms(tmp_path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: aug.SynonymReplacement({}), ValueError, "thesaurus must map at least one word"),
        (lambda: aug.SynonymReplacement({"a": []}), ValueError, "thesaurus must map at least one word"),
        (lambda: aug.SynonymReplacement({"a": [""]}), ValueError, "thesaurus must give words, got ''"),
        (lambda: aug.SynonymReplacement({"a": "bc"}), TypeError, "thesaurus must give a list of synonyms, got str"),
        (lambda: aug.SynonymReplacement(3), TypeError, "thesaurus must be a mapping or a function"),
        (lambda: aug.SynonymReplacement(lambda w: None, 1.0)(["a"], index=[0], seed=1), TypeError, "list of synonyms"),
        (lambda: aug.RandomDeletion(2), ValueError, r"p must be in \[0, 1\], got 2"),
        (lambda: aug.RandomSwap(0), ValueError, "n must be at least 1"),
        (lambda: aug.RandomSwap()("a sentence", index=[0] * 10, seed=1), TypeError, "x must be a list of sentences"),
        (lambda: aug.RandomSwap()([b"a"], index=[0], seed=1), TypeError, "x must hold strings, got bytes"),
        (lambda: aug.BackTranslation("de"), TypeError, "translate must be a function"),
        (lambda: aug.BackTranslation(lambda s: [])(["a"], index=[0], seed=1), ValueError, "a string for each of 1"),
    ],
)
def test_bad_calls(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
