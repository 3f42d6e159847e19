"""Augmentation of text: words change; punctuation, case and streams stay; no sentence becomes empty."""

from __future__ import annotations

import os
import pickle
import re
import sys
import unicodedata
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cregkit import augment as aug
from cregkit.augment import words
from cregkit.augment.text import in_case_of

WORDNET = "/usr/share/wordnet"
FOX = "The quick brown FOX, it's said, jumps over a lazy dog!"
THESAURUS = {"quick": ["fast", "swift"], "fox": ["vixen"], "the": ["a"], "dog": ["hound"], "lazy": []}
SENTENCES = [FOX, "Hello.", "...", "", "One two", "Ça va bien, mon ami ?"]
WORD = re.compile(r"\w+")


needs_regex = pytest.mark.usefixtures("regex")


@pytest.fixture(scope="module", name="regex")
def regex_package() -> Any:
    return pytest.importorskip("regex", reason="regex is not installed")


def shape_of(sentence: str) -> str:
    return WORD.sub("w", sentence)


@needs_regex
def test_synonyms_keep_case_and_punctuation() -> None:
    (y,) = aug.SynonymReplacement(THESAURUS, 1.0)([FOX], index=[0], seed=1)
    assert re.fullmatch(r"A (fast|swift) brown VIXEN, it's said, jumps over a lazy hound!", y)
    both = {aug.SynonymReplacement(THESAURUS, 1.0)(["quick"], index=[i], seed=1)[0] for i in range(30)}
    assert both == {"fast", "swift"}
    by_function = aug.SynonymReplacement(lambda word: THESAURUS.get(word, []), 1.0)
    assert by_function([FOX], index=[0], seed=1) == [y]
    assert aug.SynonymReplacement(THESAURUS, 0.0)([FOX], index=[0], seed=1) == [FOX]


@needs_regex
def test_swaps_keep_words_places_and_capitals() -> None:
    for i in range(50):
        (y,) = aug.RandomSwap(2)([FOX], index=[i], seed=3)
        assert sorted(WORD.findall(y.lower())) == sorted(WORD.findall(FOX.lower()))
        assert shape_of(y.replace("'", "")) == shape_of(FOX.replace("'", ""))
        assert y[0].isupper()
    assert aug.RandomSwap()(["one two"], index=[0], seed=3) == ["two one"]
    assert aug.RandomSwap()(["One two"], index=[0], seed=3) == ["Two one"]
    assert aug.RandomSwap(9)(["Hello.", "..."], index=[0, 1], seed=3) == ["Hello.", "..."]


@needs_regex
def test_deletion_leaves_at_least_one_word() -> None:
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
    assert abs(sum(lengths) / 300 - 5.5) < 0.6  # half of 11 words
    assert aug.RandomDeletion(1.0)(["A b c."], index=[5], seed=1)[0] in ("A.", "B.", "C.")


TRANSFORMS = [
    aug.SynonymReplacement(THESAURUS, 0.7),
    aug.RandomDeletion(0.5),
    aug.RandomSwap(3),
    aug.BackTranslation(lambda sentences: [s[::-1] for s in sentences], 0.5),
    aug.Compose(aug.RandomDeletion(0.3), aug.RandomApply(aug.RandomSwap(), 0.5)),
    aug.OneOf(aug.RandomSwap(), aug.RandomDeletion(0.9)),
]


@needs_regex
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
@given(sentences=st.lists(st.one_of(st.sampled_from(SENTENCES), st.text(max_size=30)), min_size=1, max_size=6))
def test_any_sentence_gives_the_same_in_any_batch_and_stays_nonempty(transform: Any, sentences: list[str]) -> None:
    before, index = list(sentences), range(7, 7 + len(sentences))
    whole = transform(sentences, index=index, seed=5, epoch=1)
    assert sentences == before
    assert [transform([s], index=[i], seed=5, epoch=1)[0] for s, i in zip(sentences, index, strict=True)] == whole
    assert all(bool(y.strip()) >= bool(x.strip()) for x, y in zip(sentences, whole, strict=True))


@needs_regex
def test_a_thesaurus_function_must_give_a_list() -> None:
    with pytest.raises(TypeError, match="list of synonyms, got NoneType None for 'a'"):
        aug.SynonymReplacement(lambda w: None, 1.0)(["A"], index=[0], seed=1)  # type: ignore[arg-type,return-value]


def test_without_regex_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "regex", None)
    words._compiled.cache_clear()
    for transform in (aug.RandomSwap(), aug.RandomDeletion(), aug.SynonymReplacement(THESAURUS)):
        with pytest.raises(ImportError, match=r"need the package regex: pip install 'cregkit\[augment\]'"):
            transform(["one two"], index=[0], seed=1)
    assert aug.BackTranslation(list)(["one two"], index=[0], seed=1) == ["one two"]


