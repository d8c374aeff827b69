"""Build the sample shelf: books in the forms that Project Gutenberg, the Pile and publishers keep them in.

    python -m sources.samples.build_books            write the files
    python -m sources.samples.build_books --check    rebuild in memory, compare with what is committed

The texts are the project's own (`commoncrawl/texts`), a site as a book, a page as a chapter. What stands around them
has the upstream's marks and the project's own words: marks are what the rules look for. Numbers above 90,000 are not
Project Gutenberg's. Nothing depends on a clock or the order of a directory; compressed bytes may differ between builds
of zlib, what they hold may not.
"""

from __future__ import annotations

import argparse
import gzip
import html
import io
import json
import re
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEXTS, OUT = HERE / "commoncrawl" / "texts", HERE / "books"
WIDTH = 72
WORD_LIST = 30_000  # bytes

TERMS = """\
{end}

***** This file should be named {name} *****

Later editions take the place of earlier ones, which get new names.


*** START: FULL LICENSE ***

THE FULL PROJECT GUTENBERG LICENSE

(In the sample, these lines stand for the terms that Project Gutenberg puts after each of its books. The terms speak of
Project Gutenberg in every paragraph, which is what the rules look for.)

Section 1.  What may be done with Project Gutenberg electronic works

1.A.  Who reads this Project Gutenberg work agrees to these terms.

Section 2.  How to help Project Gutenberg

You can subscribe to the newsletter to hear about new eBooks.
"""
SMALL_PRINT = """\
**The Project Gutenberg Etext of {title}, by {author}**


Copyright laws are changing all over the world.  (In the sample, these
lines stand for what the first etexts said of themselves.)

**Welcome To The World of Plain Vanilla Electronic Texts**


{title}

by {author}

April, 1993  [Etext #{number}]

*****This file should be named plots10.txt or plots10.zip*****

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this small print here?  So that the rules that remove it have
something to remove.  Among other things it stands for what lawyers said.
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*




"""
HEADER = """\
The Project Gutenberg EBook of {title}, by {author}

This eBook is for the use of anyone who tries the toolkit.  It is not one
of Project Gutenberg's.


Title: {title}

Author: {author}

Release Date: {date} [EBook #{number}]

Language: {language}

Character set encoding: {charset}

*** START OF THIS PROJECT GUTENBERG EBOOK {upper} ***




Produced by the sample's own volunteers and the Online Distributed
Proofreading Team at a place that does not exist





"""


@dataclass(frozen=True)
class Book:
    """A site's texts as a book."""

    title: str
    author: str
    chapters: tuple[tuple[str, tuple[str, ...]], ...]  # (title, paragraphs)


def book(site: str, author: str) -> Book:
    """The pages of a site as chapters."""
    head, *pages = re.split(r"^=== [^|\n]+\| ", (TEXTS / f"{site}.txt").read_text("utf-8"), flags=re.M)
    name = re.search(r"^name: (.*)$", head, re.M)
    assert name is not None
    parts = [page.strip().split("\n") for page in pages]
    return Book(name[1], author, tuple((p[0], tuple(x for x in p[1:] if x.strip())) for p in parts))


def plain(shown: Book, indent: str = "") -> str:
    """A book as Project Gutenberg writes it: wrapped lines, blank ones between paragraphs."""
    chapters = [f"{indent}CHAPTER {i}. {t}" for i, (t, _) in enumerate(shown.chapters, 1)]
    out = [shown.title.upper(), f"by {shown.author}", "CONTENTS", *chapters]
    for heading, (_, paragraphs) in zip(chapters, shown.chapters, strict=True):
        out += ["\n\n" + heading, *(textwrap.fill(p, WIDTH) for p in paragraphs)]
    return "\n\n".join(out) + "\n"


