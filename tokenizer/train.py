"""Training of the tokenizer: SentencePiece BPE with LLaMA's flags, on a sample of all sources by mixture weight.

Touvron et al. 2023, section 2.1; the flags are those of the released model file (design/recipes.md 9).

The sample. A text is cut into blocks of about BLOCK bytes, each has a key: a hash of the seed, the text's doc_id and
the block's place in it. Of a source those blocks are taken whose keys are least, as many as its share of the sample
asks for; a source with less text than that is read up to MAX_EPOCHS times. So the sample depends on the documents and
the seed, not on files or their order, and what is learnt depends on how often each word is in the sample, not on its
place. The texts are read twice, in batches; only the sample itself is in memory (SentencePiece needs about ten times
its bytes).
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sentencepiece

from curate.errors import RecipeError, near
from curate.kernels.arrow import buffers
from curate.store import Corpus
from tokenizer.encode import protobuf
from tokenizer.export import write_export

# Share of the training tokens, percent (Touvron et al. 2023, Table 1).
WEIGHTS: Mapping[str, float] = {
    "commoncrawl": 67.0, "c4": 15.0, "github": 4.5, "wikipedia": 4.5, "books": 4.5, "arxiv": 2.5, "stackexchange": 2.0,
}  # fmt: skip
FLAGS: Mapping[str, Any] = {
    "model_type": "bpe", "character_coverage": 0.99995, "input_sentence_size": 200_000_000,
    "shuffle_input_sentence": True, "max_sentence_length": 4192, "max_sentencepiece_length": 16,
    "split_by_unicode_script": True, "split_by_whitespace": True, "split_by_number": True, "split_digits": True,
    "allow_whitespace_only_pieces": True, "treat_whitespace_as_suffix": False, "byte_fallback": True,
    "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
    "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "unk_surface": " \u2047 ",
}  # fmt: skip
THREADS = 16  # fixed, since the model file names it; LLaMA's says 80
SAMPLE_BYTES = 100_000_000
BLOCK = 2048  # bytes of a block, less than half of max_sentence_length
BINS = 1 << 16  # of keys: a sample is exact to a bin
MAX_EPOCHS = 4.0
RESERVED = "\u2585"  # SentencePiece passes over a line that holds it

Octets = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Tables = Callable[[], Iterable[pa.Table]]  # each call reads from the beginning; columns: doc_id, text, lang (or null)
Inputs = Path | str | Corpus | Mapping[str, Sequence[str]] | Mapping[str, Tables]


@dataclass(frozen=True)
class Share:
    """What the sample has of one source, in bytes. `cut`: bins of keys that are read once more than `whole` times."""

    available: int
    wanted: int
    whole: int
    cut: int
    sampled: int


def train(
    inputs: Inputs,
    out: Path,
    *,
    vocab_size: int = 32000,
    weights: Mapping[str, float] | None = None,
    sample_bytes: int = SAMPLE_BYTES,
    seed: int = 0,
    dummy_prefix: bool = True,
) -> dict[str, Any]:
    """Train a tokenizer into the folder `out`; its card.

    `inputs`: a corpus, or texts (or a function that gives tables with `doc_id` and `text`) by source name. `weights` by
    source: by default the paper's, for the sources that are there. `dummy_prefix=False`: no space is set before a text,
    unlike LLaMA's (see `tokenizer.export`). Where the sample does not give `vocab_size` pieces the model has fewer, and
    `card["note"]` says so. Writes tokenizer.model, tokenizer.json, tokenizer_config.json and card.json.
    RecipeError: no text, a wrong weight or size.
    """
    sources = tables_of(inputs)
    shares = plan_sample(sources, weights, sample_bytes, seed)
    settings = {**FLAGS, "vocab_size": vocab_size, "add_dummy_prefix": dummy_prefix, "num_threads": THREADS}
    counts = {"lines": 0}

    def lines() -> Iterator[str]:
        counts["lines"] = 0
        for line in sample_lines(sources, shares, seed, dummy_prefix):
            counts["lines"] += 1
            yield line

    model, note = _learn(lines, settings)
    card = {
        "kind": "tokenizer", "pieces": _pieces(model), "vocab_size": vocab_size, "note": note, "seed": seed,
        "dummy_prefix": dummy_prefix, "sample_bytes": sample_bytes, "sample_lines": counts["lines"],
        "weights": dict(_weights(sources, weights)), "flags": dict(settings), "sources": _shown(shares),
        "sentencepiece": sentencepiece.__version__,
    }  # fmt: skip
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".train-", dir=out) as work:
        (Path(work) / "tokenizer.model").write_bytes(model)
        names = ["tokenizer.model", *write_export(Path(work) / "tokenizer.model", Path(work))]
        card["sha256"] = {name: hashlib.sha256((Path(work) / name).read_bytes()).hexdigest() for name in names}
        (Path(work) / "card.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
        for name in [*names, "card.json"]:
            (Path(work) / name).replace(out / name)
    return card


def tables_of(inputs: Inputs) -> dict[str, Tables]:
    """Ways to read the documents of each source. RecipeError: there are none."""
    if isinstance(inputs, str | Path | Corpus):
        corpus = inputs if isinstance(inputs, Corpus) else Corpus(Path(inputs))
        if not (corpus.root / "corpus.json").exists():
            raise RecipeError(f"{corpus.root}: is no corpus (it has no corpus.json)")
        found = {source: _committed(corpus, source) for source in corpus.sources() if any(corpus.commits(source))}
        if not found:
            raise RecipeError(f"{corpus.root}: no documents are committed there")
        return found
    named: Mapping[str, Any] = inputs
    return {name: given if callable(given) else _listed(given) for name, given in sorted(named.items())}


def _committed(corpus: Corpus, source: str) -> Tables:
    def tables() -> Iterator[pa.Table]:
        for commit in corpus.commits(source):
            reader = commit.open("documents")
            for i in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(i)]).select(["doc_id", "text", "lang"])

    return tables


def _listed(texts: Sequence[str]) -> Tables:
    def tables() -> Iterator[pa.Table]:
        ids = [hashlib.blake2b(t.encode(), digest_size=16).hexdigest() for t in texts]
        yield pa.table({"doc_id": ids, "text": pa.array(texts, pa.large_string())})

    return tables


def _weights(sources: Mapping[str, Tables], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Weights of the sources, adding up to 1."""
    given = WEIGHTS if weights is None else weights
    for name in sources:
        if name not in given:
            raise RecipeError(f"source {name!r} has no weight; give weights for what is there{near(name, given)}")
    for name in weights or ():
        if name not in sources:
            raise RecipeError(f"weight of {name!r}: no such source{near(name, sources)}")
    chosen = {name: float(given[name]) for name in sorted(sources)}
    total = sum(chosen.values())
    if not all(0 <= w < float("inf") for w in chosen.values()) or not 0 < total < float("inf"):
        raise RecipeError(f"weights must be numbers of at least 0, one of them above: {chosen}")
    return {name: w / total for name, w in chosen.items()}


