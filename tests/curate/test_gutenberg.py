"""What is around Project Gutenberg's texts, HTML books, and what is no prose."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.filters.gutenberg import book_text, gutenberg, prose, strip
from curate.schema import DOCUMENT
from curate.stage import Outcome

SENTENCES = (
    "The ferry left late, and nobody minded.", "A heron stood in the shallows as if it had been paid to.",
    "She counted the lamps along the quay twice.", "Rain had been promised, and rain came.",
    "There was bread, and somebody had remembered the salt.", "He kept the letter in the tin with the seeds.",
)  # fmt: skip


def body(n: int, seed: int = 0) -> str:
    """`n` paragraphs of four lines."""
    draw = random.Random(seed)
    return "\n\n".join("\n".join(draw.choice(SENTENCES) for _ in range(4)) for _ in range(n))


BOOK = "THE FERRY\n\nby N. One\n\n\n\nCHAPTER I\n\n\n" + body(40)
SHORT = "A LAMP\n\n" + body(3)
TOP = "The Project Gutenberg EBook of The Ferry, by N. One\n\nThis eBook is for the use of anyone anywhere\n\n"
FIELDS = (
    "Title: The Ferry\n       A Tale\n\nAuthor: N. One\n\nRelease Date: August 16, 2013 [EBook #345]\n\n"
    "Language: French\n\nCharacter set encoding: UTF-8\n\n"
)
START = "*** START OF THIS PROJECT GUTENBERG EBOOK THE FERRY ***\n\n\n\n"
END = "\n\n\n\nEnd of the Project Gutenberg EBook of The Ferry, by N. One\n\n"
END += "*** END OF THIS PROJECT GUTENBERG EBOOK THE FERRY ***\n"
LICENCE = "\n".join(
    f"1.{x}.  The terms of this Project Gutenberg work, in paragraph {x}, say what they say.\n" for x in "ABCDEFG"
)
LICENCE = (
    f"\n*** START: FULL LICENSE ***\n\nTHE FULL PROJECT GUTENBERG LICENSE\n\n{LICENCE}\nto hear about new eBooks.\n"
)
OLD_TOP = (
    "**The Project Gutenberg Etext of The Ferry, by N. One**\n#2 in our series by N. One\n\n"
    "Copyright laws are changing all over the world, be sure to check\n\n**Welcome To The World of Plain Vanilla**\n\n"
    "The Ferry\n\nby N. One\n\nJuly, 1991  [Etext #15]\n\n*****This file should be named ferry10.txt*****\n\n"
)
SMALL = (
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this small print here?\n\n"
    "It says what Project Gutenberg has to say.\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n"
)
OLD_END = "\n\n\nEnd of Project Gutenberg Etext of The Ferry, by N. One\n"


PREPARED = (
    "E-text prepared by B (b@example.org)\n\n\n\nNote: Project Gutenberg also has an HTML\n      version.\n\n"
    "      See it.\n\n\n\nTranscriber's note:\n\n      Italics are _so_.\n\n      A ^ is.\n\n\n\n"
)
NOTES = "\n\n\n* * * * *\n\nTranscriber's Notes:\n\nSpelling was left.\n\nPage 3: teh => the\n\n"


@pytest.mark.parametrize("book", [BOOK, SHORT], ids=["long", "under 100 lines"])
@pytest.mark.parametrize(
    ("front", "back"),
    [
        (TOP + FIELDS + START, END + LICENCE),
        (TOP + FIELDS + START, "\n\n*** END OF THE PROJECT GUTENBERG EBOOK THE FERRY ***\n" + LICENCE),
        (TOP + FIELDS + "***START OF THE PROJECT GUTENBERG EBOOK THE FERRY***\n\n", END),
        (TOP + FIELDS + "*** START OF THE PROJECT GUTENBERG EBOOK THE FERRY AND\nALL THAT CAME OF IT ***\n\n", END),
        (TOP + FIELDS + START, "\n\nEnde dieses Project Gutenberg Etextes von Die Fähre\n"),
        (TOP + FIELDS + START, "\n\nFin du Project Gutenberg EBook de Le bac, par N. One\n" + LICENCE),
        (TOP + FIELDS + START, "\n\nFin del Proyecto Gutenberg EBook de La barca\n"),
        (TOP + FIELDS + START, "\n\nEinde van het Project Gutenberg eBook van De veerpont\n"),
        (TOP + FIELDS + START, LICENCE),
        (OLD_TOP + SMALL, OLD_END),
        (OLD_TOP + SMALL, ""),
        (OLD_TOP, OLD_END + "\n" + SMALL),
        (TOP + FIELDS, END + LICENCE),
        (TOP + FIELDS + START + SMALL, END),
        (TOP + FIELDS + START + "\nProduced by A. Nother\n\n\n", END),
        (TOP + FIELDS + START + "Special thanks to X for proofreading and correction of this etext.\n\n\n", END),
        (TOP + FIELDS + START + PREPARED, END),
        (TOP + FIELDS + START, NOTES + END),
    ],
    ids=lambda x: None,
)  # fmt: skip
def test_nothing_but_the_book_is_left(front: str, back: str, book: str) -> None:
    found = strip(front + book + back)
    assert found.text == book
    assert found.is_gutenberg
    assert found.mentions == 0


def test_a_book_of_nobodys_stays_as_it_is() -> None:
    found = strip(BOOK)
    assert found.text == BOOK
    assert not found.is_gutenberg


def test_marks_inside_a_book_take_their_own_line_only() -> None:
    inside = body(900) + "\n\nEnd of Project Gutenberg's first volume, he wrote.\n\n" + body(900, 1)
    text = strip(TOP + START + inside + END + LICENCE).text
    assert text.startswith(body(900)) and text.endswith(body(900, 1))
    assert "first volume" not in text
    said = "He said that *** START OF THE PROJECT GUTENBERG EBOOK was what he had read."
    said = body(5) + "\n\n" + said + "\n\n" + body(20)
    assert strip(TOP + START + said + END).text == said


def test_two_books_in_one_file() -> None:
    one, two = body(60, 1), body(60, 2)
    both = strip(TOP + START + one + END + LICENCE + "\n" + TOP + START + two + END + LICENCE).text
    assert both.split() == (one + " " + two).split()
    without_end = strip(TOP + START + one + "\n\n\n" + TOP + FIELDS + START + two + END + LICENCE).text
    assert "Gutenberg" not in without_end and without_end.startswith(one) and without_end.endswith(two)


def test_several_start_marks_in_a_header() -> None:
    assert strip(TOP + START + "\n" + START + BOOK + END).text == BOOK


def test_notes_in_brackets_go_from_anywhere() -> None:
    text = body(30) + "\n\n[Transcriber's Note: the map [plate 2] is\nmissing.]\n\n" + body(30, 1)
    assert strip("[Transcriber's Note: none.]\n\n" + body(30)).text == body(30)
    assert strip(text).text == body(30) + "\n\n\n\n" + body(30, 1)
    open_one = body(3) + "\n\n[Transcriber's Note: never closed. " + body(90, 1)
    assert strip(open_one).text == open_one


def test_a_note_at_the_front_ends_where_the_book_begins() -> None:
    note = "Original Transcriber’s Notes:\n\n\n\n\n\nThis text is of two etexts,\nand one was compared.\n\n\n\n\n"
    assert strip(note + BOOK).text == BOOK
    html_like = "Transcriber's Note\n\nObvious errors were corrected.\n\n" + BOOK.replace("\n\n\n", "\n\n")
    assert strip(html_like).text == BOOK.replace("\n\n\n", "\n\n")


@pytest.mark.parametrize(
    "heading",
    ["Anmerkungen zur Transkription:", "Note de transcription:", "Notas del transcriptor:", "Nota del Transcriptor",
     "TRANSCRIBER'S NOTE", "+---- Transcriber's Notes ----+", "Uwagi do wersji elektronicznej:"],
)  # fmt: skip
def test_notes_of_other_languages(heading: str) -> None:
    assert strip(f"{BOOK}\n\n\n{heading}\n\nCorrect errors were corrected, p. 7.\n").text == BOOK


def test_a_play_keeps_who_produced_it() -> None:
    play = (
        "THE LAMP\n\n" + "\n\n".join(["One", "Two", "Three"]) + "\n\nProduced by Mr. Small at the Lyceum.\n\n" + body(9)
    )
    assert strip(TOP + START + play + END).text == play


def table(*texts: str, **columns: object) -> pa.Table:
    fixed = dict.fromkeys(DOCUMENT.names, None) | {"source": "books", "meta": "{}"} | columns
    rows = [fixed | {"doc_id": str(i), "text": text} for i, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, DOCUMENT)


def reasons(outcome: Outcome) -> list[str | None]:
    return [] if outcome.reason is None else outcome.reason.to_pylist()


def test_what_the_header_says_is_taken() -> None:
    found = gutenberg()(table(TOP + FIELDS + START + BOOK + END))
    said = {name: column[0].as_py() for name, column in found.columns.items()}
    assert said["title"] == "The Ferry A Tale"
    assert (said["lang"], said["license"]) == ("fr", "public domain in the USA")
    assert said["url"] == "https://www.gutenberg.org/ebooks/345"
    assert said["date"].isoformat() == "2013-08-16T00:00:00+00:00"
    assert json.loads(said["meta"]) == {"author": "N. One", "language": "French", "ebook": 345}
    assert said["gutenberg_removed_ratio"] == pytest.approx(1 - len(BOOK) / len(TOP + FIELDS + START + BOOK + END))
    old = gutenberg()(table(OLD_TOP + SMALL + BOOK + OLD_END)).columns
    assert [old[n][0].as_py() for n in ("title", "url")] == ["The Ferry", "https://www.gutenberg.org/ebooks/15"]
    assert old["date"][0].as_py().year == 1991
    kept = gutenberg()(table(TOP + FIELDS + START + BOOK + END, lang="en", url="mine", license="CC0")).columns
    assert [kept[n][0].as_py() for n in ("lang", "url", "license")] == ["en", "mine", "CC0"]


def test_each_reason_of_gutenberg() -> None:
    notice = "** This is a COPYRIGHTED Project Gutenberg eBook. Details below. **\n"
    unknown = BOOK + "\n\nsee Project Gutenberg for more\n\n" * 21
    texts = [
        TOP + FIELDS + START + BOOK + END,
        TOP + notice + START + BOOK + END,
        unknown,
        TOP + START + "Audio." + END,
        "",
        BOOK,
    ]
    assert reasons(gutenberg()(table(*texts))) == [None, "copyright", "boilerplate", "no_text", "no_text", None]
    assert reasons(gutenberg(min_characters=5, max_mentions=30)(table(*texts)))[2:4] == [None, None]


def test_html_books_keep_all_of_their_prose() -> None:
    paragraphs = [f"Paragraph {i} about one thing, {SENTENCES[i % 6]}" for i in range(300)]
    parts = [
        "<html><head><title>The\n Ferry</title></head><body>"
        + "".join(f'<h2>Chapter {i}</h2><p><span class="pagenum">[{i}]</span>{p}</p>' for i, p in enumerate(half))
        + '<div class="transnote"><p>Errors corrected.</p></div><p>soft&shy;ly &#12;</p></body></html>'
        for half in (paragraphs[:150], paragraphs[150:])
    ]
    page = table("\f".join(parts), meta='{"type": "text/html"}')
    found = book_text()(page).columns
    text = found["text"][0].as_py()
    assert all(p in text for p in paragraphs)
    assert text.count("softly") == 2
    assert "[1]" not in text and "corrected" not in text
    assert found["title"][0].as_py() == "The Ferry"
    assert text.index(paragraphs[0]) < text.index(paragraphs[299])
    mixed = pa.concat_tables([table(BOOK), page])
    assert book_text()(mixed).columns["text"][0].as_py() == BOOK
    assert book_text()(table(BOOK)) == Outcome()


def test_each_reason_of_book_text() -> None:
    texts = ["<p>x</p>", "<html><body><p> </p></body></html>", "<div>" * 3000, "<p>y</p>\f" + "<template>" * 5000]
    outcome = book_text()(table(*texts, meta='{"type": "text/html"}'))
    assert reasons(outcome) == [None, "no_text", "dom_limit", "dom_limit"]
    assert outcome.value is not None
    assert outcome.value.to_pylist()[2:] == ["elements open in over 2048 others"] * 2


def test_each_reason_of_prose() -> None:
    novel = body(400)
    digits = "\n".join("3141592653589793 23846264338 32795" for _ in range(1000))
    draw = random.Random(4)
    genome = "\n".join("".join(draw.choice("ACGT") for _ in range(60)) for _ in range(600))
    words = "\n".join(f"{w.lower()}{chr(97 + i % 26)}" for i, w in enumerate(novel.split()))
    russian = "\n".join("слово" for _ in range(4000))
    texts = [novel, digits, genome, words, russian, digits[:1000]]
    assert reasons(prose()(table(*texts))) == [None, "few_letters", "one_alphabet_part", "word_list", None, None]
    loose = prose(min_letter_ratio=0.0, min_letters=0, min_words_per_line=0.0)
    assert set(reasons(loose(table(*texts)))) == {None}
    sliced = table("x" * 77, *texts).slice(1)
    assert reasons(prose()(sliced)) == reasons(prose()(table(*texts)))


def test_all_reasons_are_declared() -> None:
    assert gutenberg().reasons == ("copyright", "boilerplate", "no_text")
    assert prose().reasons == ("few_letters", "one_alphabet_part", "word_list")
    assert book_text().reasons == ("dom_limit", "no_text")


HOSTILE = {
    "starts": "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n",
    "ends": "*** END OF THE PROJECT GUTENBERG EBOOK X ***\n",
    "pairs": "*** START OF PROJECT GUTENBERG\nx\n*** END OF PROJECT GUTENBERG\n\n",
    "old ends": "End of Project Gutenberg\n" + "y" * 50 + "\n",
    "brackets": "[tn: ",
    "nested": "[",
    "one line": "utenberg ",
    "notes": "Transcriber's note:\n\n",
    "credits": "Produced by x\n\n",
    "stars": "*",
    "spaces": " ",
    "blank": "\n \n",
    "tabs": "\n\t",
    "titles": "Title: x\n ",
    "tops": "The Project Gutenberg EBook of ",
    "rules": "* * *\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_linear_time(name: str) -> None:
    """At most 2 s of CPU a MiB (robustness.md, C5); the limit is far above what any of them takes."""
    text = HOSTILE[name] * ((1 << 20) // len(HOSTILE[name]))
    for whole in (text, TOP + START + text + END + LICENCE):
        gutenberg()(table(whole))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*HOSTILE.values(), TOP, FIELDS, START, END, LICENCE, SMALL, BOOK[:600], "\n\n"]), max_size=12
    )
)
def test_what_is_left_was_there(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = strip(text)
    lines = set(text.split("\n"))
    assert all(line in lines or line in text for line in found.text.split("\n"))
    assert len(found.text) <= len(text)
    assert strip(found.text).text == strip(strip(found.text).text).text


def test_real_books_lose_their_frame_and_no_more(shared_data: Path) -> None:
    folder = shared_data / "books"
    for path in sorted(folder.glob("py-rse/*.txt")):
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        found = strip(text)
        assert found.is_gutenberg and found.mentions == 0, path.name
        assert 15_000 < len(text) - len(found.text) < 21_500, path.name
        assert "ranscriber" not in found.text, path.name
    for path in sorted(folder.glob("clocasto/*.txt")):
        text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
        assert strip(text).text == text.strip(), path.name
