"""Dumps of Wikipedia: the sample in 20 languages, every way to pack them, and every kind of damage."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.download import configure
from curate.engine import run
from curate.errors import RecipeError, SourceError
from curate.exchange import Settings
from curate.schema import DOCUMENT, doc_id
from curate.stage import Split, Tally
from pipelines.llama import WIKIPEDIA
from sources import wikipedia
from sources.samples import build_wikipedia, reference_urls
from sources.wikipedia import Wikipedia, cited_urls
from tests.hostile_server import Request, Server, Wire

HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="en">\n  <siteinfo>\n'
    "    <dbname>enwiki</dbname>\n    <base>http://en.wikipedia.org/wiki/Main_Page</base>\n    <namespaces>\n"
    '      <namespace key="0" case="first-letter" />\n      <namespace key="6" case="first-letter">File</namespace>\n'
    '      <namespace key="10" case="first-letter">Template</namespace>\n    </namespaces>\n  </siteinfo>\n'
)
END = "</mediawiki>\n"


def page(number: int | str = 1, text: str = "Text.", **change: str) -> str:
    """One page. `change`: elements by name, empty to leave one out; `tag`: attributes of the text."""
    parts = {"title": f"Page {number}", "ns": "0", "redirect": "", "model": "wikitext", "tag": "", "after": ""} | change
    parts |= {"timestamp": change.get("timestamp", "2022-07-01T10:20:30Z")}
    elements = {k: f"<{k}>{parts[k]}</{k}>\n" if parts[k] else "" for k in ("title", "ns", "model", "timestamp")}
    number = f"<id>{number}</id>" if number != "" else ""
    return (
        f"  <page>\n    {elements['title']}{elements['ns']}{number}{parts['redirect']}\n    <revision>\n"
        f"<id>77</id>{elements['timestamp']}<contributor><username>u</username><id>5</id></contributor>"
        f"{elements['model']}<text{parts['tag']}>{text}</text>\n    </revision>\n{parts['after']}  </page>\n"
    )


def dump(*pages: str, head: str = HEAD, end: str = END) -> bytes:
    return (head + "".join(pages) + end).encode()


def read(path: Path | Split, **change: Any) -> tuple[list[dict[str, Any]], Tally]:
    """Documents and tally of a file or a split."""
    tally, source = Tally(), Wikipedia(**change)
    split = path if isinstance(path, Split) else Split(path.name, str(path), path.stat().st_size)
    tables = list(source.read(split, tally))
    assert all(t.schema == DOCUMENT and t.num_rows for t in tables)
    return [row for t in tables for row in t.to_pylist()], tally


def write(folder: Path, data: bytes, name: str = "x.xml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# -- the sample --------------------------------------------------------------------------------------------------------


def test_sample_is_as_built() -> None:
    there = {p.name: p.read_bytes() for p in build_wikipedia.FOLDER.glob("*.bz2")}
    assert build_wikipedia.build() == there
    assert sum(map(len, there.values())) < 300_000


@pytest.mark.parametrize("lang", wikipedia.LANGUAGES)
def test_language(lang: str) -> None:
    """Files, categories and templates go in the words of each language; nothing else does."""
    w = next(w for w in build_wikipedia.wikis() if w["lang"] == lang)
    split = next(s for s in Wikipedia().plan([]) if s.name == f"{w.name}.xml.bz2")
    rows, tally = read(split)
    assert [r["text"] for r in rows[:1]] == [build_wikipedia.text_of(w)]
    assert rows[0]["title"] == w["title"] and rows[0]["lang"] == lang and rows[0]["license"] == "CC-BY-SA-3.0"
    assert rows[0]["url"].startswith(f"https://{lang}.wikipedia.org/wiki/")
    meta = json.loads(rows[0]["meta"])
    assert meta["cited"] == [f"https://example.org/{lang}/mill?a=1&b=2", f"https://example.net/{lang}/mills"]
    assert [json.loads(r["meta"]).get("disambiguation", False) for r in rows[:3]] == [False, False, True]
    assert [r["title"] for r in rows[3:]] == (list(build_wikipedia.articles()) if lang == "en" else [])
    assert rows[1]["text"] == f"{w['other']}. {w['source']} {w['end']}"
    assert tally.skipped == {"redirect": 1, "namespace_10": 1} and not tally.failed and not tally.damage
    assert rows[0]["doc_id"] == doc_id("wikipedia", split.name, 7)


def test_english_articles_cite_the_sample_crawl() -> None:
    """Each of them, and nothing else; enough for a classifier (20 pages), in text that is not markup."""
    split = next(s for s in Wikipedia().plan([]) if s.name.startswith("enwiki"))
    rows = read(split)[0][3:]
    cited = {url for row in rows for url in json.loads(row["meta"])["cited"]}
    assert all(json.loads(row["meta"])["cited"] for row in rows)
    assert len(cited & {*reference_urls()}) == len(cited) > 50
    for row in rows:
        assert 500 < len(row["text"]) < 1200 and not set("[]{}<>|=") & set(row["text"]), row["title"]


def test_sample_through_the_recipe(tmp_path: Path) -> None:
    more = len(build_wikipedia.articles())
    addresses = 40 + len(
        {u for text in build_wikipedia.articles().values() for u in re.findall(r"https://[^ |]+", text)}
    )
    outcome = run(WIKIPEDIA, [], out=tmp_path / "c", engine="inline")
    found = outcome.report["sources"]["wikipedia"]
    assert outcome.report["balances"]
    assert found["records_in"] == 100 + more and found["kept"] == 40 + more
    assert found["dropped"] == {"articles:disambiguation": 20} and found["skipped"] == {
        "redirect": 20,
        "namespace_10": 20,
    }
    assert cited_urls(tmp_path / "c", tmp_path / "cited.parquet") == addresses
    assert cited_urls(tmp_path / "c", tmp_path / "cited.arrow") == addresses
    table = pq.read_table(tmp_path / "cited.parquet")
    with pa.OSFile(str(tmp_path / "cited.arrow")) as file:
        assert pa.ipc.open_file(file).read_all().equals(table)
    assert table.column_names == ["url", "cited_by", "lang"]
    assert "https://example.net/sr/mills" in table["url"].to_pylist()
    from curate.reference.pages import cited_keys

    assert len(cited_keys(tmp_path / "cited.arrow")) == addresses
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "cited.arrow", "cited.parquet"]


def test_nothing_cited(tmp_path: Path) -> None:
    run(WIKIPEDIA, [str(write(tmp_path, dump(page())))], out=tmp_path / "c", engine="inline")
    with pytest.raises(RecipeError, match="cite nothing"):
        cited_urls(tmp_path / "c", tmp_path / "cited.arrow")
    with pytest.raises(RecipeError, match="has no wikipedia, only nothing"):
        cited_urls(tmp_path / "none", tmp_path / "cited.arrow")
    assert not list(tmp_path.glob("*cited*")) and not list(tmp_path.glob(".cited*"))


# -- how a dump is packed ----------------------------------------------------------------------------------------------

PLAIN = dump(page(1, "Größe [[a]]"), page(2, "b"), page(3, "中"))
PACKED = {
    "x.xml": PLAIN,
    "x.xml.gz": gzip.compress(PLAIN, mtime=0),
    "members.xml.gz": gzip.compress(PLAIN[:700], mtime=0) + gzip.compress(PLAIN[700:], mtime=0),
    "x.xml.bz2": bz2.compress(PLAIN),
    "streams.xml.bz2": b"".join(bz2.compress(PLAIN[i : i + 100]) for i in range(0, len(PLAIN), 100)),
    "padded.xml.bz2": bz2.compress(PLAIN) + b"\0" * 100,
    "utf8-bom.xml": b"\xef\xbb\xbf" + PLAIN,
    "utf16.xml.bz2": bz2.compress(PLAIN.decode().encode("utf-16")),
    "utf16-be.xml": PLAIN.decode().encode("utf-16-be"),
    "declared.xml": b'<?xml version="1.0" encoding="UTF-8"?>\n' + PLAIN,
}


@pytest.mark.parametrize("name", PACKED)
def test_packed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, PACKED[name], name)
    for chunk in (1 << 18, 7):
        monkeypatch.setattr("curate.io.CHUNK", chunk)
        rows, tally = read(path)
        assert [r["text"] for r in rows] == ["Größe a", "b", "中"]
        assert not tally.damage and not tally.failed
        assert tally.input_digest == hashlib.sha256(PACKED[name]).hexdigest()
        assert tally.bytes_in == len(PLAIN) + (39 if name == "declared.xml" else 0)


def _multistream(pages: int, start: int = 1) -> tuple[bytes, bytes]:
    """(dump, index) of one page a stream."""
    data, index = bz2.compress(HEAD.encode()), b""
    for number in range(start, start + pages):
        index += f"{len(data)}:{number}:Page {number}\n".encode()
        data += bz2.compress(page(number, f"Text {number}. " * 40).encode())
    return data + bz2.compress(END.encode()), index


@pytest.mark.parametrize("tail", [".xml.bz2", "1.xml-p1p30.bz2"])
@pytest.mark.parametrize("packed", [True, False])
def test_multistream_is_split(tmp_path: Path, tail: str, packed: bool) -> None:
    name = f"aawiki-20220801-pages-articles-multistream{tail}"
    data, index = _multistream(30)
    path = write(tmp_path, data, name)
    beside = name.replace("multistream", "multistream-index").replace(".xml", ".txt")
    write(tmp_path, bz2.compress(index) if packed else index, beside if packed else beside.removesuffix(".bz2"))
    whole, _ = read(path)
    source = Wikipedia(run_bytes=2000)
    splits = source.plan([str(tmp_path)])
    assert len(splits) > 3 and sum(s.bytes or 0 for s in splits) == len(data)
    assert {s.path for s in splits} == {str(path)} and splits[0].name.startswith(f"{name}#0-")
    parts = [read(s) for s in splits]
    assert [r for rows, _ in parts for r in rows] == whole and len(whole) == 30
    assert not any(t.damage or t.failed for _, t in parts)
    assert len({t.input_digest for _, t in parts}) == len(parts)
    assert [s.name for s in Wikipedia().plan([str(path)])] == [name]  # smaller than a run


def test_split_run_equals_whole(tmp_path: Path) -> None:
    name = "aawiki-20220801-pages-articles-multistream"
    data, index = _multistream(30)
    write(tmp_path, data, f"in/{name}.xml.bz2")
    write(tmp_path, bz2.compress(index), f"in/{name}-index.txt.bz2")
    one = run(WIKIPEDIA, [str(tmp_path / "in")], out=tmp_path / "a", engine="inline")
    many = run(
        WIKIPEDIA, [str(tmp_path / "in")], out=tmp_path / "b", engine="inline", settings={"source.run_bytes": "2000"}
    )
    figures = [o.report["sources"]["wikipedia"] for o in (one, many)]
    assert figures[0]["kept"] == figures[1]["kept"] == 30
    again = run(
        WIKIPEDIA, [str(tmp_path / "in")], out=tmp_path / "b", engine="inline", settings={"source.run_bytes": "2000"}
    )
    assert again.report["sources"]["wikipedia"]["kept"] == 30 and not again.stale


@pytest.mark.parametrize(
    ("index", "why"),
    [
        (b"100:1:a\n50:2:b\n", "names byte 50"),
        (b"99999999:1:a\n", "names byte 99999999"),
        (b"2500:1:a\n", "no stream begins at byte 2500"),
        (b"hello\n", "not an index"),
        (b"100:1:a", "its last line"),
        (b"BZh9junk", "damaged"),
    ],
)
def test_wrong_index(tmp_path: Path, index: bytes, why: str) -> None:
    name = "aawiki-20220801-pages-articles-multistream"
    write(tmp_path, _multistream(30)[0], f"{name}.xml.bz2")
    write(tmp_path, index, f"{name}-index.txt.bz2")
    with pytest.raises(RecipeError, match=why):
        Wikipedia(run_bytes=2000).plan([str(tmp_path / f"{name}.xml.bz2")])


def test_batches(tmp_path: Path) -> None:
    path = write(tmp_path, dump(*(page(i, "x" * 100) for i in range(1, 11))))
    split = Split("x", str(path))
    sizes = [t.num_rows for t in Wikipedia(batch_bytes=300).read(split, Tally())]
    assert sizes == [3, 3, 3, 1]


# -- pages -------------------------------------------------------------------------------------------------------------

PAGES: dict[str, tuple[str, Counter[str], list[str], list[str]]] = {
    # name: (page, skipped, reasons of failures, texts)
    "article": (page(), Counter(), [], ["Text."]),
    "talk": (page(ns="1"), Counter(namespace_1=1), [], []),
    "special": (page(ns="-1"), Counter(["namespace_-1"]), [], []),
    "namespace of an old dump": (page(ns="", title="Template:A"), Counter(namespace_10=1), [], []),
    "no namespace of an old dump": (page(ns="", title="Foo: A"), Counter(), [], ["Text."]),
    "redirect": (page(redirect='<redirect title="a" />'), Counter(redirect=1), [], []),
    "redirect by text alone": (page(text="#REDIRECT [[a]]"), Counter(), [], ["- REDIRECT a"]),
    "json": (page(model="json"), Counter(model_json=1), [], []),
    "odd model": (page(model="a/../b c"), Counter({"model_a_.._b_c": 1}), [], []),
    "late model": (page(model="").replace("</text>", "</text><model>css</model>"), Counter(model_css=1), [], []),
    "no model": (page(model=""), Counter(), [], ["Text."]),
    "deleted": (page(tag=' deleted="deleted" /', text="").replace("></text>", ">"), Counter(deleted_text=1), [], []),
    "empty": (page(tag=' bytes="0" /', text="").replace("></text>", ">"), Counter(empty_text=1), [], []),
    "blank": (page(text=" \n "), Counter(empty_text=1), [], []),
    "no id": (page(""), Counter(missing_id=1), [], []),
    "no title": (page(title=""), Counter(missing_id=1), [], []),
    "no text": (page().replace("<text>Text.</text>", ""), Counter(), ["malformed_page"], []),
    "half a text": (page().replace("</text>", ""), Counter(), ["malformed_page"], []),
    "too deep": (page(text="{{" * 300 + "a"), Counter(), ["nesting_limit"], []),
    "too large": (page(text="a" * 5000), Counter(), ["record_too_large"], []),
    "controls": (page(text="a\x01b\x7fc&#8;d"), Counter(), [], ["abcd"]),
    "escaped": (page(text="&lt;b&gt;a&lt;/b&gt; &amp;lt;ref&amp;gt; &quot;"), Counter(), [], ['a <ref> "']),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_page(tmp_path: Path, name: str) -> None:
    """What becomes of a page; its neighbours stay."""
    text, skipped, failed, texts = PAGES[name]
    path = write(tmp_path, dump(page(98, "First."), text, page(99, "Last.")))
    rows, tally = read(path, max_page_bytes=4000)
    assert [r["text"] for r in rows] == ["First.", *texts, "Last."]
    assert tally.skipped == skipped and [f[2] for f in tally.failed] == failed and not tally.damage


def test_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, dump(page(1), page(2, "@"), page(3)).replace(b"@", b"a\xffb"))
    rows, tally = read(path)
    assert len(rows) == 2
    assert tally.failed == [
        (doc_id("wikipedia", "x.xml", 2), "https://en.wikipedia.org/wiki/Page_2", "encoding", "page 2")
    ]


def test_columns(tmp_path: Path) -> None:
    text = "A<ref>http://a.org/?b=1&amp;amp;c=2 http://web.archive.org/web/2014id_/https://b.org/x http://a.org/?b=1&amp;c=2</ref>"
    path = write(
        tmp_path, dump(page(5, text, title="A &amp; B?", timestamp="2024-02-29T00:00:01Z"), page(6, timestamp="never"))
    )
    (row, odd), tally = read(path)
    assert row["url"] == "https://en.wikipedia.org/wiki/A_%26_B%3F" and row["title"] == "A & B?"
    assert str(row["date"]) == "2024-02-29 00:00:01+00:00" and row["license"] == "CC-BY-SA-4.0"
    meta = {"page_id": 5, "revision": 77, "wikitext_bytes": len("A<ref>http://a.org/?b=1&amp;c=2 ") + 80}
    assert json.loads(row["meta"])["cited"] == ["http://a.org/?b=1&c=2", "https://b.org/x"]
    assert {k: json.loads(row["meta"])[k] for k in ("page_id", "revision")} == {
        k: meta[k] for k in ("page_id", "revision")
    }
    assert odd["date"] is None and tally.flags == {"bad_date": 1}


def test_same_page_twice(tmp_path: Path) -> None:
    rows, tally = read(write(tmp_path, dump(page(1, "a"), page(2), page(1, "b"))))
    assert [r["text"] for r in rows] == ["a", "Text."] and tally.skipped == {"duplicate_id": 1}


def test_histories(tmp_path: Path) -> None:
    both = page(1, "old").replace("</revision>\n", "</revision>\n<revision><id>9</id><text>new</text></revision>")
    path = write(tmp_path, dump(both))
    with pytest.raises(SourceError, match=r"histories; take pages-articles, or --set source\.last_revision=yes"):
        read(path)
    assert [r["text"] for r in read(path, last_revision=True)[0]] == ["new"]


def test_no_siteinfo(tmp_path: Path) -> None:
    text = page(text="[[Image:a.jpg|x]] [[Bild:b.jpg]] [[Kategorie:c]] d")
    rows, _ = read(write(tmp_path, dump(text, head="<mediawiki>\n"), "dewiki-20220801-x.xml"))
    assert (
        rows[0]["lang"] == "de" and rows[0]["url"] == "https://de.wikipedia.org/wiki/Page_1" and rows[0]["text"] == "d"
    )
    rows, _ = read(write(tmp_path, dump(text, head="<mediawiki>\n"), "y.xml"))
    assert rows[0]["lang"] is None


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.xml", "x.xml.gz", "x.xml.bz2", "streams.xml.bz2"])
def test_truncation_is_always_reported(tmp_path: Path, name: str) -> None:
    """No page that is cut is handed out as whole, wherever a file is cut."""
    data = PACKED[name]
    sizes = random.Random(1).sample(range(1, len(data) - 14), 60)
    for size in sizes:
        path = write(tmp_path, data[:size], f"cut-{size}-{name}")
        tally = Tally()
        try:
            texts = [t for table in Wikipedia().read(Split("x", str(path)), tally) for t in table["text"].to_pylist()]
        except SourceError:  # it ends before it can be seen to be a dump
            continue
        assert tally.damage, size
        assert texts == ["Größe a", "b", "中"][: len(texts)]
        assert len(tally.failed) <= 1 and all(f[2] == "truncated_input" for f in tally.failed)
        if name == "x.xml":
            assert len(tally.failed) == data[:size].count(b"<page>") - data[:size].count(b"</page>")


def test_damaged_stream_costs_its_pages(tmp_path: Path) -> None:
    data, _ = _multistream(10)
    starts = [m.start() for m in wikipedia.STREAM.finditer(data)]
    assert len(starts) == 12
    broken = bytearray(data)
    broken[starts[5] + 40] ^= 0xFF
    rows, tally = read(write(tmp_path, bytes(broken)))
    assert [json.loads(r["meta"])["page_id"] for r in rows] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert tally.damage == [f"corrupt_stream: the bzip2 stream at byte {starts[5]} is damaged"]


def test_stream_damaged_inside_a_page(tmp_path: Path) -> None:
    text = dump(page(1), page(2), page(3)).decode()
    cut = text.index("Page 2")
    middle, last = bytearray(bz2.compress(text[cut : cut + 9].encode())), bz2.compress(text[cut + 9 :].encode())
    middle[-4] ^= 0xFF
    rows, tally = read(write(tmp_path, bz2.compress(text[:cut].encode()) + bytes(middle) + last))
    assert [json.loads(r["meta"])["page_id"] for r in rows] == [1, 3]
    assert [f[2] for f in tally.failed] == ["corrupt_stream"]


@pytest.mark.parametrize(
    ("name", "data", "damage"),
    [
        ("junk.bz2", bz2.compress(PLAIN) + b"junk at the end", "garbage: from byte"),
        ("crc.gz", gzip.compress(PLAIN, mtime=0)[:-8] + b"\0" * 8, "corrupt_stream"),
        ("bomb.bz2", bz2.compress(PLAIN[:-13] + b" " * (64 << 20)), "decompression_limit"),
        ("bomb.gz", gzip.compress(PLAIN[:-13] + b" " * (64 << 20), mtime=0), "decompression_limit"),
        ("no pages", (HEAD + END).encode(), "no_pages"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_damage(tmp_path: Path, name: str, data: bytes, damage: str) -> None:
    rows, tally = read(write(tmp_path, data, "x"))
    assert len(rows) in (0, 3) and any(damage in line for line in tally.damage)
    assert tally.bytes_in < 48 << 20


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a MediaWiki dump"),
        (b"hello", "not a MediaWiki dump: it begins with b'hello'"),
        (b"x" * (2 << 20), "no page in its first"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"7z\xbc\xaf\x27\x1c....", "a 7z archive"),
        (dump(page(), head='<!DOCTYPE m [<!ENTITY a "b">]>' + HEAD), "dtd_forbidden"),
        (dump(page()).replace(b'version="0.10"', b'version="0.99"'), "version b'0.99'"),
        (b'<?xml version="1.0" encoding="latin-1"?>' + dump(page()), "encoding is 'latin-1'"),
    ],
)
def test_not_a_dump(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        read(write(tmp_path, data))


def test_large_page_is_not_held(tmp_path: Path) -> None:
    """A page without an end is dropped as it comes."""
    path = write(tmp_path, dump(page(1), page(2, "a" * (8 << 20)), page(3)))
    rows, tally = read(path, max_page_bytes=1 << 20)
    assert len(rows) == 2 and [f[2] for f in tally.failed] == ["record_too_large"]
    path = write(tmp_path, dump(page(1), page(2, "a" * (8 << 20))[:-20], end=""))
    rows, tally = read(path, max_page_bytes=1 << 20)
    assert len(rows) == 1 and [f[2] for f in tally.failed] == ["record_too_large"] and tally.damage


# -- what there is to read ---------------------------------------------------------------------------------------------


def test_plan_of_a_folder(tmp_path: Path) -> None:
    for name in ("a/x.xml", "b/y.xml.bz2", "b/y-multistream-index.txt.bz2", "c.txt"):
        write(tmp_path, PLAIN, name)
    assert [s.name for s in Wikipedia().plan([str(tmp_path)])] == ["a/x.xml", "b/y.xml.bz2"]
    with pytest.raises(RecipeError, match="an index, not a dump"):
        Wikipedia().plan([str(tmp_path / "b" / "y-multistream-index.txt.bz2")])
    with pytest.raises(RecipeError, match="no file or folder"):
        Wikipedia().plan([str(tmp_path / "none")])


def test_plan_refuses(tmp_path: Path) -> None:
    parts = ["p1p10", "p11p20", "p31p40"]
    for n, part in enumerate(parts, 1):
        write(tmp_path, PLAIN, f"aawiki-20220801-pages-articles{n if n < 3 else 4}.xml-{part}.bz2")
    with pytest.raises(RecipeError, match=r"missing_part: between .*p11p20.bz2 and .*p31p40.bz2 pages 21 to 30"):
        Wikipedia().plan([str(tmp_path)])
    assert len(Wikipedia(allow_missing_parts=True).plan([str(tmp_path)])) == 3
    both = tmp_path / "both"
    for name in ("aawiki-20220801-pages-articles.xml.bz2", "aawiki-20220801-pages-articles-multistream.xml.bz2"):
        write(both, PLAIN, name)
    with pytest.raises(RecipeError, match="hold the same pages"):
        Wikipedia().plan([str(both)])
    with pytest.raises(RecipeError, match="latest moves"):
        Wikipedia().plan(["aawiki-latest"])
    with pytest.raises(RecipeError, match="latest moves"):
        Wikipedia().plan(["https://dumps.wikimedia.org/aawiki/latest/aawiki-latest-pages-articles.xml.bz2"])
    with pytest.raises(RecipeError, match="run_bytes is 0"):
        Wikipedia(run_bytes=0)


def test_checksum_beside_a_file(tmp_path: Path) -> None:
    name, data = "aawiki-20220801-pages-articles.xml.bz2", bz2.compress(PLAIN)
    path = write(tmp_path, data, name)
    for algorithm in ("md5", "sha1"):
        sums = write(
            tmp_path,
            f"{hashlib.new(algorithm, data).hexdigest()}  {name}\n".encode(),
            f"aawiki-20220801-{algorithm}sums.txt",
        )
        assert len(read(path)[0]) == 3
    sums.write_text(f"{'0' * 40}  {name}\n")
    with pytest.raises(SourceError, match="checksum_mismatch: its sha1"):
        read(path)


# -- dumps as they are published ---------------------------------------------------------------------------------------


FILE = "aawiki-20220801-pages-articles.xml.bz2"


@dataclass
class Mirror:
    """A server of dumps: files by their path below `base`."""

    base: str
    files: dict[str, bytes]

    def publish(self, status: str = "done", files: dict[str, bytes] | None = None, sums: bool = True) -> None:
        """A dump of aawiki with its status and its checksums."""
        found = {FILE: bz2.compress(PLAIN)} if files is None else files
        job = {
            "status": status,
            "files": {n: {"size": len(d), "url": f"/aawiki/20220801/{n}"} for n, d in found.items()},
        }
        self.files |= {f"aawiki/20220801/{n}": d for n, d in found.items()}
        self.files["aawiki/20220801/dumpstatus.json"] = json.dumps(
            {"version": "0.8", "jobs": {"articlesdump": job}}
        ).encode()
        if sums:
            lines = [f"{hashlib.sha1(d).hexdigest()}  {n}\n" for n, d in found.items()]
            self.files["aawiki/20220801/aawiki-20220801-sha1sums.txt"] = "".join(lines).encode()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """A mirror on this machine, whose address may be asked."""
    files: dict[str, bytes] = {}

    def serve(request: Request, wire: Wire) -> None:
        body = files.get(request.path.removeprefix("/dumps/"))
        wire.reply(404 if body is None else 200, body or b"")

    configure(Settings(allow_private=True, tries=1))
    try:
        with Server(extra={"dumps": serve}) as server:
            yield Mirror(server.url("dumps"), files)
    finally:
        configure(None)


def test_published_dump(mirror: Mirror) -> None:
    mirror.publish()
    splits = Wikipedia(base=mirror.base).plan(["aawiki-20220801"])
    assert [(s.name, s.path) for s in splits] == [(FILE, f"{mirror.base}/aawiki/20220801/{FILE}")]
    rows, tally = read(splits[0])
    assert [r["text"] for r in rows] == ["Größe a", "b", "中"] and not tally.flags and not tally.damage


def test_published_parts(mirror: Mirror) -> None:
    names = [f"aawiki-20220801-pages-articles{n}.xml-p{n}p{n}.bz2" for n in (1, 2)]
    mirror.publish(files={name: bz2.compress(dump(page(n))) for n, name in enumerate(names, 1)})
    splits = Wikipedia(base=mirror.base).plan(["aawiki-20220801"])
    assert [s.name for s in splits] == names and [len(read(s)[0]) for s in splits] == [1, 1]


def test_published_checksum(mirror: Mirror) -> None:
    mirror.publish()
    mirror.files["aawiki/20220801/aawiki-20220801-sha1sums.txt"] = f"{'0' * 40}  {FILE}\n".encode()
    (split,) = Wikipedia(base=mirror.base).plan(["aawiki-20220801"])
    with pytest.raises(SourceError, match="checksum_mismatch"):
        read(split)
    del mirror.files["aawiki/20220801/aawiki-20220801-sha1sums.txt"]
    assert read(split)[1].flags == {"no_checksum": 1}
    md5 = hashlib.md5(bz2.compress(PLAIN)).hexdigest()
    mirror.files["aawiki/20220801/aawiki-20220801-md5sums.txt"] = f"{md5} *{FILE}\n".encode()
    assert not read(split)[1].flags


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (None, r"no dump aawiki-20220801: .*HTTP status 404 .*kept for some months"),
        ({"status": "in-progress", "files": {}}, "not finished but 'in-progress'"),
        ({"status": "done", "files": {}}, "lists no files"),
        ({"status": "done", "files": {"../x": {"size": 1}}}, r"lists '\.\./x'"),
        ({"status": "done", "files": {FILE.replace("0801", "0701"): {"size": 1}}}, "lists 'aawiki-20220701"),
        ({"status": "done"}, "not the status of a dump"),
        ([], "not the status of a dump"),
        ("[" * 100_000, "not the status of a dump"),
    ],
    ids=["none", "unfinished", "empty", "place", "date", "files", "list", "deep"],
)
def test_status_of_a_dump(mirror: Mirror, status: Any, why: str) -> None:
    if status is not None:
        text = status if isinstance(status, str) else json.dumps({"jobs": {"articlesdump": status}})
        mirror.files["aawiki/20220801/dumpstatus.json"] = text.encode()
    with pytest.raises(SourceError, match=why):
        Wikipedia(base=mirror.base).plan(["aawiki-20220801"])


def test_dumps_of_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(wikipedia, "published", lambda wiki, date, base: asked.append((wiki, date)) or [])
    Wikipedia().plan(["llama-20220801"])
    assert asked == [(f"{lang}wiki", "20220801") for lang in wikipedia.LANGUAGES]


# -- real dumps --------------------------------------------------------------------------------------------------------

REAL = {  # folder/beginning of a name: (articles, redirects, lines of damage, language)
    "gensim/bgwiki": (1, 0, 0, "bg"),
    "gensim/enwiki-latest": (106, 99, 0, "en"),
    "gensim/enwiki-table": (5, 0, 0, "en"),
    "wp2txt/testdata_en": (215, 145, 1, "en"),
    "wp2txt/testdata_ja": (204, 19, 1, "ja"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_dumps(shared_data: Path, name: str) -> None:
    """Counts as an XML parser finds them, and next to no markup left."""
    articles, redirects, damage, lang = REAL[name]
    path = next(iter(shared_data.glob(f"wikipedia/{name}*")))
    rows, tally = read(path)
    assert len(rows) == articles and tally.skipped["redirect"] == redirects and not tally.failed
    assert len(tally.damage) == damage and {r["lang"] for r in rows} == {lang}
    left = [
        r["title"]
        for r in rows
        if re.search(r"\[\[|\{\{|\{\||<ref|</ref|thumb\||^(Category|Категория):", r["text"], re.M)
    ]
    assert len(left) <= 0.005 * len(rows)