def plan_sample(
    sources: Mapping[str, Tables], weights: Mapping[str, float] | None, sample_bytes: int, seed: int
) -> dict[str, Share]:
    """Which blocks of each source the sample takes; reads every source once."""
    if sample_bytes < 1:
        raise RecipeError(f"sample_bytes is {sample_bytes}, must be at least 1")
    chosen = _weights(sources, weights)
    shares = {name: _share(sources[name], int(sample_bytes * chosen[name]), seed) for name in sorted(sources)}
    if not any(share.sampled for share in shares.values()):
        raise RecipeError(f"no text to learn from in {', '.join(shares) or 'no source'}")
    return shares


def _share(tables: Tables, wanted: int, seed: int) -> Share:
    sizes = np.zeros(BINS, np.int64)
    for table in tables():
        _, offsets = buffers(table["text"])
        rows, places = _blocks(offsets)
        keys = _keys(table["doc_id"].to_pylist(), rows, places, seed)
        in_block = np.minimum(BLOCK, np.diff(offsets)[rows] - places * BLOCK)
        sizes += np.bincount((keys >> np.uint64(48)).astype(np.int64), in_block, BINS).astype(np.int64)
    available = int(sizes.sum())
    epochs = min(wanted / available, MAX_EPOCHS) if available else 0.0
    whole = int(epochs)
    sums = np.concatenate([[0], np.cumsum(sizes)])
    cut = int(np.searchsorted(sums, (epochs - whole) * available))
    return Share(available, wanted, whole, cut, whole * available + int(sums[cut]))