def gutenberg(shown: Book, number: int, language: str, charset: str, end: str, body: str | None = None) -> str:
    """A book with today's header and footer."""
    top = HEADER.format(title=shown.title, author=shown.author, upper=shown.title.upper(), number=number,
                        language=language, charset=charset, date="May 4, 2021")  # fmt: skip
    bottom = TERMS.format(end=end.format(title=shown.title), name=f"{number}.txt or {number}.zip")
    star = f"\n\n*** END OF THIS PROJECT GUTENBERG EBOOK {shown.title.upper()} ***\n"
    return (
        top + (plain(shown) if body is None else body) + "\n\n\n\n" + bottom.replace("\n\n*****", star + "\n*****", 1)
    )


def page(shown: Book, chapters: slice, note: str = "") -> str:
    """Chapters of a book as HTML, with the numbers of printed pages."""
    body = []
    for i, (title, paragraphs) in list(enumerate(shown.chapters, 1))[chapters]:
        body.append(f'<h2 id="c{i}">{html.escape(title)}</h2>')
        for j, p in enumerate(paragraphs):
            body.append(f'<p><span class="pagenum">[Pg {10 * i + j}]</span>{html.escape(p)}</p>')
    head = f'<head><meta charset="utf-8"/><title>{html.escape(shown.title)}</title></head>'
    return f'<html xmlns="http://www.w3.org/1999/xhtml">{head}\n<body>{note}\n{chr(10).join(body)}\n</body></html>\n'


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip whose bytes do not depend on the time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (1993, 4, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return out.getvalue()


CONTAINER = (
    '<?xml version="1.0"?>\n<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles>'
    "</container>\n"
)


def epub(shown: Book, language: str) -> bytes:
    """A book as an EPUB, its files stored in another order than they are read in."""
    n = len(shown.chapters)
    items = "".join(f'<item id="c{i}" href="text/c{i}.xhtml" media-type="application/xhtml+xml"/>' for i in range(n))
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(n))
    package = (
        '<?xml version="1.0"?>\n<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="id">urn:sample:1</dc:identifier>'
        f"<dc:title>{html.escape(shown.title)}</dc:title><dc:creator>{html.escape(shown.author)}</dc:creator>"
        f"<dc:language>{language}</dc:language><dc:date>2020-02-29</dc:date><dc:rights>CC0</dc:rights></metadata>"
        f'<manifest><item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>{items}'
        f'</manifest><spine><itemref idref="nav"/>{spine}</spine></package>\n'
    )
    chapters = {f"OEBPS/text/c{i}.xhtml": page(shown, slice(i, i + 1)).encode() for i in reversed(range(n))}
    contents = b"<html><head><title/></head><body><ol><li>Contents</li></ol></body></html>"
    files = {"mimetype": b"application/epub+zip", "META-INF/container.xml": CONTAINER.encode()}
    return zipped({**files, **chapters, "OEBPS/nav.xhtml": contents, "OEBPS/content.opf": package.encode()})


