"""Links, clusters and survivors against plain Python and scipy, in any order of their inputs."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from curate.kernels.clusters import (
    BUCKET,
    LARGEST_ID,
    components,
    links_of_partition,
    sorted_edges,
    spanning_forest,
    survivors,
)

Pairs = list[tuple[int, int]]


def ids(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def columns(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    return ids([a for a, _ in pairs]), ids([b for _, b in pairs])


def pairs_of(edges: tuple[np.ndarray, np.ndarray]) -> Pairs:
    assert all(side.dtype == np.int64 for side in edges)
    return list(zip(edges[0].tolist(), edges[1].tolist(), strict=True))


def clusters(pairs: Pairs) -> dict[int, int]:
    """Smallest id of the cluster of each id that is joined to another, by plain union-find."""
    parent: dict[int, int] = {}

    def root(x: int) -> int:
        parent.setdefault(x, x)
        while parent[x] != x:
            x = parent[x]
        return x

    for a, b in pairs:
        a, b = sorted((root(a), root(b)))
        parent[b] = a
    found = {x: root(x) for x in parent}
    joined = {r for x, r in found.items() if x != r}
    return {x: r for x, r in sorted(found.items()) if r in joined}


def links(entries: Pairs, small: int) -> Pairs:
    by_key = defaultdict(list)
    for key, doc in entries:
        by_key[key].append(doc)
    found: set[tuple[int, int]] = set()
    for docs in by_key.values():
        if len(docs) <= small:
            found |= {(min(p), max(p)) for p in itertools.combinations(docs, 2) if p[0] != p[1]}
        else:
            found |= {(min(docs), doc) for doc in docs if doc != min(docs)}
    return sorted(found)


ID = st.one_of(st.integers(0, 12), st.integers(0, 1 << 40), st.integers(LARGEST_ID - 3, LARGEST_ID - 1))
SMALL_ID = st.integers(0, 30)
KEY = st.one_of(st.integers(0, 6), st.integers(0, 2**64 - 1), st.integers(2**64 - 3, 2**64 - 1))

# ---- links ----


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEY, ID), max_size=60), st.integers(1, 5), st.randoms())
@example([(0, 0), (0, 0)], 1, random.Random(0))
def test_links_are_those_of_plain_python_in_any_order(entries: Pairs, small: int, draw: random.Random) -> None:
    expected = links(entries, small)
    for _ in range(2):
        keys = np.array([k for k, _ in entries], np.uint64)
        assert pairs_of(links_of_partition(keys, ids([d for _, d in entries]), small)) == expected
        draw.shuffle(entries)


@pytest.mark.parametrize("shift", [0, 12, 40])
def test_links_of_many_buckets(shift: int) -> None:
    """Keys of one partition share their first bits; those of a bad hash have few bits at all."""
    draw = np.random.default_rng(shift)
    keys = draw.integers(0, 2**63, 10 * BUCKET, dtype=np.uint64) >> np.uint64(shift)
    keys[::3] = keys[draw.integers(0, len(keys), len(keys[::3]))]
    docs = draw.integers(0, 1 << 40, len(keys))
    expected = links(list(zip(keys.tolist(), docs.tolist(), strict=True)), 3)
    assert len(expected) > 10_000
    assert pairs_of(links_of_partition(keys, docs, 3)) == expected


def test_a_million_equal_keys_make_a_million_edges() -> None:
    docs = np.random.default_rng(1).permutation(1_000_000) + 5
    a, b = links_of_partition(np.full(len(docs), 3, np.uint64), docs, 8)
    assert (a == 5).all() and (b == np.arange(6, 1_000_005)).all()
    found, roots = components(a, b)
    assert len(found) == 1_000_000 and (roots == 5).all()


def test_every_key_is_counted() -> None:
    with pytest.raises(ValueError, match="2 keys and 1 documents, must"):
        links_of_partition(np.zeros(2, np.uint64), ids([1]))
    with pytest.raises(ValueError, match="ids from -1"):
        links_of_partition(np.zeros(2, np.uint64), ids([-1, 1]))


# ---- edges ----


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(ID, ID), max_size=60))
def test_sorted_edges(pairs: Pairs) -> None:
    a, b = columns(pairs)
    before = a.copy()
    assert pairs_of(sorted_edges(a, b)) == sorted(set(pairs))
    assert (a == before).all()  # the caller's array is as it was


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(ID, ID), max_size=60), st.randoms())
@example([(3, 3)], random.Random(0))
@example([(5, 4), (4, 3), (3, 2), (9, 2), (9, 5), (7, 8)], random.Random(0))
def test_components_are_those_of_plain_python_in_any_order(pairs: Pairs, draw: random.Random) -> None:
    expected = clusters(pairs)
    for _ in range(2):
        found, roots = components(*columns(pairs))
        assert dict(pairs_of((found, roots))) == expected
        assert found.tolist() == list(expected)
        draw.shuffle(pairs)
        pairs = [p if draw.random() < 0.5 else p[::-1] for p in pairs]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(SMALL_ID, SMALL_ID), max_size=40))
def test_dense_and_sparse_clusters_are_the_same(pairs: Pairs) -> None:
    dense = components(*columns(pairs), n=31)
    assert pairs_of(dense) == pairs_of(components(*columns(pairs)))
    assert pairs_of(spanning_forest(*columns(pairs), n=31)) == pairs_of(spanning_forest(*columns(pairs)))


@pytest.mark.parametrize("edges", [3_000, 10_000, 40_000], ids=["many clusters", "one giant", "nearly all"])
def test_clusters_are_those_of_scipy(edges: int) -> None:
    draw, n = np.random.default_rng(edges), 20_000
    a, b = draw.integers(0, n, edges), draw.integers(0, n, edges)
    _, labels = connected_components(coo_matrix((np.ones(edges), (a, b)), (n, n)), directed=False)
    smallest = np.full(labels.max() + 1, n)
    np.minimum.at(smallest, labels, np.arange(n))
    sizes = np.bincount(labels)
    expected = np.flatnonzero(sizes[labels] > 1)
    names = np.sort(draw.choice(1 << 40, n, replace=False))
    for found, roots in (components(a, b, n), components(a, b)):
        assert (found == expected).all() and (roots == smallest[labels[expected]]).all()
    found, roots = components(names[a], names[b])
    assert (found == names[expected]).all() and (roots == names[smallest[labels[expected]]]).all()


@pytest.mark.parametrize("order", ["up", "down", "ends", "random"])
def test_a_long_chain_is_one_cluster(order: str) -> None:
    n = 200_000
    a = {
        "up": np.arange(n),
        "down": np.arange(n)[::-1],
        "ends": np.arange(n).reshape(2, -1).T.ravel(),
        "random": np.random.default_rng(1).permutation(n),
    }[order]
    for size in (None, n + 1):
        found, roots = components(a, a + 1, size)
        assert len(found) == n + 1 and not roots.any()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(ID, ID), max_size=60), st.integers(1, 5))
def test_a_forest_reduced_part_by_part_keeps_the_clusters(pairs: Pairs, cuts: int) -> None:
    expected = clusters(pairs)
    whole = spanning_forest(*columns(pairs))
    assert pairs_of(whole) == [(root, x) for x, root in expected.items() if x != root]
    forest = columns([])
    for k in range(cuts):  # one part after the other
        part = columns(pairs[k::cuts])
        forest = spanning_forest(np.concatenate((forest[0], part[0])), np.concatenate((forest[1], part[1])))
    assert pairs_of(forest) == pairs_of(whole)
    trees = [spanning_forest(*columns(pairs[k::cuts])) for k in range(cuts)]  # each part alone, then together
    together = spanning_forest(np.concatenate([t[0] for t in trees]), np.concatenate([t[1] for t in trees]))
    assert pairs_of(together) == pairs_of(whole)


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [([1], [1, 2], None), ([-1], [0], None), ([0], [LARGEST_ID], None), ([0], [5], 5), ([0], [-2], 5)],
)
def test_edges_must_be_pairs_of_ids(a: list[int], b: list[int], n: int | None) -> None:
    with pytest.raises(ValueError, match="ids"):
        components(ids(a), ids(b), n)


# ---- survivors ----

MEMBER = st.tuples(st.integers(0, 3), st.sampled_from([math.nan, -math.inf, -1.0, -0.0, 0.0, 2.5]), st.integers(0, 2))


@settings(max_examples=300, deadline=None)
@given(st.lists(MEMBER, max_size=30), st.sampled_from([np.float32, np.float64]), st.randoms())
@example([(0, math.nan, 9), (0, -math.inf, 1), (1, math.nan, 1), (1, math.nan, 2)], np.float32, random.Random(0))
def test_the_best_then_the_longest_then_the_first_survives(
    members: list[tuple[int, float, int]], kind: type, draw: random.Random
) -> None:
    named = [(m, (10 + i) << 36) for i, m in enumerate(members)]

    def rank(entry: tuple[tuple[int, float, int], int]) -> tuple[bool, float, int, int]:
        (_, score, length), name = entry
        return math.isnan(score), 0 if math.isnan(score) else -score, -length, name

    for _ in range(2):
        best: dict[int, int] = {}
        for entry in sorted(named, key=rank):
            best.setdefault(entry[0][0], entry[1])
        found = survivors(
            ids([m[0] for m, _ in named]),
            np.array([m[1] for m, _ in named], kind),
            ids([m[2] for m, _ in named]),
            ids([name for _, name in named]),
        )
        assert found.tolist() == [best[m[0]] for m, _ in named]
        draw.shuffle(named)


def test_every_member_has_all_figures() -> None:
    with pytest.raises(ValueError, match="2 roots, 1 scores, 2 lengths and 2 ids"):
        survivors(ids([1, 1]), np.zeros(1), ids([1, 1]), ids([1, 2]))
