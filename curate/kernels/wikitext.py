"""Wikitext to text, in two passes over the bytes of a page: what is markup, then what is on each line.

The first pass (`_scan`) walks the page once. What opens a template, a link or a table puts a frame on a stack, with the
place that the output had; what closes it takes the output back there (templates, tables, files, categories) or leaves
what was written (the label of a link). Nothing is looked for twice: the end of a reference, a comment or code is
remembered until it is passed. So time is linear in the page, and the stack has `MAX_DEPTH` frames. Braces win over
tables and links, as in MediaWiki; a link ends at the end of its line at the latest. What never closes is text, without
its opening marks.

The second pass (`_lines`) works on the lines that are left, as MediaWiki does after it has expanded templates:
headings, lists, quotes for bold and italics, magic words, and white space and brackets around what was removed. Between
the passes, bytes 2 to 6 are signs (`unescape` and `_reference` let none of them in from outside).

Localised names (namespaces, templates) are entries of one hash table, which `names` makes for a site.
"""

from __future__ import annotations

import functools
import html.entities
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import types

from curate.kernels import Bytes, I32s, I64s, U64s, kernel
from curate.kernels.arrow import buffers, from_buffers
from curate.kernels.unicode import UPPER, decode, tables

MAX_DEPTH = 256  # frames; MediaWiki itself expands templates 100 deep
MAX_NAME = 96  # bytes of a name that is looked up
GAP, SOFT, RAW, COOKED, NOTHING = 2, 3, 4, 5, 6
# GAP: something was removed here; SOFT: a line break that starts no new line of wikitext; RAW ... COOKED: kept as it
# is; NOTHING: keeps quotes on its two sides apart.

# What a name means, by the space of names that it is from.
TAG, ENTITY, NAMESPACE, TEMPLATE, SCHEME = 1, 2, 3, 4, 5
STRIP, BREAK, REMOVE, REFERENCE, KEEP, FORMULA, TABLE = 1, 2, 3, 4, 5, 6, 7  # of a tag; the higher bits number it
FILE, CATEGORY, LANGUAGE = 1, 2, 3  # of a namespace or interwiki prefix
DISAMBIGUATION, CITATION = 1, 2  # of a template
# What is said of a page.
IS_DISAMBIGUATION, IS_TOO_DEEP = 1, 2

BRACES, PARAMETER, LINK, FILE_LINK, OUTSIDE, ROWS, HTML_ROWS = 1, 2, 3, 4, 5, 6, 7  # kinds of frames

FNV_SEED, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
SLOTS = 1 << 13

STRIPPED = (
    "abbr b bdi bdo big cite code data del dfn em font i ins kbd mark nobr noinclude onlyinclude phonos q rb rp rt rtc"
    " ruby s samp section small span strike strong sub sup time translate tt tvar u var wbr languages noop poem"
    " caption col colgroup thead tbody tfoot body html"
)
BREAKING = "blockquote br center dd div dl dt h1 h2 h3 h4 h5 h6 hr li ol p td th tr ul article aside footer header"
REMOVED = (
    "gallery timeline score graph imagemap inputbox categorytree templatestyles templatedata hiero mapframe maplink"
    " indicator style script includeonly chart rss dynamicpagelist listing charinsert quiz"
)
KEPT = "nowiki pre source syntaxhighlight"
FORMULAS = "math chem ce"
SCHEMES = "http https ftp ftps sftp mailto news irc ircs gopher tel geo magnet xmpp urn git svn ssh telnet nntp sip sms"

Names = tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]
i64, u64 = types.int64, types.uint64
Buffer = types.Array(types.uint8, 1, "C")
Pair = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]
I64w = types.Array(types.int64, 1, "C")
Frames = types.Array(types.int64, 2, "C")
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # of a kernel that only kernels call


def fnv(space: int, points: Iterable[int]) -> int:
    """The key of a name: 64-bit FNV-1a over its code points, after the space that it is from."""
    h = int(FNV_SEED)
    for point in (space, *points):
        h = (h ^ point) * int(FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return h or 1


def fold(name: str) -> list[int]:
    """Code points of a name as names of pages are compared: lower case, `_` as a space, single spaces."""
    lower = tables()[1]
    words = name.replace("_", " ").split()
    return [int(lower[ord(c)]) if lower[ord(c)] >= 0 else ord("i") for c in " ".join(words)]


@functools.cache
def _common() -> dict[int, int]:
    """Keys of what is the same on every site: tags, entities, schemes of addresses."""
    found = {fnv(SCHEME, map(ord, name)): 1 for name in SCHEMES.split()}
    tags = [(n, a) for a, many in ((STRIP, STRIPPED), (BREAK, BREAKING), (REMOVE, REMOVED)) for n in many.split()]
    tags += [("ref", REFERENCE), ("references", REFERENCE), ("table", TABLE), *((n, KEEP) for n in KEPT.split())]
    tags += [(name, FORMULA) for name in FORMULAS.split()]
    for number, (name, action) in enumerate(tags, 1):
        found[fnv(TAG, map(ord, name))] = action | number << 4
    for name, value in html.entities.html5.items():
        if name.endswith(";"):
            first, second = ord(value[0]), ord(value[1]) if len(value) > 1 else 0
            found[fnv(ENTITY, map(ord, name[:-1]))] = first | second << 21
    return found


def names(namespaces: Mapping[str, int], templates: Mapping[str, int]) -> Names:
    """The hash table (keys, values) of a site: what its prefixes (FILE, ...) and templates (CITATION, ...) mean."""
    entries = dict(_common())
    entries |= {fnv(NAMESPACE, fold(name)): kind for name, kind in namespaces.items()}
    entries |= {fnv(TEMPLATE, fold(name)): kind for name, kind in templates.items()}
    size = SLOTS
    while size < 2 * len(entries):
        size *= 2
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for key, value in entries.items():
        slot = (key ^ key >> 32) & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], values[slot] = key, value
    return keys, values


