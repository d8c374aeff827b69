"""Dumps of Stack Exchange: rows, text of bodies, the join, damage, and what there is to read."""

from __future__ import annotations

import hashlib
import html
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from html.entities import html5
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import download, worker
from curate.errors import RecipeError, SourceError
from curate.exchange import Settings
from curate.filters.posts import provider_canary
from curate.kernels import posts
from curate.stage import Split, Tally
from pipelines.llama import STACKEXCHANGE
from sources import stackexchange
from sources.samples import build_stackexchange as sample
from sources.samples.build_stackexchange import answer, archive, other, question, table
from sources.stackexchange import StackExchange
from tests.hostile_server import Request, Server, Wire

SITE = "tea.stackexchange.com"
DAY = "2019-05-05T10:00:00.000"


def write(folder: Path, data: bytes, site: str = SITE) -> Split:
    path = folder / site / "Posts.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Split(site, str(path), len(data))


def read(source: StackExchange, split: Split, scratch: str | None = None) -> tuple[list[dict[str, Any]], Tally]:
    tally = Tally(scratch=scratch)
    tables = list(source.read(split, tally))
    return [row for t in tables for row in t.to_pylist()], tally


def read_rows(folder: Path, rows: list[dict[str, Any]], **choices: Any) -> tuple[list[dict[str, Any]], Tally]:
    return read(StackExchange(**choices), write(folder, table("posts", rows)))


def records(documents: list[dict[str, Any]], tally: Tally) -> int:
    return len(documents) + tally.merged + len(tally.failed) + sum(tally.skipped.values())


def reasons(tally: Tally) -> Counter[str]:
    return Counter(reason for _, _, reason, _ in tally.failed)


# -- an oracle for the text of a body, written from the rules in curate/kernels/posts.py -------------------------------

TAG = re.compile(r"""<(/?)([A-Za-z][A-Za-z0-9]*)((?>(?:(?<==)"[^"]*"|(?<==)'[^']*'|[^>])*))>""")
OPAQUE = re.compile(r"<!--.*?(?:(?<=--)>|\Z)|<[!?][^>]*(?:>|\Z)", re.S)
REFERENCE = re.compile(r"&#[0-9]+;?|&#[xX][0-9A-Fa-f]+;?|&[A-Za-z0-9]{1,33};")
KINDS = {name: kind for kind, names in posts._ELEMENTS.items() for name in names.split()}
BLANK = "".join(map(chr, (*range(33), *range(127, 160))))


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """("open" | "close", name), ("text", what is shown for one character or reference)."""
    at = 0
    while at < len(text):
        opaque, tag, reference = (p.match(text, at) for p in (OPAQUE, TAG, REFERENCE))
        if opaque and text[at + 1] in "!?":
            at = opaque.end()
        elif tag:
            at = tag.end()
            name = tag[2].lower() if not tag[3] or tag[3][0] == "/" or tag[3][0] <= " " else "unknown"
            yield ("close" if tag[1] else "open"), name
            if KINDS.get(name) == posts.RAW and not tag[1]:
                end = re.compile(f"</{name}", re.I).search(text, at)
                at = end.start() if end else len(text)
        elif reference and resolved(reference[0]):
            at = reference.end()
            yield "text", resolved(reference[0])
        else:
            yield "text", text[at]
            at += 1


def resolved(reference: str) -> str:
    if reference[1] != "#":
        return html5.get(reference[1:], "")
    value = int(reference[3:].rstrip(";"), 16) if reference[2] in "xX" else int(reference[2:].rstrip(";"))
    if value > 0x10FFFF or 0xD800 <= value < 0xE000 or value == 0:
        return "\ufffd"
    shown = html.unescape(f"&#{value};")
    return shown if len(shown) == 1 and (shown in "\t\r\n" or shown not in BLANK) else " "


