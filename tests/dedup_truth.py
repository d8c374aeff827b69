"""What is found of the copies that `make_wet.py` planted: pages, their bodies, and the truth file about them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from curate.dedup.matching import find
from curate.stage import DuplicateBarrier, Split, Tally
from sources.commoncrawl import CommonCrawl


@dataclass(frozen=True)
class Pages:
    """Pages of a made crawl, in file order, and the truth about each."""

    whole: pa.Table  # columns text and url
    bodies: pa.Table  # the same, without the lines that the truth calls boilerplate
    truth: list[dict[str, str]]


def read_pages(folder: Path, limit: int | None = None) -> Pages:
    """The first `limit` pages of a made crawl."""
    truth = list(csv.DictReader(open(folder / "truth.tsv", encoding="utf-8"), delimiter="\t"))
    by_url: dict[str, dict[str, str]] = {row["url"]: row for row in truth}
    assert len(by_url) == len(truth)
    tables = []
    for path in sorted(folder.glob("*.warc.wet.gz")):
        tables += list(CommonCrawl().read(Split(path.name, str(path)), Tally()))
    table = pa.concat_tables(tables).select(["doc_id", "url", "text"]).slice(0, limit).combine_chunks()
    rows = [by_url[url] for url in table["url"].to_pylist()]
    bodies = [_body(text, row["boilerplate"]) for text, row in zip(table["text"].to_pylist(), rows, strict=True)]
    return Pages(table, table.set_column(2, "text", pa.array(bodies, pa.large_string())), rows)


DATE = re.compile(r"\d\d\.\d\d\.\d{4}")


def _body(text: str, boilerplate: str) -> str:
    """The text without the line ranges such as "1-12,34-51"; line 0 is the title, which is not part of the text.

    Nor are the heading and the date that the frame puts before the body: the truth's `jaccard5` does not count them.
    """
    gone: set[int] = set()
    for part in filter(None, boilerplate.split(",")):
        first, _, last = part.partition("-")
        gone.update(range(int(first), int(last or first) + 1))
    lines = [line for i, line in enumerate(text.split("\n"), 1) if i not in gone][1:]
    return "\n".join(lines[1:] if lines and DATE.fullmatch(lines[0]) else lines)


@dataclass(frozen=True)
class Score:
    """Shares from 0 to 1, and counts."""

    exact: float  # of exact copies, found together with their original
    near: float  # of edited copies at or above the Jaccard similarity
    pairs: float  # of all copies
    unrelated_removed: int  # pages removed that are neither copy nor original of anything
    unrelated: int
    removed: int


def score(pages: Pages, table: pa.Table, barrier: DuplicateBarrier, jaccard: float = 0.8) -> Score:
    """Run a barrier and compare with the truth."""
    found = find(barrier, [table]).decisions
    stands_for = np.arange(table.num_rows)
    stands_for[found.removed] = found.survivor
    by_record = {row["record_id"]: i for i, row in enumerate(pages.truth)}
    related: set[int] = set()
    hits: dict[str, list[bool]] = {"exact": [], "near": [], "low": []}
    for i, row in enumerate(pages.truth):
        if row["kind"] not in ("exact", "near") or row["of"] not in by_record:
            continue
        origin = by_record[row["of"]]
        related |= {i, origin}
        kind = row["kind"] if row["kind"] == "exact" or float(row["jaccard5"]) >= jaccard else "low"
        hits[kind].append(bool(stands_for[i] == stands_for[origin]))
    unrelated = [i for i, row in enumerate(pages.truth) if row["kind"] == "page" and i not in related]
    every = [x for kind in hits.values() for x in kind]
    return Score(
        exact=float(np.mean(hits["exact"])),
        near=float(np.mean(hits["near"])),
        pairs=float(np.mean(every)),
        unrelated_removed=int(np.isin(unrelated, found.removed).sum()),
        unrelated=len(unrelated),
        removed=len(found.removed),
    )
