"""Wikitext to text: every rule alone, whole pages built with their answer, and hostile ones."""

from __future__ import annotations

import html
import html.entities
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.filters.wikitext import LANGUAGES, articles
from curate.kernels import wikitext
from curate.kernels.wikitext import CATEGORY, CITATION, DISAMBIGUATION, FILE, LANGUAGE, MAX_DEPTH

PREFIXES = {
    "File": FILE,
    "Image": FILE,
    "Datei": FILE,
    "Изображение": FILE,
    "Category": CATEGORY,
    "Kategorie": CATEGORY,
}
SITE = wikitext.names(
    {**PREFIXES, "fr": LANGUAGE, "zh-min-nan": LANGUAGE},
    {"cite web": CITATION, "книга": CITATION, "disambig": DISAMBIGUATION},
)


def convert(text: str, *, variants: bool = False) -> str:
    """Text of one page."""
    made = wikitext.convert(pa.array([text], pa.large_string()), SITE, variants=variants)
    made.text.validate(full=True)
    return str(made.text[0].as_py())


def cited(text: str) -> list[str]:
    return list(wikitext.convert(pa.array([text], pa.large_string()), SITE).cited[0].as_py())


CASES = {
    # links
    "link": ("a [[b]] c", "a b c"),
    "label": ("[[b|c d]]s", "c ds"),
    "link to a part": ("[[a#b|c]] [[#d]]", "c #d"),
    "several labels": ("[[a|b|c]]", "c"),
    "link over lines": ("[[a\nb]] c", "a\nb c"),
    "unclosed link": ("x [[a and\n[[b]] y", "x a and\nb y"),
    "stray end of a link": ("a]] b", "a b"),
    "brackets and a stray end": ("a[i] b]] c", "a[i] b c"),
    "brackets": ("a[i] and a[b[1]]", "a[i] and a[b[1]]"),
    "outside link": ("see [http://a.org/x?y=1 the ''page''].", "see the page."),
    "outside link without a label": ("see [http://a.org] there", "see there"),
    "relative link": ("[//a.org b] [mailto:a@b.c me]", "b me"),
    "no address": ("[sic] [note: x]", "[sic] [note: x]"),
    "bare address": ("at http://a.org/b now", "at http://a.org/b now"),
    "link in a link": ("[http://a.org b [[c]] d] e", "b c d e"),
    # files, categories, other languages
    "file": ("[[File:a.jpg|thumb|x [[b]] [http://c d]]]e", "e"),
    "old name of a file": ("[[image:a.jpg]]b", "b"),
    "local name of a file": ("[[datei : a.jpg|miniatur]]b", "b"),
    "cyrillic name of a file": ("[[изображение:a.jpg|мини]]b", "b"),
    "underscores in a name": ("[[_File_:a.jpg|thumb]]b", "b"),
    "file with a template": ("[[File:a.jpg|thumb|{{a|[[b]]}}|c]]d", "d"),
    "file that does not end": ("[[File:a.jpg|thumb|x\n\nb", "b"),
    "category": ("a\n[[Category:B]]\n[[kategorie:C|D]]\n", "a"),
    "link to a category": ("[[:Category:B]] [[:File:c|d]]", "B d"),
    "other language": ("a [[fr:B]] [[zh-min-nan:C]] d", "a d"),
    "link to another language": ("[[:fr:B|c]]", "c"),
    "not a prefix": ("[[Star Wars: A]]", "Star Wars: A"),
    # templates
    "template": ("a {{b|c={{d}}}} e", "a e"),
    "parameter": ("{{{a|b}}}c", "c"),
    "five braces": ("{{{{{a}}}}}b", "b"),
    "template over lines": ("{{a\n| b = c\n| d = [[e]]\n}}\nf", "f"),
    "link that does not end in a template": ("{{a|[[b}}c", "c"),
    "template that does not end": ("{{a\n| b = c\nd", "a\nd"),
    "stray end of a template": ("a}} b } c", "a b } c"),
    "one brace": ("{a}", "{a}"),
    "brackets that are left": ("A ({{b}}) c", "A c"),
    "front of brackets": ("A ({{b}}, c) d", "A (c) d"),
    "back of brackets": ("A (c; {{b}}) d", "A (c) d"),
    "brackets that were empty": ("f() and ( , x)", "f() and ( , x)"),
    "space before a comma that was there": ("A {{b}} c , d", "A c , d"),
    "space before a comma": ("A {{b}}, c {{d}}.", "A, c."),
    # tables
    "table": ("a\n{| class=x\n! b\n|-\n| c || d\n|}\ne", "a\n\ne"),
    "table in a table": ("{|\n|\n{|\n| a\n|}\n| b\n|}\nc", "c"),
    "table in a template": ("{{a|\n{|\n| b\n|}}}c", "c"),
    "template in a table": ("{|\n| {{a\n| b\n|}}\n|}c", "c"),
    "indented table": ("::{|\n| a\n|}\nb", "b"),
    "table that does not end": ("{| class=x\n| a\n|-\n| b\n\nc", "c"),
    "end of no table": ("a\n|}\nb", "a\nb"),
    "HTML table": ("a<table class=x><tr><td>b<table><tr></table></table>c", "ac"),
    # tags
    "reference": ("a<ref>b [[c]]</ref>.<ref name=d/> e<REF name='f'>g</REF >", "a. e"),
    "references": ("a\n<references>\n<ref name=b>c</ref>\n</references>", "a"),
    "reference that does not end": ("a<ref>b", "ab"),
    "tag that does not end": ("a<ref name=b\n<ref>c</ref> d", "a name=b\nd"),
    "comment": ("a<!-- b\n\n<ref> -->c", "ac"),
    "comment on a line": ("* a\n<!-- b -->\n* c", "- a\n- c"),
    "comment that does not end": ("a<!-- b", "a"),
    "formatting": ("<b>a</b><span style='x'>b</span><br/>c<br>d", "ab\nc\nd"),
    "paragraph": ("a<p>b</p>", "a\nb"),
    "not a tag": ("a < b <stdio.h> <foo> <3", "a < b <stdio.h> <foo> <3"),
    "removed tags": ("a<gallery>\nb.jpg|c\n</gallery><timeline>d</timeline><score>e</score>f", "af"),
    "unknown end": ("a</ref></div>b", "a\nb"),
    "included only elsewhere": ("a<includeonly>b</includeonly><noinclude>c</noinclude>", "ac"),
    "nowiki": ("<nowiki>''[[a]]'' {{b}} <c> &lt;</nowiki>", "''[[a]]'' {{b}} <c> <"),
    "nowiki in quotes": ("''a<nowiki/>''b", "ab"),
    "code": ("<code>a[i] = ''b''</code>", "a[i] = b"),
    "source": ("a<source lang=c>\nint  x;\n  *y = {{1}};\n#if 1\n</source>b", "a\nint  x;\n  *y = {{1}};\n#if 1\nb"),
    "formula": (r"<math>\frac{a}{{b}} |x|</math>", r"\frac{a}{ {b} } |x|"),
    "formula in lines": ("a\n:<math>\nx &lt; 1\n</math>\nb", "a\nx < 1\nb"),
    # entities
    "entities": ("a&nbsp;b &ndash; &#8364;&#x20AC; &eacute; &AMP;", "a b – €€ é &"),
    "no entities": ("a & b &foo; &amp", "a & b &foo; &amp"),
    "entities that are no text": ("a&#0;&#xD800;&#1;&#x110000;b", "ab"),
    "entity of two points": ("&nGt;", html.unescape("&nGt;")),
    "entity is no markup": ("&#91;&#91;a&#93;&#93; &lt;ref&gt;b &#123;&#123;c", "[[a]] <ref>b {{c"),
    # lines
    "headings": ("a\n== b ==\nc\n=== ''d'' ===\n=e=\n", "a\n\nb\n\nc\n\nd\n\ne"),
    "not headings": ("= a\nb = c\n==\n===", "= a\nb = c\n==\n\n="),
    "lists": ("* a\n** b\n# c\n#* d\n: e\n; f\n*: g\n*\n*h", "- a\n  - b\n- c\n  - d\ne\nf\ng\n- h"),
    "rule": ("a\n-----\nb", "a\n\nb"),
    "blank lines": ("\n\na\n\n\n \n b\n\n", "a\n\nb"),
    "spaces": ("  a \t b\u00a0 c ", "a b c"),
    "magic words": ("__NOTOC__a __БЕЗСЪДЪРЖАНИЕ__\n__KEIN_INHALTSVERZEICHNIS__\nb", "a\nb"),
    "not magic words": ("__init__ a__b __A__", "__init__ a__b __A__"),
    # quotes
    "quotes": ("''a'' '''b''' '''''c''''' d's", "a b c d's"),
    "four quotes": ("''''a'''", "'a"),
    "seven quotes": ("'''''''a'''''", "''a"),
    "apostrophe before italics": ("l'''amour'' a", "l'amour a"),
    "apostrophe after a word": ("dell'''Iliade'' a", "dell'Iliade a"),
    "quotes end with their line": ("''a\nb'''c'''", "a\nbc"),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    text, expected = CASES[name]
    assert convert(text) == expected


def test_variants() -> None:
    assert convert("a -{Microsoft}- b -{{c}} d", variants=True) == "a Microsoft b - d"
    assert convert("a -{b}- c") == "a -{b}- c"


def test_cited() -> None:
    text = (
        "a [http://not.org x] <ref>[https://a.org/b?c=1, d] http://b.org/(x).</ref>{{Cite_web|url=http://c.org/|x={{y}}"
        "|z=<ref>http://d.org</ref>}}{{infobox|url=http://not2.org}}{{книга|ссылка=HTTPS://e.org/é}}<ref name=x />"
        "<ref>mailto:x http:// http://f</ref>"
    )
    found = [
        "https://a.org/b?c=1",
        "http://b.org/(x)",
        "http://d.org",
        "http://c.org/",
        "http://d.org",
        "HTTPS://e.org/é",
    ]
    assert cited(text) == found
    assert cited("{{cite web|a={{cite web|url=http://a.org}}}}") == ["http://a.org"]


def test_disambiguation() -> None:
    texts = ["{{Disambig}}", "{{disambig |x}}", "__DISAMBIG__", "{{disambiguated}}", "a"]
    said = wikitext.convert(pa.array(texts, pa.large_string()), SITE).said
    assert said.tolist() == [1, 1, 1, 0, 0]


def test_slices() -> None:
    column = pa.array(["x", "a [[b]]", "", "c<ref>http://d.org</ref>", "y"], pa.large_string()).slice(1, 3)
    made = wikitext.convert(column, SITE)
    assert made.text.to_pylist() == ["a b", "", "c"]
    assert made.cited.to_pylist() == [[], [], ["http://d.org"]]
    assert wikitext.convert(column.slice(0, 0), SITE).text.to_pylist() == []


# -- pages that are built with what must be left of them ---------------------------------------------------------------

WORD = st.text("abcdefgжщéß中🙂", min_size=1, max_size=6)


def _pair(child: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
    """Markup around markup."""
    link = child.filter(lambda c: "[[" not in c[0]).map(lambda c: (f"[[t|{c[0]}]]", c[1]))
    bold = child.map(lambda c: (f"<b>{c[0]}</b>", c[1]))
    joined = st.tuples(child, child).map(lambda c: (f"{c[0][0]} {c[1][0]}", f"{c[0][1]} {c[1][1]}"))
    gone = child.map(lambda c: (f"w{{{{t|{c[0]}|x=[[a|{c[0]}]]}}}}", "w"))
    file = child.map(lambda c: (f"w[[File:a|thumb|{c[0]}]]", "w"))
    note = child.map(lambda c: (f"w<ref>{c[0].replace('<ref>', '').replace('</ref>', '')}</ref>", "w"))
    return link | bold | joined | gone | file | note


INLINE = st.recursive(WORD.map(lambda w: (w, w)), _pair, max_leaves=8)
BLOCK = (
    INLINE
    | INLINE.map(lambda c: (f"* {c[0]}", f"- {c[1]}"))
    | INLINE.map(lambda c: (f"## {c[0]}", f"  - {c[1]}"))
    | INLINE.map(lambda c: (f"w\n{{|\n| {c[0]}\n|}}", "w"))
    | INLINE.map(lambda c: (f"== {c[0]} ==", c[1]))
)


@settings(max_examples=300, deadline=None)
@given(st.lists(BLOCK, max_size=6))
def test_built_pages(blocks: list[tuple[str, str]]) -> None:
    assert convert("\n\n".join(b[0] for b in blocks)) == "\n\n".join(b[1] for b in blocks)


def _quotes(line: str) -> str:
    """Quotes of a line, as MediaWiki's doQuotes decides on them, without what they would have become."""
    parts = re.split("(''+)", line)
    runs = list(range(1, len(parts), 2))
    bold = sum(len(parts[i]) != 2 for i in runs)
    italic = sum(len(parts[i]) == 2 or len(parts[i]) > 4 for i in runs)
    keep = {i: "'" if len(parts[i]) == 4 else "'" * max(0, len(parts[i]) - 5) for i in runs}
    if bold % 2 and italic % 2:
        found: dict[str, int] = {}
        for i in (i for i in runs if len(parts[i]) == 3):
            before = "".join(parts[:i])
            kind = "space" if before.endswith(" ") else "one" if re.search("(^| ).?$", before) else "more"
            found.setdefault(kind, i)
        for kind in ("one", "more", "space"):
            if kind in found:
                keep[found[kind]] = "'"
                break
    return "".join(keep.get(i, part) for i, part in enumerate(parts))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(["''", "'''", "''''", "'''''", "a", "é", "bc", " ", "'"]), max_size=12))