@kernel(i64(U64s, I64s, u64), **INNER)
def _find(keys, values, key):  # type: ignore[no-untyped-def]
    """The value of a key; 0 where there is none."""
    mask = np.uint64(keys.size - 1)
    slot = (key ^ (key >> np.uint64(32))) & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + np.uint64(1)) & mask
    return np.int64(0)


@kernel(u64(Bytes, i64, i64, I32s, i64), **INNER)
def _key(data, i, end, lower, space):  # type: ignore[no-untyped-def]
    """`fnv(space, fold(name))` of the name `data[i:end]`."""
    h = (FNV_SEED ^ np.uint64(space)) * FNV_PRIME
    waiting, begun = False, False
    while i < end:
        point, step = decode(data, i)
        i += step
        if point == 32 or point == 95 or point == 10 or point == 9 or point == 0xA0:
            waiting = begun
            continue
        if waiting:
            h = (h ^ np.uint64(32)) * FNV_PRIME
            waiting = False
        begun = True
        low = lower[point]
        h = (h ^ np.uint64(low if low >= 0 else 105)) * FNV_PRIME
    return h if h != 0 else np.uint64(1)


@kernel(i64(Buffer, i64, i64), **INNER)
def _put(out, o, point):  # type: ignore[no-untyped-def]
    """Write a code point as UTF-8; the place behind it."""
    if point < 0x80:
        out[o] = point
        return o + 1
    if point < 0x800:
        out[o], out[o + 1] = 0xC0 | point >> 6, 0x80 | point & 0x3F
        return o + 2
    if point < 0x10000:
        out[o], out[o + 1], out[o + 2] = 0xE0 | point >> 12, 0x80 | point >> 6 & 0x3F, 0x80 | point & 0x3F
        return o + 3
    out[o], out[o + 1] = 0xF0 | point >> 18, 0x80 | point >> 12 & 0x3F
    out[o + 2], out[o + 3] = 0x80 | point >> 6 & 0x3F, 0x80 | point & 0x3F
    return o + 4


@kernel(types.boolean(i64), **INNER)
def _is_text(point):  # type: ignore[no-untyped-def]
    """Whether a code point may stand in text: no control but tab and line feed, no surrogate, no U+FFFE, U+FFFF."""
    if point < 0xA0:
        return 0x20 <= point < 0x7F or point == 9 or point == 10
    return point <= 0x10FFFF and not 0xD800 <= point < 0xE000 and point & 0xFFFE != 0xFFFE and point != 0xFEFF


@kernel(Pair(Bytes, i64, i64), **INNER)
def _number(data, i, end):  # type: ignore[no-untyped-def]
    """(code point, place behind ";") of the numeric reference whose "&#" is at `i`; (-1, i) where it is none."""
    p = i + 2
    base, value, digits = np.int64(10), np.int64(0), 0
    if p < end and (data[p] == 120 or data[p] == 88):
        base = np.int64(16)
        p += 1
    while p < end and digits < 10:
        c = np.int64(data[p])
        if 48 <= c <= 57:
            digit = c - 48
        elif base == 16 and 97 <= c | 32 <= 102:
            digit = (c | 32) - 87
        else:
            break
        value = value * base + digit
        if value > 0x110000:
            value = np.int64(0x110000)
        digits += 1
        p += 1
    if digits == 0 or p >= end or data[p] != 59:
        return np.int64(-1), i
    return np.int64(value), p + 1