KINDS = {  # each word is between |
    "Devanagari": "|मेरी| |बिल्ली| |दूध| |पीती| |है|।",
    "joiners of Devanagari": "|क्‍ष| |क्‌ष| |डॉ॰| |सिंह| |३.१४|॥",
    "Tamil": "|எனது| |பூனை| |பால்| |குடிக்கிறது|.",
    "Bengali": "|আমি| |বাংলায়| |গান| |গাই|।",
    "Arabic with vowels": "|مَرْحَبًا| |بِكَ|، |٣٫١٤| |می‌خواهم|؟",
    "a number sign that precedes its number": "|x| |\u0600١٢| \u0600, |y\u06dd٣|",
    "Hebrew with points": "|שָׁלוֹם| |צה\"ל| |בית־ספר| |ג'|.",
    "accents of their own": "|e\u0301te\u0301|, |n\u0303a| |n\u0303|!",
    "Vietnamese": f"|{unicodedata.normalize('NFD', 'Tiếng')}| |{unicodedata.normalize('NFD', 'Việt')}|.",
    "jamo": f"|{unicodedata.normalize('NFD', '한국어')}| |{unicodedata.normalize('NFD', '말')}|.",
    "scripts of South-East Asia": "|สวัสดี| |ครับ| |ພາສາລາວ| |ភាសា|\u200b|ខ្មែរ| |བོད་སྐད|།",
    "Chinese and Japanese": "|你好|，|世界|。|これはペンです|。|ジョン・スミス|！",
    "emoji": "👨\u200d👩\u200d👧 |ok| 👍🏽 🇩🇪🇫🇷 ❤\ufe0f |1\ufe0f\u20e3| #\ufe0f\u20e3 ℹ\ufe0f 🏳\ufe0f\u200d🌈",
    "a flag of tags": "|a| 🏴\U000e0067\U000e0062\U000e0073\U000e007f |b|",
    "controls of direction": "\ufeff|a| \u2067|שלום|\u2069 |co\u00adop|",
    "contractions": "|don't| |l’été| |O'Brien| |rock'n'roll| |aujourd’hui| |col·lecció|",
    "quotations": "“|Don’t|”, '|yes|' «|oui|» (|see|) [|1|] {|x|} \"|no|\"",
    "hyphens": "|well-known| |pre-| |and| |post-war| |a|—|b| |c|--|d| |1990–2000|",
    "dots": "|wait|...|what| |end|… |one|. |Two|.",
    "numbers": "|3.14|, |1,000,000.50| |-5| |+3| |−2| |50%| |$3.50| |-$5|.",
    "more numbers": "|5€| |.5| |1e-5| |20°C| |½| |2^10| |1'000| |1\u202f000|.",
    "degrees, minutes, seconds": "|52°31′12″N|, |6′2″| |5′|.",
    "numbers in brackets": '(|-5|) [|+3|] "|-5|" |p=0.05|',
    "fullwidth numbers": "|１，０００．５|， |３|",
    "versions, times, dates": "|1.2.3-rc1| |v2.0|, |1.2.x| |10:30| |2024-01-01T10:30:00+02:00|.",
    "addresses of the Internet": "|192.168.0.1|, |10.0.0.0/8| |2001:db8::1| |::1|.",
    "more addresses": "|fe80::1%eth0/64| |2001:db8::| |::ffff:1.2.3.4|.",
    "ports of IPv6": "|[::1]:22| [|1.5|]:|2|, (|[fe80::1%eth0]:8080|) [|2001:db8::1|]: |x|, [|1|]: |y|.",
    "requirements and products": "|python>=3.10|, |x!=1.5|; |1920×1080|, |3×4| × |5| <= |6|.",
    "URLs": '|https://a.b/c?d=e|. (|http://x.y/|), <|http://[::1]:8080/z|> "|www.x.org|" |a.b/c?d=e&f=%20g|!',
    "brackets in URLs": "(|https://en.wikipedia.org/wiki/A_(b)|) |ftp://a,b;c!d|; |https://münchen.de/ä?ö=ü|。",
    "e-mail": "|a.b+c@d.co.uk|, <|x_y@z.org|>: |mailto:a@b.c|.",
    "files": "|/usr/local/bin|, |./run.sh| |../a/../b| |~/x| |C:\\dir\\f.txt|: |.gitignore| |dir/| |report.final.pdf|.",
    "code": "|snake_case| |__init__| |C++|, |C#| |.NET| |std::vector| |--flag| |-x| |node.js|; |f(x)| ___",
    "tags": "|#tag|, |@user|: |$HOME|!",
    "abbreviations": "|U.S.A.| |e.g.| |U.S.A|.\n|i.e|.",
    "signs between words": "|and/or| |AT&T| |item(s)| |km/h| < |5|",
    "spaces": " |a|\r\n|b|\t|c|\u00a0|d|  |e| ",
    "no words": "... 🇩🇪 — ? ",
    "lone surrogates": "|a| \ud800 |b|",
}


