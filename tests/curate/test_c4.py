"""C4's rules: verdicts equal to plain Python written from recipes.md 2.1, and a page that breaks only each rule."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate import adopt, models
from curate.dedup.lines import Lines, lines
from curate.errors import CurateError, RecipeError, StageError
from curate.filters.c4 import (
    c4_bad_words,
    c4_lines,
    c4_page,
    c4_sentences,
    c4_split,
    c4_url,
    in_validation,
    mc4_long_lines,
    read_terms,
)
from curate.kernels import c4
from curate.kernels.arrow import buffers
from curate.stage import Outcome, Split, Stage, Tally
from curate.store import Corpus
from sources.c4 import C4, C4Wet

GOOD = "The first line has enough words. The second sentence is here.\nA third one stands on its own line."
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
POLICIES = [x.decode() for x in c4.POLICIES]
BREAK = re.compile(r"""([.?!]++)(?:(["')\]}»’”]++)\s*+|\s++|(?=[;:*@({\[]))(?=\S)""")
WORD_BEFORE = re.compile(r"[^\x00-\x20!\"'()*,:;?@\[\]{}]*\Z")
STARTER = re.compile(r"([A-Z][a-z]{0,15})(?![a-zA-Z\x80-\u1fff])")


def table(*texts: str | None, **columns: Sequence[Any]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string()), **columns})


def column(texts: Sequence[str]) -> pa.LargeStringArray:
    """With an offset, so that a kernel that forgets it is seen."""
    return pa.array(["elsewhere é", *texts], pa.large_string()).slice(1)


def said(stage: Stage, *texts: str) -> list[tuple[str | None, str | None]]:
    outcome = stage(table(*texts))
    return list(zip(outcome.reason.to_pylist(), outcome.value.to_pylist(), strict=True))


def texts_of(outcome: Outcome) -> list[str]:
    return outcome.columns["text"].to_pylist()


# ---- the rules in plain Python ----


def plain_page(text: str) -> str:
    found = (x.strip() for x in text.split("\n"))
    return "\n".join(x for x in found if x and not x.startswith(("WARC", "CONTENT-", "Content-")))


def abbreviated(word: str) -> bool:
    return word in c4.ABBREVIATIONS or ("-" in word and word.rpartition("-")[2] in c4.ABBREVIATIONS)


def plain_sentences(text: str) -> int:
    text = text.strip()
    if not text:
        return 0
    count = 1 + bool(re.search(r"[.?!]\.*[?!][.?!]*\Z", text))
    for found in BREAK.finditer(text):
        marks, closers = found.groups()
        following = text[found.end() : found.end() + 40]
        starter = STARTER.match(following)
        starts = starter is not None and starter[1].lower() in c4.STARTERS and not closers
        word = WORD_BEFORE.search(text[max(0, found.start() - 30) : found.start()])[0]  # type: ignore[index]
        if set(marks) != {"."}:
            count += 1
        elif len(marks) > 1:
            count += starts
        elif not 0 < len(word.encode()) < 24:
            count += 1
        elif re.fullmatch("[A-Za-z]", word):
            never = word.lower() in c4.INITIALS
            count += not never and (bool(closers) or starts or not re.match("[A-Za-z]", following))
        elif abbreviated(word.lower()):
            count += starts
        elif not (re.fullmatch("[0-9,.-]+", word) and re.match("[a-z:;]", following)):
            count += 1
    return count


def plain_lines(text: str, longest: int = 1000, words: int = 5, wanted: int = 3) -> tuple[str, str | None, list[int]]:
    counts = dict.fromkeys(c4.COUNTS, 0)
    kept: list[str] = []
    for line in text.splitlines():
        counts["lines"] += 1
        line = line.strip()
        if any(len(word) > longest for word in line.split()):
            counts["long_word"] += 1
            continue
        line = CITATION.sub("", line)
        low = line.lower()
        if not line.endswith((".", "?", "!", '"')) or line.endswith("..."):
            counts["no_end_mark"] += 1
        elif len(line.split()) < words:
            counts["few_words"] += 1
        elif "lorem ipsum" in low:
            return "", "lorem_ipsum", [*counts.values()]
        elif "javascript" in low:
            counts["javascript"] += 1
        elif "{" in line:
            return "", "curly_bracket", [*counts.values()]
        elif any(x in low for x in POLICIES):
            counts["policy"] += 1
        else:
            counts["kept"] += 1
            counts["sentences"] += plain_sentences(line)
            kept.append(line)
    if counts["sentences"] < wanted:
        return "", "few_sentences", [*counts.values()]
    return "\n".join(kept).strip(), None, [*counts.values()]