@kernel(types.void(Bytes, I64s, I64s, Buffer, I64w, Buffer))
def _unescape(data, starts, ends, out, offsets, valid):  # type: ignore[no-untyped-def]
    o = np.int64(0)
    offsets[0] = 0
    for row in range(starts.size):
        i, end = starts[row], ends[row]
        valid[row] = 1
        first = o
        while i < end:
            c = np.int64(data[i])
            if c < 0x80:
                if c == 38:
                    point, after = np.int64(-1), i
                    if i + 3 < end:
                        if data[i + 1] == 35:
                            point, after = _number(data, i, end)
                        elif data[i + 2] == 116 and data[i + 3] == 59 and (data[i + 1] == 108 or data[i + 1] == 103):
                            point, after = np.int64(60 if data[i + 1] == 108 else 62), i + 4
                        elif i + 4 < end and data[i + 1] == 97 and data[i + 2] == 109 and data[i + 3] == 112:
                            if data[i + 4] == 59:
                                point, after = np.int64(38), i + 5
                        elif i + 5 < end and data[i + 4] != 38 and data[i + 5] == 59:
                            if data[i + 1] == 113 and data[i + 2] == 117 and data[i + 3] == 111 and data[i + 4] == 116:
                                point, after = np.int64(34), i + 6
                            if data[i + 1] == 97 and data[i + 2] == 112 and data[i + 3] == 111 and data[i + 4] == 115:
                                point, after = np.int64(39), i + 6
                    if after > i:
                        if _is_text(point):
                            o = _put(out, o, point)
                        i = after
                        continue
                elif c < 32 or c == 127:
                    i += 1
                    if c == 13 and (i >= end or data[i] != 10):
                        c = np.int64(10)
                    if c == 9 or c == 10:
                        out[o] = c
                        o += 1
                    continue
                out[o] = c
                o += 1
                i += 1
                continue
            step, least = 0, 0
            if 0xC2 <= c < 0xE0:
                step, point, least = 2, c & 0x1F, 0x80
            elif 0xE0 <= c < 0xF0:
                step, point, least = 3, c & 0x0F, 0x800
            elif 0xF0 <= c < 0xF5:
                step, point, least = 4, c & 0x07, 0x10000
            else:
                point = np.int64(0)
            if step == 0 or i + step > end:
                valid[row] = 0
                break
            for k in range(1, step):
                b = np.int64(data[i + k])
                if b & 0xC0 != 0x80:
                    step = 0
                    break
                point = point << 6 | b & 0x3F
            if step == 0 or point < least or point > 0x10FFFF or 0xD800 <= point < 0xE000:
                valid[row] = 0
                break
            if _is_text(point):
                for k in range(step):
                    out[o + k] = data[i + k]
                o += step
            i += step
        if valid[row] == 0:
            o = first
        offsets[row + 1] = o


def unescape(data: npt.NDArray[np.uint8], starts: Iterable[int], ends: Iterable[int]) -> tuple[pa.Array, pa.Array]:
    """XML character data `data[starts[i]:ends[i]]` as text, and whether it is UTF-8 (large_string, bool).

    References that XML has without a definition are resolved; others stay. What no text may hold (controls, U+FFFE) is
    left out. A row that is not UTF-8 is empty.
    """
    first, last = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    out = np.empty(int((last - first).sum()), np.uint8)
    offsets, valid = np.zeros(len(first) + 1, np.int64), np.zeros(len(first), np.uint8)
    _unescape(data, first, last, out, offsets, valid)
    return from_buffers(out, offsets), pa.array(valid.astype(np.bool_))


@kernel(i64(Bytes, i64, i64, i64, i64, I64w, i64), **INNER)
def _behind(data, name, name_end, i, end, closes, number):  # type: ignore[no-untyped-def]
    """Where the next "</name" is at or behind `i`, or `end`. `closes[number]` remembers it, so all calls are linear."""
    if closes[number] >= i:
        return closes[number]
    size = name_end - name
    p = i
    while p + size + 1 < end:
        if data[p] == 60 and data[p + 1] == 47:
            k = 0
            while k < size and data[p + 2 + k] | 32 == data[name + k] | 32:
                k += 1
            if k == size:
                q = p + 2 + size
                if q >= end or not (97 <= data[q] | 32 <= 122 or 48 <= data[q] <= 57):
                    closes[number] = p
                    return p
        p += 1
    closes[number] = end
    return end


@kernel(i64(Bytes, i64, i64, Buffer, I64w, i64), **INNER)
def _cited(data, i, end, urls, ends, n):  # type: ignore[no-untyped-def]
    """Add the http addresses in `data[i:end]` to `urls`; how many there are then. `ends[n]` is where one ends."""
    while i + 8 < end:
        if not (
            data[i] | 32 == 104 and data[i + 1] | 32 == 116 and data[i + 2] | 32 == 116 and data[i + 3] | 32 == 112
        ):
            i += 1
            continue
        p = i + 4
        if data[p] | 32 == 115:
            p += 1
        if p + 3 >= end or data[p] != 58 or data[p + 1] != 47 or data[p + 2] != 47:
            i += 4
            continue
        p += 3
        first, opened = p, False
        while p < end:
            c = data[p]
            if c <= 32 or c == 34 or c == 60 or c == 62 or c == 91 or c == 93 or 123 <= c <= 125:
                break
            if c == 40:
                opened = True
            p += 1
        behind = p
        while p > first:
            c = data[p - 1]
            if not (
                c == 46 or c == 44 or c == 58 or c == 59 or c == 33 or c == 63 or c == 39 or (c == 41 and not opened)
            ):
                break
            p -= 1
        if p > first + 2:
            u = ends[n - 1] if n else 0
            for k in range(i, p):
                urls[u] = data[k]
                u += 1
            ends[n] = u
            n += 1
        i = behind
    return n


