"""SentencePiece BPE, straight from Arrow buffers to token ids.

The unit is a stretch of text that no merge can reach over: between two neighbouring characters that stand side by side
in no piece of the model there is always a border (of LLaMA's model: before every run of spaces, at most punctuation,
at every digit and line feed). So the tokens of a text are those of its units, one after the other. Units follow Zipf's
law: two tables keep the tokens of a unit. A unit that is met for the first time is merged as SentencePiece merges: the
pair that makes the best piece first, of equal ones the leftmost; by a scan where the unit is short, with a heap where
it is long, so that time grows as n log n.

Inside, a space is a space: U+2581 of the pieces became one when the tables were made. Pieces have numbers by rank
(0 is merged first), which `outer` turns into ids.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from curate.kernels import Bytes, I32s, I64s, U64s, kernel
from curate.kernels.unicode import decode

SHORT, LONG = 15, 31  # longest unit in bytes that the first and the second table keep
SHORT_SLOT, LONG_SLOT = 4, 8  # uint64 of a slot: key (its last byte is the length), then count and ids in lanes
BATCH = 64  # units that are found before they are looked up
SCAN = 64  # characters up to which a unit is merged by scanning
NONE = 1 << 30  # no merge
FIELD = 21  # bits of a piece's number in the table of pairs
FIELD_MASK = (1 << FIELD) - 1

ByteArray = types.Array(types.uint8, 1, "C")
U16w = types.Array(types.uint16, 1, "C")
U32w = types.Array(types.uint32, 1, "C")
U64w = types.Array(types.uint64, 1, "C")
I64w = types.Array(types.int64, 1, "C")
I32w = types.Array(types.int32, 1, "C")
Int, Word = types.int64, types.uint64


@kernel(types.boolean(Bytes, Int, Int), _nrt=False)
def has_mark(data, i, end):  # type: ignore[no-untyped-def]
    """Whether data[i:end] holds U+2581."""
    found = False
    for j in range(np.uint64(i), np.uint64(max(end - 2, i))):  # without a way out, so that it is vectorised
        found |= (data[j] == 0xE2) & (data[j + np.uint64(1)] == 0x96) & (data[j + np.uint64(2)] == 0x81)
    return found


@kernel(Int(U64s, Int, Int), _nrt=False)
def merged(pairs, left, right):  # type: ignore[no-untyped-def]
    """Number of the piece that two pieces make, NONE where they make none (or one of them is no piece: negative)."""
    if (left | right) < 0:
        return NONE
    want = (np.uint64(left) << np.uint64(FIELD)) | np.uint64(right)
    mask = np.uint64(len(pairs) - 1)
    at = ((want * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while pairs[at] != np.uint64(0):
        if pairs[at] >> np.uint64(FIELD) == want:
            return np.int64(pairs[at] & np.uint64(FIELD_MASK))
        at = (at + np.uint64(1)) & mask
    return NONE


@kernel(types.void(U64w, I64s), _nrt=False)
def build_pairs(pairs, entries):  # type: ignore[no-untyped-def]
    """Put entries (left << 42 | right << 21 | merged) into the hash table `pairs`, a power of two of zeros."""
    mask = np.uint64(len(pairs) - 1)
    for k in range(len(entries)):
        entry = np.uint64(entries[k])
        at = (((entry >> np.uint64(FIELD)) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
        while pairs[at] != np.uint64(0):
            at = (at + np.uint64(1)) & mask
        pairs[at] = entry


@kernel(types.boolean(U64s, Int, Int), _nrt=False)
def near(bloom, left, right):  # type: ignore[no-untyped-def]
    """Whether two characters (their bytes as one number) may stand side by side in a piece. Wrong only as a yes."""
    x = (np.uint64(left) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(right) * np.uint64(0xC2B2AE3D27D4EB4F))
    x = x * np.uint64(0xD6E8FEB86659FD93)
    mask = np.uint64(64 * len(bloom) - 1)
    at = (x >> np.uint64(32)) & mask
    return (bloom[at >> np.uint64(6)] >> (at & np.uint64(63))) & np.uint64(1) != 0


@kernel(Int(Bytes, Int), _nrt=False)
def packed(data, i):  # type: ignore[no-untyped-def]
    """The bytes of the character at data[i] as one number."""
    b = np.int64(data[i])
    if b < 0x80:
        return b
    if b < 0xE0:
        return (b << 8) | np.int64(data[i + 1])
    if b < 0xF0:
        return (b << 16) | (np.int64(data[i + 1]) << 8) | np.int64(data[i + 2])
    return (b << 24) | (np.int64(data[i + 1]) << 16) | (np.int64(data[i + 2]) << 8) | np.int64(data[i + 3])


@kernel(types.void(Bytes, I64s, U64w, U64w), _nrt=False)
def build_borders(data, offsets, joins, bloom):  # type: ignore[no-untyped-def]
    """Note what stands side by side in the pieces: bits of bytes in `joins`, of characters in `bloom`."""
    mask = np.uint64(64 * len(bloom) - 1)
    for first in range(256):
        joins[4 * first + 2] = np.uint64(0xFFFFFFFFFFFFFFFF)  # bytes 0x80 to 0xBF go on with a character
    for t in range(len(offsets) - 1):
        before = -1
        i = offsets[t]
        while i < offsets[t + 1]:
            c = packed(data, i)
            if before >= 0:
                a, b = np.int64(data[i - 1]), np.int64(data[i])
                joins[4 * a + (b >> 6)] |= np.uint64(1) << np.uint64(b & 63)
                x = (np.uint64(before) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(c) * np.uint64(0xC2B2AE3D27D4EB4F))
                at = ((x * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(32)) & mask
                bloom[at >> np.uint64(6)] |= np.uint64(1) << (at & np.uint64(63))
            before = c
            i += 1 if c < 0x80 else (2 if c < 1 << 16 else (3 if c < 1 << 24 else 4))


@kernel(Word(Bytes, Int), _nrt=False)
def _load(data, i):  # type: ignore[no-untyped-def]
    """data[i : i + 8] as one number."""
    x = np.uint64(0)
    for k in range(8):
        x |= np.uint64(data[np.uint64(i + k)]) << np.uint64(8 * k)
    return x


@kernel(Int(Bytes, Int, Int), _nrt=False)
def _run(data, j, end):  # type: ignore[no-untyped-def]
    """End of the run of bytes from data[j] on that are ASCII letters or of characters of two bytes."""
    while j + 8 <= len(data) and j < end:
        x = _load(data, j)
        low = (x | np.uint64(0x2020202020202020)) & np.uint64(0x7F7F7F7F7F7F7F7F)
        letter = (low + np.uint64(0x1F1F1F1F1F1F1F1F)) & ~(low + np.uint64(0x0505050505050505))
        stop = ((~letter & ~x) | (x & (x << np.uint64(1)) & (x << np.uint64(2)))) & np.uint64(0x8080808080808080)
        if stop != 0:
            below = (stop - np.uint64(1)) & ~stop  # LLVM counts these bits with one instruction
            below = below - ((below >> np.uint64(1)) & np.uint64(0x5555555555555555))
            below = (below & np.uint64(0x3333333333333333)) + ((below >> np.uint64(2)) & np.uint64(0x3333333333333333))
            below = (below + (below >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
            j += np.int64((below * np.uint64(0x0101010101010101)) >> np.uint64(59))
            return min(j, end)
        j += 8
    while j < end:
        b = data[np.uint64(j)]
        if b >= 0xE0 or (b < 0x80 and not 97 <= (b | 32) <= 122):
            return j
        j += 1
    return end


@kernel(Int(Bytes, Int, Int, U64s, U64s), _nrt=False)
def border(data, i, end, joins, bloom):  # type: ignore[no-untyped-def]
    """End of the unit that begins at data[i]. Inside a run of letters no border is looked for."""
    b = data[np.uint64(i)]
    j = i + 1
    before = np.int64(0)  # the character before j where it has three bytes or four
    if b >= 0xE0:
        before = packed(data, i)
        j = i + (3 if b < 0xF0 else 4)
    elif b >= 65:
        j = max(j, _run(data, i, end))
    while j < end:
        b = data[np.uint64(j)]
        if b < 0xE0 and before == 0:
            a = np.uint64(data[np.uint64(j - 1)])
            if (joins[(a << np.uint64(2)) | np.uint64(b >> 6)] >> np.uint64(b & 63)) & np.uint64(1) == 0:
                return j
            j = max(j + 1, _run(data, j + 1, end) if b >= 65 else j + 1)
            continue
        if before == 0:
            before = np.int64(data[j - 1])
            if before >= 0x80:
                before |= np.int64(data[j - 2]) << 8
        c = packed(data, j)
        if not near(bloom, before, c):
            return j
        j += 1 if b < 0x80 else (2 if b < 0xE0 else (3 if b < 0xF0 else 4))
        before = np.int64(c if b >= 0xE0 else 0)
    return end


@kernel(types.boolean(Bytes, Int, U64s, U64s), _nrt=False)
def _follows_space(data, i, joins, bloom):  # type: ignore[no-untyped-def]
    """Whether the character at data[i] may stand after a space in a piece."""
    b = data[i]
    if b >= 0xE0:
        return near(bloom, 32, packed(data, i))
    return (joins[4 * 32 + (b >> 6)] >> np.uint64(b & 63)) & np.uint64(1) != 0


@kernel(Int(Bytes, Int, Int, I32s, I32w), _nrt=False)
def _characters(data, i, end, chars, symbols):  # type: ignore[no-untyped-def]
    """Write the pieces of the characters of data[i:end] (-1 - code point where there is none); their number."""
    n = 0
    while i < end:
        point, width = decode(data, i)
        piece = chars[point]
        symbols[n] = piece if piece >= 0 else -1 - point
        n += 1
        i += width
    return n


@kernel(Int(Int, U64s, I32w, I32w), _nrt=False)
def _scan(n, pairs, symbols, ranks):  # type: ignore[no-untyped-def]
    """Merge symbols[:n] as far as it goes; how many are left. Quadratic."""
    for k in range(n - 1):
        ranks[k] = merged(pairs, symbols[k], symbols[k + 1])
    while n > 1:
        best, at = np.int32(NONE), -1
        for k in range(n - 1):
            if ranks[k] < best:
                best, at = ranks[k], k
        if at < 0:
            break
        symbols[at] = best
        n -= 1
        for k in range(at + 1, n):
            symbols[k] = symbols[k + 1]
            ranks[k] = ranks[k + 1]
        if at > 0:
            ranks[at - 1] = merged(pairs, symbols[at - 1], best)
        if at + 1 < n:
            ranks[at] = merged(pairs, best, symbols[at + 1])
    return n


@kernel(types.void(U64w, Int, Word), _nrt=False)
def _push(heap, size, item):  # type: ignore[no-untyped-def]
    """Add to the heap of `size` items, the least at the root."""
    k = size
    while k > 0:
        above = (k - 1) >> 1
        if heap[above] <= item:
            break
        heap[k] = heap[above]
        k = above
    heap[k] = item


@kernel(Word(U64w, Int), _nrt=False)
def _pop(heap, size):  # type: ignore[no-untyped-def]
    """Take the least of `size` items."""
    least = heap[0]
    last = heap[size - 1]
    size -= 1
    k = 0
    while True:
        below = 2 * k + 1
        if below >= size:
            break
        if below + 1 < size and heap[below + 1] < heap[below]:
            below += 1
        if last <= heap[below]:
            break
        heap[k] = heap[below]
        k = below
    heap[k] = last
    return least


@kernel(Int(Int, U64s, I32w, I32w, I32w, I32w, U64w), _nrt=False)
def _heaped(n, pairs, symbols, ranks, after, before, heap):  # type: ignore[no-untyped-def]
    """As `_scan` in time n log n. `heap` has room for 2 n items (rank above, place below; stale ones are passed over).

    An item is stale where the pair at its place has another rank now; of equal ranks the leftmost is first.
    """
    size = 0
    for i in range(n):
        after[i] = i + 1
        before[i] = i - 1
        ranks[i] = NONE
        if i + 1 < n:
            ranks[i] = merged(pairs, symbols[i], symbols[i + 1])
            if ranks[i] < NONE:
                _push(heap, size, (np.uint64(ranks[i]) << np.uint64(32)) | np.uint64(i))
                size += 1
    while size > 0:
        item = _pop(heap, size)
        size -= 1
        k = np.int64(item & np.uint64(0xFFFFFFFF))
        if ranks[k] != np.int64(item >> np.uint64(32)):
            continue
        gone = np.int64(after[k])
        symbols[k] = ranks[k]
        ranks[gone] = NONE
        right, left = np.int64(after[gone]), np.int64(before[k])
        after[k] = right
        ranks[k] = NONE
        if right < n:
            before[right] = k
            ranks[k] = merged(pairs, symbols[k], symbols[right])
            if ranks[k] < NONE:
                _push(heap, size, (np.uint64(ranks[k]) << np.uint64(32)) | np.uint64(k))
                size += 1
        if left >= 0:
            ranks[left] = merged(pairs, symbols[left], symbols[k])
            if ranks[left] < NONE:
                _push(heap, size, (np.uint64(ranks[left]) << np.uint64(32)) | np.uint64(left))
                size += 1
    count = np.int64(0)
    k = np.int64(0)
    while k < n:
        symbols[count] = symbols[k]
        count += 1
        k = np.int64(after[k])
    return count


@kernel(Int(Bytes, Int, Int, I32s, U64s, I32w, I32w, I32w, I32w, U64w), _nrt=False)
def pieces(data, i, end, chars, pairs, symbols, ranks, after, before, heap):  # type: ignore[no-untyped-def]
    """Merge data[i:end]; the number of symbols that are left in `symbols`."""
    n = _characters(data, i, end, chars, symbols)
    if n <= SCAN:
        return _scan(n, pairs, symbols, ranks)
    return _heaped(n, pairs, symbols, ranks, after, before, heap)


@kernel(_nrt=False)
def _write(symbols, n, outer, byte_ids, unk, out, o, begin):  # type: ignore[no-untyped-def]
    """Write the ids of n symbols to out[o:]; its end. A character without a piece: its bytes, or <unk> for a run."""
    for k in range(n):
        s = np.int64(symbols[k])
        if s >= 0:
            out[o] = outer[s]
            o += 1
            continue
        point = -1 - s
        if byte_ids[0] < 0:
            if o == begin or np.int64(out[o - 1]) != unk:
                out[o] = unk
                o += 1
        elif point < 0x80:
            out[o] = byte_ids[point]
            o += 1
        elif point < 0x800:
            out[o] = byte_ids[0xC0 | (point >> 6)]
            out[o + 1] = byte_ids[0x80 | (point & 63)]
            o += 2
        elif point < 0x10000:
            out[o] = byte_ids[0xE0 | (point >> 12)]
            out[o + 1] = byte_ids[0x80 | ((point >> 6) & 63)]
            out[o + 2] = byte_ids[0x80 | (point & 63)]
            o += 3
        else:
            out[o] = byte_ids[0xF0 | (point >> 18)]
            out[o + 1] = byte_ids[0x80 | ((point >> 12) & 63)]
            out[o + 2] = byte_ids[0x80 | ((point >> 6) & 63)]
            out[o + 3] = byte_ids[0x80 | (point & 63)]
            o += 4
    return o


@kernel(Word(Int), _nrt=False)
def _mask(n):  # type: ignore[no-untyped-def]
    """The lowest n bytes of a number, none where n < 1."""
    if n >= 8:
        return np.uint64(0xFFFFFFFFFFFFFFFF)
    return (np.uint64(1) << np.uint64(8 * max(n, 0))) - np.uint64(1)


@kernel(Word(Word, Word), _nrt=False)
def _mix(a, b):  # type: ignore[no-untyped-def]
    """A hash of two numbers; its upper half is good."""
    return (a ^ (a >> np.uint64(31)) ^ (b * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD6E8FEB86659FD93)


@intrinsic
def prefetch(context, array, index):  # type: ignore[no-untyped-def]
    """Begin to bring array[index] near."""

    def emit(target, builder, signature, args):  # type: ignore[no-untyped-def]
        held = make_array(signature.args[0])(target, builder, args[0])  # type: ignore[no-untyped-call]
        place = builder.gep(held.data, [args[1]])
        place = builder.bitcast(place, ir.PointerType(ir.IntType(8)))
        number = ir.IntType(32)
        wanted = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        name = "llvm.prefetch.p0"
        function = cgutils.get_or_insert_function(builder.module, wanted, name)  # type: ignore[no-untyped-call]
        builder.call(function, [place, number(0), number(3), number(1)])
        return target.get_dummy_value()

    return types.void(array, index), emit


def _encode(  # type: ignore[no-untyped-def]
    data, offsets, first, joins, bloom, chars, pairs, outer, byte_ids, special, scratch, prefixed,
    short, long, keys, places, symbols, ranks, after, before, heap, out, ends,
):  # fmt: skip
    """Ids of the texts from row `first` on, one after the other in `out` from ends[first]; the first row not encoded.

    It stops at a row with a unit that is longer than `symbols`: give more room (symbols[0] says how much) and go on.
    `special`: ids of <unk>, BOS and EOS (-1: not added), 1 where a space is set before a text. `scratch` and `prefixed`
    are the same bytes. `keys` and `places` have room for BATCH units: those are found first, so that what the tables
    have of them comes near before it is asked for. `out` has room for an id a byte, three a row and a slot's.
    """
    unk, bos, eos, dummy = special[0], special[1], special[2], special[3]
    lanes = np.int64(8 // out.itemsize)  # of a uint64
    bits = np.uint64(8 * out.itemsize)
    lane = (np.uint64(1) << bits) - np.uint64(1)
    short_mask = np.uint64(len(short) // SHORT_SLOT - 1)
    long_mask = np.uint64(len(long) // LONG_SLOT - 1)
    o = ends[first]
    for t in range(first, len(offsets) - 1):
        i, end = offsets[t], offsets[t + 1]
        if bos >= 0:
            out[o] = bos
            o += 1
        begin = o
        extra = np.int64(dummy != 0)  # a space before the unit that is not in the text
        while i < end:
            units = 0
            while units < BATCH and i < end:
                j = border(data, i, end, joins, bloom)
                if extra != 0 and not _follows_space(data, i, joins, bloom):
                    j = i
                n = j - i + extra
                at = np.int64(-1)
                u = np.uint64(units)
                if n <= SHORT and i + 16 <= len(data):
                    k0, k1 = _load(data, i), _load(data, i + 8)
                    if extra != 0:
                        k1 = (k1 << np.uint64(8)) | (k0 >> np.uint64(56))
                        k0 = (k0 << np.uint64(8)) | np.uint64(32)
                    k0 &= _mask(n)
                    k1 = (k1 & _mask(n - 8)) | (np.uint64(n) << np.uint64(56))
                    at = np.int64((_mix(k0, k1) >> np.uint64(36)) & short_mask) * SHORT_SLOT
                    prefetch(short, at)  # type: ignore[call-arg]
                    keys[np.uint64(4) * u] = k0
                    keys[np.uint64(4) * u + np.uint64(1)] = k1
                elif n <= LONG and extra == 0 and i + 32 <= len(data):
                    k0, k1 = _load(data, i), _load(data, i + 8)
                    k2 = _load(data, i + 16) & _mask(n - 16)
                    k3 = (_load(data, i + 24) & _mask(n - 24)) | (np.uint64(n) << np.uint64(56))
                    h = _mix(_mix(k0, k1), k2 ^ (k3 * np.uint64(0x94D049BB133111EB)))
                    at = np.int64((h >> np.uint64(36)) & long_mask) * LONG_SLOT
                    prefetch(long, at)  # type: ignore[call-arg]
                    keys[np.uint64(4) * u] = k0
                    keys[np.uint64(4) * u + np.uint64(1)] = k1
                    keys[np.uint64(4) * u + np.uint64(2)] = k2
                    keys[np.uint64(4) * u + np.uint64(3)] = k3
                places[np.uint64(3) * u] = i
                places[np.uint64(3) * u + np.uint64(1)] = n
                places[np.uint64(3) * u + np.uint64(2)] = at
                units += 1
                extra = np.int64(0)
                i = j
            for unit in range(units):
                u = np.uint64(unit)
                n = places[np.uint64(3) * u + np.uint64(1)]
                at = places[np.uint64(3) * u + np.uint64(2)]
                k0, k1 = keys[np.uint64(4) * u], keys[np.uint64(4) * u + np.uint64(1)]
                k2, k3 = keys[np.uint64(4) * u + np.uint64(2)], keys[np.uint64(4) * u + np.uint64(3)]
                if at >= 0 and n <= SHORT:
                    s = np.uint64(at)
                    if short[s] != k0 or short[s + np.uint64(1)] != k1:
                        s ^= np.uint64(SHORT_SLOT)
                    if short[s] == k0 and short[s + np.uint64(1)] == k1:
                        v = short[s + np.uint64(2)]
                        count = np.int64(v & lane)
                        v >>= bits
                        for k in range(lanes - 1):
                            out[np.uint64(o + k)] = v & lane
                            v >>= bits
                        if count > lanes - 1:
                            v = short[s + np.uint64(3)]
                            for k in range(lanes):
                                out[np.uint64(o + lanes - 1 + k)] = v & lane
                                v >>= bits
                        o += count
                        continue
                elif at >= 0 and long[at] == k0 and long[at + 1] == k1 and long[at + 2] == k2 and long[at + 3] == k3:
                    count = np.int64(long[at + 4] & lane)
                    for k in range(1, count + 1):
                        out[o + k - 1] = (long[at + 4 + k // lanes] >> (bits * np.uint64(k % lanes))) & lane
                    o += count
                    continue
                if n > len(symbols):
                    symbols[0] = n
                    return t
                place = places[np.uint64(3) * u]
                if unit == 0 and dummy != 0 and place == offsets[t]:
                    prefixed[0] = 32
                    for k in range(n - 1):
                        prefixed[1 + k] = data[place + k]
                    left = pieces(scratch, 0, n, chars, pairs, symbols, ranks, after, before, heap)
                else:
                    left = pieces(data, place, place + n, chars, pairs, symbols, ranks, after, before, heap)
                was = o
                o = _write(symbols, left, outer, byte_ids, unk, out, o, begin)
                count = o - was
                if at < 0 or byte_ids[0] < 0:
                    continue  # runs of <unk> reach over units: such a model has its units merged each time
                if n <= SHORT:
                    if count < 2 * lanes:
                        if short[at + 1] != 0:
                            other = at ^ SHORT_SLOT
                            for k in range(SHORT_SLOT):
                                short[other + k] = short[at + k]
                        short[at], short[at + 1] = k0, k1
                        v = np.uint64(count)
                        for k in range(1, lanes):
                            if k <= count:
                                v |= np.uint64(out[was + k - 1]) << (bits * np.uint64(k))
                        short[at + 2] = v
                        v = np.uint64(0)
                        for k in range(lanes):
                            if lanes + k <= count:
                                v |= np.uint64(out[was + lanes - 1 + k]) << (bits * np.uint64(k))
                        short[at + 3] = v
                elif count < 4 * lanes:
                    long[at], long[at + 1], long[at + 2], long[at + 3] = k0, k1, k2, k3
                    for k in range(4):
                        long[at + 4 + k] = np.uint64(0)
                    long[at + 4] = np.uint64(count)
                    for k in range(1, count + 1):
                        long[at + 4 + k // lanes] |= np.uint64(out[was + k - 1]) << (bits * np.uint64(k % lanes))
        if eos >= 0:
            out[o] = eos
            o += 1
        ends[t + 1] = o
    return len(offsets) - 1


_ENCODE = (
    Bytes, I64s, Int, U64s, U64s, I32s, U64s, I32s, I32s, I64s, Bytes, ByteArray,
    U64w, U64w, U64w, I64w, I32w, I32w, I32w, I32w, U64w,
)  # fmt: skip
encode16 = kernel(Int(*_ENCODE, U16w, I64w), _nrt=False)(_encode)
encode32 = kernel(Int(*_ENCODE, U32w, I64w), _nrt=False)(_encode)