def test_quotes(parts: list[str]) -> None:
    line = "x" + "".join(parts) + "x"
    assert convert(line) == re.sub(" +", " ", _quotes(line))


XML = st.lists(
    st.sampled_from(
        ["&lt;", "&gt;", "&amp;", "&quot;", "&apos;", "&#65;", "&#x1F600;", "&#1;", "&foo;", "&", "a", "é", "中"]
    )
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=3),
    max_size=12,
).map("".join)


def _text_of_xml(text: str) -> str:
    """XML character data as text, by the rule."""
    known = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}
    text = re.sub("\r\n?", "\n", text)

    def point(m: re.Match[str]) -> str:
        if m[1] in known:
            return known[m[1]]
        number = int(m[1][2:], 16) if m[1][1] in "xX" else int(m[1][1:])
        return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else ""

    text = re.sub(r"&(lt|gt|amp|quot|apos|#[0-9]{1,10}|#[xX][0-9a-fA-F]{1,10});", point, text)
    return re.sub(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]|"
        + "|".join(chr(p << 16 | e) for p in range(17) for e in (0xFFFE, 0xFFFF)),
        "",
        text,
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(XML, max_size=4))
def test_unescape(texts: list[str]) -> None:
    data = [t.encode() for t in texts]
    ends = np.cumsum([len(d) for d in data]) if data else np.zeros(0, np.int64)
    starts = ends - [len(d) for d in data]
    plain, valid = wikitext.unescape(np.frombuffer(b"".join(data), np.uint8), starts, ends)
    assert plain.to_pylist() == [_text_of_xml(t) for t in texts]
    assert all(valid.to_pylist())