@kernel(Pair(Bytes, i64, i64, Buffer, i64, U64s, I64s), **INNER)
def _reference(data, i, end, out, o, keys, values):  # type: ignore[no-untyped-def]
    """Write the character that the reference at `data[i]` ("&") means, or "&": (place behind it, place in `out`)."""
    point, after, second = np.int64(-1), i, np.int64(0)
    if i + 2 < end and data[i + 1] == 35:
        point, after = _number(data, i, end)
    else:
        p = i + 1
        h = (FNV_SEED ^ np.uint64(ENTITY)) * FNV_PRIME
        while p < end and p < i + 34 and (97 <= data[p] | 32 <= 122 or 48 <= data[p] <= 57):
            h = (h ^ np.uint64(data[p])) * FNV_PRIME
            p += 1
        if p < end and p > i + 1 and data[p] == 59:
            value = _find(keys, values, h)
            if value:
                point, after, second = value & 0x1FFFFF, p + 1, value >> 21
    if after == i:
        out[o] = 38
        return i + 1, o + 1
    if point == 0xA0 or point == 10 or point == 9:
        point = np.int64(32)
    if _is_text(point):
        o = _put(out, o, point)
        if second:
            o = _put(out, o, second)
    return after, o


@kernel(i64(Bytes, i64, i64, Buffer, i64, U64s, I64s, types.boolean), **INNER)
def _keep(data, i, end, out, o, keys, values, formula):  # type: ignore[no-untyped-def]
    """Write `data[i:end]` as it is, references resolved, without line breaks at its ends; set off where it has lines.

    In a formula a space goes where braces would look like a template or a table; to TeX it is the same.
    """
    lines = False
    for p in range(i, end):
        lines |= data[p] == 10
    while i < end and data[i] == 10:
        i += 1
    while end > i and (data[end - 1] == 10 or data[end - 1] == 32):
        end -= 1
    if lines:
        out[o] = SOFT
        o += 1
    out[o] = RAW
    o += 1
    while i < end:
        if data[i] == 38:
            i, o = _reference(data, i, end, out, o, keys, values)
        else:
            c = data[i]
            before = out[o - 1]
            if formula and (
                (before == 123 and (c == 123 or c == 124)) or (c == 125 and (before == 125 or before == 124))
            ):
                out[o] = 32
                o += 1
            out[o] = c
            o += 1
            i += 1
    out[o] = COOKED
    o += 1
    if lines:
        out[o] = SOFT
        o += 1
    return o


@kernel(i64(Bytes, i64, i64, U64s, I64s), **INNER)
def _address(data, i, end, keys, values):  # type: ignore[no-untyped-def]
    """Where the address ends that begins at `data[i]`, behind a "["; `i` where none does."""
    p = i
    if i + 2 < end and data[i] == 47 and data[i + 1] == 47 and data[i + 2] > 32:
        p = i + 2
    else:
        h = (FNV_SEED ^ np.uint64(SCHEME)) * FNV_PRIME
        while p < end and p < i + 8 and 97 <= data[p] | 32 <= 122:
            h = (h ^ np.uint64(data[p] | 32)) * FNV_PRIME
            p += 1
        if p + 1 >= end or p == i or data[p] != 58 or data[p + 1] <= 32 or not _find(keys, values, h):
            return i
    while p < end:
        c = data[p]
        if c <= 32 or c == 91 or c == 93 or c == 60 or c == 123 or c == 124:
            break
        p += 1
    return p


@kernel(Pair(Bytes, i64, i64, I32s, U64s, I64s), **INNER)
def _target(data, i, end, lower, keys, values):  # type: ignore[no-untyped-def]
    """(kind of the namespace, where what to show begins) of the target of a link at `data[i]`, behind its "[["."""
    p = i
    while p < end and (data[p] == 32 or data[p] == 95):
        p += 1
    shown = p < end and data[p] == 58  # "[[:Category:..." is a link to the category
    if shown:
        p += 1
    first = p
    while p < end and p < first + MAX_NAME:
        c = data[p]
        if c == 58:
            kind = _find(keys, values, _key(data, first, p, lower, NAMESPACE))
            if kind == 0:
                return np.int64(0), first
            return (np.int64(0), p + 1 if kind != LANGUAGE else first) if shown else (kind, first)
        if c == 124 or c == 91 or c == 93 or c == 123 or c == 125 or c == 60 or c == 62 or c == 10 or c == 35:
            break
        p += 1
    return np.int64(0), first


@kernel(i64(Bytes, i64, i64, I32s, U64s, I64s), **INNER)
def _template(data, i, end, lower, keys, values):  # type: ignore[no-untyped-def]
    """What the template is whose name begins at `data[i]`: DISAMBIGUATION, CITATION or 0."""
    p = i
    while p < end and p < i + MAX_NAME:
        c = data[p]
        if c == 124 or c == 125 or c == 123 or c == 60 or c == 91:
            return _find(keys, values, _key(data, i, p, lower, TEMPLATE))
        p += 1
    return np.int64(0)


