"""Near-duplicates against labelled pairs, against datasketch, and against exact Jaccard on edited copies."""

from __future__ import annotations

import csv
import itertools
import random
from pathlib import Path

import pytest
from datasketch import MinHash, MinHashLSH

from curate.dedup.matching import find
from curate.dedup.near import near
from curate.engine import run
from curate.kernels.minhash import shingle_texts
from curate.store import Corpus, tables
from tests.copies import table

Pair = tuple[int, int]


def articles(folder: Path, count: int) -> tuple[list[str], set[Pair]]:
    """Texts of the labelled articles and the pairs of rows that are near-duplicates."""
    rows = (folder / "dedup" / "minhash" / f"articles_{count}.train").read_text().splitlines()
    names = {row.split(" ", 1)[0]: i for i, row in enumerate(rows)}
    truth = (folder / "dedup" / "minhash" / f"articles_{count}.truth").read_text().split()
    pairs: set[Pair] = set()
    for a, b in zip(truth[::2], truth[1::2], strict=True):
        x, y = sorted((names[a], names[b]))
        pairs.add((x, y))
    return [row.split(" ", 1)[1] for row in rows], pairs


def ours(texts: list[str], threshold: float) -> set[Pair]:
    return {(int(a), int(b)) for a, b in find(near(threshold=threshold), [table(texts)]).pairs}


def by_datasketch(texts: list[str], threshold: float, check: bool) -> set[Pair]:
    """What datasketch finds with its own bands; `check`: pairs whose estimated similarity is below go."""
    index, hashes, found = MinHashLSH(threshold=threshold, num_perm=128), [], set()
    for i, text in enumerate(texts):
        made = MinHash(num_perm=128, seed=1)
        made.update_batch([s.encode() for s in set(shingle_texts(text))])
        found |= {(j, i) for j in index.query(made) if not check or hashes[j].jaccard(made) >= threshold}
        index.insert(i, made)
        hashes.append(made)
    return found


def f1(found: set[Pair], gold: set[Pair]) -> float:
    return 2 * len(found & gold) / (len(found) + len(gold))


@pytest.mark.parametrize("count", [100, 1000])
def test_labelled_articles(shared_data: Path, count: int) -> None:
    """All pairs that people labelled, and no others; datasketch's own index does no better."""
    texts, gold = articles(shared_data, count)
    found, peer = ours(texts, 0.8), by_datasketch(texts, 0.8, check=False)
    assert len(gold) == {100: 5, 1000: 10}[count]
    assert len(found & gold) / len(gold) >= len(peer & gold) / len(gold)
    assert len(found & gold) / max(len(found), 1) >= len(peer & gold) / max(len(peer), 1)
    assert found == gold


def edited(shared_data: Path, seed: int = 11) -> tuple[list[str], dict[Pair, float]]:
    """Copies of the articles with words changed at many rates, and the exact similarity of every pair of a family."""
    rng = random.Random(seed)
    base, _ = articles(shared_data, 1000)
    vocabulary = " ".join(base[:100]).split()
    texts: list[str] = []
    families = []
    for text in base[:400]:
        words = text.split()
        family = [len(texts)]
        texts.append(text)
        for _ in range(4):
            rate = rng.uniform(0.0, 0.12)
            made = [rng.choice(vocabulary) if rng.random() < rate else w for w in words]
            if rng.random() < 0.3:
                cut = rng.randrange(len(made))
                del made[cut : cut + len(made) // 10]
            family.append(len(texts))
            texts.append(" ".join(made))
        families.append(family)
    sets = [set(shingle_texts(t)) for t in texts]
    similar = {}
    for family in families:
        for a, b in itertools.combinations(family, 2):
            similar[a, b] = len(sets[a] & sets[b]) / len(sets[a] | sets[b])
    return texts, similar


@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_edited_copies(shared_data: Path, threshold: float) -> None:
    texts, similar = edited(shared_data)
    gold = {pair for pair, jaccard in similar.items() if jaccard >= threshold}
    found = {pair for pair in ours(texts, threshold) if pair in similar}  # 40 pairs of articles are alike themselves
    peer = {pair for pair in by_datasketch(texts, threshold, check=True) if pair in similar}
    print(f"threshold {threshold}: {len(gold)} pairs, F1 ours {f1(found, gold):.4f}, datasketch {f1(peer, gold):.4f}")
    assert len(gold) > 300 and sum(0.4 < j < threshold for j in similar.values()) > 300
    assert f1(found, gold) >= 0.95
    assert f1(found, gold) > f1(peer, gold)
    assert found <= gold  # verified: nothing below the threshold


def test_editions_of_books(shared_data: Path, tmp_path: Path) -> None:
    """The books recipe finds all labelled pairs of editions, and joins no others."""
    rows = list(csv.DictReader(open(shared_data / "books" / "GOLD_near_duplicates.dev.tsv"), delimiter="\t"))
    run("books", [str(shared_data / "books")], out=tmp_path, engine="inline")
    corpus = Corpus(tmp_path)
    names = {c.unit: str(c.record["name"]) for c in corpus.commits("books")}
    kept, dropped = {}, {}
    for commit in corpus.commits("books"):
        kept |= {row: names[commit.unit] for t in tables(commit, "documents") for row in t["doc_id"].to_pylist()}
        for t in tables(commit, "dropped"):
            dropped |= {r["value"][:32]: [] for r in t.to_pylist() if r["stage"] == "containment"} | dropped
            for r in t.to_pylist():
                if r["stage"] == "containment":
                    dropped[r["value"][:32]].append(names[commit.unit])
    clusters = [{kept[survivor], *parts} for survivor, parts in dropped.items()]
    found = {frozenset(pair) for cluster in clusters for pair in itertools.combinations(sorted(cluster), 2)}
    gold = {frozenset((r["file_a"], r["file_b"])) for r in rows}
    assert len(gold) == 24 and found == gold
