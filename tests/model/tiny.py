"""A corpus, a plan and a model small enough to be trained in a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from curate.store import Corpus
from model.plan import make_plan
from model.run_folder import Settings
from tests.model import make_corpus
from tests.tokenizer import trained

SHAPE = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 32, "lr": 0.01}
LENGTH, BATCH = 32, 4
WEIGHTS = {"books": 2, "wikipedia": 1}


def tiny_corpus(root: Path, tokens: int = 6000, held_out: float = 0.1, seed: int = 0) -> Corpus:
    """Two sources of random documents over a few hundred ids, the tokenizer beside them, and a plan."""
    random = np.random.default_rng(seed)
    sources: dict[str, dict[str, list[list[int]]]] = {}
    for source in WEIGHTS:
        sources[source] = {
            f"{source}-{unit}": [random.integers(3, 300, random.integers(5, 80)).tolist() for _ in range(40)]
            for unit in range(2)
        }
    corpus = make_corpus(root, sources)
    folder = root / "models" / "tokenizer"
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes((trained() / "tokenizer.model").read_bytes())
    make_plan(corpus, tokens, WEIGHTS, length=LENGTH, batch=BATCH, held_out=held_out)
    return corpus


def shape_file(folder: Path, **changes: Any) -> str:
    """A .json file of the tiny shape."""
    path = folder / "tiny.json"
    path.write_text(json.dumps({**SHAPE, **changes}))
    return str(path)


def tiny_settings(corpus: Corpus, run: Path, **changes: Any) -> Settings:
    """Settings of a short run on one CPU."""
    given: Mapping[str, Any] = {
        "steps": 12,
        "micro_batch": 2,
        "save_every": 4,
        "eval_every": 6,
        "device": "cpu",
        **changes,
    }
    return Settings(corpus=str(corpus.root), run=str(run), **{"model": shape_file(corpus.root), **given})