def check_lines(texts: Sequence[str], **limits: int) -> None:
    array = column(texts)
    names = {"longest": "max_word_length", "words": "min_words", "wanted": "min_sentences"}
    outcome = c4_lines(**{names[k]: v for k, v in limits.items()})(pa.table({"text": array}))
    expected = [plain_lines(x, **limits) for x in texts]
    assert outcome.reason.to_pylist() == [reason for _, reason, _ in expected]
    assert texts_of(outcome) == [text for text, _, _ in expected]
    given_limits = {"longest": 1000, "words": 5, "wanted": 3, **limits}
    counts = c4.clean_lines(*buffers(array), *given_limits.values())[2]
    assert counts[:, : len(c4.COUNTS)].tolist() == [found for _, _, found in expected]


# ---- equal to plain Python ----

PIECES = st.sampled_from(
    [
        *" \t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\xa0\u3000.?!\"'”’»)]};:*@({[",
        *(
            "[1]",
            "[23]",
            "[٣]",
            "[]",
            "[edit]",
            "[citation needed]",
            "[edit",
            "[1",
            "...",
            "!!",
            "?!",
            "..",
            "é",
            "K",
            "İ",
        ),
        *(
            "lorem ipsum",
            "Lorem",
            "ipsum",
            "JavaScript",
            "javascript",
            "Terms of Use",
            "privacy policy",
            "cookie policy",
        ),
        *(
            "uses cookies",
            "use of cookies",
            "use coo",
            "kies",
            "coo\u212aie policy",
            "{",
            "a",
            "Mr",
            "U.S",
            "p.m",
            "half-co",
        ),
        *("The", "However", "the", "Smith", "1999", "12,5", "A", "I", "C", "one two", "three four five", "x" * 12),
        *("\n", " ", ". ", "word ", "line of five words here.\n"),
    ]
)
TEXT = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60)


@settings(max_examples=400, deadline=None)
@given(st.lists(TEXT, max_size=3), st.sampled_from([4, 1000]), st.integers(1, 6), st.integers(0, 3))
@example(["[1] Five words are in here. And more. And more yet.\nNext [1"], 1000, 5, 3)
@example(["a b c d coo\u212aie policy e. x. y. z."], 1000, 2, 0)
@example(["one two three lorem İpsum. \u212a"], 1000, 2, 0)
def test_lines_and_pages_have_the_verdicts_of_plain_python(texts: Any, longest: int, words: int, wanted: int) -> None:
    check_lines(texts, longest=longest, words=words, wanted=wanted)


@settings(max_examples=400, deadline=None)
@given(st.lists(TEXT, max_size=3))
@example(["A b. C", "a... The", "Really?! Yes.", 'He said "Hi." Then', "x!!", "5. then 6. Then", "I.\xa0A"])
def test_sentences_are_those_of_plain_python(texts: list[str]) -> None:
    assert c4.sentence_counts(column(texts)).tolist() == [plain_sentences(x) for x in texts]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["WARC", "CONTENT-", "Content-", "War", "C", "\n", " ", "é", "x\n"])).map("".join)
    )
)
def test_pages_are_those_of_plain_python(texts: list[str]) -> None:
    outcome = c4_page(max_characters=9)(pa.table({"text": column(texts)}))
    expected = [plain_page(x) for x in texts]
    assert texts_of(outcome) == expected
    assert outcome.reason.to_pylist() == ["empty" if not x else "too_long" if len(x) > 9 else None for x in expected]


