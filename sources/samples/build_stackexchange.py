"""Build the sample sites of Stack Exchange: one folder of XML, one 7z archive, as the dumps have them.

    python -m sources.samples.build_stackexchange            write the files
    python -m sources.samples.build_stackexchange --check    rebuild in memory, compare with what is committed

The questions and answers are written for this project. Around them stands what a dump has beside them: descriptions of
tags, an answer whose question was deleted, and the two posts that the provider makes up (here they say so). The archive
is solid and packed with BZip2, which the dumps are. Nothing depends on a clock or a random number.
"""

from __future__ import annotations

import argparse
import bz2
import struct
import sys
import zlib
from pathlib import Path

SITES = Path(__file__).resolve().parent / "stackexchange"
KITCHEN, WORKSHOP = "sample-kitchen.stackexchange.com", "sample-workshop.stackexchange.com"

Row = dict[str, str | int]


def question(one: int, date: str, score: int, title: str, tags: str, body: str, **more: str | int) -> Row:
    """A row of a question."""
    wrapped = "".join(f"<{tag}>" for tag in tags.split())
    head: Row = {"Id": one, "PostTypeId": 1, "CreationDate": date, "Score": score, "ViewCount": 40 + one, "Body": body}
    return head | {"OwnerUserId": 10 + one % 7, "LastActivityDate": date, "Title": title, "Tags": wrapped, **more}


def answer(one: int, to: int, date: str, score: int, body: str, **more: str | int) -> Row:
    """A row of an answer."""
    head: Row = {"Id": one, "PostTypeId": 2, "ParentId": to, "CreationDate": date, "Score": score, "Body": body}
    return head | {"OwnerUserId": 10 + one % 7, "LastActivityDate": date, "CommentCount": 0, **more}


def other(one: int, kind: int, body: str) -> Row:
    """A row of another type."""
    date = "2019-03-01T12:00:00.000"
    return {"Id": one, "PostTypeId": kind, "CreationDate": date, "Score": 0, "Body": body, "OwnerUserId": -1}


CC2, CC3, CC4 = ({"ContentLicense": f"CC BY-SA {v}"} for v in ("2.5", "3.0", "4.0"))

KITCHEN_POSTS: list[Row] = [
    question(
        1, "2010-11-02T08:15:00.120", 12, "Why does my bread crust go soft after an hour?", "bread crust storage",
        "<p>The loaf comes out of the oven with a crust that crackles. I put it on a rack, and after an hour the crust"
        " is leathery.</p>\n\n<p>My oven:</p>\n\n<ul>\n<li>gas, no fan</li>\n<li>230&nbsp;°C, then 200&nbsp;°C</li>\n"
        "<li>a tray of water at the bottom <em>all the time</em></li>\n</ul>\n\n<p>What should I change?</p>\n",
        AcceptedAnswerId=3, AnswerCount=4, **CC2,
    ),
    answer(2, 1, "2010-11-02T09:00:00.000", 9, "<p>Bake it longer. A pale crust holds more water than a dark one, and"
           " that water wanders outwards while the loaf cools.</p>\n", **CC2),
    answer(3, 1, "2010-11-02T09:40:11.500", 100, "<p>Take the water out after <strong>fifteen minutes</strong>. Steam"
           " is wanted while the loaf rises; later it keeps the crust from drying.</p>\n\n<ol>\n<li>Steam for 15"
           " minutes.</li>\n<li>Open the door for a moment, remove the tray.</li>\n<li>Leave the door ajar for the last"
           " five minutes.</li>\n</ol>\n", **CC2),
    answer(4, 1, "2012-01-20T18:22:05.000", 10, "<blockquote>\n  <p>I put it on a rack</p>\n</blockquote>\n\n<p>Good,"
           " but not in a draughtless corner: moist air has to get away.</p>\n", **CC3),
    answer(5, 1, "2018-06-11T07:00:00.000", -1, "<p>Put it into a plastic bag.</p>\n", **CC4),
    question(
        6, "2014-05-05T17:30:00.000", 5, "Scaling a recipe: is 2 < 3 eggs ever \"close enough\"?",
        "baking scaling eggs",
        "<p>A cake for a 26&nbsp;cm form has to go into one of 20&nbsp;cm. I wrote myself a helper:</p>\n\n<pre><code>"
        "def scale(amounts, old, new):\n    factor = (new / old) ** 2\n    return {k: v * factor for k, v in"
        " amounts.items() if v &gt; 0 &amp;&amp; True}\n</code></pre>\n\n<p>It says 1.77 eggs instead of 3. Now what?"
        "</p>\n", AnswerCount=2, **CC3,
    ),
    answer(7, 6, "2014-05-05T18:00:00.000", 4, "<p>Beat two eggs, weigh them, use <code>0.59 * weight</code> of the"
           " three that the recipe wants. (And <code>&amp;&amp;</code> is no Python.)</p>\n", **CC3),
    answer(8, 6, "2014-05-06T06:10:00.000", 4, "<p>Two eggs, and a spoon of milk less.<br>Nobody will notice.</p>\n",
           **CC3),
    other(9, 4, "Questions about the outside of a loaf."),
    other(10, 5, "<p>Crust is what the oven makes of dough that it can reach.</p>"),
    answer(11, 400, "2015-02-02T10:00:00.000", 3, "<p>The question that this answered was deleted.</p>\n", **CC3),
    question(12, "2021-09-09T20:00:00.000", 0, "How do I keep a sourdough starter over the summer?", "sourdough",
             "<p>Six weeks away, nobody to feed it. Dry it, freeze it, or give it away?</p>\n", AnswerCount=0, **CC4),
]  # fmt: skip