def plain(text: str) -> str:
    """The text of HTML, as slowly and clearly as can be."""
    out, want, space, bar, item, pre, code, cells = "", 0, False, False, False, False, False, 0
    fresh = False
    lists: list[list[int]] = []  # [number so far, or -1 for bullets; items so far]
    returned = False
    for what, value in tokens(text):
        kind = KINDS.get(value) if what != "text" else None
        if what != "text":
            is_open = what == "open"
            if kind == posts.RAW:
                continue
            if kind == posts.PRE:
                pre, fresh, code, want, space, bar, returned = is_open, is_open, False, 2, False, False, False
                continue
            if pre and kind != posts.BREAK:
                fresh = False
                continue
            if pre:
                fresh, value = False, "\n"
            elif kind == posts.BREAK:
                want, space = min(want + 1, 2), False
                continue
            else:
                if kind == posts.CODE:
                    code = is_open
                elif kind is not None:
                    code = space = False
                if kind == posts.BLOCK:
                    want = want if item else 2
                elif kind == posts.LINE:
                    want = max(want, 1)
                elif kind in (posts.BULLETS, posts.NUMBERS):
                    if is_open:
                        lists.append([0 if kind == posts.NUMBERS else -1, 0])
                        if len(lists) > posts.LEVELS:  # from there on all share one numbering
                            lists[posts.LEVELS - 1] = lists[-1]
                        want = 1 if len(lists) > 1 else 2
                    else:
                        if lists:
                            lists.pop()
                        item, want = False, 1 if lists else 2
                elif kind == posts.ITEM and is_open:
                    item = True
                    own = lists[min(len(lists), posts.LEVELS) - 1] if lists else [-1, 1]
                    want = max(want, 1) if own[1] == 0 else 1
                    own[1] += 1
                    own[0] += 1 if own[0] >= 0 else 0
                elif kind == posts.ITEM:
                    want = max(want, 1)
                elif kind == posts.ROW:
                    want, cells, bar = max(want, 1), 0, False
                elif kind == posts.CELL and is_open:
                    bar = cells > 0
                    cells += 1
                continue
        if value in BLANK and value not in "\t\n\r ":
            value = " "
        if pre:
            if what == "text" and value == "\n" and returned:
                returned = False
                continue
            returned = what == "text" and value == "\r"
            value = "\n" if value == "\r" else value
            if fresh and value == "\n":
                fresh = False
                continue
            fresh = False
        elif value in "\t\n\r ":
            if not code:
                space = True
                continue
            value = " "
        if out:
            if bar:
                out += " | "
            elif want:
                have = len(out) - len(out.rstrip("\n"))
                out += "\n" * (want - have)
            elif space:
                out += " "
        if item:
            own = lists[min(len(lists), posts.LEVELS) - 1] if lists else [-1, 1]
            out += "  " * (min(len(lists), posts.LEVELS) - 1)
            out += (f"{own[0]}." if own[0] > 0 else "-") + ("\n" if pre else " ")
        want, space, bar, item = 0, False, False, False
        out += value
    return out.rstrip("\n ")


def rendered(body: str) -> str:
    """The text that the kernel makes of a body."""
    raw = np.frombuffer(body.encode(), np.uint8)
    out = np.empty(4 * len(raw) + 64, np.uint8)
    end = posts._render(
        raw, len(raw), out, 0, False, *posts.ELEMENTS, *posts.entities(), posts.low_points(), *posts.scratch()
    )
    return out[:end].tobytes().decode()


MARKUP = st.sampled_from(
    [f"<{n}>" for n in KINDS] + [f"</{n}>" for n in KINDS] + ["<a href=\"x>y\">", "</a>", "<b class='", "<", "<x", "</",
     "&amp;", "&lt;", "&#10;", "&#x41;", "&#0;", "&#128;", "&#xD800;", "&nbsp;", "&nosuch;", "&nGt;", "&", "&#", "\r\n",
     "\t", " ", "  ", "\n", "\n\n", "<!-- ", "-->", "<!>", "<?php ", ">", '"', "'", "=", "x", "Æ", "日本",
     "\x85", "a b"]
)  # fmt: skip


@given(st.lists(MARKUP | st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), max_size=4), max_size=25))
@settings(max_examples=600, deadline=None)
def test_text_of_any_html_is_that_of_the_rules(parts: list[str]) -> None:
    body = "".join(parts)
    assert rendered(body) == plain(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p>one</p>\n\n<p>two\nthree</p>", "one\n\ntwo three"),
        ("<p>a <b>b</b><i>c</i>  d</p>", "a bc d"),
        ("<ul><li>a</li><li><p>b</p><ul><li>c</li></ul></li></ul><p>d</p>", "- a\n- b\n  - c\n\nd"),
        ("<ol><li>a</li><li>b</li></ol>x", "1. a\n2. b\n\nx"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a | b\nc"),
        ("a<br>b<br><br>c", "a\nb\n\nc"),
        ("<pre><code>  x &lt; 1\n\n\ty\n</code></pre><p>z</p>", "  x < 1\n\n\ty\n\nz"),
        ("<p>open <code>a  b</p><p>c  d</p>", "open a  b\n\nc d"),
        ("<pre><code>never closed\n  x", "never closed\n  x"),
        ("x<script>if (a < b) alert('</p>')</script>y<style>p{}</style>z", "xyz"),
        ("a<!-- <p>no</p> -->b", "ab"),
        ("1 < 2 and <3, a<b", "1 < 2 and <3, a<b"),
        ('<a title="a > b" href="u">link</a>', "link"),
        ("AT&amp;T &eacute; &#233; &#x1F600; &unknown; &amp;lt;", "AT&T é é 😀 &unknown; &lt;"),
        ('<img src="data:image/png;base64,AAAA" alt="x">', ""),
        ("<p></p>", ""),
    ],
)
def test_text_of_ordinary_html(body: str, text: str) -> None:
    assert rendered(body) == text
    assert plain(body) == text


CODE = st.text(st.sampled_from("abcXYZ 012 \t\n  {}<>&\"'#;=-Æ日"), min_size=1, max_size=60).map(lambda x: f"x{x}x")


