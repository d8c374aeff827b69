"""Books: reading and stripping, beside what others do with the same files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from curate.stage import Split, Tally
from tests.bench.stages import ROOT, Timed, stage

READ = "books: plain texts to documents without their frame"
HTML = "books: HTML to text"


def texts() -> list[Path]:
    """Real plain texts beside the checkout."""
    return sorted((ROOT.parent / "shared" / "data" / "books").glob("*/*.txt"))


def size() -> float:
    """MB of them."""
    return sum(path.stat().st_size for path in texts()) / 1e6


def documents() -> list[pa.Table]:
    """They as documents, a table a file."""
    from sources.books import Books

    return [t for path in texts() for t in Books().read(Split(path.name, str(path)), Tally())]


def _recipe(tables: list[pa.Table]) -> None:
    from curate.filters.gutenberg import book_text, gutenberg, prose

    for table in tables:
        for made in (book_text(), gutenberg(), prose()):
            for name, column in made(table).columns.items():
                at = table.schema.get_field_index(name)
                table = table.set_column(at, name, column) if at >= 0 else table.append_column(name, column)


@stage(READ, "ours, digest, encoding, frame, notes, prose rules")
def _(_wet: Path) -> Timed:
    return size(), lambda: _recipe(documents())


@stage(READ, "line scanner of header and footer prefixes, plain Python")
def _(_wet: Path) -> Timed:
    """What the usual cleaners of Project Gutenberg do: every line against lists of prefixes (our own short lists)."""
    heads = ("*** START OF", "***START OF", "Produced by", "*END*THE SMALL PRINT", "E-text prepared by") * 10
    feet = ("*** END OF", "***END OF", "End of Project Gutenberg", "End of the Project Gutenberg") * 6

    def clean(text: str) -> str:
        kept: list[str] = []
        for i, line in enumerate(text.splitlines()):
            if i <= 600 and line.startswith(heads):
                kept.clear()
            elif i >= 100 and line.startswith(feet):
                break
            else:
                kept.append(line.rstrip())
        return "\n".join(kept)

    return size(), lambda: [clean(path.read_bytes().decode("utf-8", "replace")) for path in texts()]


def pages() -> list[str]:
    """The same books as HTML, a paragraph an element."""
    from html import escape

    return [
        "<html><body>" + "".join(f"<p>{escape(p)}</p>" for p in re.split(r"\n\s*\n", text)) + "</body></html>"
        for table in documents()[::4]
        for text in table["text"].to_pylist()
    ]


def _html(run: Callable[[str], object]) -> Timed:
    found = pages()
    return sum(len(p.encode()) for p in found) / 1e6, lambda: [run(p) for p in found]


@stage(HTML, "ours")
def _(_wet: Path) -> Timed:
    from curate.filters.gutenberg import book_text

    rules = book_text()
    schema = pa.schema([("text", pa.large_string()), ("title", pa.string()), ("meta", pa.string())])
    meta = '{"type": "text/html"}'
    return _html(lambda p: rules(pa.table({"text": [p], "title": [None], "meta": [meta]}, schema=schema)))


@stage(HTML, "BeautifulSoup, get_text", "bs4")
def _(_wet: Path) -> Timed:
    import bs4

    return _html(lambda p: bs4.BeautifulSoup(p, "lxml").get_text("\n"))


@stage(HTML, "trafilatura", "trafilatura")
def _(_wet: Path) -> Timed:
    import trafilatura

    return _html(trafilatura.extract)
