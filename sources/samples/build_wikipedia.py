"""Build the sample dumps: a small multistream dump with its index for each of LLaMA's 20 languages.

    python -m sources.samples.build_wikipedia            write the files
    python -m sources.samples.build_wikipedia --check    rebuild in memory, compare with what is committed

The texts lie in `wikipedia/texts.txt`. Around them the builder puts the markup that Wikipedia has and an author of
plain text does not write, in the wiki's own words: what `text_of` says must be left of it. A dump holds two articles,
a redirect, a page that tells names apart and one of another namespace. The English one has the articles of
`wikipedia/articles.txt`, too, which cite pages of the sample crawl: text enough for a small language model, and what a
reference classifier needs. Nothing depends on a clock or on chance.
"""

from __future__ import annotations

import argparse
import bz2
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent / "wikipedia"
DATE = "20220801"
_FIELDS = (
    "lang file old_file category template talk user redirect disambiguation title other heading caption"
    " first second third fourth fifth source end"
)
FIELDS = tuple(_FIELDS.split())
_NAMESPACES = "Media Special - Talk User - - - File - - - Template - - - Category"
NAMESPACES = tuple(_NAMESPACES.split())
FORMULA = r"Q = \frac{v}{{t}}"
FIRST_ID = 100  # of the articles of `articles.txt`


@dataclass(frozen=True)
class Wiki:
    """The words of one language, by the names in FIELDS."""

    words: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.words[name]

    @property
    def name(self) -> str:
        """Name of its dump, without an ending."""
        return f"{self['lang']}wiki-{DATE}-pages-articles-multistream"


