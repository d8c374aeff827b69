"""What a tokenizer does with the text it is for: round trips, bytes per token, common words, digits.

Published ratios: bytes on disk by tokens of each source, from LLaMA's Table 1 (design/recipes.md 8). They are of
LLaMA's data: other languages and other documents give other ratios. They are shown beside ours, and nothing is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import RecipeError
from curate.kernels.arrow import buffers, large_strings
from tokenizer.encode import MARK, NORMAL, Encoder, check, read_model
from tokenizer.train import BINS, Inputs, Tables, bins, tables_of

PUBLISHED: Mapping[str, float] = {
    "commoncrawl": 3.87, "c4": 3.95, "github": 3.33, "wikipedia": 3.23, "books": 3.01, "arxiv": 2.79,
    "stackexchange": 2.87,
}  # fmt: skip
SAMPLE_BYTES = 8_000_000  # of each source
WORDS = 1000  # common words of each source
SHOWN = 10  # of the words that are several pieces
ROWS = 1000  # texts that are handled at once


def report(
    inputs: Inputs, model: Path, *, sample_bytes: int = SAMPLE_BYTES, words: int = WORDS, seed: int = 1
) -> dict[str, Any]:
    """Facts about a model file on a sample of the documents of each source; the inputs are those of `train`.

    `round_trip`: `exact` documents come back byte for byte; `marks` hold U+2581, which SentencePiece cannot tell from
    a space, and come back with spaces; `wrong` is 0 where all is well. `compared`: documents whose ids were compared
    with SentencePiece's own. `digits.merged`: pieces that hold a digit and more. RecipeError: no documents.
    StageError: ids that are not SentencePiece's.
    """
    encoder = Encoder(model)
    sources = {
        name: _source(name, tables, encoder, sample_bytes, words, seed) for name, tables in tables_of(inputs).items()
    }
    if not any(found["documents"] for found in sources.values()):
        raise RecipeError(f"no documents to report on in {', '.join(sources) or 'no source'}")
    trips = [found["round_trip"] for found in sources.values()]
    return {
        "model_sha256": encoder.sha256,
        "pieces": encoder.size,
        "sources": sources,
        "digits": _digits(model),
        "exact": all(trip["wrong"] == 0 for trip in trips),
    }


def _source(name: str, tables: Tables, encoder: Encoder, sample_bytes: int, words: int, seed: int) -> dict[str, Any]:
    total, trip, compared = np.zeros(3, np.int64), Counter[str](), 0
    languages: dict[str, Any] = {}
    common: Counter[str] = Counter()
    for table in _sample(tables, sample_bytes, seed):
        texts = large_strings(table["text"])
        ids = encoder.encode(texts)
        trip.update(_round_trip(texts, ids, encoder))
        compared += check(encoder, texts, sample=2)
        sizes = np.stack([np.ones(len(texts), np.int64), np.diff(buffers(texts)[1]), np.diff(ids.offsets.to_numpy())])
        total += sizes.sum(axis=1)
        for lang, row in zip(_languages(table), sizes.T, strict=True):
            languages[lang] = languages.get(lang, 0) + row
        for text in texts.to_pylist():
            common.update(word for word in text.split() if word.isalpha())
    documents, size, tokens = total.tolist()
    published = PUBLISHED.get(name)
    return {
        "documents": documents, "bytes": size, "tokens": tokens, "bytes_per_token": _ratio(size, tokens),
        "published_bytes_per_token": published,
        "of_published": _ratio(size, tokens * published) if published else None,
        "languages": {
            lang: {"documents": int(n), "bytes": int(b), "tokens": int(t), "bytes_per_token": _ratio(int(b), int(t))}
            for lang, (n, b, t) in sorted(languages.items())
        },
        "round_trip": {kind: trip[kind] for kind in ("exact", "marks", "wrong")},
        "compared": compared,
        "words": _words([word for word, _ in sorted(common.items(), key=lambda x: (-x[1], x[0]))[:words]], encoder),
    }  # fmt: skip


def _sample(tables: Tables, sample_bytes: int, seed: int) -> Iterator[pa.Table]:
    """About `sample_bytes` of documents, the same ones whatever their order, a few at a time."""
    sizes = np.zeros(BINS, np.int64)
    for table in tables():
        lengths = np.diff(buffers(table["text"])[1])
        sizes += np.bincount(bins(table["doc_id"].to_pylist(), seed), lengths, BINS).astype(np.int64)
    cut = int(np.searchsorted(np.cumsum(sizes), sample_bytes)) + 1
    for table in tables():
        chosen = table.filter(pa.array(bins(table["doc_id"].to_pylist(), seed) < cut))
        for i in range(0, chosen.num_rows, ROWS):
            yield chosen.slice(i, ROWS)


def _languages(table: pa.Table) -> list[str]:
    if "lang" not in table.column_names:
        return ["unknown"] * table.num_rows
    return [lang or "unknown" for lang in table["lang"].to_pylist()]


def _round_trip(texts: pa.LargeStringArray, ids: pa.LargeListArray, encoder: Encoder) -> dict[str, int]:
    """How many texts come back exactly, with U+2581 as spaces, or otherwise."""
    back = encoder.decode(ids)
    exact = pc.sum(pc.equal(back, texts)).as_py() or 0
    spaced = pc.sum(pc.equal(back, pc.replace_substring(texts, MARK, " "))).as_py() or 0
    return {"exact": exact, "marks": spaced - exact, "wrong": len(texts) - spaced}


def _words(words: list[str], encoder: Encoder) -> dict[str, Any]:
    """How many words are one piece with the space before them."""
    spaced = words if encoder.dummy_prefix else [f" {word}" for word in words]
    lengths = np.diff(encoder.encode(pa.array(spaced, pa.large_string())).offsets.to_numpy())
    single = int((lengths == 1).sum())
    several = [word for word, n in zip(words, lengths.tolist(), strict=True) if n > 1]
    return {"words": len(words), "single": single, "share": _ratio(single, len(words)), "several": several[:SHOWN]}


def _digits(model: Path) -> dict[str, int]:
    """Pieces with a digit in them, and those of them that hold more than the digit."""
    _, proto = read_model(model)
    found = [p.piece for p in proto.pieces if p.type == NORMAL and any(c.isdecimal() for c in p.piece)]
    return {"pieces": len(found), "merged": sum(len(piece) > 1 for piece in found)}


def _ratio(a: float, b: float) -> float | None:
    return round(a / b, 4) if b else None


def text(facts: Mapping[str, Any]) -> str:
    """The report as a table."""
    digits = facts["digits"]
    lines = [
        f"{facts['pieces']:,} pieces; {digits['merged']} of {digits['pieces']} with a digit hold more than it",
        f"{'source':<16}{'documents':>10}{'MB':>9}{'tokens':>13}{'B/token':>9}{'LLaMA':>7}{'words':>7}  round trip",
    ]
    for name, found in facts["sources"].items():
        trip, share = found["round_trip"], found["words"]["share"]
        state = f"{trip['exact']:,} exact"
        state += f", {trip['marks']:,} with U+2581" if trip["marks"] else ""
        state += f", {trip['wrong']:,} WRONG" if trip["wrong"] else ""
        lines.append(
            f"{name:<16}{found['documents']:>10,}{found['bytes'] / 1e6:>9.2f}{found['tokens']:>13,}"
            f"{found['bytes_per_token'] or 0:>9.2f}{found['published_bytes_per_token'] or '':>7}"
            f"{'' if share is None else f'{share:.0%}':>7}  {state}"
        )
        if set(found["languages"]) - {"unknown"}:
            lines += [
                f"  {lang:<14}{x['documents']:>10,}{x['bytes'] / 1e6:>9.2f}{x['tokens']:>13,}"
                f"{x['bytes_per_token'] or 0:>9.2f}"
                for lang, x in found["languages"].items()
            ]
    return "\n".join(lines) + "\n"