@given(st.lists(CODE, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_code_is_kept_byte_for_byte(blocks: list[str]) -> None:
    body = "".join(
        f'<p>t</p>\n\n<pre class="lang"><code>{html.escape(code, quote=False)}\n</code></pre>\n' for code in blocks
    )
    assert rendered(body) == "\n\n".join(f"t\n\n{code}" for code in blocks)


def test_what_is_nested_deep_or_never_ends_is_read() -> None:
    assert rendered("<blockquote>" * 1000 + "x") == "x"
    deep = rendered("<ul><li>" * 3000 + "x")
    assert deep == plain("<ul><li>" * 3000 + "x") and len(deep) < 20
    for piece in ("<a ", "<a x='", '<a x="', "&", "&#", "<!--", "<script>", "<", "</", "&amp;", "<pre>", "<li>"):
        rendered(piece * 20_000)


# -- rows -------------------------------------------------------------------------------------------------------------


def by_expat(data: bytes) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, attributes: rows.append(attributes) if tag == "row" else None
    parser.Parse(data, True)
    return rows


def by_join(rows: list[dict[str, str]]) -> list[tuple[int, list[int]]]:
    """(question, its answers in order) from attributes of well-formed rows."""
    questions = sorted(int(r["Id"]) for r in rows if r["PostTypeId"] == "1")
    answers = defaultdict(list)
    for r in rows:
        if r["PostTypeId"] == "2":
            answers[int(r["ParentId"])].append((-int(r["Score"]), int(r["Id"])))
    return [(q, [one for _, one in sorted(answers[q])]) for q in questions]


@pytest.mark.parametrize("run_bytes", [20_000, 1 << 26], ids=["on_disk", "in_memory"])
@pytest.mark.parametrize("site", ["cardano.stackexchange.com", "coffee.stackexchange.com"])
def test_real_sites_are_what_expat_reads(shared_data: Path, site: str, run_bytes: int) -> None:
    path = shared_data / "stackexchange" / site / "Posts.xml"
    (split,) = StackExchange().plan([str(path)])
    assert split.name == site
    rows = by_expat(path.read_bytes())
    documents, tally = read(StackExchange(run_bytes=run_bytes), split)
    metas = [json.loads(d["meta"]) for d in documents]
    assert [(m["id"], m["answer_ids"]) for m in metas] == by_join(rows)
    assert records(documents, tally) == len(rows)
    assert not tally.failed and not tally.damage and not tally.flags
    assert tally.input_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    asked = {int(r["Id"]): r for r in rows}
    for d, m in zip(documents, metas, strict=True):
        row = asked[m["id"]]
        assert d["title"] == " ".join(row["Title"].split())
        assert d["date"] == datetime.fromisoformat(f"{row['CreationDate']}+00:00")
        assert m["score"] == int(row["Score"]) and m["tags"] == row["Tags"].strip("<>").split("><")
        assert (
            str(m["accepted"]) == row.get("AcceptedAnswerId", "None")
            or int(row["AcceptedAnswerId"]) not in m["answer_ids"]
        )
        bodies = [plain(asked[one]["Body"]) for one in (m["id"], *m["answer_ids"])]
        assert re.sub(r"\s+", " ", d["text"]) == re.sub(r"\s+", " ", f"Q: {d['title']} " + "\nA: ".join(bodies)).strip()
        for one in (m["id"], *m["answer_ids"]):  # every block of code is there as it is
            for code in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", asked[one]["Body"], re.S):
                assert html.unescape(re.sub(r"<[^>]+>", "", code)).rstrip("\n ") in d["text"]


VALUE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=12)
RAW = st.sampled_from(
    ["&lt;", "&gt;", "&amp;", "&quot;", "&apos;", "&#xA;", "&#x1F600;", "&#9;", "&#65;", "x", ">", "é", "'"]
)
BAD = st.sampled_from(["&", "&nbsp;", "&#xD800;", "&#x0B;", "&#11;", "&#0;", "&#x110000;", "&#;", "&#x;", "&lt", "\x01",
                       "<", '"', "\x0b", "&ltt;", "&quo;", "&am;", "&apo;", "\ufffe"])  # fmt: skip


@given(st.lists(RAW | BAD, max_size=6), st.booleans())
@settings(max_examples=500, deadline=None)
def test_a_row_is_taken_where_expat_takes_it(parts: list[str], unknown: bool) -> None:
    value = "".join(parts)
    name = "Other" if unknown else "Body"
    data = f'<posts><row Id="1" PostTypeId="1" {name}="{value}" /></posts>'.encode()
    try:
        (row,) = by_expat(data)
    except expat.ExpatError:
        row = None
    scan = stackexchange._Scan(Split(SITE, SITE), tally := Tally(), 1 << 20)
    scan.add(data)
    windows = list(scan.windows(final=True))
    if '"' in value:  # it ends the value: what comes behind may be the end of the row
        assert len(windows) + len(tally.failed) == 1
    elif row is None and "\ufffe" not in value:
        assert not windows and len(tally.failed) == 1, reasons(tally)
    elif row is not None and "\ufffe" not in value:
        assert len(windows) == 1 and not tally.failed
        found = windows[0]
        scratch = np.empty(200, np.uint8)
        start, stop = found.rows[0, [posts.BODY, posts.BODY_END]]
        n = posts._decode(found.data, start, stop, scratch, 0)
        assert scratch[:n].tobytes().decode() == row.get("Body", "")


BROKEN = {
    "control_reference": (b"&#x0B;", "bad_character"),
    "surrogate": (b"&#xD800;", "bad_character"),
    "raw_control": (b"\x08", "bad_character"),
    "not_utf8": (b"\xff\xfe", "encoding"),
    "surrogate_utf8": (b"\xed\xa0\x80", "encoding"),
    "html_entity": (b"&nbsp;", "bad_entity"),
    "bare_ampersand": (b"a & b", "bad_entity"),
    "less_than": (b"a < b", "bad_xml"),
    "lost_quote": (b'a" b', "bad_xml"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_row_costs_itself(tmp_path: Path, case: str) -> None:
    rows = [question(i, DAY, 1, f"title {i}", "a", f"<p>body {i}</p>") for i in (1, 2, 3)]
    data = table("posts", rows).replace(b"body 2", BROKEN[case][0])
    documents, tally = read(StackExchange(), write(tmp_path, data))
    assert [d["title"] for d in documents] == ["title 1", "title 3"]
    assert reasons(tally) == {BROKEN[case][1]: 1}
    assert not tally.damage


def test_rows_in_any_form_of_xml(tmp_path: Path) -> None:
    data = (
        b"<?xml version='1.0'?><!-- <row Id='7'/> --><posts><row\n\tId = '1' PostTypeId='1' Title='a\nb' "
        b'Body="&lt;p>x"></row><row Body="say \'y\' > z" PostTypeId="2" ParentId="1" Id="2"/></posts><!-- end -->\n'
    )
    documents, tally = read(StackExchange(), write(tmp_path, data))
    assert [d["text"] for d in documents] == ["Q: a b x\nA: say 'y' > z"]
    assert not tally.failed and not tally.damage and tally.flags == {"no_score": 2, "bad_date": 2}


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_the_bounds_of_chunks_change_nothing(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    split = write(tmp_path, table("posts", sample.KITCHEN_POSTS).replace(b"leathery", b"&#x0B;"))
    whole = read(StackExchange(), split)
    monkeypatch.setattr(stackexchange, "WINDOW", 1)
    monkeypatch.setattr(stackexchange, "ROWS", 3)
    monkeypatch.setattr(stackexchange.io, "CHUNK", size)
    documents, tally = read(StackExchange(), split)
    assert documents == whole[0]
    assert (tally.failed, tally.skipped, tally.merged) == (whole[1].failed, whole[1].skipped, whole[1].merged)


def test_a_row_that_is_too_large_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stackexchange, "WINDOW", 1 << 16)
    rows = [question(i, DAY, 1, f"title {i}", "a", "x" * (3_000_000 if i == 2 else 10)) for i in (1, 2, 3)]
    split = write(tmp_path, table("posts", rows))
    documents, tally = read(StackExchange(max_row_bytes=1_000_000), split)
    assert [d["title"] for d in documents] == ["title 1", "title 3"]
    assert [(u, r) for _, u, r, _ in tally.failed] == [(f"https://{SITE}/q/2", "too_large")]
    assert len(read(StackExchange(), split)[0]) == 3


def test_a_cut_file_is_reported_and_gives_whole_records(tmp_path: Path) -> None:
    data = table("posts", sample.KITCHEN_POSTS)
    whole = {d["doc_id"]: d for d in read(StackExchange(), write(tmp_path, data))[0]}
    draw = random.Random(3)
    for _ in range(60):
        stop = draw.randrange(80, len(data))
        documents, tally = read(StackExchange(), write(tmp_path, data[:stop]))
        assert len(tally.damage) == 1 and tally.damage[0].startswith("truncated_input"), stop
        assert records(documents, tally) == data[:stop].count(b"<row ")
        for d in documents:
            full = whole[d["doc_id"]]["text"].split("\nA: ")
            assert all(piece in full for piece in d["text"].split("\nA: "))


def test_any_flipped_bits_leave_an_account(tmp_path: Path) -> None:
    data = table("posts", sample.KITCHEN_POSTS)
    draw = random.Random(5)
    for _ in range(150):
        bad = bytearray(data)
        for _ in range(3):
            bad[draw.randrange(100, len(bad))] ^= 1 << draw.randrange(8)
        documents, tally = read(StackExchange(), write(tmp_path, bytes(bad)))
        assert records(documents, tally) <= len(sample.KITCHEN_POSTS)
        assert sum(reasons(tally).values()) + (records(documents, tally) < len(sample.KITCHEN_POSTS)) <= 6
        for d in documents:
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", d["text"])


def test_a_file_of_bad_rows_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stackexchange, "MAX_FAILED", 10)
    data = b"<posts>" + b"<row/>" * 50 + b"</posts>"
    documents, tally = read(StackExchange(), write(tmp_path, data))
    assert not documents and len(tally.failed) == 10 and "over 10 bad rows" in tally.damage[0]


def test_no_document_type_and_no_other_table(tmp_path: Path) -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE posts [<!ENTITY a "b">]><posts></posts>'
    with pytest.raises(SourceError, match="document type"):
        read(StackExchange(), write(tmp_path, bomb))
    with pytest.raises(SourceError, match="not a table of posts"):
        read(StackExchange(), write(tmp_path, b"PK\x03\x04 this is a zip file"))
    documents, tally = read(StackExchange(), write(tmp_path, b""))
    assert not documents and tally.damage


# -- posts -------------------------------------------------------------------------------------------------------------


def test_answers_are_sorted_by_score_as_numbers_then_by_id(tmp_path: Path) -> None:
    scores = {5: 9, 6: 100, 7: 10, 8: -1, 9: 10, 3: 10}
    rows = [question(1, DAY, 1, "t", "a", "q"), *(answer(i, 1, DAY, s, f"a{i}") for i, s in scores.items())]
    documents, _ = read_rows(tmp_path, rows)
    assert documents[0]["text"].split("\nA: ")[1:] == ["a6", "a3", "a7", "a9", "a5", "a8"]
    assert json.loads(documents[0]["meta"])["answer_scores"] == [100, 10, 10, 10, 9, -1]


def test_templates(tmp_path: Path) -> None:
    rows = [question(1, DAY, 1, "t\n1", "a", "<p>q</p>"), answer(2, 1, DAY, 1, "<pre><code>  x\n</code></pre>")]
    assert read_rows(tmp_path, rows)[0][0]["text"] == "Q: t 1 q\nA:\n  x"
    assert read_rows(tmp_path, rows, template="blocks")[0][0]["text"] == "Q: t 1\n\nq\n\nA:\n  x"


def test_a_question_may_lack_anything(tmp_path: Path) -> None:
    rows = b"".join(
        b'<row Id="%d" PostTypeId="1" %s/>' % (i, x) for i, x in ((1, b""), (2, b'Title="t"'), (3, b'Body="b"'))
    )
    data = b"<posts>" + rows + b"</posts>"
    documents, _ = read(StackExchange(), write(tmp_path, data))
    assert [d["text"] for d in documents] == ["Q:", "Q: t", "Q: b"]
    assert [d["license"] for d in documents] == [None] * 3 and json.loads(documents[0]["meta"])["tags"] == []


def test_fields_of_a_document(tmp_path: Path) -> None:
    rows = [
        question(4, "2012-12-12T01:02:03.456", -3, "t", "c# .net", "q", AcceptedAnswerId=6, AnswerCount=3),
        answer(6, 4, "2019-01-01T00:00:00.000", 2, "a", ContentLicense="CC BY-SA 4.0"),
    ]
    ((document,), tally) = read_rows(tmp_path, rows)
    meta = json.loads(document.pop("meta"))
    assert meta == {
        "site": SITE, "id": 4, "score": -3, "tags": ["c#", ".net"], "accepted": 6, "answers": 1, "answer_count": 3,
        "answer_ids": [6], "answer_scores": [2], "owner": 14,
    }  # fmt: skip
    assert document["date"].isoformat() == "2012-12-12T01:02:03.456000+00:00"
    assert document["url"] == f"https://{SITE}/questions/4" and document["title"] == "t"
    assert document["license"] == "CC-BY-SA-3.0 AND CC-BY-SA-4.0"
    assert tally.merged == 1


@pytest.mark.parametrize(
    ("date", "license"),
    [
        ("2008-08-01T00:00:00.000", "CC-BY-SA-2.5"),
        ("2011-04-07T23:59:59.999", "CC-BY-SA-2.5"),
        ("2011-04-08T00:00:00.000", "CC-BY-SA-3.0"),
        ("2018-05-01T23:59:59.999", "CC-BY-SA-3.0"),
        ("2018-05-02T00:00:00.000", "CC-BY-SA-4.0"),
        ("no date", None),
    ],
)
def test_license_by_date(tmp_path: Path, date: str, license: str | None) -> None:
    assert read_rows(tmp_path, [question(1, date, 1, "t", "a", "q")])[0][0]["license"] == license
    stated = question(1, date, 1, "t", "a", "q", ContentLicense="CC BY-SA 2.5")
    assert read_rows(tmp_path, [stated])[0][0]["license"] == "CC-BY-SA-2.5"


@pytest.mark.parametrize(
    "date", ["2019-02-29T10:00:00", "2019-13-01T10:00:00", "2019-01-01T24:00:00", "2019-01-01", "x"]
)
def test_a_bad_date_is_none(tmp_path: Path, date: str) -> None:
    documents, tally = read_rows(tmp_path, [question(1, date, 1, "t", "a", "q")])
    assert documents[0]["date"] is None and tally.flags == {"bad_date": 1}


@given(st.datetimes())
@settings(max_examples=200, deadline=None)
def test_dates_are_those_of_the_calendar(when: Any) -> None:
    text = when.isoformat(timespec="milliseconds").encode()
    expected = np.datetime64(text.decode(), "us").astype(np.int64)
    assert posts._date(np.frombuffer(text, np.uint8), 0, len(text)) == expected


def test_other_types_orphans_and_copies_are_counted(tmp_path: Path) -> None:
    rows = [
        question(1, DAY, 1, "first", "a", "q"),
        answer(2, 1, DAY, 5, "kept"),
        answer(2, 1, DAY, 50, "same id again"),
        question(1, DAY, 1, "second", "a", "q"),
        answer(3, 99, DAY, 1, "its question is gone"),
        answer(4, 0, DAY, 1, "no parent"),
        {"Id": 5, "Body": "no type"},
        {"Id": "x", "PostTypeId": 1},
        {"Id": 2**31, "PostTypeId": 1},
        *(other(10 + kind, kind, "x") for kind in (3, 4, 5, 6, 7, 8, 17)),
    ]
    documents, tally = read_rows(tmp_path, rows)
    assert [d["text"] for d in documents] == ["Q: first q\nA: kept"]
    assert reasons(tally) == {"duplicate_id": 2, "no_parent": 1, "no_type": 1, "bad_id": 2}
    assert tally.skipped == {
        "orphan_answer": 1, "wiki": 1, "tag_excerpt": 1, "tag_wiki": 1, "moderator_nomination": 1,
        "wiki_placeholder": 1, "privilege_wiki": 1, "unknown_type": 1,
    }  # fmt: skip
    assert records(documents, tally) == len(rows)
    assert len({doc_id for doc_id, *_ in tally.failed} | {d["doc_id"] for d in documents}) == 7


def test_made_up_posts_are_kept_apart_and_dropped(tmp_path: Path) -> None:
    rows = [
        question(1, DAY, 1, "real", "a", "q"),
        answer(1_000_000_010, 1, DAY, 99, "made up, under a real question"),
        question(1_000_000_001, DAY, 1, "made up", "a", "q"),
        answer(2, 1_000_000_001, DAY, 1, "an answer to it"),
    ]
    split = write(tmp_path, table("posts", rows))
    (documents,) = StackExchange().read(split, tally := Tally())
    assert documents["text"][0].as_py() == "Q: real q"
    outcome = provider_canary()(documents)
    assert outcome.reason.to_pylist() == [None, "provider_canary", "provider_canary"]
    assert outcome.value.to_pylist()[1:] == ["1000000001", "1000000010"]
    assert provider_canary(first_id=2_000_000_000)(documents).reason.null_count == 3
    assert records(documents.to_pylist(), tally) == 4
    nameless = documents.set_column(documents.schema.get_field_index("meta"), "meta", pa.nulls(3, pa.string()))
    assert provider_canary()(nameless).reason.null_count == 3


# -- the join ----------------------------------------------------------------------------------------------------------


def site(n: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(1, n):
        parent = draw.randrange(1, n)
        is_question = i % 3 == 0
        text = "word " * draw.randrange(40)
        rows.append(
            question(i, DAY, 1, f"t{i}", "a", text) if is_question else answer(i, parent, DAY, parent % 5, text)
        )
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_neither_memory_nor_order_changes_the_documents(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = site(900, seed)
    expected = read_rows(tmp_path, rows)
    shuffled = rows[:]
    random.Random(seed).shuffle(shuffled)
    monkeypatch.setattr(stackexchange, "WINDOW", 5_000)
    monkeypatch.setattr(stackexchange, "BLOCK", 700)
    for step in (1, 3_000, 40_000):
        monkeypatch.setattr(stackexchange, "STEP", step)
        for given_rows in (rows, shuffled):
            documents, tally = read_rows(tmp_path, given_rows, run_bytes=20_000, batch_bytes=10_000)
            assert documents == expected[0]
            assert (tally.merged, tally.skipped) == (expected[1].merged, expected[1].skipped)
    assert [json.loads(d["meta"])["id"] for d in documents] == list(range(3, 900, 3))


def test_tables_are_bounded(tmp_path: Path) -> None:
    split = write(tmp_path, table("posts", site(900, 1)))
    tables = list(StackExchange(batch_bytes=5_000).read(split, Tally()))
    sizes = [sum(len(x) for x in t["text"].to_pylist()) for t in tables]
    assert len(tables) > 5 and max(sizes) < 10_000 and min(sizes[:-1]) >= 2_000


def test_a_question_with_too_many_answers_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [question(1, DAY, 1, "t", "a", "q"), question(5000, DAY, 1, "u", "a", "q")]
    rows += [answer(i, 1, DAY, i, f"answer {i} " + "x" * 300) for i in range(2, 1002)]
    whole = read_rows(tmp_path, rows, max_document_bytes=50_000)
    monkeypatch.setattr(stackexchange, "WINDOW", 5_000)
    monkeypatch.setattr(stackexchange, "BLOCK", 2_000)
    monkeypatch.setattr(stackexchange, "STEP", 9_000)
    documents, tally = read_rows(tmp_path, rows, run_bytes=20_000, max_document_bytes=50_000)
    kept = json.loads(documents[0]["meta"])["answer_ids"]
    assert kept == list(range(1001, 1001 - len(kept), -1)) and 50 < len(kept) < 200
    assert tally.skipped == {"answer_over_limit": 1000 - len(kept)}
    assert whole[0] == documents and whole[1].skipped == tally.skipped


def test_the_temporary_file_has_no_name_and_goes(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    split = write(tmp_path, table("posts", site(900, 1)))
    tables = StackExchange(run_bytes=5_000, batch_bytes=1_000).read(split, Tally(scratch=str(scratch)))
    next(tables)
    opened = [str(p.readlink()) for p in Path("/proc/self/fd").iterdir() if p.is_symlink()]
    assert sum(str(scratch) in x for x in opened) == 1  # it is there, in this folder
    assert not list(scratch.iterdir())
    tables.close()  # type: ignore[attr-defined]
    assert not any(str(scratch) in str(p.readlink()) for p in Path("/proc/self/fd").iterdir() if p.is_symlink())


# -- what there is to read ---------------------------------------------------------------------------------------------


def test_one_site_is_named_alike_however_it_is_packed(tmp_path: Path) -> None:
    data = table("posts", sample.KITCHEN_POSTS)
    write(tmp_path, data)
    solid = archive({"Badges.xml": b"x" * 999, "Posts.xml": data, "Users.xml": b""})
    paths = [
        tmp_path / SITE,
        tmp_path / SITE / "Posts.xml",
        tmp_path / "a" / f"{SITE}.7z",
        tmp_path / f"{SITE}-Posts.7z",
    ]
    for path in paths[2:]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(solid)
    (tmp_path / f"{SITE}-Users.7z").write_bytes(solid)
    found = []
    for path in paths:
        (split,) = StackExchange().plan([str(path)])
        assert split.name == SITE
        documents, tally = read(StackExchange(), split)
        assert tally.bytes_in == len(data) and not tally.damage
        assert tally.input_digest == hashlib.sha256(data if split.path.endswith("xml") else solid).hexdigest()
        found.append(documents)
    assert all(documents == found[0] for documents in found)
    with pytest.raises(RecipeError, match=r"two inputs are called 'tea.stackexchange.com'"):
        StackExchange().plan([str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("notes.txt", "no dump of a site"),
        ("tea.stackexchange.com/Tags.xml", "holds no posts"),
        ("dump/Posts.xml", "cannot tell which site"),
        ("tea.stackexchange.com.7z.001", "join the parts"),
        ("tea.stackexchange.com-Users.7z", "only other tables"),
        ("tea.meta.stackexchange.com.7z", "only meta sites"),
    ],
)
def test_what_is_no_dump_is_refused_in_a_line(tmp_path: Path, name: str, line: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(RecipeError, match=line) as caught:
        StackExchange().plan([str(path)])
    assert "\n" not in str(caught.value)


def test_folders_without_posts_and_settings_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "Tags.xml").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"no \*Posts.xml or \*.7z in .*Tags.xml"):
        StackExchange().plan([str(tmp_path)])
    with pytest.raises(RecipeError, match="run_bytes is 0"):
        StackExchange(run_bytes=0)
    with pytest.raises(RecipeError, match="largest is -1"):
        StackExchange(largest=-1)
    with pytest.raises(RecipeError, match="template is 'x', must be one of redpajama, blocks"):
        STACKEXCHANGE.with_settings({"source.template": "x"})


@pytest.mark.parametrize("packed", [False, True], ids=["xml", "7z"])
def test_the_largest_sites_are_counted(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stackexchange, "PROBE", 2_000)
    counts = {"a.com": 40, "b.com": 300, "c.com": 41, "d.com": 41, "e.com": 7, "meta.f.com": 500, "g.com": 39}
    for name, n in counts.items():
        text = "long " * (200 if name == "g.com" else 4)  # many bytes are not many posts
        data = table("posts", [other(i, 4, text) for i in range(1, n + 1)])
        write(tmp_path, data, name)
        if packed:
            (tmp_path / f"{name}.7z").write_bytes(archive({"Posts.xml": data}))
            (tmp_path / name / "Posts.xml").unlink()
    for wanted, names in ((1, "b"), (2, "bc"), (3, "bcd"), (4, "abcd"), (5, "abcdg"), (6, "abcdeg"), (28, "abcdeg")):
        found = StackExchange(largest=wanted).plan([str(tmp_path)])
        assert [s.name for s in found] == [f"{x}.com" for x in names], wanted
    assert len(StackExchange(largest=0, meta_sites=True).plan([str(tmp_path)])) == 7
    assert StackExchange(largest=1, meta_sites=True).plan([str(tmp_path)])[0].name == "meta.f.com"


def test_large_sites_are_not_counted_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stackexchange, "PROBE", 1_000)
    monkeypatch.setattr(stackexchange.io, "CHUNK", 1_000)
    for name, n in (("big.com", 3000), ("small.com", 10), ("tiny.com", 9)):
        write(tmp_path, table("posts", [other(i, 4, "text") for i in range(1, n + 1)]), name)
    seen = []
    whole = stackexchange._local

    def watched(split: Split) -> Iterator[bytes]:
        for chunk in whole(split):
            seen.append((split.name, len(chunk)))
            yield chunk

    monkeypatch.setattr(stackexchange, "_local", watched)
    assert [s.name for s in StackExchange(largest=2).plan([str(tmp_path)])] == ["big.com", "small.com"]
    assert sum(n for name, n in seen if name == "big.com") < 20_000


# -- archives and the web ----------------------------------------------------------------------------------------------


def test_a_damaged_archive_is_reported(tmp_path: Path) -> None:
    data = table("posts", sample.KITCHEN_POSTS)
    whole = archive({"Posts.xml": data})
    path = tmp_path / f"{SITE}.7z"
    wrong_crc = archive({"Posts.xml": data[:-1] + b" "}, packed=sample.bz2.compress(data))
    for content, damage in ((whole[:-3], "truncated_input"), (b"<html>", "not_7z"), (wrong_crc, "bad_crc")):
        path.write_bytes(content)
        documents, tally = read(StackExchange(), Split(SITE, str(path)))
        assert len(tally.damage) == 1 and tally.damage[0].startswith(damage)
        assert len(documents) == (3 if damage == "bad_crc" else 0)
    for content, line in ((archive({"Tags.xml": data}), "0 members called Posts.xml .there is: 'Tags.xml'"),
                          (archive({"Posts.xml": data}, coder=b"\x03\x03\x04\x01"), "unknown_codec: method PPMd"),
                          (archive({"Posts.xml": data}, coder=b"\x04\x06\xf1\x07\x01"), "encrypted")):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(SourceError, match=line):
            read(StackExchange(), Split(SITE, str(path)))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    dump = archive({"Posts.xml": table("posts", sample.KITCHEN_POSTS)})
    sha1 = hashlib.sha1(dump).hexdigest()
    names = {f"{SITE}.7z": sha1, "stackoverflow.com-Posts.7z": sha1, "bad.stackexchange.com.7z": "0" * 40}
    files = "".join(f'<file name="{n}"><size>{len(dump)}</size><sha1>{s}</sha1></file>' for n, s in names.items())

    def item(request: Request, wire: Wire) -> None:
        body = f"<files>{files}</files>".encode() if request.path.endswith("_files.xml") else dump
        wire.reply(200, body)

    with Server(extra={"item": item}) as server:
        download.configure(Settings(allow_private=True))
        yield server
        download.configure(None)


def test_a_site_is_fetched_by_name_and_checked(web: Server, tmp_path: Path) -> None:
    source = StackExchange(base=web.url("item"))
    first, second = source.plan([SITE, "stackoverflow.com"])
    assert [first.name, second.name] == ["stackoverflow.com", SITE]
    assert "/stackoverflow.com-Posts.7z#sha1=" in first.path
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    documents, tally = read(source, second, str(scratch))
    assert len(documents) == 3 and not tally.damage and not list(scratch.iterdir())
    (bad,) = source.plan(["bad.stackexchange.com"])
    with pytest.raises(SourceError, match="checksum_mismatch"):
        read(source, bad)
    with pytest.raises(RecipeError, match=r"no dump of teas.stackexchange.com .*near by: tea.stackexchange.com"):
        source.plan(["teas.stackexchange.com"])
    with pytest.raises(RecipeError, match="some of them on the web"):
        StackExchange(base=web.url("item"), largest=1).plan([SITE, "stackoverflow.com"])


# -- the sample and a run ----------------------------------------------------------------------------------------------


def test_the_sample_is_what_its_script_makes(tmp_path: Path) -> None:
    assert sample.main(["--check"]) == 0
    assert sample.main(["--out", str(tmp_path)]) == 0
    written = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    there = {p.relative_to(sample.SITES).as_posix(): p.read_bytes() for p in sample.SITES.rglob("*") if p.is_file()}
    assert written == there and sum(map(len, there.values())) < 300_000
    (tmp_path / f"{sample.WORKSHOP}.7z").write_bytes(b"")
    assert sample.main(["--check", "--out", str(tmp_path)]) == 1


def test_a_run_over_the_sample_balances(tmp_path: Path) -> None:
    kept: list[dict[str, Any]] = []
    for split in STACKEXCHANGE.source.plan([]):
        task = worker.SegmentTask(0, split, "f")
        result = worker.run_task(worker.Job(str(tmp_path), STACKEXCHANGE), task)
        assert worker.balances(result.counts) and not result.counts["damage"]
        kept.append(result.counts)
    assert [c["records_in"] for c in kept] == [12, 7] and [c["kept"] for c in kept] == [3, 2]
    assert kept[1]["dropped"] == {"provider_canary:provider_canary": 2}
    assert not [p for p in tmp_path.rglob("*") if "attempts" in p.parts and p.is_file()]