@kernel(i64(Frames, i64, i64, I64w), **INNER)
def _close(frames, depth, d, opened):  # type: ignore[no-untyped-def]
    """Take the frames from `d` on off a stack of `depth`, and off the counts of `opened`; the place of the output."""
    while depth > d:
        depth -= 1
        kind = frames[depth, 0]
        opened[0] -= kind <= PARAMETER
        opened[1] -= kind == ROWS
        opened[2] -= frames[depth, 2]
    return frames[d, 1]


@kernel(i64(Frames, i64, i64, i64), **INNER)
def _open(frames, depth, kind, o):  # type: ignore[no-untyped-def]
    """Put a frame on the stack; its new depth, over MAX_DEPTH where there is no room."""
    if depth < MAX_DEPTH:
        frames[depth, 0], frames[depth, 1], frames[depth, 2] = kind, o, 0
    return depth + 1


@kernel(
    i64(Bytes, i64, i64, I32s, U64s, I64s, Bytes, types.boolean, Frames, I64w, I64w, Buffer, Buffer, I64w, I64w),
    **INNER,
)
def _scan(data, i, end, lower, keys, values, special, variants, frames, opened, closes, out, urls, url_ends, said):  # type: ignore[no-untyped-def]
    """First pass over one page: the length of `out`. `said`: 0 = flags of the page, 1 = number of `urls`."""
    closes[:] = -1
    o = np.int64(0)
    depth = np.int64(0)
    cite_start = i
    opened[:] = 0  # templates and parameters, tables, citation templates
    brackets = 0  # "[" on this line that are text
    converting = 0
    line = True  # at the start of a line
    while i < end and depth <= MAX_DEPTH:
        if line:
            line = False
            p = i
            while p < end and (data[p] == 32 or data[p] == 9 or data[p] == 58):
                p += 1
            if p + 1 < end and data[p] == 123 and data[p + 1] == 124 and not (p + 2 < end and data[p + 2] == 125):
                depth = _open(frames, depth, ROWS, o)
                if depth > MAX_DEPTH:
                    break
                opened[1] += 1
                out[o] = 124  # if it never closes, the second pass removes the line
                o += 1
                i = p + 2
                continue
            if p + 1 < end and data[p] == 124 and data[p + 1] == 125 and opened[1]:
                crosses = not (p + 2 < end and data[p + 2] == 125)
                d = depth - 1
                while d >= 0 and frames[d, 0] != ROWS and (crosses or frames[d, 0] > PARAMETER):
                    d -= 1
                if d >= 0 and frames[d, 0] == ROWS:
                    o = _close(frames, depth, d, opened)
                    depth = d
                    i = p + 2
                    continue
        c = data[i]
        if special[c] == 0:
            out[o] = c
            o += 1
            i += 1
            continue
        if c == 10:
            while depth and (frames[depth - 1, 0] == LINK or frames[depth - 1, 0] == OUTSIDE):
                depth -= 1
            if depth and frames[depth - 1, 0] == FILE_LINK and i + 1 < end and data[i + 1] == 10:
                depth -= 1
                o = frames[depth, 1]
            out[o] = 10
            o += 1
            i += 1
            line = True
            brackets = 0
        elif c == 124:
            if depth and (frames[depth - 1, 0] == LINK or frames[depth - 1, 0] == FILE_LINK):
                o = frames[depth - 1, 1]
            else:
                out[o] = 124
                o += 1
            i += 1
        elif c == 38:
            i, o = _reference(data, i, end, out, o, keys, values)
        elif c == 91:
            if i + 1 < end and data[i + 1] == 91:
                if i + 2 < end and data[i + 2] == 91 and not (i + 3 < end and data[i + 3] == 91):
                    after = _address(data, i + 3, end, keys, values)
                    if after == i + 3:
                        out[o] = 91
                        o += 1
                        brackets += 1
                        i += 1
                kind, first = _target(data, i + 2, end, lower, keys, values)
                if kind or depth < MAX_DEPTH:
                    depth = _open(frames, depth, FILE_LINK if kind else LINK, o)
                i = first
            else:
                after = _address(data, i + 1, end, keys, values)
                if after == i + 1:
                    out[o] = 91
                    o += 1
                    i += 1
                    brackets += 1
                elif after < end and data[after] == 93:
                    out[o] = GAP
                    o += 1
                    i = after + 1
                else:
                    i = after
                    if depth < MAX_DEPTH:
                        depth = _open(frames, depth, OUTSIDE, o)
                    while i < end and data[i] == 32:
                        i += 1
        elif c == 93:
            top = frames[depth - 1, 0] if depth else 0
            if top == OUTSIDE:
                if brackets:
                    brackets -= 1
                    out[o] = 93
                    o += 1
                else:
                    depth -= 1
                i += 1
            elif i + 1 < end and data[i + 1] == 93 and LINK <= top <= FILE_LINK:
                depth -= 1
                if top == FILE_LINK:
                    o = frames[depth, 1]
                    out[o] = GAP
                    o += 1
                i += 2
            elif i + 1 < end and data[i + 1] == 93 and not brackets:
                i += 2  # closes nothing
            else:
                brackets -= brackets > 0
                out[o] = 93
                o += 1
                i += 1
        elif c == 123:
            p = i + 1
            while p < end and data[p] == 123:
                p += 1
            run = p - i
            if run == 1:
                if variants and o and out[o - 1] == 45:
                    o -= 1
                    converting += 1
                else:
                    out[o] = 123
                    o += 1
            while run > 1 and depth <= MAX_DEPTH:
                kind = PARAMETER if run == 3 else BRACES
                depth = _open(frames, depth, kind, o)
                opened[0] += 1
                run -= 3 if kind == PARAMETER else 2
                if run == 0 and kind == BRACES and depth <= MAX_DEPTH:
                    meaning = _template(data, p, end, lower, keys, values)
                    if meaning == DISAMBIGUATION:
                        said[0] |= IS_DISAMBIGUATION
                    elif meaning == CITATION:
                        frames[depth - 1, 2] = 1
                        cite_start = cite_start if opened[2] else p
                        opened[2] += 1
            i = p
        elif c == 125:
            p = i + 1
            while p < end and data[p] == 125:
                p += 1
            run = p - i
            if run == 1:
                if converting and p < end and data[p] == 45:
                    converting -= 1
                    p += 1
                else:
                    out[o] = 125
                    o += 1
            while run > 1 and opened[0]:
                d = depth - 1
                while frames[d, 0] > PARAMETER:
                    d -= 1
                run -= 3 if frames[d, 0] == PARAMETER and run > 2 else 2
                was_citing = opened[2]
                o = _close(frames, depth, d, opened)
                depth = d
                out[o] = GAP
                o += 1
                if was_citing and opened[2] == 0:
                    said[1] = _cited(data, cite_start, i, urls, url_ends, said[1])
            i = p
        else:  # "<"
            p = i + 1
            if p + 2 < end and data[p] == 33 and data[p + 1] == 45 and data[p + 2] == 45:
                p += 3
                if closes[0] < p:
                    q = p
                    while q + 2 < end and not (data[q] == 45 and data[q + 1] == 45 and data[q + 2] == 62):
                        q += 1
                    closes[0] = q if q + 2 < end else end
                if closes[0] == end:
                    break  # MediaWiki shows nothing behind it either
                i = closes[0] + 3
                if (o == 0 or out[o - 1] == 10) and i < end and data[i] == 10:
                    i += 1  # a line that is a comment is not there
                    line = True
                continue
            closing = p < end and data[p] == 47
            p += closing
            name = p
            h = (FNV_SEED ^ np.uint64(TAG)) * FNV_PRIME
            while p < end and p < name + 20 and (97 <= data[p] | 32 <= 122 or 48 <= data[p] <= 57):
                h = (h ^ np.uint64(data[p] | 32 if data[p] > 64 else data[p])) * FNV_PRIME
                p += 1
            found = _find(keys, values, h)
            if p == name or found == 0 or not (p >= end or data[p] <= 32 or data[p] == 47 or data[p] == 62):
                out[o] = 60
                o += 1
                i += 1
                continue
            name_end = p
            while p < end and data[p] != 62 and data[p] != 60:
                p += 1
            if p >= end or data[p] == 60:
                i = name_end  # a tag that does not end
                continue
            alone = closing or data[p - 1] == 47
            i = p + 1
            action = found & 15
            if action == BREAK:
                out[o] = SOFT
                o += 1
            elif action == TABLE and not alone:
                depth = _open(frames, depth, HTML_ROWS, o)
            elif action == TABLE and closing:
                d = depth - 1
                while d >= 0 and frames[d, 0] != HTML_ROWS and frames[d, 0] > PARAMETER:
                    d -= 1
                if d >= 0 and frames[d, 0] == HTML_ROWS:
                    o = _close(frames, depth, d, opened)
                    depth = d
            elif KEEP <= action <= FORMULA and alone:
                out[o] = NOTHING
                o += 1
            elif action >= REMOVE and action != TABLE and not alone:
                close = _behind(data, name, name_end, i, end, closes, found >> 4)
                if close < end:
                    if KEEP <= action <= FORMULA:
                        o = _keep(data, i, close, out, o, keys, values, action == FORMULA)
                    else:
                        if action == REFERENCE:
                            said[1] = _cited(data, i, close, urls, url_ends, said[1])
                        out[o] = GAP
                        o += 1
                    i = close + 2 + name_end - name
                    while i < end and data[i] != 62 and data[i] != 60 and data[i] != 10:
                        i += 1
                    i += i < end and data[i] == 62
    if depth > MAX_DEPTH:
        said[0] |= IS_TOO_DEEP
        o = np.int64(0)
    return o


