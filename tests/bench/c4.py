"""C4: shards read, and the line rules, beside what else does it. Registered for `python -m tests.bench --only C4`."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from curate.stage import Split, Tally
from tests.bench.stages import Timed, files, stage, text_mb

READ = "C4 shard to Arrow"
RULES = "C4 page and line rules"
MB_OF_TEXT = 24


def pages(wet: Path) -> pa.Table:
    """Pages of the first WET file with all their lines."""
    from sources.c4 import C4Wet

    path = files(wet)[0]
    return pa.concat_tables(C4Wet().read(Split(path.name, str(path)), Tally())).combine_chunks()


def shard(wet: Path) -> Path:
    """The pages of the first WET file as a shard of the published form, written once."""
    path = wet / "c4-bench.json.gz.tmp"
    if not path.exists():
        rows = pages(wet).select(["text", "url"]).to_pylist()
        made = "".join(
            json.dumps({"text": r["text"], "timestamp": "2019-04-25T12:57:54Z", "url": r["url"]}, ensure_ascii=False)
            + "\n"
            for r in rows
        )
        path.write_bytes(gzip.compress(made.encode()[: MB_OF_TEXT << 20].rpartition(b"\n")[0] + b"\n", 6, mtime=0))
    return path


def size(path: Path) -> float:
    """MB of JSON."""
    return len(gzip.decompress(path.read_bytes())) / 1e6


@stage(READ, "ours, checked, as documents")
def _(wet: Path) -> Timed:
    from sources.c4 import C4

    path = shard(wet)
    split = Split("x", str(path))
    return size(path), lambda: sum(t.num_rows for t in C4().read(split, Tally()))


@stage(READ, "pyarrow.json, one bad line ends the file")
def _(wet: Path) -> Timed:
    import pyarrow.json

    path = shard(wet)

    def run() -> int:
        plain = io.BytesIO(gzip.decompress(path.read_bytes()))
        options = pyarrow.json.ReadOptions(use_threads=False, block_size=16 << 20)
        return int(pyarrow.json.read_json(plain, read_options=options).num_rows)

    return size(path), run


@stage(READ, "orjson a line and Arrow", "orjson")
def _(wet: Path) -> Timed:
    import orjson

    path = shard(wet)

    def run() -> int:
        with gzip.open(path) as file:
            return int(pa.Table.from_pylist([orjson.loads(x) for x in file]).num_rows)

    return size(path), run


@stage(READ, "simdjson a line and Arrow", "simdjson")
def _(wet: Path) -> Timed:
    import simdjson

    path = shard(wet)

    def run() -> int:
        parser, rows = simdjson.Parser(), []
        with gzip.open(path) as file:
            for line in file:
                row = parser.parse(line)
                rows.append((row["text"], row["timestamp"], row["url"]))
                del row
        return int(
            pa.table([pa.array(x) for x in zip(*rows, strict=True)], names=["text", "timestamp", "url"]).num_rows
        )

    return size(path), run


@stage(READ, "datasets, streaming", "datasets")
def _(wet: Path) -> Timed:
    import datasets

    path = shard(wet)
    copy = path.with_name("c4-bench.json.gz")
    copy.write_bytes(path.read_bytes())

    def run() -> int:
        found = datasets.load_dataset("json", data_files=str(copy), split="train", streaming=True)
        return sum(t.num_rows for t in found.with_format("arrow").iter(1000))

    return size(path), run


@stage(RULES, "ours (c4_page, c4_lines)")
def _(wet: Path) -> Timed:
    from curate.filters.c4 import c4_lines, c4_page

    table = pages(wet)
    at = table.schema.get_field_index("text")

    def run() -> object:
        return c4_lines()(table.set_column(at, "text", c4_page()(table).columns["text"]))

    return text_mb(table), run


@stage(RULES, "plain Python, our sentences")
def _(wet: Path) -> Timed:
    from tests.curate.test_c4 import plain_lines, plain_page

    table = pages(wet).slice(0, 1000).combine_chunks()
    texts = table["text"].to_pylist()
    return sum(len(x.encode()) for x in texts) / 1e6, lambda: [plain_lines(plain_page(x)) for x in texts]


@stage(RULES, "datatrove's C4 quality filter", "datatrove")
def _(wet: Path) -> Timed:
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter

    texts = pages(wet).slice(0, 1000)["text"].to_pylist()
    rules = C4QualityFilter(filter_no_terminal_punct=True)
    made = [Document(text=x, id=str(i)) for i, x in enumerate(texts)]
    return sum(len(x.encode()) for x in texts) / 1e6, lambda: [rules.filter(d) for d in made]


@stage(RULES, "polars, rules 3, 4, 6 and 8 alone", "polars")
def _(wet: Path) -> Timed:
    import polars as pl

    table = pages(wet)
    frame = pl.from_arrow(table.select(["doc_id", "text"]))

    def run() -> object:
        line = pl.col("text").str.strip_chars()
        low = line.str.to_lowercase()
        bad = low.str.contains_any(["javascript", "terms of use", "privacy policy", "cookie policy", "use cookies"])
        kept = line.str.contains(r"[.?!\"]$") & ~line.str.ends_with("...") & ~bad
        lines = frame.with_columns(pl.col("text").str.split("\n")).explode("text")
        words = line.str.count_matches(r"\S+") >= 5
        return lines.filter(kept & words).group_by("doc_id", maintain_order=True).agg(pl.col("text").str.join("\n"))

    return text_mb(table), run


@stage("C4 line keys", "ours (SHA-1 of the line in lower case)")
def _(wet: Path) -> Timed:
    from curate.dedup.lines import lines

    table = pages(wet)
    return text_mb(table), lambda: lines().emit(table)


@stage("C4 line keys", "plain Python (hashlib)")
def _(wet: Path) -> Timed:
    import hashlib

    texts = pages(wet).slice(0, 1500)["text"].to_pylist()

    def run() -> int:
        return len({hashlib.sha1(x.strip().lower().encode()).digest()[:8] for t in texts for x in t.split("\n")})

    return sum(len(x.encode()) for x in texts) / 1e6, run


TERMS = [f"{a}{b}" for a in ("bad", "worse", "awful", "nasty") for b in ("word", " words", "term", "-talk", "&c")]
TERMS = [f"{x}{i}" for x in TERMS for i in range(20)]


@stage("C4 bad words", "ours, 400 terms")
def _(wet: Path) -> Timed:
    from curate.kernels.c4 import listed_terms, term_table

    table, trie = pages(wet), term_table(TERMS)
    return text_mb(table), lambda: listed_terms(table["text"], trie)


@stage("C4 bad words", "re, one pattern, as the published code")
def _(wet: Path) -> Timed:
    pattern = re.compile(rf"(?:\W|^)({'|'.join(map(re.escape, TERMS))})(?:\W|$)")
    texts = pages(wet).slice(0, 1000)["text"].to_pylist()
    return sum(len(x.encode()) for x in texts) / 1e6, lambda: [pattern.search(x.lower()) for x in texts]


@stage("C4 bad words", "pyarrow (RE2), one pattern")
def _(wet: Path) -> Timed:
    table = pages(wet)
    pattern = rf"(?:\W|^)({'|'.join(map(re.escape, TERMS))})(?:\W|$)"
    return text_mb(table), lambda: pc.match_substring_regex(pc.utf8_lower(table["text"]), pattern)