@needs_regex
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_split_into_words_and_the_text_between(kind: str) -> None:
    between, inside = KINDS[kind].split("|")[::2], KINDS[kind].split("|")[1::2]
    assert words.split("".join(KINDS[kind].split("|"))) == (inside, between)


@needs_regex
@pytest.mark.parametrize("kind", KINDS)
def test_swap_and_deletion_keep_words_whole(kind: str) -> None:
    sentence, own = KINDS[kind].replace("|", ""), [word.casefold() for word in KINDS[kind].split("|")[1::2]]
    gaps = KINDS[kind].split("|")[::2]
    for epoch in range(20):
        (swapped,) = aug.RandomSwap(2)([sentence], index=[0], seed=1, epoch=epoch)
        rest = swapped.casefold()
        assert Counter(rest) == Counter(sentence.casefold()), "nothing is lost"
        pattern = "".join(f"{re.escape(gap)}({'|'.join(map(re.escape, own))})" for gap in gaps[:-1])
        found = re.fullmatch(pattern + re.escape(gaps[-1]), rest) if own else None
        assert not own or (found and Counter(found.groups()) == Counter(own))
        (shorter,) = aug.RandomDeletion(0.4)([sentence], index=[0], seed=1, epoch=epoch)
        places = iter(own)
        assert all(word.casefold() in places for word in words.split(shorter)[0] if word != "U.S.A"), "in their order"


PIECES = st.sampled_from(
    [
        *"aZ5.,;:!?'’\"-–—_/\\@&+=#~%°()[]<>$€ \u00a0\u200b\n\r",
        "e\u0301",
        "क्",
        "ा",
        "ก้",
        "שָׁ",
        "你",
        "🇩",
        "👍🏽",
        "❤\ufe0f",
        "\u200d",
        "ℹ",
        "\u0600",
        "\u202b",
        "\ud800",
        "가",
        "ᄀ",
        "ᅡ",
        "http://",
        "www.",
        "U.S.A.",
        "1,000",
        "::",
    ]
)


@given(text=st.lists(PIECES, max_size=20).map("".join))
def test_words_end_where_grapheme_clusters_end(text: str, regex: Any) -> None:
    inside, between = words.split(text)
    assert len(between) == len(inside) + 1
    pieces = [piece for pair in zip(between, [*inside, ""], strict=True) for piece in pair]
    assert "".join(pieces) == text
    boundaries = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    ends = {len("".join(pieces[:i])) for i in range(len(pieces))}
    assert ends <= boundaries