def _blocks(offsets: Ints) -> tuple[Ints, Ints]:
    """(row, place in the row) of every block of texts."""
    counts = -(-np.diff(offsets) // BLOCK)
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def bins(doc_ids: Sequence[str], seed: int) -> Ints:
    """A number below BINS for each document, evenly spread, the same whatever the others are."""
    rows = np.arange(len(doc_ids))
    return (_keys(doc_ids, rows, np.zeros(len(rows), np.int64), seed) >> np.uint64(48)).astype(np.int64)


def _keys(doc_ids: Sequence[str], rows: Ints, places: Ints, seed: int) -> Keys:
    """A hash a block: of seed, document and place."""
    salt = seed.to_bytes(16, "little", signed=True)
    documents: Keys = np.array(
        [int.from_bytes(hashlib.blake2b(x.encode(), digest_size=8, key=salt).digest(), "little") for x in doc_ids],
        np.uint64,
    )
    x: Keys = documents[rows] + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sample_lines(
    sources: Mapping[str, Tables], shares: Mapping[str, Share], seed: int, dummy_prefix: bool
) -> Iterator[str]:
    """Lines of the sample, each of less than 4,192 bytes."""
    for name, share in shares.items():
        if not share.sampled:
            continue
        for table in sources[name]():
            data, offsets = buffers(table["text"])
            rows, places = _blocks(offsets)
            keys = _keys(table["doc_id"].to_pylist(), rows, places, seed)
            times = share.whole + ((keys >> np.uint64(48)) < np.uint64(share.cut))
            for at in np.flatnonzero(times).tolist():
                row, place = int(rows[at]), int(places[at])
                text = data[offsets[row] : offsets[row + 1]]
                start, stop = _cut(text, place, dummy_prefix), _cut(text, place + 1, dummy_prefix)
                if dummy_prefix and start < stop < len(text) and text[stop - 1] == 32:
                    stop -= 1  # the trainer sets it before what follows
                block = text[start:stop].tobytes().decode()
                for line in block.replace(RESERVED, " ").split("\n") * int(times[at]):
                    if line:
                        yield line


def _cut(text: Octets, place: int, dummy_prefix: bool) -> int:
    """Where block `place` of a text begins: at white space near its nominal place, else between two characters.

    A space there is left out where the trainer sets one before each line, and kept where it does not.
    """
    at = place * BLOCK
    if at == 0 or at >= len(text):
        return min(at, len(text))
    window = text[at : at + BLOCK // 2].tobytes()
    spaces = [x for x in (window.find(b" "), window.find(b"\n")) if x >= 0]
    if spaces:
        at += min(spaces)
        return at + 1 if dummy_prefix or text[at] == 10 else at
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def _learn(lines: Callable[[], Iterator[str]], settings: Mapping[str, Any]) -> tuple[bytes, str]:
    """(model file, a note where it has fewer pieces than wanted)."""
    if not isinstance(settings["vocab_size"], int) or settings["vocab_size"] < 1:
        raise RecipeError(f"vocab_size is {settings['vocab_size']!r}, must be at least 1")
    try:
        return _run_trainer(lines(), settings, hard=True), ""
    except RuntimeError as error:
        if "Vocabulary size too high" not in str(error):
            raise RecipeError(_explained(str(error), settings["vocab_size"])) from None
    model = _run_trainer(lines(), settings, hard=False)
    return model, f"{_pieces(model)} pieces, not {settings['vocab_size']}: the sample gives no more"


def _run_trainer(lines: Iterator[str], settings: Mapping[str, Any], hard: bool) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, minloglevel=3, hard_vocab_limit=hard, **settings
    )
    return model.getvalue()


def _explained(message: str, vocab_size: int) -> str:
    if "sentences_.empty()" in message:
        return "no text to learn from: the sample holds no line"
    if "smaller than required_chars" in message:
        needed = message.rpartition(" vs ")[2].partition(".")[0]
        return f"vocab_size is {vocab_size}, the characters and bytes alone of this sample take {needed} pieces"
    return f"SentencePiece cannot learn from this sample: {' '.join(message.split())}"


def _pieces(model: bytes) -> int:
    proto = protobuf.ModelProto()
    proto.ParseFromString(model)
    return len(proto.pieces)


def _shown(shares: Mapping[str, Share]) -> dict[str, dict[str, Any]]:
    """Bytes of each source for the card."""
    total = sum(share.sampled for share in shares.values())
    return {
        name: {
            "available_bytes": s.available, "wanted_bytes": s.wanted, "sampled_bytes": s.sampled,
            "epochs": round(s.sampled / s.available, 6) if s.available else 0.0, "share": round(s.sampled / total, 6),
        }
        for name, s in shares.items()
    }  # fmt: skip