def tar(members: Mapping[str, bytes]) -> bytes:
    """A tar whose bytes do not depend on the time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def rows() -> bytes:
    """JSON lines as the Pile has them, of books and of another set; and as PG-19 is passed on."""
    roads, hedge = book("slowroads", "Ada Fenn"), book("hedgeandmarsh", "Tom Wick")
    pile = [
        {"text": plain(roads), "meta": {"pile_set_name": "Books3"}},
        {"text": "A page of the web.", "meta": {"pile_set_name": "Pile-CC"}},
        {"text": plain(hedge), "short_book_title": hedge.title, "publication_date": 1897,
         "url": "http://www.gutenberg.org/ebooks/90009"},
    ]  # fmt: skip
    return gzip.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pile).encode(), mtime=0)


def words() -> bytes:
    """A list of words, one a line."""
    found = {w for p in TEXTS.glob("*.txt") for w in re.findall(r"[a-z]{3,}", p.read_text("utf-8"))}
    return "\n".join(sorted(found)).encode()[:WORD_LIST] + b"\n"


def build() -> dict[str, bytes]:
    """All files of the sample: name below OUT -> bytes."""
    bees, plots = book("bees-at-number-nine", "Nora Vale"), book("plotseventeen", "Ida Marsh")
    garden, simone = book("gartenimdorf", "Lore Brandt"), book("carnet-de-simone", "Simone Aubry")
    kites, puzzles = book("kitekitchen", "Jo Lark"), book("napkinpuzzles", "Max Orrin")
    end = "End of the Project Gutenberg EBook of {title}"
    modern = gutenberg(bees, 90001, "English", "UTF-8", end).replace("\n", "\r\n").encode("utf-8-sig")
    german = gutenberg(garden, 90002, "German", "ISO-8859-1", "Ende dieses Project Gutenberg EBooks von {title}")
    old = SMALL_PRINT.format(title=plots.title, author=plots.author, number=90003) + plain(plots, "  ")
    old += f"\n\n\n\nEnd of Project Gutenberg Etext of {plots.title}, by {plots.author}\n"
    note = '<div class="transnote"><p>Note du transcripteur: les fautes ont été corrigées.</p></div>'
    french = gutenberg(simone, 90004, "French", "UTF-8", "Fin du Project Gutenberg EBook de {title}", "\f")
    before, after = (f"<pre>{html.escape(x)}</pre>" for x in french.split("\f"))
    copyrighted = gutenberg(kites, 90005, "English", "UTF-8", end).replace(
        "\n\nTitle:", "\n** This is a COPYRIGHTED Project Gutenberg eBook. Details below. **\n\nTitle:", 1
    )
    audio = gutenberg(puzzles, 90006, "English", "UTF-8", end, "An audio book: see the folder of MP3 files.\n")
    table = "".join(f"{i:>6}{i * i:>12}{i**3:>16}\n" for i in range(1, 1200))
    return {
        "9/0/0/0/90001/90001-0.txt": modern,
        "9/0/0/0/90002/90002-8.zip": zipped({"90002-8.txt": german.encode("latin-1", "replace")}),
        "etext93/plots10.txt": old.encode("ascii", "replace"),
        "9/0/0/0/90004/90004-h.zip": zipped({
            "90004-h/90004-h.htm": page(simone, slice(0, 2), before + note).encode(),
            "90004-h/part2.htm": page(simone, slice(2, None)).replace("</body>", after + "</body>").encode(),
            "90004-h/images/cover.jpg": b"\xff\xd8\xff\xe0 no picture",
        }),
        "9/0/0/0/90005/90005-0.txt": copyrighted.encode(),
        "9/0/0/0/90006/90006-readme.txt": audio.encode(),
        "9/0/0/0/90007/90007.txt": gutenberg(Book("Squares and Cubes", "A Clerk", ()), 90007, "English", "US-ASCII",
                                             end, table).encode(),
        "9/0/0/0/90008/90008.txt": words(),
        "own/plot-seventeen.epub": epub(plots, "en-GB"),
        "books3/the-eye/Bibliotik.tar": tar({
            f"books3/Bibliotik/{puzzles.title} - {puzzles.author}.epub.txt": plain(puzzles).encode(),
            f"books3/Bibliotik/{kites.title} - {kites.author}.epub.txt": plain(kites).encode(),
            "books3/README": b"Not a book.\n",
        }),
        "pile/00.jsonl.gz": rows(),
    }  # fmt: skip


def contents(name: str, data: bytes) -> object:
    """What a file holds, whatever the compression made of it."""
    if name.endswith(".gz"):
        return gzip.decompress(data)
    if name.endswith((".zip", ".epub")):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [(i.filename, archive.read(i)) for i in archive.infolist()]
    return data


def main() -> int:
    """Write or check the sample."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    wrong = []
    for name, data in build().items():
        path = OUT / name
        if check and (not path.exists() or contents(name, path.read_bytes()) != contents(name, data)):
            wrong.append(name)
        elif not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    print(f"differs: {', '.join(wrong)}" if wrong else "the sample is as built" if check else f"written to {OUT}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
