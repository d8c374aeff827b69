"""Small corpora with token shards whose ids are known, and plans without any corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.schema import DOCUMENT, SCORES, doc_id, unit_name
from curate.store import Attempt, Corpus, tables, to_json
from curate.token_shards import shard_schema, text_hashes
from model.plan import _note_draws, plan_hash
from tests.tokenizer import trained

COLUMNS = pa.schema([*DOCUMENT, *SCORES])
MODEL = "tokenizer.model"
Units = Mapping[str, Sequence[Sequence[int]]]  # ids of each document, by name of the unit


def bare_plan(
    sources: Mapping[str, tuple[int, int]], length: int, batch: int, steps: int, seed: int = 0
) -> dict[str, Any]:
    """A plan of {source: (weight, tokens)} of which nothing can be read."""
    entries = {s: {"weight": w, "tokens": n, "units": []} for s, (w, n) in sources.items()}
    plan = {"format": 1, "seed": seed, "length": length, "batch": batch, "steps": steps, "bos": None, "eos": None,
            "tokenizer": "", "vocabulary": 0, "sources": entries}  # fmt: skip
    _note_draws(plan)
    return {**plan, "hash": plan_hash(plan)}


def document(source: str, name: str, number: int, text: str) -> dict[str, Any]:
    """A record with everything that a trace has to find again."""
    return {"doc_id": doc_id(source, name, number), "source": source, "url": f"https://{source}.example/{name}/{number}",
            "title": f"Title {number}", "text": text, "date": None, "lang": "en", "license": f"CC-{number}",
            "meta": "{}", "lang_score": number / 8, "perplexity": None, "reference_score": None,
            "bucket": "head"}  # fmt: skip


def commit_documents(corpus: Corpus, source: str, name: str, texts: Sequence[str], rows: int = 3) -> None:
    """Commit a unit of documents, `rows` a batch."""
    made = [document(source, name, i, text) for i, text in enumerate(texts)]
    with Attempt(corpus.final(source), unit_name(name)) as attempt:
        file = attempt.arrow("documents", COLUMNS)
        for i in range(0, len(made), rows):
            file.write(pa.Table.from_pylist(made[i : i + rows], schema=COLUMNS))
        attempt.commit({"name": name, "fingerprint": hashlib.sha256(repr(texts).encode()).hexdigest(),
                        "counts": {"kept": len(texts)}})  # fmt: skip
    (corpus.root / "corpus.json").write_bytes(to_json({"format": 1, "sources": {}}))


def commit_tokens(corpus: Corpus, source: str, name: str, ids: Sequence[Sequence[int]], rows: int = 3) -> None:
    """Commit a token shard with these ids, `rows` documents a batch, as curate.token_shards would."""
    of = corpus.final(source).latest(unit_name(name))
    assert of is not None
    hashes = pa.concat_arrays([text_hashes(t["text"]) for t in tables(of, "documents")])
    schema = shard_schema(pa.uint32() if max((i for d in ids for i in d), default=0) >= 1 << 16 else pa.uint16())
    with Attempt(corpus.tokens(source), unit_name(name)) as attempt:
        file = attempt.arrow("", schema, None)
        for i in range(0, len(ids), rows):
            names = [doc_id(source, name, k) for k in range(i, min(i + rows, len(ids)))]
            columns = [pa.array(names), pa.array(ids[i : i + rows], schema.field(1).type), hashes[i : i + rows]]
            file.write(pa.table(columns, schema=schema))
        counts = {"documents": len(ids), "tokens": sum(map(len, ids)), "bytes": 0}
        attempt.commit({"name": name, "fingerprint": repr(ids), "tokenizer": tokenizer_digest(), "counts": counts,
                        "documents_sha256": of.record["files"]["documents"]["sha256"]})  # fmt: skip


def tokenizer_digest() -> str:
    return hashlib.sha256((trained() / MODEL).read_bytes()).hexdigest()


def make_corpus(root: Path, sources: Mapping[str, Units], rows: int = 3) -> Corpus:
    """A corpus of these tokens; the documents' texts say which they are."""
    corpus = Corpus(root)
    for source, units in sources.items():
        for name, ids in units.items():
            commit_documents(corpus, source, name, [f"{source} {name} {i}" for i in range(len(ids))], rows)
            commit_tokens(corpus, source, name, ids, rows)
    return corpus


def stream_of(units: Units, bos: int | None = 1, eos: int | None = 2) -> list[int]:
    """One lap of a source, from the definition."""
    lap: list[int] = []
    for name in sorted(units):
        for ids in units[name]:
            lap += [*([] if bos is None else [bos]), *ids, *([] if eos is None else [eos])]
    return lap