WORKSHOP_POSTS: list[Row] = [
    question(
        1, "2016-03-03T09:00:00.000", 31, "Which pilot hole for a 4 mm screw in oak?", "screws oak drilling",
        "<p>Every second screw snaps. I use <kbd>2 mm</kbd> holes. There is a table in my book:</p>\n\n<table>\n<tr>"
        "<th>screw</th><th>soft</th><th>hard</th></tr>\n<tr><td>3 mm</td><td>1.5</td><td>2</td></tr>\n<tr><td>4 mm"
        "</td><td>2</td><td>?</td></tr>\n</table>\n\n<p>The last number is missing.</p>\n",
        AcceptedAnswerId=2, AnswerCount=2, **CC3,
    ),
    answer(2, 1, "2016-03-03T10:12:00.000", 27, "<p>3&nbsp;mm, and some wax on the thread. Oak has acid in it that"
           " eats brass and blackens steel; drive a steel screw first, then put the brass one in its place.</p>\n",
           **CC3),
    answer(3, 1, "2019-08-14T15:45:30.000", 27, "<p>The core of the screw, measured between the threads. Hold the drill"
           " in front of the screw: if you see thread on both sides and no core, it fits.</p>\n", **CC4),
    question(
        4, "2022-01-15T11:11:11.110", 8, "Reading a log of my dust sensor", "dust electronics",
        "<p>The sensor writes lines such as these, and I want the mean of a day:</p>\n<pre class=\"lang-none"
        " prettyprint-override\"><code>\ttime   pm2.5\n\t08:00  12\n\t08:05  &lt;5\n\n\t08:10  41\n</code></pre>\n<p>"
        "What do I do with <code>&lt;5</code>?</p>\n", AnswerCount=1, **CC4,
    ),
    answer(5, 4, "2022-01-15T12:00:00.000", 15, "<p>Count it as half of the limit:</p>\n<pre><code>awk '\n  $2 ~ /^"
           "&lt;/ { sum += substr($2, 2) / 2; n++; next }\n  $2 + 0  { sum += $2; n++ }\n  END     { print sum / n }\n'"
           " dust.log\n</code></pre>\n<p>or state both bounds.</p>\n", **CC4),
    question(
        1_000_000_001, "2024-06-01T00:00:00.000", 0, "Made-up post of the sample", "made-up",
        "<p>This stands where a dump has a post that its provider made up. It must not reach a corpus.</p>\n",
        OwnerUserId=-1, AnswerCount=1, **CC4,
    ),
    answer(1_000_000_010, 1_000_000_001, "2024-06-01T00:00:00.000", 0, "<p>This is the made-up answer to it.</p>\n",
           OwnerUserId=-1, **CC4),
]  # fmt: skip

ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#xA;", "\r": "&#xD;", "\t": "&#x9;"}