@pytest.fixture(scope="session")
def real_pages(shared_data: Path) -> list[str]:
    """Pages that nobody here wrote: of WET files, and published rows."""
    found: list[str] = []
    for path in sorted((shared_data / "commoncrawl").rglob("*.wet*")):
        for part in C4Wet().read(Split(path.name, str(path)), Tally()):
            found += part["text"].to_pylist()[:400]
    path = shared_data / "c4" / "c4_sample.dev.jsonl.gz"
    for part in C4().read(Split(path.name, str(path)), Tally()):
        found += part["text"].to_pylist()
    return found


def test_real_pages_have_the_verdicts_of_plain_python(real_pages: list[str]) -> None:
    assert len(real_pages) > 600
    pages = texts_of(c4_page()(pa.table({"text": column(real_pages)})))
    assert pages == [plain_page(x) for x in real_pages]
    check_lines(pages)
    assert c4.sentence_counts(column(pages)).tolist() == [plain_sentences(x) for x in pages]
    keys, offsets = c4.line_keys(*buffers(column(pages)))
    plain = [[line_key(x) for x in text.split("\n")] for text in pages]
    assert keys.tolist() == [k for found in plain for k in found]
    assert np.diff(offsets).tolist() == [len(x) for x in plain]


def test_published_rows_pass_the_rules_again(shared_data: Path) -> None:
    path = shared_data / "c4" / "c4_sample.dev.jsonl.gz"
    rows = pa.concat_tables(C4().read(Split(path.name, str(path)), Tally()))
    for stage in (c4_page(), c4_lines(), c4_sentences()):
        assert stage(rows).reason.null_count == len(rows) == 600
    same = [a == b for a, b in zip(texts_of(c4_lines()(rows)), rows["text"].to_pylist(), strict=True)]
    assert sum(same) >= 599


# ---- a page that breaks only one rule ----

LONG = "x" * 1001


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (f"A line with {LONG} in it.", False),
        (f"A line with {'é' * 1000} in it.", True),
        ("A line with a note[12] in it[edit].", True),
        ("A line that ends in a note. [3]", False),
        ("A line that has no end", False),
        ("A line that goes on...", False),
        ("A line that ends so?", True),
        ('A line that is "quoted"', True),
        ("A line that is “quoted”", False),
        ("Only four words here.", False),
        ("Please enable JavaScript to see it.", False),
        ("See the Terms of Use for this.", False),
        ("Our Cookie Policy is over there.", False),
        ("This site uses cookies, you know.", False),
    ],
)
def test_a_line_is_kept_or_not(line: str, kept: bool) -> None:
    text = texts_of(c4_lines()(table(f"{GOOD}\n{line}")))[0]
    assert text == (f"{GOOD}\n{CITATION.sub('', line)}" if kept else GOOD)


def test_a_page_goes_for_one_rule_and_the_ledger_shows_what_it_saw() -> None:
    assert said(c4_lines(), GOOD) == [(None, None)]
    assert said(c4_lines(), f"{GOOD}\nAnd here is Lorem Ipsum again.") == [
        ("lorem_ipsum", "And here is Lorem Ipsum again.")
    ]
    assert said(c4_lines(), f"{GOOD}\nThis is a function() {{ of some kind.") == [
        ("curly_bracket", "This is a function() { of some kind.")
    ]
    assert said(c4_lines(), f"{GOOD}\nlorem ipsum {{") == [(None, None)]  # that line went before it could matter
    assert said(c4_lines(), "Only one sentence is here.") == [("few_sentences", "1 sentence")]
    assert said(c4_sentences(), "One. Two.", "One. Two. Three.") == [("few_sentences", "2 sentences"), (None, None)]
    assert said(c4_page(), "WARC/1.0\n \nContent-Type: x", "é" * 190_000, "é" * 190_001) == [
        ("empty", "0 characters"),
        (None, None),
        ("too_long", "190001 characters"),
    ]


def test_scores_are_kept_beside_the_verdict() -> None:
    columns = c4_lines()(table(f"{GOOD}\nno end", "a")).columns
    assert columns["c4_lines_n_sentences"].to_pylist() == [3, 0]
    assert columns["c4_lines_kept_ratio"].to_pylist() == [pytest.approx(2 / 3), 0]


