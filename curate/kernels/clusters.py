"""Links of equal keys, union-find over integer ids, and the survivor of each cluster.

Every result is a function of the set of its inputs: edges come out sorted, and the root of a cluster is its smallest
id, so that neither the order of edges nor the way they were cut into partitions can show.

The smallest of the documents that share a key is linked with each of the others, so that a million equal keys give a
million edges and not their square. Keys are first dealt into buckets that fit the cache, each of which is solved with
a small hash table; random access to one large table costs a cache miss a key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from curate.kernels import F64s, I64s, U64s, kernel

Ids = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Edges = tuple[Ids, Ids]

BUCKET = 4096  # keys in one bucket, in the mean
DIGIT = 11  # bits of one pass of the radix sort: 2048 places to write to
SLOT_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 / golden ratio (Knuth, volume 3, section 6.4)
LARGEST_ID = 1 << 62
MOST_KEYS = 1 << 30

I64w = types.Array(types.int64, 1, "C")
U64w = types.Array(types.uint64, 1, "C")
_TWO = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]


@kernel(types.uint64(types.int64))
def shift_for(count):  # type: ignore[no-untyped-def]
    """By how much a product is shifted to be a slot of the smallest power of two that is at least twice `count`."""
    shift = np.uint64(63)
    while np.int64(1) << (64 - np.int64(shift)) < 2 * count:
        shift -= np.uint64(1)
    return shift


@kernel(types.void(U64s, I64s, types.uint64, I64w, U64w, I64w))
def _deal(keys, docs, shift, ends, dealt_keys, dealt_docs):  # type: ignore[no-untyped-def]
    """Copy keys and docs bucket by bucket; bucket p is then ends[p - 1]:ends[p]."""
    for i in range(len(keys)):
        ends[np.uint64((keys[np.uint64(i)] * SLOT_MIX) >> shift)] += 1
    at = 0
    for k in range(len(ends)):
        size = ends[k]
        ends[k] = at
        at += size
    for i in range(len(keys)):
        key = keys[np.uint64(i)]
        p = np.uint64((key * SLOT_MIX) >> shift)
        to = np.uint64(ends[p])
        dealt_keys[to], dealt_docs[to] = key, docs[np.uint64(i)]
        ends[p] += 1


@kernel(types.int64(U64s, I64s, I64s, types.int64, types.boolean, I64w, I64w))
def _links(keys, docs, ends, small, write, a, b):  # type: ignore[no-untyped-def]
    """Edges of the keys that `_deal` arranged; how many. Nothing is written without `write`."""
    largest = 0
    for p in range(len(ends)):
        largest = max(largest, ends[p] - (ends[p - 1] if p else 0))
    room = np.int64(1) << (64 - np.int64(shift_for(largest)))
    slots = np.empty(room, np.int32)  # group of a key, -1: none
    group_key, group_size = np.empty(largest, np.uint64), np.empty(largest + 1, np.int32)
    group_of, members = np.empty(largest, np.int32), np.empty(largest, np.int64)
    edges = 0
    begin = 0
    for p in range(len(ends)):
        end = ends[p]
        shift = shift_for(end - begin)
        last = (np.int64(1) << (64 - np.int64(shift))) - 1
        for i in range(last + 1):
            slots[i] = -1
        groups = 0
        for i in range(begin, end):
            key = keys[np.uint64(i)]
            h = key * SLOT_MIX
            slot = np.int64((h ^ (h >> np.uint64(32))) * SLOT_MIX >> shift)
            while slots[np.uint64(slot)] >= 0 and group_key[np.uint64(slots[np.uint64(slot)])] != key:
                slot = (slot + 1) & last
            g = slots[np.uint64(slot)]
            if g < 0:
                g = groups
                slots[np.uint64(slot)], group_key[np.uint64(g)], group_size[np.uint64(g)] = g, key, 0
                groups += 1
            group_size[np.uint64(g)] += 1
            group_of[np.uint64(i - begin)] = g
        if groups < end - begin:
            at = 0
            for g in range(groups):
                size = group_size[g]
                group_size[g] = at
                at += size
            for i in range(begin, end):
                g = np.uint64(group_of[np.uint64(i - begin)])
                members[np.uint64(group_size[g])] = docs[np.uint64(i)]
                group_size[g] += 1
            at = 0
            for g in range(groups):
                if group_size[g] - at > 1:
                    edges = _link_group(members, at, group_size[g], small, write, a, b, edges)
                at = group_size[g]
        begin = end
    return edges


@kernel(types.int64(I64w, types.int64, types.int64, types.int64, types.boolean, I64w, I64w, types.int64))
def _link_group(members, at, end, small, write, a, b, edges):  # type: ignore[no-untyped-def]
    """Edges between members[at:end]: all pairs where they are `small` or fewer, else each with the smallest."""
    pairs = end - at <= small
    first = members[at]
    for i in range(at, end):
        first = min(first, members[i])
    for i in range(at, end):
        for j in range(at, i if pairs else at + 1):
            x = members[j] if pairs else first
            if x != members[i]:
                if write:
                    a[edges], b[edges] = min(x, members[i]), max(x, members[i])
                edges += 1
    return edges


@kernel(types.void(I64s, I64s, types.int64, I64w, I64w, I64w))
def _sort_pass(a, b, digit, places, out_a, out_b):  # type: ignore[no-untyped-def]
    """One stable pass by one digit: of `b` for the first six digits, then of `a`."""
    shift = np.uint64(DIGIT * (digit % 6))
    by = a if digit >= 6 else b
    mask = np.uint64((1 << DIGIT) - 1)
    at = 0
    for k in range(1 << DIGIT):
        size = places[k]
        places[k] = at
        at += size
    for i in range(len(a)):
        d = (np.uint64(by[np.uint64(i)]) >> shift) & mask
        to = np.uint64(places[d])
        out_a[to], out_b[to] = a[np.uint64(i)], b[np.uint64(i)]
        places[d] += 1


@kernel(types.void(I64s, I64s, types.Array(types.int64, 2, "C")))
def _digits(a, b, counts):  # type: ignore[no-untyped-def]
    """How often each digit occurs at each of the 12 places."""
    mask = np.uint64((1 << DIGIT) - 1)
    for i in range(len(a)):
        x, y = np.uint64(a[np.uint64(i)]), np.uint64(b[np.uint64(i)])
        for k in range(6):
            counts[k, np.int64((y >> np.uint64(DIGIT * k)) & mask)] += 1
            counts[k + 6, np.int64((x >> np.uint64(DIGIT * k)) & mask)] += 1


@kernel(types.int64(I64w, I64w))
def _unique(a, b):  # type: ignore[no-untyped-def]
    """Move each edge of a sorted list to the front once; how many there are."""
    count = 0
    for i in range(len(a)):
        if count == 0 or a[i] != a[count - 1] or b[i] != b[count - 1]:
            a[count], b[count] = a[i], b[i]
            count += 1
    return count


def _arranged(a: Ids, b: Ids, digits: range) -> Edges:
    """New arrays of the pairs, sorted (stable) by digits 0 to 5: of b, 6 to 11: of a."""
    a, b = np.array(a, np.int64), np.array(b, np.int64)
    counts = np.zeros((12, 1 << DIGIT), np.int64)
    _digits(a, b, counts)
    other_a, other_b = np.empty_like(a), np.empty_like(b)
    for digit in digits:
        if len(a) and counts[digit].max() < len(a):  # else one value everywhere: nothing to sort by
            _sort_pass(a, b, digit, counts[digit], other_a, other_b)
            a, b, other_a, other_b = other_a, other_b, a, b
    return a, b


def sorted_edges(a: Ids, b: Ids) -> Edges:
    """The pairs (a[i], b[i]), ascending and each once, as new arrays. Time is linear. ids: from 0 to 2^62."""
    _check(a, b)
    a, b = _arranged(a, b, range(12))
    count = _unique(a, b)
    return (a, b) if count == len(a) else (a[:count].copy(), b[:count].copy())


def links_of_partition(keys: Keys, docs: Ids, small: int = 1) -> Edges:
    """(a, b) with a < b: documents to compare because they have an equal key; sorted, each pair once.

    `keys`, `docs`: one entry for a key of a document, in any order. The smallest document of a key is linked with each
    other one. Where at most `small` documents have a key, all their pairs are linked: for passes that verify pairs,
    as the smallest may be like none of the others. Time is linear in keys (times `small`), whatever the keys are.
    """
    if len(keys) != len(docs) or len(keys) > MOST_KEYS:
        raise ValueError(f"{len(keys)} keys and {len(docs)} documents, must be as many, and at most {MOST_KEYS}")
    bits = max(1, (len(keys) // BUCKET).bit_length())
    ends = np.zeros(1 << bits, np.int64)
    dealt_keys, dealt_docs = np.empty(len(keys), np.uint64), np.empty(len(keys), np.int64)
    _deal(keys, docs, np.uint64(64 - bits), ends, dealt_keys, dealt_docs)
    none = np.empty(0, np.int64)
    count = _links(dealt_keys, dealt_docs, ends, small, False, none, none)
    a, b = np.empty(count, np.int64), np.empty(count, np.int64)
    _links(dealt_keys, dealt_docs, ends, small, True, a, b)
    return sorted_edges(a, b)


@kernel(types.int64(I64w, types.int64))
def find(parent, x):  # type: ignore[no-untyped-def]
    """The root of `x`; the path to it is halved on the way."""
    while parent[np.uint64(x)] != x:
        parent[np.uint64(x)] = parent[np.uint64(parent[np.uint64(x)])]
        x = parent[np.uint64(x)]
    return x


@kernel(types.void(I64s, I64s, I64w))
def _unite(a, b, parent):  # type: ignore[no-untyped-def]
    """Union-find where ids are places in `parent`; the smaller root stays one."""
    for i in range(len(parent)):
        parent[i] = i
    for i in range(len(a)):
        x, y = find(parent, a[i]), find(parent, b[i])
        if x < y:
            parent[y] = x
        elif y < x:
            parent[x] = y


@kernel(types.int64(I64w, I64w, I64w))
def _members(parent, ids, roots):  # type: ignore[no-untyped-def]
    """The places of a forest that are not alone, ascending, and their roots; how many (not written where no room)."""
    joined = np.zeros(len(parent), np.uint8)  # a root that has others
    for x in range(len(parent)):
        if parent[x] != x:
            joined[find(parent, x)] = 1
    count = 0
    for x in range(len(parent)):
        if joined[x] or parent[x] != x:
            if len(ids):
                ids[count], roots[count] = x, find(parent, x)
            count += 1
    return count


@kernel(types.void(I64s, I64s, I64w))
def _ranks(ids, xs, out):  # type: ignore[no-untyped-def]
    """out[i] = place of xs[i] in `ids`; both ascending."""
    k = np.uint64(0)
    for i in range(len(xs)):
        while ids[k] < xs[np.uint64(i)]:
            k += np.uint64(1)
        out[np.uint64(i)] = k


def components(a: Ids, b: Ids, n: int | None = None) -> Edges:
    """(ids, roots): every id that the edges (a[i], b[i]) join to another one, ascending, and the smallest id joined.

    An id that only an edge to itself names is not there. Without `n` memory is about 85 bytes an edge, whatever the
    ids are (from 0 to 2^62). With `n`, all ids are below it and memory is 9 bytes times n and 16 for each id joined:
    faster where edges are many times the ids. More edges than memory holds: `spanning_forest` of one part, then of
    that and the next part.
    """
    _check(a, b, n)
    if n is not None:
        return _dense(np.ascontiguousarray(a, np.int64), np.ascontiguousarray(b, np.int64), n)
    a, b = a[a != b].astype(np.int64), b[a != b].astype(np.int64)
    ids = np.sort(np.concatenate((a, b)))  # np.unique takes a hundred times as long (numpy 2.4: a hash set)
    ids = ids[np.diff(ids, prepend=-1) > 0]
    a, b = _arranged(a, b, range(6, 12))  # by a
    rank_a, rank_b = np.empty_like(a), np.empty_like(b)
    _ranks(ids, a, rank_a)
    rank_a, b = _arranged(rank_a, b, range(6))  # by b
    _ranks(ids, b, rank_b)
    places, roots = _dense(rank_a, rank_b, len(ids))
    return ids[places], ids[roots]


def _dense(a: Ids, b: Ids, n: int) -> Edges:
    parent, none = np.empty(n, np.int64), np.empty(0, np.int64)
    _unite(a, b, parent)
    count = _members(parent, none, none)
    ids, roots = np.empty(count, np.int64), np.empty(count, np.int64)
    if count:
        _members(parent, ids, roots)
    return ids, roots


def spanning_forest(a: Ids, b: Ids, n: int | None = None) -> Edges:
    """(root, id) of every id that is joined to a smaller one, ascending by id: the fewest edges with the same clusters.

    They are not a part of the edges given: a pair of them need not be alike, only in one cluster. `n` as `components`.
    """
    ids, roots = components(a, b, n)
    inner = ids != roots
    return roots[inner], ids[inner]


@kernel(types.boolean(types.int64, types.int64, F64s, I64s, I64s))
def _better(x, y, score, length, ids):  # type: ignore[no-untyped-def]
    """Whether member `x` is to be kept rather than `y`."""
    s, t = score[x], score[y]
    if s == t or (np.isnan(s) and np.isnan(t)):
        return length[x] > length[y] or (length[x] == length[y] and ids[x] < ids[y])
    return s > t or np.isnan(t)


@kernel(types.void(I64s, I64s, F64s, I64s, I64s, I64w))
def _survivors(roots, order, score, length, ids, out):  # type: ignore[no-untyped-def]
    begin = 0
    while begin < len(roots):
        best, end = order[begin], begin + 1
        while end < len(roots) and roots[end] == roots[begin]:
            x = order[end]
            end += 1
            if _better(x, best, score, length, ids):
                best = x
        for i in range(begin, end):
            out[order[i]] = ids[best]
        begin = end


def survivors(roots: Ids, score: npt.NDArray[np.floating[Any]], length: Ids, ids: Ids) -> Ids:
    """The id that is kept of each member's cluster: the highest score, then the longest, then the smallest id.

    All arrays have one entry a member; members of a cluster have the same root. A score of NaN is none: any is higher.
    """
    if not len(roots) == len(score) == len(length) == len(ids):
        raise ValueError(f"{len(roots)} roots, {len(score)} scores, {len(length)} lengths and {len(ids)} ids")
    _check(roots, ids)
    by_root, order = _arranged(roots, np.arange(len(roots)), range(6, 12))
    out = np.empty(len(roots), np.int64)
    lengths, names = np.ascontiguousarray(length, np.int64), np.ascontiguousarray(ids, np.int64)
    _survivors(by_root, order, np.ascontiguousarray(score, np.float64), lengths, names, out)
    return out


def _check(a: Ids, b: Ids, n: int | None = None) -> None:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} ids do not make edges")
    for side in (a, b):
        if len(side) and (side.min() < 0 or side.max() >= (LARGEST_ID if n is None else n)):
            raise ValueError(f"ids from {side.min()} to {side.max()}, must be from 0 to {n or LARGEST_ID} (excluded)")
