"""StackExchange: rows of XML, text of bodies, archives, and a dump from end to end, beside what others use."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path
from xml.parsers import expat

from curate.stage import Split, Tally
from tests.bench.stages import ROOT, Timed, stage

DUMP = ROOT.parent / "shared" / "data" / "stackexchange" / "cardano.stackexchange.com" / "Posts.xml"
SAMPLE = ROOT / "sources" / "samples" / "stackexchange" / "sample-kitchen.stackexchange.com" / "Posts.xml"
TIMES = 10  # the dump is repeated so often, with other ids


def dump(times: int = TIMES) -> bytes:
    """A real site (3 MB) several times over; without it the embedded sample."""
    data = (DUMP if DUMP.exists() else SAMPLE).read_bytes()
    head, _, rest = data.partition(b"<posts>")
    rows = rest.rpartition(b"</posts>")[0]
    copies = []
    for i in range(times if DUMP.exists() else 50 * times):
        renamed = re.compile(rb' (Id|ParentId|AcceptedAnswerId)="(\d{1,6})"')
        copies.append(renamed.sub(lambda m, i=i: b' %s="%d"' % (m[1], int(m[2]) + 10_000 * i), rows))  # type: ignore[misc]
    return head + b"<posts>" + b"".join(copies) + b"</posts>"


def written() -> tuple[Split, float]:
    """The dump as a file, and its MB."""
    folder = Path(tempfile.mkdtemp()) / "bench.stackexchange.com"
    folder.mkdir()
    data = dump()
    (folder / "Posts.xml").write_bytes(data)
    return Split(folder.name, str(folder / "Posts.xml"), len(data)), len(data) / 1e6


@stage("StackExchange, XML to documents", "ours, join in memory")
def _(wet: Path) -> Timed:
    from sources.stackexchange import StackExchange

    split, mb = written()
    return mb, lambda: sum(t.num_rows for t in StackExchange().read(split, Tally()))


@stage("StackExchange, XML to documents", "ours, join on disk (runs of 4 MiB)")
def _(wet: Path) -> Timed:
    from sources.stackexchange import StackExchange

    split, mb = written()
    source = StackExchange(run_bytes=4 << 20)
    return mb, lambda: sum(t.num_rows for t in source.read(split, Tally()))


@stage("StackExchange, XML to documents", "lxml + BeautifulSoup (lxml), join in memory", "bs4")
def _(wet: Path) -> Timed:
    from bs4 import BeautifulSoup
    from lxml import etree

    split, mb = written()

    def run() -> list[str]:
        questions, answers = {}, {}
        for _, row in etree.iterparse(split.path, tag="row"):
            a = dict(row.attrib)
            row.clear()
            if a["PostTypeId"] not in "12":
                continue
            html = a["Body"].replace("<li>", "\n*").replace("<ol>", "\n*")
            text = BeautifulSoup(html, "lxml").get_text()
            if a["PostTypeId"] == "1":
                questions[a["Id"]] = f"Q: {a['Title']} {text}"
            else:
                answers.setdefault(a["ParentId"], []).append((-int(a["Score"]), int(a["Id"]), text))
        return ["\nA: ".join([q, *(t for *_, t in sorted(answers.get(i, [])))]) for i, q in questions.items()]

    return mb, run


@stage("StackExchange, rows of XML", "ours")
def _(wet: Path) -> Timed:
    import numpy as np

    from curate.kernels import posts

    data = np.frombuffer(dump().removeprefix(b"\xef\xbb\xbf"), np.uint8)
    rows, out = np.empty((1 << 16, posts.WIDTH), np.int64), np.zeros(2, np.int64)

    def run() -> object:
        seen = np.zeros(posts.MAX_ID // 8, np.uint8)
        return posts.scan(data, 0, len(data), True, posts.BLANK, posts.WORDS, *posts.ATTRIBUTES, seen, rows, out)

    return len(data) / 1e6, run


@stage("StackExchange, rows of XML", "expat, attributes as a dict")
def _(wet: Path) -> Timed:
    data = dump()

    def run() -> int:
        found = []
        parser = expat.ParserCreate()
        parser.StartElementHandler = lambda tag, attributes: found.append(len(attributes))
        parser.Parse(data, True)
        return len(found)

    return len(data) / 1e6, run


@stage("StackExchange, rows of XML", "lxml iterparse, attributes as a dict", "lxml")
def _(wet: Path) -> Timed:
    from lxml import etree

    data = dump()

    def run() -> int:
        n = 0
        for _, row in etree.iterparse(io.BytesIO(data), tag="row"):
            n += len(dict(row.attrib))
            row.clear()
        return n

    return len(data) / 1e6, run


def _archive(codec: str) -> tuple[bytes, int]:
    """The dump in a 7z archive."""
    import bz2
    import lzma

    from sources.samples.build_stackexchange import archive

    data = dump(1)  # copies would be found by LZMA
    if codec == "bzip2":
        return archive({"Posts.xml": data}, bz2.compress(data)), len(data)
    packed = lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    return archive({"Posts.xml": data}, packed, b"\x21\x21\x01\x16"), len(data)


def _ours(codec: str) -> Timed:
    from sources import sevenzip

    data, size = _archive(codec)

    def run() -> int:
        file = io.BytesIO(data)
        (member,) = sevenzip.members(file, len(data))
        return sum(map(len, sevenzip.read(file, member)))

    return size / 1e6, run


def _py7zr(codec: str) -> Timed:
    import py7zr
    from py7zr.io import BytesIOFactory

    data, size = _archive(codec)

    def run() -> int:
        with py7zr.SevenZipFile(io.BytesIO(data)) as z:
            factory = BytesIOFactory(1 << 40)
            z.extract(targets=["Posts.xml"], factory=factory)
            return len(factory.products["Posts.xml"].read())

    return size / 1e6, run


for _codec in ("bzip2", "lzma2"):
    stage(f"StackExchange, 7z with {_codec}", "ours, streamed")(lambda wet, codec=_codec: _ours(codec))  # type: ignore[misc]
    stage(f"StackExchange, 7z with {_codec}", "py7zr, into memory", "py7zr")(lambda wet, codec=_codec: _py7zr(codec))  # type: ignore[misc]