def test_settings_of_the_line_rules_are_checked() -> None:
    with pytest.raises(RecipeError, match=r"c4_lines\.min_words is 0, must be at least 1"):
        c4_lines(min_words=0)(table("a"))


def test_mc4_asks_for_three_long_lines() -> None:
    long, short = "é" * 200, "é" * 199
    pages = ["\n".join([long, long, short, long]), "\n".join([long, long, short]), ""]
    assert said(mc4_long_lines(), *pages) == [
        (None, None),
        ("few_long_lines", "2 long lines"),
        ("few_long_lines", "0 long lines"),
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Mr. Smith went. the end", 2),
        ('He said "Hi." Then he left.', 2),
        ("foo.(bar) baz. Qux", 3),
        ("wait... what. Then... The end.", 3),
        ("Really?! Yes.", 2),
        ("end.) Next one. (Third.)", 3),
        ("It cost 5. then 6. Then more", 2),
        ("A. B. Smith", 1),
        ("Stop it!!!", 2),
        ("At 5 p.m. He left. In the U.S. However, no.", 4),
        ("  \u3000", 0),
        ("x", 1),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert c4.sentence_counts(pa.array([text], pa.large_string())).tolist() == [count]


# ---- addresses and splits ----


@pytest.mark.parametrize(
    ("url", "known_as"),
    [
        ("https://www.a.example/x/", "a.example/x"),
        ("http://a.example/x?utm_source=y&z=1", "a.example/x"),
        ("http://a.example/x?reference=1", "a.example/x"),
        ("http://a.example/x?feed=rss", "a.example/x"),
        ("http://a.example/x?y=1&utm_source=y", "a.example/x?y=1&utm_source=y"),
        ("http://archive.example/http://www.b.example//", "archive.example/b.example"),
    ],
)
def test_addresses_are_normalised(url: str, known_as: str) -> None:
    outcome = c4_url()(table("a", url=[url]))
    assert outcome.columns["normalised_url"].to_pylist() == [known_as] and outcome.reason.to_pylist() == [None]
    plain = re.sub(r"\?(utm_|ref|feed).*", "", re.sub(r"https?://(www\.)?", "", url)).rstrip("/")
    assert plain == known_as


def test_a_page_without_an_address_goes() -> None:
    urls = pa.array([None, "", "http://a.b"], pa.string())
    assert c4_url()(table("a", "b", "c", url=urls)).reason.to_pylist() == ["no_url", "no_url", None]


def test_a_thousandth_is_for_validation() -> None:
    urls = [f"a.example/{i}" for i in range(20_000)]
    names = c4_split()(pa.table({"normalised_url": urls})).columns["split"].to_pylist()
    expected = [int(hashlib.md5(x.encode()).hexdigest(), 16) % 1000 == 0 for x in urls]
    assert [x == "validation" for x in names] == expected and 5 < sum(expected) < 40
    assert in_validation(urls[expected.index(True)], 1000)
    with pytest.raises(RecipeError, match="validation_of is 0"):
        c4_split(validation_of=0)(pa.table({"normalised_url": urls}))


# ---- bad words ----


def word_list(folder: Path, *terms: str) -> str:
    path = folder / "words.txt"
    path.write_text("\n".join(terms), "utf-8")
    return str(path)


WORDS = ["ass", "two words", "s&m", "g-spot", "\U0001f595", "été", "kind", "as", "σας"]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from([*WORDS, "ASS", "s", " ", "_", "é", "́", "\u212aind", "İ", "ΣΑΣ", "Σ", ".", "x", "\n"])
        ).map("".join),
        max_size=4,
    )
)
@example(["s&m", "xs&m", "s&mx", "(S&M)", "\u212aIND", "ΣΑΣ", "ass_", "asś"])
def test_listed_words_are_those_of_a_regular_expression(texts: list[str]) -> None:
    pattern = re.compile(rf"(?:\W|^)(?:{'|'.join(map(re.escape, WORDS))})(?:\W|$)")
    found = c4.listed_terms(column(texts), c4.term_table(WORDS))
    assert (found >= 0).tolist() == [pattern.search(x.lower()) is not None for x in texts]
    for text, number in zip(texts, found.tolist(), strict=True):
        assert number < 0 or WORDS[number] in text.lower()