@kernel(types.boolean(i64), **INNER)
def _separates(c):  # type: ignore[no-untyped-def]
    """Whether a byte is white space or punctuation that has no use at the edge of a bracket."""
    return c == 32 or c == 44 or c == 58 or c == 59


@kernel(i64(Bytes, i64, i64, Buffer, i64, Bytes, i64, I64w), **INNER)
def _body(data, i, end, out, o, flags, apostrophe, said):  # type: ignore[no-untyped-def]
    """Write the text of one line; the place behind it. `apostrophe`: where three quotes are one and italics."""
    start = o
    paren, empty, gap = np.int64(-1), False, False
    # paren: place of the "(" that may yet prove empty; gap: something was removed since the last text
    while i < end:
        c = data[i]
        if c > 62 and c != 95 and c != 0xC2:
            if paren >= 0 and empty and gap:
                o = paren + 1
            empty = gap = False
            out[o] = c
            o += 1
            i += 1
            continue
        if c in (GAP, NOTHING):
            gap |= c == GAP
            i += 1
            continue
        if c == 32 or c == 9 or (c == 0xC2 and i + 1 < end and data[i + 1] == 0xA0):
            if o > start and out[o - 1] != 32 and out[o - 1] != 10:
                out[o] = 32
                o += 1
            i += 2 if c == 0xC2 else 1
            continue
        if c == SOFT:
            while o > start and out[o - 1] == 32:
                o -= 1
            if o > start and out[o - 1] != 10:
                out[o] = 10
                o += 1
            i += 1
            paren, gap = np.int64(-1), False
            continue
        if c == 39 and i + 1 < end and data[i + 1] == 39:
            p = i
            while p < end and data[p] == 39:
                p += 1
            run = p - i
            extra = 1 if run == 4 or i == apostrophe else max(run - 5, 0)
            for _ in range(extra):
                out[o] = 39
                o += 1
            i = p
            continue
        if c == 95 and i + 1 < end and data[i + 1] == 95:
            p, letters = i + 2, 0
            while p < end and p < i + 64:
                if data[p] == 95:
                    p += 1
                    continue
                point, step = decode(data, p)
                if not flags[point] & UPPER:
                    break
                letters += 1
                p += step
            if letters > 2 and data[p - 1] == 95 and data[p - 2] == 95:
                if p - i == 12 and data[i + 2] == 68 and data[i + 3] == 73 and data[i + 4] == 83 and data[i + 5] == 65:
                    said[0] |= IS_DISAMBIGUATION  # __DISAMBIG__
                i = p
                gap = True
                continue
        if c == RAW:
            if paren >= 0 and empty and gap:
                o = paren + 1
            empty = gap = False
            i += 1
            while i < end and data[i] != COOKED:
                out[o] = data[i]
                o += 1
                i += 1
            i += 1
            continue
        if c == 40:
            paren, empty, gap = o, True, False
            out[o] = c
            o += 1
            i += 1
            continue
        if c == 41 and gap:
            while o > start and _separates(out[o - 1]):
                o -= 1
            if o > start and out[o - 1] == 40 and empty:
                o -= 1
                while o > start and out[o - 1] == 32:
                    o -= 1
            else:
                out[o] = 41
                o += 1
            paren, empty, gap = np.int64(-1), False, True
            i += 1
            continue
        if gap and (c == 44 or c == 46 or c == 58 or c == 59) and o > start and out[o - 1] == 32:
            o -= 1
        if not _separates(c):
            if paren >= 0 and empty and gap:
                o = paren + 1
            empty = gap = False
        if c == 41:
            paren = np.int64(-1)
        out[o] = c
        o += 1
        i += 1
    while o > start and (out[o - 1] == 32 or out[o - 1] == 10):
        o -= 1
    return o


