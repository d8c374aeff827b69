"""A small source and recipes for tests of the machine: a file of lines, each a document; "!" lines are damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.recipe import Recipe
from curate.schema import DOCUMENT, doc_id
from curate.stage import AnsweredBarrier, Flags, KeyBatch, Keys, Offsets, Outcome, Split, Tally, rule, stage


@dataclass(frozen=True)
class Lines:
    """A document a line; "#" lines are skipped, "!" lines fail."""

    rows: int = 7  # documents a batch

    name = "lines"

    def plan(self, inputs: Sequence[str]) -> list[Split]:
        files = [p for i in inputs for p in sorted(Path(i).glob("*.txt"))]
        return [Split(p.name, str(p), p.stat().st_size) for p in files]

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        data = Path(split.path).read_bytes()
        tally.input_digest = hashlib.sha256(data).hexdigest()
        tally.bytes_in = len(data)
        rows = []
        for number, line in enumerate(data.decode().splitlines()):
            key, url = doc_id("lines", split.name, number), f"http://toy.example/{split.name}/{number}"
            if line.startswith("#"):
                tally.skip("comment")
            elif line.startswith("!"):
                tally.fail(key, url, "bad_line", line)
            else:
                rows.append({"doc_id": key, "source": "lines", "url": url, "title": None, "text": line})
            if len(rows) == self.rows:
                yield pa.Table.from_pylist(rows, schema=DOCUMENT)
                rows = []
        if rows:
            yield pa.Table.from_pylist(rows, schema=DOCUMENT)


@rule(reasons=("few_words",))
def enough_words(text: str, *, min_words: int = 2) -> str | None:
    """A document function."""
    return "few_words" if len(text.split()) < min_words else None


@stage(writes=(pa.field("shout_share", pa.float32()),), reasons=("shouting",))
def shout(table: pa.Table, *, max_share: float = 0.5) -> Outcome:
    """A column function that scores and drops."""
    upper = pc.utf8_length(pc.replace_substring_regex(table["text"], "[^A-Z]", ""))
    share = pc.divide(
        pc.cast(upper, pa.float32()), pc.cast(pc.max_element_wise(pc.utf8_length(table["text"]), 1), pa.float32())
    )
    bad = pc.greater(share, max_share)
    reason = pc.if_else(bad, pa.scalar("shouting"), pa.scalar(None, pa.string()))
    return Outcome({"shout_share": share}, reason, pc.cast(share, pa.string()))


@dataclass(frozen=True)
class Same(AnsweredBarrier):
    """Exact duplicates by text, in Python: the first stays."""

    scope: int = 3
    policy: Literal["first", "none"] = "first"

    name = "same"
    reads = ("text",)
    writes = ()
    reasons = ("seen",)

    @property
    def group_size(self) -> int | None:
        return self.scope

    def emit(self, table: pa.Table) -> KeyBatch:
        keys = [int.from_bytes(hashlib.sha1(t.encode()).digest()[:8], "little") for t in table["text"].to_pylist()]
        n = len(keys)
        return KeyBatch(np.array(keys, np.uint64), np.zeros(n, np.uint8), np.arange(n + 1, dtype=np.int64))

    def resolve(self, chunks: Callable[[], Iterator[Keys]], count: int) -> Iterator[Flags]:
        seen: set[int] = set()
        for keys in chunks():
            flags = np.zeros(len(keys), np.uint8)
            for i, k in enumerate(keys.tolist()):
                flags[i] = k in seen
                seen.add(k)
            yield flags

    def apply(self, table: pa.Table, answers: Flags, offsets: Offsets) -> Outcome:
        gone = pa.array(answers[offsets[:-1]].astype(bool))
        return Outcome(reason=pc.if_else(gone, pa.scalar("seen"), pa.scalar(None, pa.string())))


ALONE = Recipe("alone", Lines(), (enough_words(), shout()))
GROUPED = Recipe("grouped", Lines(), (enough_words(), Same(), shout()))
TWICE = Recipe("twice", Lines(), (Same(scope=2), enough_words(), shout()))
RECIPES = {r.name: r for r in (ALONE, GROUPED, TWICE)}


def write_files(folder: Path, n: int = 7, lines: int = 30) -> Path:
    """Deterministic input: repeats within and across files, comments, damaged lines, shouting, short lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for f in range(n):
        rows = []
        for i in range(lines):
            k = (f * lines + i) % 23
            special = {3: f"# comment {i}", 5: "SHOUTING ALL DAY", 7: "short"}
            text = f"common text number {k}" if k % 2 else f"own text of file {f} line {i}"
            rows.append(f"! damaged {f} {i}" if k == 11 and i % 2 else special.get(k, text))
        (folder / f"part-{f:02d}.txt").write_text("\n".join(rows) + "\n")
    return folder