def test_a_page_with_a_listed_word_goes_with_the_word(tmp_path: Path) -> None:
    stage = c4_bad_words(words=word_list(tmp_path, "Badword", "", " two words "))
    texts = ["badwords all over", "(BADWORD)", "It is two\nwords.", "It is Two Words."]
    assert said(stage, *texts) == [(None, None), ("listed_word", "badword"), (None, None), ("listed_word", "two words")]
    assert said(c4_bad_words(), "badword") == [(None, None)]


def test_a_list_that_is_of_no_use_is_an_error(tmp_path: Path) -> None:
    for made, why in ((b"", "0 terms"), (b"\xff", "not UTF-8"), (b"%d\n" * 20_001, "20001 terms")):
        path = tmp_path / "list.txt"
        path.write_bytes(b"".join(b"%d\n" % i for i in range(20_001)) if b"%d" in made else made)
        with pytest.raises(RecipeError, match=why):
            read_terms(path)
        with pytest.raises(RecipeError, match=r"c4_bad_words\.words"):
            c4_bad_words(words=str(path))(table("a"))
    with pytest.raises(RecipeError, match="No such file"):
        c4_bad_words(words=str(tmp_path / "none"))(table("a"))


def test_a_run_without_a_list_says_so_and_strict_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.recipe import Recipe

    monkeypatch.setenv("CURATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_download", _unreachable)
    recipe = Recipe("r", C4Wet(), (c4_bad_words(),))
    notes: list[str] = []
    resolved, lacking = adopt.resolve_models(recipe, Corpus(tmp_path / "out"), [], False, notes.append)
    assert lacking == [adopt.NO_LIST] and "no model 'badwords'" in notes[0] and "\n" not in notes[0]
    assert dict(resolved.steps[0].settings)["words"] is None  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="--strict: no list of bad words"):
        adopt.resolve_models(recipe, Corpus(tmp_path / "out"), [], True, notes.append)
    with pytest.raises(RecipeError, match=r"c4_bad_words\.words is .*: there is no such file"):
        adopt.resolve_models(
            recipe.with_settings({"c4_bad_words.words": "no"}), Corpus(tmp_path), [], False, notes.append
        )
    mine = word_list(tmp_path, "mine")
    given_one = recipe.with_settings({"c4_bad_words.words": mine})
    resolved, lacking = adopt.resolve_models(given_one, Corpus(tmp_path / "out"), [], True, notes.append)
    assert not lacking
    assert said(resolved.steps[0], "it is mine") == [("listed_word", "mine")]  # type: ignore[arg-type]


def _unreachable(_: Any) -> bytes:
    raise OSError("nobody answers")


def test_a_list_with_another_digest_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_download", lambda _: b"other\n")
    with pytest.raises(CurateError, match="SHA-256"):
        models.find("badwords")
    assert not (tmp_path / "models" / "ldnoobw-en.txt").exists()


# ---- repeated lines ----


def line_key(line: str) -> int:
    return int.from_bytes(hashlib.sha1(line.strip().lower().encode()).digest()[:8], "little")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("aB\nÉΣσİ \u3000x" * 3 + "y" * 9), max_size=120), max_size=4))
def test_line_keys_are_of_the_line_stripped_and_in_lower_case(texts: list[str]) -> None:
    keys, offsets = c4.line_keys(*buffers(column(texts)))
    assert keys.tolist() == [line_key(x) for text in texts for x in text.split("\n")]
    assert np.diff(offsets).tolist() == [text.count("\n") + 1 for text in texts]


