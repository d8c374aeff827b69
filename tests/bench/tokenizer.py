"""The encoder beside every other one: ids of the text of the first two files, one core.

Cold: an encoder made anew each time, that has met no text (the model is read before, in the untimed part of the call).
Warm: one that has met this text. The model is trained once on the books and languages beside the checkout, or on the
set itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.kernels.arrow import large_strings
from tests.bench.stages import ROOT, Timed, documents, stage, text_mb

GROUP = "tokenize, 32,000 pieces"


def model(wet: Path) -> Path:
    """A model of 32,000 pieces, trained once, below .venv."""
    import gzip

    from tokenizer.train import train

    folder = ROOT / ".venv" / "bench" / "tokenizer"
    if not (folder / "tokenizer.model").exists():
        clean = sorted((ROOT.parent / "shared" / "data" / "lm_text").glob("*.txt.gz"))
        texts = [gzip.decompress(p.read_bytes()).decode() for p in clean] or column(wet).to_pylist()
        train({"commoncrawl": texts}, folder, sample_bytes=50_000_000)
    return folder / "tokenizer.model"


def column(wet: Path) -> pa.LargeStringArray:
    """The text, in memory."""
    return large_strings(documents(wet)["text"])


def _fresh(make: Callable[[], Any], use: Callable[[Any], object]) -> Callable[[], object]:
    """Calls that each use what was never used before; a few are made ahead: the harness calls four times."""
    made = [make() for _ in range(6)]
    return lambda: use(made.pop() if made else make())


@stage(GROUP, "ours, cold")
def _(wet: Path) -> Timed:
    from tokenizer.encode import Encoder

    texts, path = column(wet), model(wet)
    return text_mb(documents(wet)), _fresh(lambda: Encoder(path), lambda e: e.encode(texts))


@stage(GROUP, "ours, warm")
def _(wet: Path) -> Timed:
    from tokenizer.encode import Encoder

    texts, encoder = column(wet), Encoder(model(wet))
    return text_mb(documents(wet)), lambda: encoder.encode(texts)


def _gigatoken(wet: Path, cold: bool) -> Timed:
    import gigatoken

    raw, path = [t.encode() for t in column(wet).to_pylist()], model(wet)

    def make() -> Any:
        made = gigatoken.Tokenizer.from_sentencepiece(path)
        made.encode("what is made at the first call")
        return made

    def use(made: Any) -> object:
        return made.encode_batch(raw, parallel=False)

    one = make()
    return text_mb(documents(wet)), _fresh(make, use) if cold else lambda: use(one)


@stage(GROUP, "gigatoken, cold", "gigatoken")
def _(wet: Path) -> Timed:
    return _gigatoken(wet, cold=True)


@stage(GROUP, "gigatoken, warm", "gigatoken")
def _(wet: Path) -> Timed:
    return _gigatoken(wet, cold=False)


@stage(GROUP, "sentencepiece", "sentencepiece")
def _(wet: Path) -> Timed:
    import sentencepiece

    texts = column(wet).to_pylist()[::10]
    made = sentencepiece.SentencePieceProcessor(model_file=str(model(wet)))
    return sum(len(t.encode()) for t in texts) / 1e6, lambda: made.encode(texts, num_threads=1)


@stage(GROUP, "tokenizers, encode_batch_fast", "tokenizers")
def _(wet: Path) -> Timed:
    import os

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    texts = column(wet).to_pylist()[::10]
    made = tokenizers.Tokenizer.from_file(str(model(wet).parent / "tokenizer.json"))
    use = lambda: made.encode_batch_fast(texts, add_special_tokens=False)  # noqa: E731
    return sum(len(t.encode()) for t in texts) / 1e6, use


@stage("tokenizer training, 50 MB, 32,000 pieces", "ours (sentencepiece), two passes over the text and exports")
def _(wet: Path) -> Timed:
    import tempfile

    from tokenizer.train import train

    texts = column(wet).to_pylist()
    out = Path(tempfile.mkdtemp(prefix="curate-bench-"))
    return 50.0, lambda: train({"commoncrawl": texts}, out, sample_bytes=50_000_000)
