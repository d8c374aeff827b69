"""Shingles of text, MinHash signatures of them, and exact similarity: straight from Arrow's buffers.

What a word is: a run of letters, marks and digits (Unicode categories L, M, N) in lower case; format characters (Cf)
such as a soft hyphen are skipped. In scripts that put no space between words (Han, kana, Thai and others, see `SOLO`) a
character with its marks is a word. A shingle is n words, or n code points of the text with every run of white space as
one space. Its hash is a polynomial in the hashes of its parts modulo 2^64, so that the next shingle costs one step.

A signature (Broder 1997) holds, for each of k permutations of the 32-bit numbers, the smallest image of any shingle.
The permutations are a * h + b modulo 2^32 with odd a, of which `datasketch` 2 takes the same: eight shingles are
applied to all permutations in one loop, which LLVM makes into vector code, so each minimum is loaded once for eight.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import types

from curate.kernels import Bytes, I64s, U32s, U64s, kernel
from curate.kernels.arrow import buffers
from curate.kernels.paragraphs import LANES, hash_messages, pad
from curate.kernels.unicode import SPACE, decode, tables

POINT, SOLO, MARK, IGNORED, PART = 0x1FFFFF, 1 << 24, 1 << 25, 1 << 26, 1 << 27  # an entry of a table; 0: separates
# Blocks of scripts without spaces between words. Hangul and Tibetan mark their words or syllables.
SOLO_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x312F),  # Han radicals, kana, Bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0xA4CF),  # Han, Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width kana
    (0x16F00, 0x18DFF),  # Miao, Tangut, Khitan
    (0x1AFF0, 0x1B2FF),
    (0x20000, 0x3FFFF),
)
ZERO_WIDTH_SPACE, DOTTED_I, FINAL_SIGMA, SIGMA = 0x200B, 0x130, 0x3C2, 0x3C3
BLOCK = 512  # shingles between two rounds over the permutations: their hashes stay in the L1 cache
SCRATCH = 1 << 17  # bytes of SHA-1 messages between two rounds
EMPTY = np.uint32(0xFFFFFFFF)  # every value of the signature of a text without shingles

WORD_SEED, WORD_STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
MIX_1, MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)  # murmur3's finaliser
POWER = 0xA0761D6478BD642F  # base of the polynomial: odd, bits well spread
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)

U64w = types.Array(types.uint64, 1, "C")
U32w = types.Array(types.uint32, 1, "C")
U8w = types.Array(types.uint8, 1, "C")
I64w = types.Array(types.int64, 1, "C")
F64w = types.Array(types.float64, 1, "C")
U32rows = types.Array(types.uint32, 2, "C")
U64rows = types.Array(types.uint64, 2, "C")
U32rows_read = types.Array(types.uint32, 2, "C", readonly=True)
_TWO = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]
_THREE = types.UniTuple(types.int64, 3)  # type: ignore[no-untyped-call]

Table = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]
Signatures64 = npt.NDArray[np.uint64]


@functools.cache
def _lower() -> npt.NDArray[np.uint32]:
    low = tables()[1].astype(np.uint32)
    low[DOTTED_I] = ord("i")  # its lower case is two characters
    low[FINAL_SIGMA] = SIGMA
    return low


@functools.cache
def word_table() -> Table:
    """What every code point is to a word: 0 ends it, IGNORED, or its lower case with PART and perhaps SOLO or MARK."""
    category = np.array([unicodedata.category(chr(point)) for point in range(sys.maxunicode + 1)])
    kind = category.astype("U1")
    table = np.where(np.isin(kind, ["L", "M", "N"]), _lower() | np.uint32(PART), 0).astype(np.uint32)
    table[kind == "M"] |= MARK
    table[category == "Cf"] = IGNORED
    table[ZERO_WIDTH_SPACE] = 0
    solo = np.zeros(len(table), bool)
    for first, last in SOLO_BLOCKS:
        solo[first : last + 1] = True
    table[solo & ((kind == "L") | (category == "Nl"))] |= SOLO
    return table


@functools.cache
def character_table() -> Table:
    """Lower case of every code point, with PART; 0 for white space."""
    return np.where(tables()[0] & SPACE, 0, _lower() | np.uint32(PART)).astype(np.uint32)


@kernel(types.uint64(types.uint64))
def mix(x):  # type: ignore[no-untyped-def]
    """Every bit of the result depends on every bit of `x`; one to one."""
    x ^= x >> np.uint64(33)
    x *= MIX_1
    x ^= x >> np.uint64(33)
    x *= MIX_2
    return x ^ (x >> np.uint64(33))


@kernel()
def _entry(data, i, end, table):  # type: ignore[no-untyped-def]
    """(entry of the first character at or after `i` that is not ignored, where it starts, where it ends)."""
    while i < end:
        c = data[np.uint64(i)]
        if c < 0x80:
            return table[np.uint64(c)], i, i + 1
        point, step = decode(data, i)
        f = table[np.uint64(point)]
        if f != IGNORED:
            return f, i, i + step
        i += step
    return np.uint32(0), end, end


# The shingles of one row are made BLOCK by BLOCK. `state`: parts so far, place in the ring, the polynomial, and 1 while
# white space waits for a character after it. `ring`: the last n parts, each already times the power that it will have
# when it leaves.
PARTS, PLACE, SUM, GAP = 0, 1, 2, 3


@kernel()
def _ascii_word(data, i, end):  # type: ignore[no-untyped-def]
    """(hash, place after the separator) of the word that begins with the ASCII letter or digit at data[i].

    The place is -1 where the word has to be read character by character: near the end of the row, and where no ASCII
    character separates it from what follows. Eight bytes a step: adding to a byte below 0x80 what carries it to 0x80
    compares it.
    """
    h = WORD_SEED
    while i + 8 <= end:
        x = np.uint64(0)
        for k in range(8):
            x |= np.uint64(data[np.uint64(i + k)]) << np.uint64(8 * k)
        seven = x & ~_HIGHS
        y = seven | (_ONES * np.uint64(0x20))
        letter = (y + _ONES * np.uint64(0x80 - 0x61)) & ~(y + _ONES * np.uint64(0x80 - 0x7B)) & ~x & _HIGHS
        digit = (seven + _ONES * np.uint64(0x80 - 0x30)) & ~(seven + _ONES * np.uint64(0x80 - 0x3A)) & ~x & _HIGHS
        stop = (letter | digit) ^ _HIGHS
        inside = ((stop & (~stop + np.uint64(1))) >> np.uint64(7)) - np.uint64(1)  # all bits before the first stop
        x = (x | (letter >> np.uint64(2))) & inside
        if stop == 0:
            h = _take(h, x)
            i += 8
            continue
        if inside != 0:
            h = _take(h, x)
        i += np.int64(((inside & _ONES) * _ONES) >> np.uint64(56))
        return h, i + 1 if data[np.uint64(i)] < 0x80 else -1
    return h, -1


@kernel()
def _take(h, x):  # type: ignore[no-untyped-def]
    h = (h ^ x) * WORD_STEP
    return h ^ (h >> np.uint64(32))


@kernel(types.uint64(Bytes, types.int64, types.int64, U32s))
def _hash_ascii(data, i, end, table):  # type: ignore[no-untyped-def]
    """What `_ascii_word` gives, of data[i:end], whose lower case is ASCII."""
    h, x, size = WORD_SEED, np.uint64(0), 0
    while i < end:
        f, _, i = _entry(data, i, end, table)
        if f == 0:  # only ignored characters were left
            break
        x |= np.uint64(f & POINT) << np.uint64(8 * (size & 7))
        size += 1
        if size & 7 == 0:
            h, x = _take(h, x), np.uint64(0)
    return _take(h, x) if size & 7 else h


@kernel(_TWO(Bytes, types.int64, types.int64, U32s, types.int64, types.uint64, U64w, U64w, U64w))
def word_shingles(data, i, end, table, n, power_n, ring, state, out):  # type: ignore[no-untyped-def]
    """Hashes of the word shingles of data[i:end] until `out` is full; returns (how many, where the rest begins).

    A word in ASCII, once in lower case, is hashed eight bytes a step, any other code point by code point.
    """
    count, parts, place, total = 0, int(state[PARTS]), int(state[PLACE]), state[SUM]
    while i < end and count < len(out):
        c = data[np.uint64(i)]
        h, after = WORD_SEED, -1
        if c < 0x80:
            if table[np.uint64(c)] == 0:
                i += 1
                continue
            h, after = _ascii_word(data, i, end)
        if after < 0:
            f, i, after = _entry(data, i, end, table)
            if f == 0:
                i = after
                continue
            h, start, solo, wide = WORD_SEED, i, f & SOLO, np.uint32(0)
            while True:
                h = (h ^ np.uint64(f & POINT)) * WORD_STEP
                wide |= f & np.uint32(POINT ^ 0x7F)
                f, i, after = _entry(data, after, end, table)
                if f == 0 or f & SOLO or (solo and not f & MARK):
                    break
            if wide == 0:
                h = _hash_ascii(data, start, i, table)
            after = i
        i = after
        h = (h ^ (h >> np.uint64(32))) * MIX_1
        total = total * np.uint64(POWER) + h - ring[np.uint64(place)]
        ring[np.uint64(place)] = h * power_n
        place = place + 1 if place + 1 < n else 0
        parts += 1
        if parts >= n:
            out[np.uint64(count)] = mix(total)
            count += 1
    state[PARTS], state[PLACE], state[SUM] = parts, place, total
    return count, i


@kernel(_TWO(Bytes, types.int64, types.int64, U32s, types.int64, types.uint64, U64w, U64w, U64w))
def character_shingles(data, i, end, table, n, power_n, ring, state, out):  # type: ignore[no-untyped-def]
    """As `word_shingles`, for code points."""
    count, parts, place, total, gap = 0, int(state[PARTS]), int(state[PLACE]), state[SUM], state[GAP]
    while i < end and count < len(out):
        f, _, after = _entry(data, i, end, table)
        if f == 0:
            gap = np.uint64(parts > 0)
            i = after
            continue
        if gap:  # the space goes first, and the character is read again
            f, after, gap = np.uint32(0x20), i, np.uint64(0)
        h = mix(np.uint64(f & POINT) + WORD_SEED)
        total = total * np.uint64(POWER) + h - ring[np.uint64(place)]
        ring[np.uint64(place)] = h * power_n
        place = place + 1 if place + 1 < n else 0
        parts += 1
        i = after
        if parts >= n:
            out[np.uint64(count)] = mix(total)
            count += 1
    state[PARTS], state[PLACE], state[SUM], state[GAP] = parts, place, total, gap
    return count, i


@kernel(_TWO(Bytes, types.int64, types.int64, U32s, types.boolean, types.int64, types.uint64, U64w, U64w, U64w))
def next_shingles(data, i, end, table, words, n, power_n, ring, state, out):  # type: ignore[no-untyped-def]
    """The next shingles of a row. At its end, a row of fewer than n parts has one shingle of what is there."""
    if words:
        count, i = word_shingles(data, i, end, table, n, power_n, ring, state, out)
    else:
        count, i = character_shingles(data, i, end, table, n, power_n, ring, state, out)
    if i >= end and 0 < state[PARTS] < np.uint64(n):
        out[0] = mix(state[SUM])
        count = 1
    return count, i


@kernel(types.int64(Bytes, I64s, U32s, types.boolean, types.int64, types.uint64, U64w, I64w))
def _shingles(data, rows, table, words, n, power_n, out, offsets):  # type: ignore[no-untyped-def]
    ring, state, block = np.zeros(n, np.uint64), np.zeros(4, np.uint64), np.empty(BLOCK, np.uint64)
    total = 0
    offsets[0] = 0
    for row in range(len(rows) - 1):
        i, end = rows[row], rows[row + 1]
        ring[:] = 0
        state[:] = 0
        while i < end:
            count, i = next_shingles(data, i, end, table, words, n, power_n, ring, state, block)
            for k in range(count):
                out[np.uint64(total + k)] = block[np.uint64(k)]
            total += count
        offsets[row + 1] = total
    return total


@kernel(types.void(U64s, types.int64, U32s, U32s, U32w, U32w))
def lower_minima(hashes, count, a, b, mixed, minima):  # type: ignore[no-untyped-def]
    """minima[j] = min over the first `count` hashes of a[j] * f(h) + b[j] mod 2^32, with what it was.

    f: the low 32 bits through murmur3's 32-bit finaliser. `mixed`: scratch of a multiple of 8 that holds `count`.
    """
    if count == 0:
        return
    for i in range(count):
        x = np.uint32(hashes[np.uint64(i)])
        x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B))
        x = np.uint32((x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        mixed[np.uint64(i)] = x ^ (x >> np.uint32(16))
    full = (count + 7) // 8 * 8
    for i in range(count, full):
        mixed[np.uint64(i)] = mixed[np.uint64(count - 1)]
    for block in range(full // 8):
        h = mixed[8 * block :]
        h0, h1, h2, h3, h4, h5, h6, h7 = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
        for j in range(len(minima)):
            p, q, least = a[j], b[j], minima[j]
            least = min(least, np.uint32(p * h0 + q), np.uint32(p * h1 + q))
            least = min(least, np.uint32(p * h2 + q), np.uint32(p * h3 + q))
            least = min(least, np.uint32(p * h4 + q), np.uint32(p * h5 + q))
            least = min(least, np.uint32(p * h6 + q), np.uint32(p * h7 + q))
            minima[j] = least


@kernel(types.void(Bytes, I64s, U32s, types.boolean, types.int64, types.uint64, U32s, U32s, U32rows))
def _signatures(data, rows, table, words, n, power_n, a, b, out):  # type: ignore[no-untyped-def]
    ring, state = np.zeros(n, np.uint64), np.zeros(4, np.uint64)
    block, mixed = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint32)
    for row in range(len(rows) - 1):
        i, end = rows[row], rows[row + 1]
        ring[:] = 0
        state[:] = 0
        minima = out[row]
        while i < end:
            count, i = next_shingles(data, i, end, table, words, n, power_n, ring, state, block)
            lower_minima(block, count, a, b, mixed, minima)


@kernel(_TWO(Bytes, types.int64, types.int64, U32s, types.boolean, U8w, I64w, I64w))
def normal_text(data, i, end, table, words, out, starts, ends):  # type: ignore[no-untyped-def]
    """Write data[i:end] as its words with one space between them, or as characters; returns (bytes, parts).

    The text of part k is out[starts[k]:ends[k]]. `out` needs room for twice the row (a space on both sides of a word of
    three bytes, lower case that is longer), the others for its bytes.
    """
    o = parts = 0
    gap = False
    f, i, after = _entry(data, i, end, table)
    while i < end:
        if f == 0:
            gap = parts > 0
            f, i, after = _entry(data, after, end, table)
            continue
        if words:
            gap = parts > 0
        if gap:
            out[np.uint64(o)] = 0x20
            o += 1
            if not words:
                starts[np.uint64(parts)], ends[np.uint64(parts)] = o - 1, o
                parts += 1
            gap = False
        starts[np.uint64(parts)] = o
        solo = f & SOLO
        while True:
            o = _put(f & POINT, out, o)
            f, i, after = _entry(data, after, end, table)
            if not words or f == 0 or f & SOLO or (solo and not f & MARK):
                break
        ends[np.uint64(parts)] = o
        parts += 1
    return o, parts


@kernel(types.int64(types.uint32, U8w, types.int64))
def _put(point, out, o):  # type: ignore[no-untyped-def]
    """Write a code point as UTF-8 to out[o:]; returns where it ends."""
    if point < 0x80:
        out[o] = point
        return o + 1
    if point < 0x800:
        out[o], out[o + 1] = 0xC0 | (point >> 6), 0x80 | (point & 0x3F)
        return o + 2
    if point < 0x10000:
        out[o], out[o + 1], out[o + 2] = 0xE0 | (point >> 12), 0x80 | (point >> 6 & 0x3F), 0x80 | (point & 0x3F)
        return o + 3
    out[o], out[o + 1] = 0xF0 | (point >> 18), 0x80 | (point >> 12 & 0x3F)
    out[o + 2], out[o + 3] = 0x80 | (point >> 6 & 0x3F), 0x80 | (point & 0x3F)
    return o + 4


@kernel(types.void(U64s, types.int64, U64s, U64s, types.int64, U64w, U64w))
def lower_minima_64(hashes, count, a, b, scheme, mixed, minima):  # type: ignore[no-untyped-def]
    """As `lower_minima` in 64 bits (scheme 64), or by the scheme of datasketch before its version 2 (scheme 0).

    The latter: (a * h + b mod 2^64) mod 2^61 - 1, of which the low 32 bits; h: the low 32 bits of the hash.
    """
    prime = np.uint64((1 << 61) - 1)
    for i in range(count):
        mixed[i] = mix(hashes[i]) if scheme == 64 else hashes[i] & np.uint64(0xFFFFFFFF)
    for i in range(count):
        h = mixed[i]
        for j in range(len(minima)):
            x = a[j] * h + b[j]
            if scheme == 0:
                x = (x & prime) + (x >> np.uint64(61))
                x = (x - prime if x >= prime else x) & np.uint64(0xFFFFFFFF)
            minima[j] = min(minima[j], x)


@kernel(
    types.void(Bytes, I64s, U32s, types.boolean, types.int64, types.int64, U32s, U32s, U64s, U64s, U32rows, U64rows)
)
def _sha1_signatures(data, rows, table, words, n, scheme, a, b, a_64, b_64, out, out_64):  # type: ignore[no-untyped-def]
    messages, starts = np.empty(SCRATCH // 4, np.uint32), np.zeros(SCRATCH // 64 + 1, np.int64)
    w, sha = np.empty(80 * LANES, np.uint32), np.empty(5 * LANES, np.uint32)
    keys, mixed = np.empty(SCRATCH // 64 + 1, np.uint64), np.empty(SCRATCH // 64 + 8, np.uint32)
    mixed_64 = np.empty(SCRATCH // 64 + 1, np.uint64)
    longest = 0
    for row in range(len(rows) - 1):
        longest = max(longest, rows[row + 1] - rows[row])
    text = np.empty(2 * longest + 16, np.uint8)
    first, last = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    for row in range(len(rows) - 1):
        _, parts = normal_text(data, rows[row], rows[row + 1], table, words, text, first, last)
        shingles = max(parts - n + 1, min(parts, 1))
        count = 0
        for k in range(shingles):
            begin, size = first[k], last[min(k + n, parts) - 1] - first[k]
            if (starts[count] + 1) * 64 + size + 80 > messages.nbytes:
                messages = _longer(messages, starts[count] * 16, (starts[count] + 2) * 16 + (size + 80) // 4)
            at = starts[count] * 64
            room = messages.view(np.uint8)
            for i in range(size):
                room[np.uint64(at + i)] = text[np.uint64(begin + i)]
            count += 1
            starts[count] = pad(messages, at, at + size)
            if starts[count] * 64 + 512 > SCRATCH or k == shingles - 1:
                hash_messages(messages, starts, count, keys, 0, w, sha)
                if scheme == 32:
                    lower_minima(keys, count, a, b, mixed, out[row])
                else:
                    lower_minima_64(keys, count, a_64, b_64, scheme, mixed_64, out_64[row])
                count = 0


@kernel(U32w(U32w, types.int64, types.int64))
def _longer(words, used, room):  # type: ignore[no-untyped-def]
    longer = np.empty(max(2 * len(words), room), np.uint32)
    for i in range(used):
        longer[i] = words[i]
    return longer


@kernel(types.void(U64w, types.int64, types.int64))
def sort_few(keys, start, end):  # type: ignore[no-untyped-def]
    """Sort keys[start:end] in place: by insertion, or as a heap where they are many (never quadratic)."""
    if end - start <= 32:
        for i in range(start + 1, end):
            key, j = keys[i], i
            while j > start and keys[j - 1] > key:
                keys[j] = keys[j - 1]
                j -= 1
            keys[j] = key
        return
    size = end - start
    for step in range(size // 2 + size - 1):  # first the heap is built, then its largest key goes to the end each time
        if step < size // 2:
            root, key = size // 2 - 1 - step, keys[start + size // 2 - 1 - step]
        else:
            size -= 1
            root, key = 0, keys[start + size]
            keys[start + size] = keys[start]
        while 2 * root + 1 < size:
            child = 2 * root + 1
            if child + 1 < size and keys[start + child + 1] > keys[start + child]:
                child += 1
            if keys[start + child] <= key:
                break
            keys[start + root] = keys[start + child]
            root = child
        keys[start + root] = key


@kernel(types.int64(U64s, I64s, U64w, I64w))
def _distinct(hashes, offsets, out, ends):  # type: ignore[no-untyped-def]
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    places = np.zeros(longest + 2, np.int64)
    total = 0
    ends[0] = 0
    for row in range(len(offsets) - 1):
        begin, size = offsets[row], offsets[row + 1] - offsets[row]
        bits = 0
        while 4 << bits < size:
            bits += 1
        buckets = 1 << bits
        first = total  # the row is sorted where its result goes, and then each hash moves to the front once
        if bits == 0:
            for i in range(size):
                out[first + i] = hashes[begin + i]
            sort_few(out, first, first + size)
        else:  # hashes are uniform: their first bits cut the row into small buckets that are in order
            shift = np.uint64(64 - bits)
            for i in range(buckets + 1):
                places[i] = 0
            for i in range(size):
                places[np.uint64((hashes[np.uint64(begin + i)] >> shift) + np.uint64(1))] += 1
            for i in range(buckets):
                places[i + 1] += places[i]
            for i in range(size):
                key = hashes[np.uint64(begin + i)]
                bucket = np.uint64(key >> shift)
                out[np.uint64(first + places[bucket])] = key
                places[bucket] += 1
            at = 0
            for i in range(buckets):  # places[i] is now where bucket i ends
                sort_few(out, first + at, first + places[i])
                at = places[i]
        for i in range(first, first + size):
            if i == first or out[i] != out[total - 1]:
                out[np.uint64(total)] = out[i]
                total += 1
        ends[row + 1] = total
    return total


@kernel(types.int64(U64s, types.int64, types.int64, types.uint64))
def _first_not_below(hashes, i, end, key):  # type: ignore[no-untyped-def]
    """The first place in the sorted hashes[i:end] whose hash is not below `key`, by doubling steps from `i`."""
    step = 1
    while i + step < end and hashes[i + step] < key:
        i += step
        step *= 2
    end = min(end, i + step + 1)
    while i < end:
        middle = (i + end) // 2
        if hashes[middle] < key:
            i = middle + 1
        else:
            end = middle
    return i


@kernel(types.void(U64s, I64s, I64s, I64s, F64w, F64w))
def _pair_similarity(hashes, offsets, left, right, jaccard, containment):  # type: ignore[no-untyped-def]
    for p in range(len(left)):
        i, i_end, j, j_end = offsets[left[p]], offsets[left[p] + 1], offsets[right[p]], offsets[right[p] + 1]
        if i_end - i > j_end - j:
            i, i_end, j, j_end = j, j_end, i, i_end
        few, many = i_end - i, j_end - j
        common = 0
        if many > 16 * few:
            while i < i_end and j < j_end:
                j = _first_not_below(hashes, j, j_end, hashes[i])
                common += j < j_end and hashes[j] == hashes[i]
                i += 1
        else:
            while i < i_end and j < j_end:
                x, y = hashes[np.uint64(i)], hashes[np.uint64(j)]
                common += x == y
                i += x <= y
                j += y <= x
        jaccard[p] = common / (few + many - common) if few else 0.0
        containment[p] = common / few if few else 0.0


@kernel(types.void(U32rows_read, I64s, I64s, F64w))
def _agreement(signatures, left, right, out):  # type: ignore[no-untyped-def]
    k = signatures.shape[1]
    for p in range(len(left)):
        x, y = left[p], right[p]
        same = 0
        for j in range(k):
            same += signatures[x, j] == signatures[y, j]
        out[p] = same / k


@kernel(types.void(U32rows_read, types.int64, types.int64, U64rows))
def _band_keys(signatures, bands, rows, out):  # type: ignore[no-untyped-def]
    for doc in range(len(signatures)):
        for band in range(bands):
            h = mix(np.uint64(band) + WORD_SEED)
            for j in range(band * rows, (band + 1) * rows):
                h = (h ^ np.uint64(signatures[doc, j])) * WORD_STEP
                h ^= h >> np.uint64(32)
            out[doc, band] = mix(h)


def _table(unit: str, n: int) -> Table:
    if unit not in ("word", "character"):
        raise ValueError(f"unit is {unit!r}, must be 'word' or 'character'")
    if not 1 <= n <= 1000:
        raise ValueError(f"n is {n}, must be from 1 to 1000")
    return word_table() if unit == "word" else character_table()


def shingles(column: pa.Array | pa.ChunkedArray, unit: str = "word", n: int = 5) -> tuple[Hashes, Offsets]:
    """(hashes, offsets): the uint64 shingle hashes of row i are hashes[offsets[i]:offsets[i + 1]], in order of place.

    A shingle that occurs twice is there twice. A row of fewer than n parts has one shingle, one of none has none.
    """
    table = _table(unit, n)
    data, rows = buffers(column)
    room = int(rows[-1] - rows[0])
    out = np.empty((room + len(rows)) // 2 + 1 if unit == "word" else room, np.uint64)  # not touched: not resident
    offsets = np.empty(len(rows), np.int64)
    power_n = np.uint64(pow(POWER, n, 2**64))
    count = _shingles(data, rows, table, unit == "word", n, power_n, out, offsets)
    return out[:count], offsets


def minima(column: pa.Array | pa.ChunkedArray, a: Table, b: Table, unit: str = "word", n: int = 5) -> Signatures:
    """uint32 (rows, len(a)): for permutation j the least a[j] * f(h) + b[j] mod 2^32 over a row's shingle hashes h.

    f: the low 32 bits of the hash through murmur3's 32-bit finaliser. `a`: odd uint32. No shingles: all are `EMPTY`.
    """
    table = _table(unit, n)
    data, rows = buffers(column)
    out = np.full((len(rows) - 1, len(a)), EMPTY, np.uint32)
    _signatures(data, rows, table, unit == "word", n, np.uint64(pow(POWER, n, 2**64)), a, b, out)
    return out


def sha1_minima(
    column: pa.Array | pa.ChunkedArray,
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    scheme: int,
    unit: str = "word",
    n: int = 5,
) -> Signatures | Signatures64:
    """As `minima`, over the SHA-1 of the shingles' text as datasketch takes it; uint64 unless `scheme` is 32.

    `scheme`: 32 or 64, its affine permutations of so many bits; 0, those before its version 2.
    """
    table = _table(unit, n)
    data, rows = buffers(column)
    count, wide = len(rows) - 1, scheme != 32
    full = np.uint64((1 << 64) - 1 if scheme == 64 else (1 << 32) - 1)
    out = np.full((0 if wide else count, len(a)), EMPTY, np.uint32)
    out_64 = np.full((count if wide else 0, len(a)), full, np.uint64)
    narrow = (a.astype(np.uint32), b.astype(np.uint32))
    broad = (a.astype(np.uint64), b.astype(np.uint64))
    _sha1_signatures(data, rows, table, unit == "word", n, scheme, *narrow, *broad, out, out_64)
    return out_64 if wide else out


def shingle_texts(text: str, unit: str = "word", n: int = 5) -> list[str]:
    """The shingles of one text as strings: n words with a space between, or n characters. The slow way, to look at."""
    table, data = _table(unit, n), np.frombuffer(text.encode() or b"\0", np.uint8)
    size = len(text.encode())
    out = np.empty(2 * size + 16, np.uint8)
    starts, ends = np.empty(size + 1, np.int64), np.empty(size + 1, np.int64)
    _, parts = normal_text(data, 0, size, table, unit == "word", out, starts, ends)
    raw = out.tobytes()
    count = max(parts - n + 1, min(parts, 1))
    return [raw[starts[k] : ends[min(k + n, parts) - 1]].decode() for k in range(count)]


def distinct(hashes: Hashes, offsets: Offsets) -> tuple[Hashes, Offsets]:
    """The hashes of each row in ascending order, each once; as (hashes, offsets) again."""
    out, ends = np.empty(int(offsets[-1] - offsets[0]), np.uint64), np.empty(len(offsets), np.int64)
    count = _distinct(hashes, offsets, out, ends)
    return out[:count], ends


def pair_similarity(
    hashes: Hashes, offsets: Offsets, left: Offsets, right: Offsets
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(jaccard, containment) of rows left[p] and right[p]: common shingles over all, and over those of the smaller.

    `hashes`, `offsets`: as `distinct` gives. A row without shingles is like no other: 0. IndexError for a wrong row.
    """
    _check_rows(len(offsets) - 1, left, right)
    jaccard, containment = np.empty(len(left)), np.empty(len(left))
    _pair_similarity(hashes, offsets, left, right, jaccard, containment)
    return jaccard, containment