@pytest.mark.parametrize(
    "bad", [b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x28\xa1", b"\x80"]
)
def test_not_utf8(bad: bytes) -> None:
    data = np.frombuffer(b"ok" + bad + b"ok", np.uint8)
    plain, valid = wikitext.unescape(data, [0, 0, len(data) - 2], [2, len(data), len(data)])
    assert plain.to_pylist() == ["ok", "", "ok"]
    assert valid.to_pylist() == [True, False, True]


MARKUP = [
    *"[]{}|<>&'=*#:;-_\n ()!/",
    *("[[", "{{", "}}", "]]", "{|", "|}", "<ref>", "</ref>", "<!--", "-->", "File:", "a", "é", "http://x.yz", "''"),
    *("<math>", "</math>", "<nowiki>", "&lt;"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(MARKUP), max_size=60))
def test_any_markup(parts: list[str]) -> None:
    """Whatever comes: valid text without signs of ours, within bounds, the same in any company."""
    text = "".join(parts)
    alone = convert(text)
    assert not re.search("[\x00-\x08\x0b-\x1f]", alone)
    assert len(alone.encode()) <= 2 * len(text.encode()) + 64
    both = wikitext.convert(pa.array(["{{ [[ <ref>", text, "|}"], pa.large_string()), SITE)
    assert both.text[1].as_py() == alone


HOSTILE = [
    *("{{", "[[", "{|\n", "\n{|", "<ref>", "<!--", "[http://a ", "{", "'''", "&", "&amp;", "<table>", "[[File:"),
    *("|}\n", "<ref", "</ref>", "{{cite web|", "[[a|", "<math>", "(", "( {{a}}", "__A", "\n=", "-{", "}}", "]]"),
    *("''a'' ", "\n|}", "http://", "<nowiki>", "\n*", "{{a|", "{{{", " "),
]


@pytest.mark.parametrize("piece", HOSTILE, ids=[repr(h) for h in HOSTILE])
def test_linear(piece: str) -> None:
    """A mebibyte of anything is done at once; what is quadratic takes minutes."""
    for text in (piece * ((1 << 20) // len(piece)), f"<ref>{piece * ((1 << 19) // len(piece))}x</ref>"):
        made = wikitext.convert(pa.array([text], pa.large_string()), SITE, variants=True)
        assert made.text[0].is_valid


def test_too_deep() -> None:
    texts = ["{{" * MAX_DEPTH + "a", "{{" * (MAX_DEPTH + 1) + "a", "[[" * 5000 + "a" + "]]" * 5000, "b"]
    made = wikitext.convert(pa.array(texts, pa.large_string()), SITE)
    assert made.text.to_pylist() == ["a", "", "a", "b"]
    assert made.said.tolist() == [0, wikitext.IS_TOO_DEEP, 0, 0]


def test_names_do_not_collide() -> None:
    keys = [wikitext.fnv(wikitext.ENTITY, map(ord, n[:-1])) for n in html.entities.html5 if n.endswith(";")]
    assert len(set(keys)) == len(keys)
    assert wikitext.fold("Foo_ BÄR ") == [ord(c) for c in "foo bär"]


# -- the stage ---------------------------------------------------------------------------------------------------------


def _table(text: str = "a", lang: str | None = "en", meta: str | None = "{}") -> pa.Table:
    columns = {
        "text": pa.array([text], pa.large_string()),
        "lang": pa.array([lang], pa.string()),
        "meta": pa.array([meta], pa.string()),
    }
    return pa.table(columns)


@pytest.mark.parametrize(
    ("table", "change", "reason", "value"),
    [
        (_table(), {}, None, None),
        (_table(lang="ja"), {}, "language", "ja"),
        (_table(lang=None), {}, "language", "unknown"),
        (_table(lang="ja"), {"languages": ()}, None, None),
        (_table(meta='{"disambiguation": true}'), {}, "disambiguation", None),
        (_table(meta='{"disambiguation": true}'), {"keep_disambiguation": True}, None, None),
        (_table(meta=None), {}, None, None),
        (_table(text=""), {}, "no_text", "0 characters"),
        (_table(text="éé"), {"min_characters": 3}, "no_text", "2 characters"),
        (_table(text="ééé"), {"min_characters": 3}, None, None),
    ],
    ids=str,
)  # fmt: skip
def test_articles(table: pa.Table, change: dict[str, object], reason: str | None, value: str | None) -> None:
    outcome = articles(**change)(table)
    assert outcome.reason is not None and outcome.value is not None
    assert outcome.reason.to_pylist() == [reason]
    assert outcome.value.to_pylist() == [value]


def test_articles_of_nothing() -> None:
    for change in ({}, {"languages": ()}):
        outcome = articles(**change)(_table().slice(0, 0))
        assert outcome.reason is not None and len(outcome.reason) == 0


def test_languages() -> None:
    from sources import wikipedia

    assert LANGUAGES == wikipedia.LANGUAGES and len(set(LANGUAGES)) == 20