def removed(*groups: Sequence[str]) -> list[list[str]]:
    """Texts of several splits after the barrier, and "-" where a document goes; run as the engine does."""
    barrier = Lines()
    batches = [barrier.emit(table(*texts)) for texts in groups]
    asked = [b.keys[b.local == 0] for b in batches]
    answers = barrier.resolve(lambda: iter(asked), sum(map(len, asked)))
    out = []
    for texts, batch, answer in zip(groups, batches, answers, strict=True):
        flags = np.ones(len(batch.keys), np.uint8)
        flags[batch.local == 0] = answer
        outcome = barrier.apply(table(*texts), flags, batch.offsets)
        found = zip(texts_of(outcome), outcome.reason.to_pylist(), strict=True)
        out.append([text if reason is None else "-" for text, reason in found])
    return out


def test_the_first_copy_of_a_line_stays_in_a_page_and_between_pages() -> None:
    first = ["One.\nTwo.\none. \nThree.", "TWO.\nFour."]
    second = ["four.\n Three.", "Five.\nOne."]
    assert removed(first, second) == [["One.\nTwo.\nThree.", "Four."], ["-", "Five."]]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(
            st.lists(st.sampled_from(["a", "A ", "b", "c", "d"]), min_size=1, max_size=5).map("\n".join), max_size=4
        ),
        max_size=3,
    )
)
def test_lines_are_removed_as_a_set_would(groups: list[list[str]]) -> None:
    seen: set[str] = set()
    expected = []
    for texts in groups:
        found = []
        for text in texts:
            new = []
            for line in text.split("\n"):
                key = line.strip().lower()
                if key not in seen:
                    new.append(line)
                seen.add(key)
            found.append("\n".join(new) if new else "-")
        expected.append(found)
    assert removed(*groups) == expected


def test_a_line_that_a_page_has_already_is_not_asked_for() -> None:
    assert lines().emit(table("a\nb\nA ", "a")).local.tolist() == [0, 0, 1, 0]


def test_the_value_of_a_page_of_repeats_is_how_many_lines_it_had() -> None:
    barrier = lines()
    batch = barrier.emit(table("a\nb", "c"))
    outcome = barrier.apply(table("a\nb", "c"), np.ones(3, np.uint8), batch.offsets)
    assert outcome.reason.to_pylist() == ["all_repeated"] * 2 and outcome.value.to_pylist() == ["2 lines", "1 line"]
    assert outcome.columns["lines_kept_ratio"].to_pylist() == [0, 0]
    with pytest.raises(StageError, match="lines"):
        barrier.apply(table("a\nb"), np.ones(3, np.uint8), batch.offsets)


@pytest.mark.parametrize("scope", ["run", 7, "7"])
def test_the_scope_is_a_number_of_files_or_the_run(scope: Any) -> None:
    assert lines(scope=scope).group_size == (None if scope == "run" else 7)


@pytest.mark.parametrize("scope", [0, "some", -1])
def test_another_scope_is_refused(scope: Any) -> None:
    with pytest.raises(RecipeError, match=r"lines\.scope"):
        lines(scope=scope)


# ---- time ----

HOSTILE: dict[str, Callable[[int], str]] = {
    "brackets": lambda n: "[1" * (n // 2),
    "digits in a bracket": lambda n: "[" + "1" * n,
    "stops": lambda n: "." * n,
    "closers": lambda n: "a." + ")" * n,
    "stops and closers": lambda n: ".)" * (n // 2),
    "spaces": lambda n: "a." + " " * n + "b",
    "one word": lambda n: "x" * n + ".",
    "capitals": lambda n: "A. " + "Z" * n,
    "triggers": lambda n: "cook" * (n // 4) + " a b c d.",
    "sigmas": lambda n: "Σ" * (n // 2),
    "marks": lambda n: "́" * (n // 2),
}


@pytest.mark.parametrize("family", HOSTILE)
def test_hostile_text_is_read_in_steps_that_grow_with_it(family: str) -> None:
    text = pa.array([HOSTILE[family](1 << 20)], pa.large_string())
    page = pa.table({"text": text})
    c4_lines()(c4_page(max_characters=1 << 30)(page).columns and page)
    c4_sentences()(page)
    c4.listed_terms(text, c4.term_table(["a" * 50, "xxxx", "σσσσ", "cookcook"]))
    lines().emit(page)
