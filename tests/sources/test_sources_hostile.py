"""What a hostile or clumsy user brought to c4, github, wikipedia, books and stackexchange, and what broke once."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import RecipeError
from curate.spdx import PERMISSIVE, needs_only, parse
from curate.stage import Source, Tally
from sources import c4, github
from sources.books import Books
from sources.c4 import C4
from sources.github import GitHub
from sources.licences import WORDING
from sources.repository import Evidence
from sources.stackexchange import StackExchange
from sources.wikipedia import Wikipedia


def read(source: Source, path: Path) -> tuple[list[dict[str, object]], Tally]:
    (split,) = source.plan([str(path)])
    tally = Tally()
    return [row for table in source.read(split, tally) for row in table.to_pylist()], tally


def test_lone_surrogates_and_line_ends_in_a_table_of_files(tmp_path: Path) -> None:
    row = {"path": "a\ud800\n.py", "content": "x = 1\udc00\n", "repository": "o\ud811/r", "license": ["MIT", "\ud812"]}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"path": "p" * 5000}))
    (document,), tally = read(GitHub(), tmp_path / "t.jsonl")
    assert document["title"] == "a\\xed\\xa0\\x80\\n.py"
    assert [reason for _, _, reason, _ in tally.failed] == ["bad_row"]  # a path that is too long


def test_a_parquet_file_that_swells_is_not_read(tmp_path: Path) -> None:
    large = pa.table({"path": [f"{i}.py" for i in range(8)], "content": ["x = 1\n" * 500_000] * 8})
    pq.write_table(large, tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    documents, tally = read(GitHub(), tmp_path / "t.parquet")
    assert not documents
    assert tally.damage[0].startswith("decompression_limit")


def test_a_parquet_file_with_bad_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.py"], "content": ["x = 1"]}), tmp_path / "t.parquet")
    stored = (tmp_path / "t.parquet").read_bytes().replace(b"content", b"conte\xff\xfe")
    (tmp_path / "t.parquet").write_bytes(stored)
    documents, tally = read(GitHub(), tmp_path / "t.parquet")
    assert not documents
    assert tally.damage[0].startswith("corrupt_member")


def test_what_is_no_table_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github, "MAX_BAD_ROWS", 100)
    monkeypatch.setattr(c4, "MAX_FAILED", 100)
    (tmp_path / "t.jsonl").write_bytes(b"{}\n" * 2_000_000)
    for source, most in ((GitHub(), 100), (C4(), 1_000_000)):
        documents, tally = read(source, tmp_path / "t.jsonl")
        assert not documents
        assert len(tally.failed) <= most
        assert "the rest is not read" in tally.damage[0]


def test_columns_of_c4_are_bounded() -> None:
    with pytest.raises(RecipeError, match="must be at most"):
        C4(batch_rows=10**14)


def test_json_is_no_book(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(b'{"text": "words of a page", "url": "http://a.example/"}\n' * 9)
    documents, tally = read(Books(), tmp_path / "a.json.gz")
    assert not documents
    assert [reason for _, _, reason, _ in tally.failed] == ["not_text"]


def test_a_bad_post_does_not_take_the_id_of_a_sound_one(tmp_path: Path) -> None:
    row = '<row Id="5" PostTypeId="1" Score="1" Title="T" Body="&lt;p&gt;Text.&lt;/p&gt;" />'
    bad = row.replace('Title="T"', 'Title="&nope;"')
    folder = tmp_path / "a.stackexchange.com"
    folder.mkdir()
    (folder / "Posts.xml").write_text("\n".join(('<?xml version="1.0"?>', "<posts>", bad, bad, row, "</posts>")))
    documents, tally = read(StackExchange(), folder / "Posts.xml")
    ids = [failed[0] for failed in tally.failed] + [document["doc_id"] for document in documents]
    assert len(documents) == 1
    assert len(set(ids)) == len(ids) == 3


def test_a_bad_page_does_not_take_the_id_of_a_sound_one(tmp_path: Path) -> None:
    page = "<page><title>T{}</title><ns>0</ns><id>7</id><revision><id>1</id>{}</revision></page>"
    head = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="en"><siteinfo>'
        "<dbname>enwiki</dbname></siteinfo>"
    )
    pages = [page.format(0, "no text"), page.format(1, "no text"), page.format(2, "<text>Some words.</text>")]
    (tmp_path / "enwiki-20220801-pages-articles.xml").write_text("\n".join([head, *pages, "</mediawiki>"]))
    documents, tally = read(Wikipedia(), tmp_path / "enwiki-20220801-pages-articles.xml")
    ids = [failed[0] for failed in tally.failed] + [document["doc_id"] for document in documents]
    assert len(documents) == 1
    assert len(set(ids)) == len(ids) == 3


MIT, BSD_2 = ("\n\n".join(" ".join(text.split()) for _, text in WORDING[name]) for name in ("MIT", "BSD-2-Clause"))
APACHE = (Path(github.__file__).parent / "spdx" / "Apache-2.0.txt").read_text()
DISCLAIMER = "THE SOFTWARE IS PROVIDED"
BINDS = {
    "hippocratic": MIT.replace(
        DISCLAIMER, f"The Software may not be used by groups that violate human rights.\n\n{DISCLAIMER}"
    ),
    "send back": MIT.replace(DISCLAIMER, f"Modified versions are to be sent to the author.\n\n{DISCLAIMER}"),
    "beer": MIT.replace(DISCLAIMER, f"If we meet some day, you buy me a beer.\n\n{DISCLAIMER}"),
    "german": f"{MIT}\nDie Nutzung für gewerbliche Zwecke ist untersagt.\n",
    "not to be modified": BSD_2.replace("with or without modification", "without modification"),
    "royalty": APACHE.replace("royalty-free", "royalty-bearing"),
    "students": "Released under the MIT License to students of the course.",
    "until": "MIT licensed until 2025, then all rights reserved.",
    "formerly": "This project was formerly under the MIT License.",
}


@pytest.mark.parametrize("name", BINDS)
def test_a_licence_with_one_more_condition_is_not_kept(name: str) -> None:
    evidence = Evidence()
    evidence.add("LICENSE", BINDS[name].encode())
    assert not needs_only(parse(evidence.below("").of("a.py", b"x = 1").licence), PERMISSIVE)


@pytest.mark.parametrize("text", [MIT, BSD_2, APACHE], ids=["MIT", "BSD-2-Clause", "Apache-2.0"])
def test_the_same_without_it_is_kept(text: str) -> None:
    evidence = Evidence()
    evidence.add("LICENSE", text.encode())
    assert needs_only(parse(evidence.below("").of("a.py", b"x = 1").licence), PERMISSIVE)