def agreement(signatures: Signatures, left: Offsets, right: Offsets) -> npt.NDArray[np.float64]:
    """Share of equal values in the signatures of rows left[p] and right[p]: an estimate of their Jaccard similarity."""
    _check_rows(len(signatures), left, right)
    out = np.empty(len(left))
    _agreement(signatures, left, right, out)
    return out


def _check_rows(rows: int, left: Offsets, right: Offsets) -> None:
    if len(left) != len(right):
        raise IndexError(f"{len(left)} left rows and {len(right)} right ones")
    for side in (left, right):
        if len(side) and (side.min() < 0 or side.max() >= rows):
            raise IndexError(f"pairs name rows {side.min()} to {side.max()}, there are {rows}")


def band_keys(signatures: Signatures | Signatures64, bands: int, rows: int) -> Hashes:
    """uint64 (documents, bands): a key of values band * rows to (band + 1) * rows and of the number of the band.

    Uniform over all 64 bits, so that partitions can be ranges of keys. ValueError where the signatures are too short.
    """
    if bands < 1 or rows < 1 or bands * rows > signatures.shape[1]:
        raise ValueError(f"{bands} bands of {rows} rows do not fit {signatures.shape[1]} permutations")
    narrow = np.ascontiguousarray(signatures)
    if narrow.dtype == np.uint64:  # a value is two of 32 bits
        narrow, rows = narrow.view(np.uint32), 2 * rows
    out = np.empty((len(narrow), bands), np.uint64)
    _band_keys(narrow, bands, rows, out)
    return out
