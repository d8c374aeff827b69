"""A small corpus with copies in it: documents of random words, exact copies, edited copies, contained ones."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa

from curate.dedup.exact import exact
from curate.dedup.near import containment, near
from curate.recipe import Recipe
from tests.toy import Lines, enough_words

WORDS = [
    f"{a}{b}{c}" for a in ("ka", "lo", "mi", "ru", "te") for b in ("n", "s", "v", "l") for c in ("a", "e", "o", "im")
]


def lines(count: int, seed: int, words: int = 60) -> list[str]:
    """Documents of which about a fifth are exact copies and a fifth copies with two words changed."""
    rng, made = random.Random(seed), []
    for _ in range(count):
        draw = rng.random()
        if made and draw < 0.2:
            made.append(rng.choice(made))
        elif made and draw < 0.4:
            text = rng.choice(made).split()
            for place in rng.sample(range(len(text)), 2):
                text[place] = rng.choice(WORDS)
            made.append(" ".join(text))
        else:
            made.append(" ".join(rng.choice(WORDS) for _ in range(words)))
    return made


def write_copies(folder: Path, files: int = 3, each: int = 20, seed: int = 7) -> Path:
    """The documents as files of `tests.toy.Lines`; copies cross files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = lines(files * each, seed)
    random.Random(seed).shuffle(made)
    for f in range(files):
        (folder / f"part-{f:02d}.txt").write_text("\n".join(made[f * each : (f + 1) * each]) + "\n")
    return folder


def table(texts: list[str], **columns: list[object]) -> pa.Table:
    """Documents with these texts."""
    n = len(texts)
    given = {
        "doc_id": [f"{i:032x}" for i in range(n)],
        "url": [f"http://copies.example/{i}" for i in range(n)],
        **columns,
    }
    return pa.table({**given, "text": pa.array(texts, pa.large_string())})


PLAIN = Recipe("plain", Lines(), (enough_words(),))
CLEANED = Recipe("cleaned", Lines(), (enough_words(), exact(), near(threshold=0.6), containment(sampling=4)))
RECIPES = {r.name: r for r in (PLAIN, CLEANED)}