@kernel(i64(Bytes, i64, i64), **INNER)
def _apostrophe(data, i, end):  # type: ignore[no-untyped-def]
    """Which run of three quotes in a line is an apostrophe and italics, as MediaWiki decides it; -1: none.

    Only where both kinds of quotes are odd: the first that follows a word of one letter, else one of more, else a
    space.
    """
    bold = italic = 0
    single, several, space = np.int64(-1), np.int64(-1), np.int64(-1)
    first = i
    raw = False
    while i < end:
        c = data[i]
        if c in (RAW, COOKED):
            raw = c == RAW
        if c != 39 or raw:
            i += 1
            continue
        p = i
        while p < end and data[p] == 39:
            p += 1
        run = p - i
        if run == 2:
            italic += 1
        elif run >= 5:
            bold += 1
            italic += 1
        elif run >= 3:
            bold += 1
            if run == 3:
                if i > first and data[i - 1] == 32:
                    space = i if space < 0 else space
                else:
                    q = i - 1
                    while q > first and data[q] & 0xC0 == 0x80:
                        q -= 1
                    if q >= first and (q == first or data[q - 1] == 32):
                        single = i if single < 0 else single
                    else:
                        several = i if several < 0 else several
        i = p
    if bold & 1 and italic & 1:
        return single if single >= 0 else several if several >= 0 else space
    return np.int64(-1)


