"""From a training position back to what was read there (`curate trace`).

    curate trace corpus --step 1200 --row 3 --pos 77

A row of a step is a window of a source's stream (model.plan), a token of it belongs to one document of one committed
unit, and that document's record has the address, the licence and every score. Nothing is searched: a trace opens one
token shard and one file of documents.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from curate.errors import RecipeError, StoreError
from curate.store import Commit, Corpus
from model.data import Found, Stream, streams
from model.plan import Order, Places, check

SHOWN = 300  # characters of a document's beginning


def trace(
    corpus: Corpus | Path, plan: Mapping[str, Any], step: int, row: int, pos: int | None = None
) -> dict[str, Any]:
    """What input `pos` of row `row` of the global batch of a step is (pos = length: the last target).

    {step, row, source, window, epoch, documents: [a record for each document of the row, or the one at `pos`]}. A
    record has `from` and `to` (its inputs in the row), `at` (place in the document of the first of them, BOS included),
    `tokens` (its length with BOS and EOS), `unit`, `name` (of the upstream file), every column of the document but its
    text, and `begins`: the first characters of the text. With `pos` also `token` and `special` ("bos", "eos", None).
    RecipeError: no such step, row or position. StoreError: data changed since the plan was made.
    """
    corpus, order = corpus if isinstance(corpus, Corpus) else Corpus(Path(corpus)), Order(plan)
    rows = order.rows(step)
    if not 0 <= row < len(rows):
        raise RecipeError(f"row {row}: a step has rows 0 to {len(rows) - 1}")
    if pos is not None and not 0 <= pos <= order.length:
        raise RecipeError(f"position {pos}: a row has positions 0 to {order.length}")
    places = order.places(rows[row : row + 1])
    source = order.sources[int(places.source[0])]
    check(corpus, {"sources": {source: _only(plan, source, places, order.length)}})
    stream, start = streams(corpus, plan)[int(places.source[0])], int(places.window[0]) * order.length
    pieces = _pieces(stream, start, order.length) if pos is None else [(pos, pos + 1, stream.find(start + pos))]
    documents = [{"from": a, "to": b, **_record(corpus, source, found)} for a, b, found in pieces]
    if pos is not None:
        documents[0] |= {"token": int(stream.read(start + pos, 1)[0]), "special": _special(stream, pieces[0][2])}
    return {
        "step": step, "row": row, "pos": pos, "source": source, "window": int(places.window[0]),
        "epoch": int(places.epoch[0]), "documents": documents,
    }  # fmt: skip


def _only(plan: Mapping[str, Any], source: str, places: Places, length: int) -> dict[str, Any]:
    """The plan's entry of a source with the units that a window touches: no other has to be unchanged."""
    entry = plan["sources"][source]
    lap, begin = int(entry["tokens"]), int(places.window[0]) * length
    if length >= lap:
        return dict(entry)
    ends = np.cumsum([u["tokens"] for u in entry["units"]])
    begins = ends - [u["tokens"] for u in entry["units"]]
    a, b = begin % lap, (begin + length) % lap
    wanted = (begins <= b) & (ends > a) if a <= b else (ends > a) | (begins <= b)
    return {**entry, "units": [u for u, w in zip(entry["units"], wanted, strict=True) if w]}


def _pieces(stream: Stream, start: int, length: int) -> list[tuple[int, int, Found]]:
    """(first input, end, document) for each document of a row."""
    edges = sorted({0, *stream.begins(start, length).tolist()})
    ends = [*edges[1:], length]
    return [(a, b, stream.find(start + a)) for a, b in zip(edges, ends, strict=True)]


def _special(stream: Stream, found: Found) -> str | None:
    if stream.bos is not None and found.at == 0:
        return "bos"
    return "eos" if stream.eos is not None and found.at == found.size - 1 else None


def _record(corpus: Corpus, source: str, found: Found) -> dict[str, Any]:
    commit = corpus.final(source).latest(found.unit["unit"])
    if commit is None:
        raise StoreError(f"{source}: unit {found.unit['unit']} has tokens and no documents")
    columns = _row(commit, found.row)
    if columns["doc_id"] != found.doc_id:
        raise StoreError(f"{commit.path('documents')}: row {found.row} is document {columns['doc_id']}, its tokens are "
                         f"of {found.doc_id}; run curate tokenize again")  # fmt: skip
    text = columns.pop("text")
    return {"at": found.at, "tokens": found.size, "unit": found.unit["unit"], "name": found.unit["name"], **columns,
            "begins": text[:SHOWN]}  # fmt: skip


def _row(commit: Commit, row: int) -> dict[str, Any]:
    reader, before = commit.open("documents"), 0
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        if row < before + batch.num_rows:
            columns: dict[str, Any] = batch.slice(row - before, 1).to_pylist()[0]
            return {k: v.isoformat() if isinstance(v, datetime.datetime) else v for k, v in columns.items()}
        before += batch.num_rows
    raise StoreError(f"{commit.path('documents')}: has no row {row}")


def text(found: Mapping[str, Any]) -> str:
    """A trace for people."""
    at = "" if found["pos"] is None else f" position {found['pos']}"
    lines = [f"step {found['step']} row {found['row']}{at}: {found['source']}, window {found['window']}, "
             f"epoch {found['epoch']}"]  # fmt: skip
    for document in found["documents"]:
        shown = {
            k: v for k, v in document.items() if k not in ("from", "to", "at", "tokens", "begins", "token", "special")
        }
        lines.append(f"  inputs {document['from']} to {document['to'] - 1}: from token {document['at']} of "
                     f"{document['tokens']} of document {shown.pop('doc_id')}")  # fmt: skip
        if "token" in document:
            special = f" ({document['special'].upper()})" if document["special"] else ""
            lines.append(f"    {'token':<22}{document['token']}{special}")
        lines += [f"    {name:<22}{value}" for name, value in shown.items() if value is not None]
        lines.append(f"    {'begins':<22}{document['begins'][:100]!r}")
    return "\n".join(lines)
