"""Wikipedia beside its peers: wikitext to text, and pages out of the XML of a dump (bzip2 apart: it is a row)."""

from __future__ import annotations

import bz2
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import pyarrow as pa

from curate.stage import Split, Tally
from tests.bench.stages import ROOT, Timed, stage

TEXT, READ, ALL = "wikitext to text", "pages of a dump's XML", "Wikipedia dump to documents, inflated"
REAL = ROOT.parent / "shared" / "data" / "wikipedia" / "wp2txt" / "testdata_en.bz2"


@functools.cache
def xml() -> Path:
    """The largest real English dump, inflated, below .venv; else the sample's English one, many times over."""
    path = ROOT / ".venv" / "bench" / "enwiki.xml"
    if not path.exists():
        from sources.wikipedia import SAMPLE

        path.parent.mkdir(parents=True, exist_ok=True)
        if REAL.exists():
            path.write_bytes(bz2.BZ2Decompressor().decompress(REAL.read_bytes()) + b"</mediawiki>")
        else:
            data = bz2.decompress(next(SAMPLE.glob("enwiki*stream.xml.bz2")).read_bytes())
            first, last = data.index(b"<page>"), data.index(b"</mediawiki>")
            path.write_bytes(data[:first] + data[first:last] * 2000 + data[last:])
    return path


def wikitexts() -> pa.Array:
    """Wikitext of the articles."""
    from curate.kernels.wikitext import unescape
    from sources import wikipedia

    dump = wikipedia._Dump(Split(xml().name, str(xml())), Tally())
    found = [wikipedia._parse(p, dump.site) for p in wikipedia._pages(dump, 1 << 24) if isinstance(p, bytes)]
    texts = [p.text for p in found if isinstance(p, wikipedia._Page)]
    ends = np.cumsum([len(t) for t in texts])
    plain, _ = unescape(np.frombuffer(b"".join(texts), np.uint8), np.r_[0, ends[:-1]], ends)
    return plain


@stage(TEXT, "ours")
def _(wet: Path) -> Timed:
    from curate.kernels.wikitext import convert
    from sources.wikipedia import _site

    texts, site = wikitexts(), _site(xml().read_bytes()[:10_000], "enwiki-")
    return texts.nbytes / 1e6, lambda: convert(texts, site.names)


def _peer(function: Callable[[str], object], count: int) -> Timed:
    texts = wikitexts()[:count].to_pylist()
    return sum(len(t.encode()) for t in texts) / 1e6, lambda: [function(t) for t in texts]


@stage(TEXT, "mwparserfromhell, strip_code", "mwparserfromhell")
def _(wet: Path) -> Timed:
    import mwparserfromhell

    return _peer(lambda text: mwparserfromhell.parse(text).strip_code(), 40)


@stage(TEXT, "wikitextparser, remove_markup", "wikitextparser")
def _(wet: Path) -> Timed:
    import wikitextparser

    return _peer(wikitextparser.remove_markup, 40)


@stage(READ, "ours")
def _(wet: Path) -> Timed:
    from sources import wikipedia

    def run() -> int:
        dump = wikipedia._Dump(Split(xml().name, str(xml())), Tally())
        return sum(len(p) for p in wikipedia._pages(dump, 1 << 24) if wikipedia._parse(bytes(p), dump.site))

    return xml().stat().st_size / 1e6, run


@stage(READ, "lxml, iterparse", "lxml")
def _(wet: Path) -> Timed:
    from lxml import etree

    def run() -> int:
        total = 0
        parsed = etree.iterparse(str(xml()), events=("end",), tag="{*}page", resolve_entities=False, huge_tree=True)
        for _, element in parsed:
            total += sum(len(t.text or "") for t in element.iter("{*}text"))
            element.clear()
        return total

    return xml().stat().st_size / 1e6, run


@stage(READ, "xml.etree, iterparse")
def _(wet: Path) -> Timed:
    def run() -> int:
        total = 0
        for _, element in ElementTree.iterparse(str(xml())):
            if element.tag.endswith("}page"):
                total += sum(len(t.text or "") for t in element.iter() if t.tag.endswith("}text"))
                element.clear()
        return total

    return xml().stat().st_size / 1e6, run


@stage(READ, "expat, character data alone")
def _(wet: Path) -> Timed:
    data = xml().read_bytes()

    def run() -> int:
        parts: list[str] = []
        parser = expat.ParserCreate()
        parser.buffer_text, parser.buffer_size = True, 1 << 16
        parser.CharacterDataHandler = parts.append
        parser.Parse(data, True)
        return len(parts)

    return len(data) / 1e6, run


@stage(ALL, "ours")
def _(wet: Path) -> Timed:
    from sources.wikipedia import Wikipedia

    def run() -> int:
        return sum(t.num_rows for t in Wikipedia().read(Split(xml().name, str(xml())), Tally()))

    return xml().stat().st_size / 1e6, run


@stage(ALL, "xml.etree and mwparserfromhell, the first 40 articles", "mwparserfromhell")
def _(wet: Path) -> Timed:
    import mwparserfromhell

    pages = xml().read_bytes().split(b"</page>")[:60]
    data = b"</page>".join(pages) + b"</page></mediawiki>"

    def texts() -> Iterator[str]:
        for _, element in ElementTree.iterparse(io.BytesIO(data)):
            if element.tag.endswith("}page") and not any(e.tag.endswith("}redirect") for e in element):
                yield next(t.text or "" for t in element.iter() if t.tag.endswith("}text"))

    return len(data) / 1e6, lambda: [mwparserfromhell.parse(text).strip_code() for text in texts()]


@stage(ALL, "bzip2 alone, inflating the same (counted apart)")
def _(wet: Path) -> Timed:
    stored = bz2.compress(xml().read_bytes())
    return xml().stat().st_size / 1e6, lambda: bz2.decompress(stored)