@kernel(i64(Bytes, i64, Buffer, i64, Bytes, I64w), **INNER)
def _lines(data, size, out, o, flags, said):  # type: ignore[no-untyped-def]
    """Second pass over `data[:size]`: lines of text to `out[o:]`; the place behind them."""
    i = np.int64(0)
    first = o
    blank = False
    while i < size:
        a = i
        raw, quotes = False, False
        while i < size and (raw or data[i] != 10):
            c = data[i]
            if c < 40:
                raw = (raw and c != COOKED) or c == RAW
                quotes |= c == 39
            i += 1
        b = i
        i += 1
        gap = False
        while a < b and (data[a] == 32 or data[a] == 9 or data[a] == GAP or data[a] == NOTHING or data[a] == SOFT):
            gap |= data[a] == GAP
            a += 1
        while b > a and (data[b - 1] == 32 or data[b - 1] == 9 or data[b - 1] == GAP or data[b - 1] == NOTHING):
            b -= 1
        if a == b:
            blank |= not gap
            continue
        c = data[a]
        before, heading, level = o, False, 0
        if c == 124:
            continue  # a row of a table that does not close, or a parameter of such a template
        if c == 45 and b - a >= 4 and data[a + 1] == 45 and data[a + 2] == 45 and data[a + 3] == 45:
            while a < b and data[a] == 45:
                a += 1
            if a == b:
                blank = True
                continue
        elif c == 61 and data[b - 1] == 61 and b - a > 2:
            n = 0
            while n < 6 and b - a - 2 * n > 2 and data[a + n] == 61 and data[b - 1 - n] == 61:
                n += 1
            a += n
            b -= n
            heading = True
            blank = True
        elif c == 42 or c == 35 or c == 58 or c == 59:
            last = c
            while a < b and (data[a] == 42 or data[a] == 35 or data[a] == 58 or data[a] == 59):
                last = data[a]
                level += last == 42 or last == 35
                a += 1
            if last != 42 and last != 35:
                level = 0
            while a < b and (data[a] == 32 or data[a] == GAP):
                a += 1
        if o > first:
            out[o] = 10
            o += 1
            if blank:
                out[o] = 10
                o += 1
        if level:
            for _ in range(2 * min(level, 8) - 2):
                out[o] = 32
                o += 1
            out[o], out[o + 1] = 45, 32
            o += 2
        start = o
        o = _body(data, a, b, out, o, flags, _apostrophe(data, a, b) if quotes else np.int64(-1), said)
        if o == start:
            o = before
        else:
            blank = heading
    return o


@kernel(types.void(Bytes, I64s, Bytes, I32s, U64s, I64s, Bytes, types.boolean, Buffer, I64w, Buffer, I64w, I64w, I64w))
def _convert(  # type: ignore[no-untyped-def]
    data, offsets, flags, lower, keys, values, special, variants, out, ends, urls, url_ends, url_rows, said_of
):
    longest = np.int64(0)
    for row in range(offsets.size - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    middle = np.empty(2 * longest + 64, np.uint8)
    frames = np.zeros((MAX_DEPTH, 3), np.int64)
    opened, closes = np.zeros(3, np.int64), np.zeros(256, np.int64)
    said = np.zeros(2, np.int64)
    o = np.int64(0)
    ends[0] = 0
    url_rows[0] = 0
    for row in range(offsets.size - 1):
        said[0] = 0
        start, end = offsets[row], offsets[row + 1]
        size = _scan(
            data,
            start,
            end,
            lower,
            keys,
            values,
            special,
            variants,
            frames,
            opened,
            closes,
            middle,
            urls,
            url_ends,
            said,
        )
        o = _lines(middle, size, out, o, flags, said)
        ends[row + 1] = o
        url_rows[row + 1] = said[1]
        said_of[row] = said[0]


@dataclass(frozen=True)
class Converted:
    """Pages as text, a row each."""

    text: pa.Array  # large_string
    cited: pa.Array  # large_list<large_string>: addresses in references and citation templates, in their order
    said: npt.NDArray[np.int64]  # IS_DISAMBIGUATION, IS_TOO_DEEP


@functools.cache
def _special() -> npt.NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[[ord(c) for c in "\n[]{}<&|"]] = 1
    return table


def convert(wikitext: pa.Array | pa.ChunkedArray, site: Names, *, variants: bool = False) -> Converted:
    """Text of wikitext that `unescape` gave (valid UTF-8 without control characters).

    `site`: what `names` made; `variants`: the wiki writes `-{...}-` (Serbian). A page that nests deeper than MAX_DEPTH
    is empty and said to be so.
    """
    data, offsets = buffers(wikitext)
    flags, lower = tables()
    rows, size = len(offsets) - 1, int(offsets[-1] - offsets[0])
    out, ends = np.empty(2 * size + 64 * rows + 64, np.uint8), np.zeros(rows + 1, np.int64)
    urls, url_ends = np.empty(2 * size + 64, np.uint8), np.zeros(size // 4 + 64, np.int64)
    url_rows, said = np.zeros(rows + 1, np.int64), np.zeros(rows, np.int64)
    _convert(data, offsets, flags, lower, *site, _special(), variants, out, ends, urls, url_ends, url_rows, said)
    n = int(url_rows[-1])
    url_offsets = np.concatenate([np.zeros(1, np.int64), url_ends[:n]])
    cited = pa.LargeListArray.from_arrays(
        pa.array(url_rows), from_buffers(urls[: int(url_offsets[-1])].copy(), url_offsets)
    )
    return Converted(from_buffers(out[: int(ends[-1])].copy(), ends), cited, said)