def wikis() -> list[Wiki]:
    """All of them, in the order of their codes."""
    with open(FOLDER / "texts.txt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file if not line.startswith("#")]
    size = len(FIELDS)
    return [Wiki(dict(zip(FIELDS, lines[i : i + size], strict=True))) for i in range(0, len(lines), size)]


def articles() -> dict[str, str]:
    """Wikitext of the English articles by title."""
    with open(FOLDER / "articles.txt", encoding="utf-8") as file:
        blocks = file.read().split("\n=== ")[1:]
    return {title: text.strip() for title, _, text in (block.partition("\n") for block in blocks)}


def _article(w: Wiki) -> str:
    """The first article of a wiki, in wikitext."""
    first, second, third, fourth, fifth = (w[k].partition(" ") for k in ("first", "second", "third", "fourth", "fifth"))
    lang = w["lang"]
    return f"""{{{{Infobox
| name  = {w["title"]}
| image = [[{w["file"]}:Mill {lang}.jpg|200px]]
| place = {{{{coord|1|2|{{{{N}}}}}}}} <!-- a comment
over two lines -->
}}}}
[[{w["file"]}:Wheel {lang}.jpg|thumb|right|{w["caption"]}: [[{w["other"]}]]]]
'''{first[0]}''' {first[2]}<ref name="a">{{{{cite web|url=https://example.org/{lang}/mill?a=1&b=2|title=Mill}}}}</ref>

[[{w["other"]}|{second[0]}]] {second[2]}<ref>''Mills'', [https://example.net/{lang}/mills text].</ref><ref name="a" />
<!-- a line of its own -->
== {w["heading"]} ==
{{{{main|{w["other"]}}}}}
* ''{third[0]}''&nbsp;{third[2]}
* '''''{fourth[0]}''''' <span style="color:red">{fourth[2]}</span>
{{| class="wikitable" style="text-align:right"
! 1 !! 2
|-
| [[{w["other"]}]] || {{{{n|3}}}}
|}}
[[{w["old_file"].lower()}:Old {lang}.png|{w["caption"]}]]
{fifth[0]} {fifth[2]} <math>{FORMULA}</math>
<gallery>
{w["file"]}:A.jpg|{w["caption"]}
</gallery>
__NOTOC__
[[{w["category"]}:{w["heading"]}]]
[[{w["category"].lower()} : {w["title"]}|*]]
[[Category:Mills]]
"""


def text_of(w: Wiki) -> str:
    """What is to be left of the first article."""
    formula = FORMULA.replace("{{", "{ {").replace("}}", "} }")
    body = f"- {w['third']}\n- {w['fourth']}\n\n{w['fifth']} {formula}"
    return f"{w['first']}\n\n{w['second']}\n\n{w['heading']}\n\n{body}"


def _pages(w: Wiki) -> Iterator[tuple[int, str, int, str, str]]:
    """(id, title, namespace, title that it redirects to, wikitext) of the pages of a wiki."""
    title = w["title"]
    yield 7, title, 0, "", _article(w)
    yield 8, title.upper(), 0, title, f"#{w['redirect']} [[{title}]]"
    yield 12, w["other"], 0, "", f"'''{w['other']}'''. {w['source']} {w['end']}\n\n[[{w['category']}:{w['heading']}]]"
    yield 15, f"{w['template']}:Mill", 10, "", "{{{1}}}"
    listed = f"* [[{title}]]\n* [[{w['other']}]]\n\n{{{{{w['disambiguation']}}}}}"
    yield 21, title.split()[0], 0, "", listed
    for number, (name, text) in enumerate(articles().items() if w["lang"] == "en" else (), FIRST_ID):
        yield number, name, 0, "", text


def _head(w: Wiki) -> str:
    """What stands before the pages of a dump."""
    own = {-2: "", 1: w["talk"], 2: w["user"], 6: w["file"], 10: w["template"], 14: w["category"]}
    lines = []
    for key, english in enumerate(NAMESPACES, -2):
        if english != "-" or key == 0:
            name = "" if key == 0 else escape(own.get(key) or english)
            tail = f">{name}</namespace>" if name else " />"
            lines.append(f'      <namespace key="{key}" case="first-letter"{tail}\n')
    return (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" '
        f'xml:lang="{w["lang"]}">\n  <siteinfo>\n    <sitename>Wikipedia</sitename>\n'
        f"    <dbname>{w['lang']}wiki</dbname>\n    <base>https://{w['lang']}.wikipedia.org/wiki/Main_Page</base>\n"
        "    <generator>MediaWiki 1.39.0</generator>\n"
        f"    <case>first-letter</case>\n    <namespaces>\n{''.join(lines)}    </namespaces>\n  </siteinfo>\n"
    )


def _page(number: int, title: str, space: int, target: str, text: str) -> str:
    """One page of a dump."""
    redirect = f'    <redirect title="{escape(target)}" />\n' if target else ""
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{space}</ns>\n    <id>{number}</id>\n{redirect}"
        f"    <revision>\n      <id>{number + 1000}</id>\n      <timestamp>{_stamp(number)}</timestamp>\n"
        "      <contributor>\n        <username>Sample</username>\n        <id>1</id>\n      </contributor>\n"
        "      <model>wikitext</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="{len(text.encode())}" xml:space="preserve">{escape(text, {chr(34): "&quot;"})}</text>\n'
        "      <sha1>0</sha1>\n    </revision>\n  </page>\n"
    )


def _stamp(number: int) -> str:
    """When a page was edited."""
    return f"2022-07-{(number - 1) % 28 + 1:02}T10:20:30Z"


def build() -> dict[str, bytes]:
    """The files by name: a stream with the head, streams of three pages each, a stream with the end; and the index."""
    made = {}
    for w in wikis():
        pages = list(_pages(w))
        dump, index = bz2.compress(_head(w).encode()), []
        for i in range(0, len(pages), 3):
            index += [f"{len(dump)}:{number}:{title}\n" for number, title, *_ in pages[i : i + 3]]
            dump += bz2.compress("".join(_page(*page) for page in pages[i : i + 3]).encode())
        made[f"{w.name}.xml.bz2"] = dump + bz2.compress(b"</mediawiki>\n")
        made[f"{w.name}-index.txt.bz2"] = bz2.compress("".join(index).encode())
    return made


def main() -> int:
    """Write the sample, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    if not parser.parse_args().check:
        for name, data in build().items():
            (FOLDER / name).write_bytes(data)
        return 0
    made, there = build(), {p.name: p.read_bytes() for p in FOLDER.glob("*.bz2")}
    wrong = sorted(name for name in {*made, *there} if made.get(name) != there.get(name))
    print("\n".join(f"{name}: not what is built" for name in wrong) or f"{len(made)} files as built")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