def table(name: str, rows: list[Row]) -> bytes:
    """A table as the dumps write it: UTF-8 with a mark, CR LF, a row a line, nothing behind the last tag."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', f"<{name}>"]
    for row in rows:
        values = ((k, "".join(ESCAPES.get(c, c) for c in str(v))) for k, v in row.items())
        lines.append("  <row " + " ".join(f'{k}="{v}"' for k, v in values) + " />")
    return ("\r\n".join([*lines, f"</{name}>"])).encode("utf-8-sig")


def tags(rows: list[Row]) -> bytes:
    """The table of tags that belongs to posts."""
    found = sorted({tag for row in rows for tag in str(row.get("Tags", "")).strip("<>").split("><") if tag})
    counts = [sum(f"<{tag}>" in str(row.get("Tags", "")) for row in rows) for tag in found]
    numbered = enumerate(zip(found, counts, strict=True), 1)
    return table("tags", [{"Id": i, "TagName": tag, "Count": n} for i, (tag, n) in numbered])


def number(value: int) -> bytes:
    """A number of a 7z header: the ones at the front of the first byte say how many bytes follow."""
    for n in range(8):
        if value < 1 << 7 * (n + 1):
            first = (0xFF << (8 - n)) & 0xFF | value >> 8 * n
            return bytes([first]) + (value & ((1 << 8 * n) - 1)).to_bytes(n, "little")
    return b"\xff" + value.to_bytes(8, "little")


def archive(members: dict[str, bytes], packed: bytes | None = None, coder: bytes = b"\x03\x04\x02\x02") -> bytes:
    """A solid 7z archive; without `packed` it is packed with BZip2. `coder`: as it stands in the header."""
    packed = bz2.compress(b"".join(members.values())) if packed is None else packed
    sizes = [len(data) for data in members.values()]
    crcs = b"".join(struct.pack("<I", zlib.crc32(data)) for data in members.values())
    names = b"".join(f"{name}\0".encode("utf-16-le") for name in members)
    pack = b"\x06" + number(0) + number(1) + b"\x09" + number(len(packed)) + b"\x00"
    unpack = b"\x07\x0b" + number(1) + b"\x00" + number(1) + coder + b"\x0c" + number(sum(sizes)) + b"\x00"
    parts = b"\x08\x0d" + number(len(sizes)) + (b"\x09" if sizes[1:] else b"") + b"".join(map(number, sizes[:-1]))
    streams = b"\x04" + pack + unpack + parts + b"\x0a\x01" + crcs + b"\x00\x00"
    files = b"\x05" + number(len(members)) + b"\x11" + number(len(names) + 1) + b"\x00" + names + b"\x00"
    return sealed(packed, b"\x01" + streams + files + b"\x00")


def sealed(packed: bytes, header: bytes) -> bytes:
    """A 7z file of packed streams and a header."""
    start = struct.pack("<QQI", len(packed), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\x00\x04" + struct.pack("<I", zlib.crc32(start)) + start + packed + header


def build() -> dict[str, bytes]:
    """All files of the sample."""
    workshop = {"Posts.xml": table("posts", WORKSHOP_POSTS), "Tags.xml": tags(WORKSHOP_POSTS)}
    return {
        f"{KITCHEN}/Posts.xml": table("posts", KITCHEN_POSTS),
        f"{KITCHEN}/Tags.xml": tags(KITCHEN_POSTS),
        f"{WORKSHOP}.7z": archive(workshop),
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the sample, or compare it with what is there (1: it differs)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    parser.add_argument("--out", type=Path, default=SITES)
    chosen = parser.parse_args(arguments)
    differing = 0
    for name, data in build().items():
        path = chosen.out / name
        if not chosen.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        elif not path.exists() or path.read_bytes() != data:
            print(f"{path} differs")
            differing = 1
    return differing


if __name__ == "__main__":
    sys.exit(main())