@needs_regex
@pytest.mark.parametrize(
    "unit",
    [
        *("a", "_", ".", "a.", "a--", "a(", "a[b", "1,", "a?", "::", "a:::::", "$", "-", "\u0301", "\u0600", "_\u0301"),
        *("http://a(", "http://a!", "www.", "://", "a'", "a.b ", "a, ", "(a) ", "a\n", " "),
    ],
)
def test_long_texts_take_linear_time(unit: str) -> None:  # in quadratic time they would take hours
    text = unit * (1_000_000 // len(unit))
    assert "".join(piece for pieces in words.split(text) for piece in pieces)


@needs_regex
def test_a_text_of_a_million_characters_is_augmented() -> None:
    text = "Some words, " * 83_333
    assert len(aug.RandomSwap()([text], index=[0], seed=1)[0]) == len(text)
    assert aug.RandomDeletion(1.0)([text], index=[0], seed=1)[0].strip(" ,").casefold() in ("some", "words")


@needs_regex
def test_a_long_sentence_beside_short_ones_takes_little_memory() -> None:
    sentences = ["a b c " * 100_000, *["One two"] * 20_000]  # padding all to the longest would need 48 GB
    assert aug.RandomSwap()(sentences, index=range(len(sentences)), seed=1)[1:] == ["Two one"] * 20_000


@needs_regex
@pytest.mark.parametrize(
    ("sentence", "deleted", "left"),
    [
        ("line one\nword two", "word", "line one\ntwo"),
        ("one\r\ntwo\r\nthree", "two", "one\r\n\r\nthree"),
        ("a\n    b c\n", "b", "a\n    c\n"),
        ("  Hello, world", "Hello", "  World"),
        ("a\tb\tc  d", "b", "a\tc  d"),
        ("a  b  c", "b", "a  c"),
        ("a\u00a0b c", "b", "a c"),
        ("ก\u200bข\u200bค", "ข", "ก\u200bค"),
        ("see (b c) d", "b", "see (c) d"),
        ('say "b c" d', "b", 'say "c" d'),
        ("5 x,3 kg", "x", "5, 3 kg"),
        ("b c--d", "c", "b-- d"),
        ("b c—(d e", "c", "b —(d e"),
        ("The U.S.A. won.", "U.S.A.", "The won."),
        ("see https://a.b/c?d=e. ok", "https://a.b/c?d=e", "see. ok"),
        ("👍🏽 a b", "a", "👍🏽 b"),
    ],
)
def test_deletion_closes_the_gap(sentence: str, deleted: str, left: str) -> None:
    assert deleted in words.split(sentence)[0]
    results = {aug.RandomDeletion(0.3)([sentence], index=[i], seed=1)[0] for i in range(300)}
    assert left in results


@needs_regex
def test_synonyms_replace_whole_words_alone() -> None:
    thesaurus = {"fox": ["vixen"], "3": ["three"], "été": ["saison"], "e\u0301cole": ["lycée"], "straße": ["gasse"]}
    transform = aug.SynonymReplacement(thesaurus, 1.0)
    for kept in (
        "https://a.fox/fox?fox=fox.",
        "fox@fox.fox",
        "#fox",
        "/fox/fox",
        "3.14",
        "fox.txt",
        "fox\u0301",
        "ffox",
    ):
        assert transform([kept], index=[0], seed=1) == [kept]
    (y,) = transform(["Fox E\u0301TE\u0301 Été! École, 3 (fox) STRAßE"], index=[0], seed=1)
    assert y == "Vixen SAISON Saison! Lycée, three (vixen) Gasse"


@pytest.mark.parametrize(
    ("word", "like", "cased"),
    [
        ("fox", "The", "Fox"),
        ("fox", "THE", "FOX"),
        ("Fox", "the", "fox"),
        ("NASA", "the", "NASA"),
        ("iPhone", "The", "iPhone"),
        ("O'Brien", "the", "O'Brien"),
        ("l'été", "The", "L'été"),
        ("e\u0301te\u0301", "The", "E\u0301te\u0301"),
        ("fox", "E\u0301", "Fox"),  # one letter of two code points
        ("straße", "THE", "STRASSE"),
        ("ﬁnd", "The", "Find"),
        ("ǆungla", "The", "ǅungla"),
        ("ǅungla", "the", "ǆungla"),
        ("fox", "ǅungla", "Fox"),
        ("ılık", "The", "ılık"),  # the lower case of Ilık depends on the language
        ("ılık", "THE", "ılık"),
        ("İzmir", "the", "İzmir"),
        ("ა", "The", "ა"),
        ("https://a.b/C", "THE", "https://a.b/C"),
        ("v1", "The", "v1"),
        ("fox", "3.14", "fox"),
        ("fox", "USB-3", "fox"),
        ("मेरी", "The", "मेरी"),
        ("hot dog", "The", "Hot dog"),
    ],
)
@needs_regex
def test_the_case_of_a_word_follows_its_place(word: str, like: str, cased: str) -> None:
    assert in_case_of(word, like) == cased


def test_back_translation_translates_each_sentence_once_in_batches() -> None:
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
def test_wordnet_gives_synonyms() -> None:
    pytest.importorskip("nltk", reason="NLTK is not installed")  # NLTK needs regex
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


def test_a_directory_without_wordnet_is_refused(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"must contain WordNet, data.noun is missing; .*wordnet-base"):
        aug.wordnet_synonyms(tmp_path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: aug.SynonymReplacement({}), ValueError, "thesaurus must map at least one word"),
        (lambda: aug.SynonymReplacement({"a": []}), ValueError, "thesaurus must map at least one word"),
        (lambda: aug.SynonymReplacement({"a": [""]}), ValueError, "thesaurus must give non-empty strings, got ''"),
        (lambda: aug.SynonymReplacement({"a": "bc"}), TypeError, "thesaurus must give a list of synonyms, got str"),
        (lambda: aug.SynonymReplacement(3), TypeError, "thesaurus must be a mapping or a function"),
        (lambda: aug.RandomDeletion(2), ValueError, r"p must be in \[0, 1\], got 2"),
        (lambda: aug.RandomSwap(0), ValueError, "n must be at least 1"),
        (lambda: aug.RandomSwap()("a sentence", index=[0] * 10, seed=1), TypeError, "x must be a list of sentences"),
        (lambda: aug.RandomSwap()([b"a"], index=[0], seed=1), TypeError, "x must hold strings, got bytes"),
        (lambda: aug.BackTranslation("de"), TypeError, "translate must be a function"),
        (lambda: aug.BackTranslation(lambda s: [])(["a"], index=[0], seed=1), ValueError, "a string for each of 1"),
    ],
)
def test_wrong_calls_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
