"""The page and line rules of C4's published code (recipes.md 2.1), over bytes.

`page_lines` joins the lines of a page as C4 reads them from WET, `clean_lines` decides line by line and page by page,
`sentences` counts, `line_keys` gives keys for the removal of repeated lines, `listed_terms` looks for a list of words.
What each rule says is written in `curate.filters.c4` and `curate.dedup.lines`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import types

from curate.kernels import Bytes, I32s, I64s, U64s, kernel
from curate.kernels.arrow import buffers
from curate.kernels.json_rows import load, put, same
from curate.kernels.paragraphs import LANES, SCRATCH, final_sigma, hash_messages, pad, strip
from curate.kernels.unicode import DIGIT, SPACE, WORD, decode, tables

Data = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

i64 = types.int64
Buffer = types.Array(types.uint8, 1, "C")
Counters = types.Array(i64, 1, "C")
Table = types.Array(i64, 2, "C")
KeyArray = types.Array(types.uint64, 1, "C")

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)

PAGE_PREFIXES = (b"WARC", b"CONTENT-", b"Content-")
_WARC, _CAPITAL, _CONTENT = (np.frombuffer(x, np.uint8).copy() for x in PAGE_PREFIXES)

# Columns of what `clean_lines` counts: lines met, kept, and dropped by each rule; sentences; what the page goes for,
# and where the line begins and ends that it goes for.
COUNTS = ("lines", "kept", "long_word", "no_end_mark", "few_words", "javascript", "policy", "sentences")
VERDICT, FROM, TO = range(len(COUNTS), len(COUNTS) + 3)
KEPT, FEW_SENTENCES, LOREM_IPSUM, CURLY_BRACKET = range(4)
_LINES, _KEPT, _LONG, _NO_END, _FEW, _SCRIPT, _POLICY, _SENTENCES = range(len(COUNTS))

POLICIES = (b"terms of use", b"privacy policy", b"cookie policy", b"uses cookies", b"use of cookies", b"use cookies")
_TERMS, _PRIVACY, _COOKIE_POLICY, _USES, _USE_OF, _USE = (np.frombuffer(x, np.uint8).copy() for x in POLICIES)
_LOREM, _JAVASCRIPT = (np.frombuffer(x, np.uint8).copy() for x in (b"lorem ipsum", b"javascript"))
_EDIT, _NEEDED = (np.frombuffer(x, np.uint8).copy() for x in (b"[edit]", b"[citation needed]"))
_BREAKS, _BRACKET, _WIDE = 1, 2, 4  # kinds of bytes in `_KINDS`
_KINDS = np.zeros(256, np.uint8)
_KINDS[[10, 11, 12, 13, 28, 29, 30]] = _BREAKS
_KINDS[ord("[")] = _BRACKET
_KINDS[[0xC2, 0xE2]] = _WIDE  # may begin U+0085, U+2028, U+2029 or the Kelvin sign
_HINTS = np.zeros(256, np.uint8)  # letters by which `_look` finds the strings of the line rules
_NOT_WORD = np.zeros(256, np.uint8)
_NOT_WORD[[ord(_letter) for _letter in ";:*@({["]] = 1
INITIALS = "cdefghklmnprstvw"  # letters that end no sentence; behind the others one may end
_NEVER = np.zeros(256, np.uint8)
_NEVER[[ord(_letter) for _letter in INITIALS]] = 1
for _letter, _hint in zip("pjfvk{", range(1, 7), strict=True):
    _HINTS[[ord(_letter), ord(_letter.upper())]] = _hint


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Words that a full stop may follow within a sentence (a single letter needs no entry), and words that rarely stand
# within a sentence with a capital. What punkt's English model does not hold ("etc", "e.g", "Gov") is not here either.
ABBREVIATIONS = _words("""
    mr mrs ms dr prof gen sen rep reps col lt maj adm st messrs jr sr inc ltd corp co cos bros cie ave ft vs yr mg chg
    jan feb aug sept sep oct nov dec tues wed fri
    ala ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash wis w.va
    a.m p.m u.s u.k u.n u.s.a u.s.s.r d.c l.a n.y n.c s.c n.j n.m n.d n.h n.v a.d ph.d m.b.a
""")
STARTERS = _words("""
    a according after all although among an and another any are as at because before besides both but by can despite did
    do does each even every few finally first for from furthermore get he her here his how however i if in indeed
    instead is it its just last later let like many meanwhile moreover most my nearly neither nevertheless next no
    nonetheless nor not now of on once one only or other our over perhaps please several she similarly since so some
    soon still such take than that the their then there therefore these they this those though through thus to under
    unlike until was we well were what when where whether which while who why will with within would yes yet you your
""")


@kernel(types.boolean(Bytes, i64, i64, i64, Bytes))
def _reads(data, first, last, i, word):  # type: ignore[no-untyped-def]
    """Whether data[i:] is `word` (lower case, letters and spaces) in any case, within data[first:last]."""
    if i < first or i + len(word) > last:
        return False
    for k in range(len(word)):
        c = data[i + k]
        if c != word[k] and (word[k] == 32 or (c | 32) != word[k] or c >= 0x80):
            return False
    return True


@kernel(types.boolean(Bytes, i64, i64))
def _is_header(data, first, last):  # type: ignore[no-untyped-def]
    """Whether the line data[first:last] begins as C4 takes for a line of a record's header."""
    if data[first] != 87 and data[first] != 67:  # "W", "C"
        return False
    if last - first >= 4 and same(data, first, first + 4, _WARC):
        return True
    if last - first < 8:
        return False
    return same(data, first, first + 8, _CAPITAL) or same(data, first, first + 8, _CONTENT)


@kernel(types.void(Bytes, I64s, Bytes, Buffer, Counters, Counters))
def _page_lines(data, rows, flags, out, offsets, characters):  # type: ignore[no-untyped-def]
    o = 0
    offsets[0] = 0
    for row in range(len(rows) - 1):
        at, stop = rows[row], rows[row + 1]
        begin = o
        count = 0
        while at < stop:
            end = at
            while end < stop and data[np.uint64(end)] != 10:
                end += 1
            first, last = strip(data, at, end, flags)
            at = end + 1
            if first == last or _is_header(data, first, last):
                continue
            if o > begin:
                out[o] = 10
                o += 1
                count += 1
            for i in range(first, last):
                out[np.uint64(o + i - first)] = data[np.uint64(i)]
            for i in range(first, last):
                count += data[np.uint64(i)] & 0xC0 != 0x80
            o += last - first
        offsets[row + 1] = o
        characters[row] = count


def page_lines(data: Data, rows: Offsets) -> tuple[Data, Offsets, Ints]:
    r"""(UTF-8 bytes, rows + 1 offsets, characters of each row) of pages whose lines ("\n") are stripped.

    Blank lines and lines that begin with one of `PAGE_PREFIXES` are left out.
    """
    out = np.empty(int(rows[-1] - rows[0]), np.uint8)
    offsets, characters = np.empty(len(rows), np.int64), np.empty(len(rows) - 1, np.int64)
    _page_lines(data, rows, tables()[0], out, offsets, characters)
    return out[: offsets[-1]], offsets, characters


@kernel(types.boolean(Bytes, i64, i64, Bytes, i64))
def _has_long_word(data, i, end, flags, longest):  # type: ignore[no-untyped-def]
    """Whether a run of characters that are not white space is longer than `longest`."""
    run = 0
    while i < end:
        point, size = decode(data, i)
        run = 0 if flags[point] & SPACE else run + 1
        if run > longest:
            return True
        i += size
    return False


@kernel(types.boolean(Bytes, i64, i64, Bytes, i64))
def _has_words(data, i, end, flags, wanted):  # type: ignore[no-untyped-def]
    """Whether data[i:end] has at least `wanted` runs of characters that are not white space."""
    count = np.int64(0)
    inside = False
    while i < end and count < wanted:
        c = data[np.uint64(i)]
        size = 1
        point = np.int64(c)
        if c >= 0x80:
            point, size = decode(data, i)
        space = flags[np.uint64(point)] & SPACE != 0
        count += np.int64(not space and not inside)
        inside = not space
        i += size
    return count >= wanted


@kernel(i64(Bytes, i64, i64, Bytes, Buffer, i64))
def _without_citations(data, i, end, flags, out, o):  # type: ignore[no-untyped-def]
    """Copy a line to out[o:] without "[12]", "[]", "[edit]" and "[citation needed]"; returns where it ends."""
    while i < end:
        if data[i] == 91:
            k = i + 1
            while k < end and data[k] != 93:
                point, size = decode(data, k)
                if not flags[point] & DIGIT:  # of any script, as `\d`
                    break
                k += size
            if k < end and data[k] == 93:
                i = k + 1
                continue
            if end - i >= 6 and same(data, i, i + 6, _EDIT):
                i += 6
                continue
            if end - i >= 17 and same(data, i, i + 17, _NEEDED):
                i += 17
                continue
            # What has been looked at holds no other bracket: it is copied once, so that "[1[1[1" is linear.
            while i < k:
                out[o] = data[i]
                o += 1
                i += 1
            continue
        out[o] = data[i]
        o += 1
        i += 1
    return o


@kernel(i64(Bytes, i64, i64))
def _look(data, i, end):  # type: ignore[no-untyped-def]
    """Which strings of the line rules data[i:end] holds, in any case: 1 lorem ipsum, 2 javascript, 4 "{", 8 policy."""
    found = np.int64(0)
    start = i
    while i < end:
        c = data[np.uint64(i)]
        hint = _HINTS[c]
        if hint != 0:
            if hint == 1:
                found |= np.int64(_reads(data, start, end, i - 7, _LOREM))
            elif hint == 2:
                found |= np.int64(_reads(data, start, end, i, _JAVASCRIPT)) << 1
            elif hint == 3:
                found |= np.int64(_reads(data, start, end, i - 7, _TERMS)) << 3
            elif hint == 4:
                found |= np.int64(_reads(data, start, end, i - 3, _PRIVACY)) << 3
            elif hint == 5:
                if (
                    _reads(data, start, end, i - 3, _COOKIE_POLICY)
                    or _reads(data, start, end, i - 8, _USES)
                    or _reads(data, start, end, i - 10, _USE_OF)
                    or _reads(data, start, end, i - 7, _USE)
                ):
                    found |= 8
            elif c == 123:
                found |= 4
        i += 1
    return found


@kernel(i64(Bytes, i64, i64))
def _look_past_kelvin(data, i, end):  # type: ignore[no-untyped-def]
    """`_look` with the Kelvin sign as "k": its lower case, and the only one outside of ASCII that can matter here."""
    n = np.int64(0)
    for k in range(i, end - 2):
        n += np.int64(data[k] == 0xE2 and data[k + 1] == 0x84 and data[k + 2] == 0xAA)
    if n == 0:
        return 0
    narrow = np.empty(end - i - 2 * n, np.uint8)
    for k in range(len(narrow)):
        narrow[k] = data[i]
        if data[i] == 0xE2 and data[i + 1] == 0x84 and data[i + 2] == 0xAA:
            narrow[k] = 107
            i += 2
        i += 1
    return _look(narrow, 0, len(narrow))


@kernel(types.boolean(U64s, types.uint64))
def _has(table, key):  # type: ignore[no-untyped-def]
    slot = key & np.uint64(len(table) - 1)
    while table[slot] != 0:
        if table[slot] == key:
            return True
        slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
    return False


@kernel(types.uint64(Bytes, i64, i64))
def _word_key(data, i, end):  # type: ignore[no-untyped-def]
    """Key of an ASCII word in lower case."""
    key = np.uint64(0xCBF29CE484222325)
    for k in range(i, end):
        c = data[k]
        key = (key ^ np.uint64(c + 32 if 65 <= c <= 90 else c)) * np.uint64(0x100000001B3)
    return key


@kernel(i64(Bytes, i64, i64))
def _closer(data, i, end):  # type: ignore[no-untyped-def]
    """Bytes of the closing quote or bracket at data[i]; 0 for another character."""
    c = data[i]
    if c == 34 or c == 39 or c == 41 or c == 93 or c == 125:
        return 1
    if c == 0xC2 and data[i + 1] == 0xBB:
        return 2
    if c == 0xE2 and data[i + 1] == 0x80 and (data[i + 2] == 0x99 or data[i + 2] == 0x9D):
        return 3
    return 0


@kernel(types.boolean(Bytes, i64, i64, U64s))
def _abbreviated(data, first, dot, abbreviations):  # type: ignore[no-untyped-def]
    """Whether the word data[first:dot], or what stands behind its last hyphen, is an abbreviation."""
    if _has(abbreviations, _word_key(data, first, dot)):
        return True
    k = dot
    while k > first and data[k - 1] != 45:
        k -= 1
    return k > first and _has(abbreviations, _word_key(data, k, dot))


@kernel(types.boolean(Bytes, i64, i64, U64s))
def _starts(data, i, end, starters):  # type: ignore[no-untyped-def]
    """Whether a word with a capital that usually has none stands at data[i]."""
    if data[i] < 65 or data[i] > 90:
        return False
    k = i + 1
    while k < end and k - i < 16 and 97 <= data[k] <= 122:
        k += 1
    if k < end and ((data[k] >= 0x80 and data[k] < 0xE2) or 65 <= data[k] <= 90):
        return False
    return _has(starters, _word_key(data, i, k))


@kernel(types.boolean(Bytes, i64, i64, i64, i64, types.boolean, U64s, U64s))
def _is_break(data, start, dot, after, end, closed, abbreviations, starters):  # type: ignore[no-untyped-def]
    """Whether the one full stop at data[dot] ends a sentence; the next word is at data[after]."""
    first = dot
    while first > start and dot - first < 24:
        c = data[first - 1]
        if c <= 32 or c in (33, 34, 39, 40, 41, 42, 44, 58, 59, 63, 64, 91, 93, 123, 125):
            break
        first -= 1
    if first == dot or dot - first >= 24:
        return True
    if dot - first == 1 and 97 <= (data[first] | 32) <= 122 and data[first] < 0x80:
        if _NEVER[data[first] | 32]:
            return False
        return closed or _starts(data, after, end, starters) or not (97 <= (data[after] | 32) <= 122)
    if _abbreviated(data, first, dot, abbreviations):
        return not closed and _starts(data, after, end, starters)
    number = True
    for k in range(first, dot):
        number &= 44 <= data[k] <= 57 and data[k] != 47
    return not (number and (97 <= data[after] <= 122 or data[after] == 58 or data[after] == 59))


@kernel(i64(Bytes, i64, i64, Bytes, U64s, U64s))
def sentences(data, start, end, flags, abbreviations, starters):  # type: ignore[no-untyped-def]
    """Sentences of data[start:end]: see `curate.filters.c4`. 0 for white space alone."""
    start, end = strip(data, start, end, flags)
    if start == end:
        return 0
    count = np.int64(1)
    i = start
    while i < end:
        c = data[np.uint64(i)]
        if c != 46 and c != 33 and c != 63:
            i += 1
            continue
        mark = i
        stops = True
        while i < end and (data[i] == 46 or data[i] == 33 or data[i] == 63):
            stops &= data[i] == 46
            i += 1
        marks = i - mark
        closed = False
        while i < end:
            size = _closer(data, i, end)
            if size == 0:
                break
            closed = True
            i += size
        after = i
        while after < end:
            point, size = decode(data, after)
            if not flags[point] & SPACE:
                break
            after += size
        if after >= end:
            for k in range(mark + 1, mark + marks):  # punkt cuts a run at the end of the text in two
                if not closed and data[k] != 46:
                    return count + 1
        if after >= end or (after == i and not closed and not _NOT_WORD[data[i]]):
            continue
        i = after
        if not stops:
            count += 1
        elif marks > 1:
            count += np.int64(not closed and _starts(data, after, end, starters))
        else:
            count += np.int64(_is_break(data, start, mark, after, end, closed, abbreviations, starters))
    return count


@kernel(i64(Bytes, i64, i64))
def _line_break(data, i, end):  # type: ignore[no-untyped-def]
    """Bytes of the line break of `str.splitlines` at data[i], where `_KINDS` says there may be one; 0 for none."""
    c = data[i]
    if c < 32:
        return 1
    if c == 0xC2:
        return 2 if i + 1 < end and data[i + 1] == 0x85 else 0
    if i + 2 < end and data[i + 1] == 0x80 and (data[i + 2] == 0xA8 or data[i + 2] == 0xA9):
        return 3
    return 0


@kernel(i64(Bytes, i64, i64, Bytes, Buffer, i64, i64, U64s, U64s, i64, i64, Counters))
def _clean_line(data, i, end, flags, out, o, kinds, abbreviations, starters, longest, words, counts):  # type: ignore[no-untyped-def]
    """One stripped line to out[o:]: where it ends, o where it is dropped, or minus the verdict on the page."""
    if end - i > longest and _has_long_word(data, i, end, flags, longest):
        counts[_LONG] += 1
        return o
    stop = o
    if kinds & _BRACKET:
        stop = _without_citations(data, i, end, flags, out, o)
        last, dots = stop - 1, stop - o >= 3 and out[stop - 1] == 46 and out[stop - 2] == 46 and out[stop - 3] == 46
        mark = out[last] if stop > o else np.uint8(0)
    else:
        last, dots = end - 1, end - i >= 3 and data[end - 1] == 46 and data[end - 2] == 46 and data[end - 3] == 46
        mark = data[last] if end > i else np.uint8(0)
    if (mark != 46 and mark != 63 and mark != 33 and mark != 34) or dots:
        counts[_NO_END] += 1
        return o
    if stop == o:
        for k in range(end - i):
            out[np.uint64(o + k)] = data[np.uint64(i + k)]
        stop = o + end - i
    if not _has_words(out, o, stop, flags, words):
        counts[_FEW] += 1
        return o
    found = _look(out, o, stop)
    if kinds & _WIDE:
        found |= _look_past_kelvin(out, o, stop)
    if found & 1:
        return -LOREM_IPSUM
    if found & 2:
        counts[_SCRIPT] += 1
        return o
    if found & 4:
        return -CURLY_BRACKET
    if found & 8:
        counts[_POLICY] += 1
        return o
    counts[_KEPT] += 1
    counts[_SENTENCES] += sentences(out, o, stop, flags, abbreviations, starters)
    return stop


@kernel(types.void(Bytes, I64s, Bytes, Buffer, Counters, Table, U64s, U64s, i64, i64, i64))
def _clean_lines(data, rows, flags, out, offsets, table, abbreviations, starters, longest, words, wanted):  # type: ignore[no-untyped-def]
    o = 0
    offsets[0] = 0
    for row in range(len(rows) - 1):
        at, stop = rows[row], rows[row + 1]
        counts = table[row]
        counts[:] = 0
        begin = o
        while at < stop:
            kinds = 0
            end = at
            size = 0
            while end < stop:
                kind = _KINDS[data[np.uint64(end)]]
                if kind != 0:
                    kinds |= kind
                    if kind != _BRACKET:
                        size = _line_break(data, end, stop)
                        if size > 0:
                            break
                end += 1
            counts[_LINES] += 1
            first, last = strip(data, at, end, flags)
            p = o + np.int64(o > begin)  # a line feed between two lines
            q = _clean_line(data, first, last, flags, out, p, kinds, abbreviations, starters, longest, words, counts)
            if q < 0:
                counts[VERDICT] = -q
                counts[FROM], counts[TO] = first, last
                break
            if q > p:
                if p > o:
                    out[o] = 10
                o = q
            at = end + max(size, 1)
            if size == 1 and data[end] == 13 and at < stop and data[at] == 10:
                at += 1
        if counts[VERDICT] == KEPT and counts[_SENTENCES] < wanted:
            counts[VERDICT] = FEW_SENTENCES
        if counts[VERDICT] == KEPT:
            first, last = strip(out, begin, o, flags)
            for k in range(last - first):
                out[begin + k] = out[first + k]
            o = begin + last - first
        else:
            o = begin
        offsets[row + 1] = o


def word_table(words: Sequence[str]) -> Keys:
    """A hash table of ASCII words in lower case, for `sentences`."""
    table = [0] * (1 << max(4, (4 * len(words)).bit_length()))
    for word in words:
        key = 0xCBF29CE484222325
        for c in word.encode("ascii"):
            key = (key ^ c) * 0x100000001B3 % 2**64
        slot = key % len(table)
        while table[slot] not in (0, key):
            slot = (slot + 1) % len(table)
        table[slot] = key
    return np.array(table, np.uint64)


@functools.cache
def _word_tables() -> tuple[Keys, Keys]:
    return word_table(ABBREVIATIONS), word_table(STARTERS)


def clean_lines(data: Data, rows: Offsets, longest: int, words: int, wanted: int) -> tuple[Data, Offsets, Ints]:
    """(UTF-8 bytes, rows + 1 offsets, counts) of pages with the lines that stay; a page that goes is empty.

    counts: rows by `COUNTS`, the verdict (KEPT, FEW_SENTENCES, LOREM_IPSUM, CURLY_BRACKET), and the line that an
    immediate verdict is for, as positions in `data`. `longest`: characters of a word; `words`: at least, of a line;
    `wanted`: sentences, at least, of a page.
    """
    out, offsets = np.empty(int(rows[-1] - rows[0]) + 1, np.uint8), np.empty(len(rows), np.int64)
    table = np.empty((len(rows) - 1, TO + 1), np.int64)
    _clean_lines(data, rows, tables()[0], out, offsets, table, *_word_tables(), longest, words, wanted)
    return out[: offsets[-1]], offsets, table


@kernel(types.void(Bytes, I64s, Bytes, U64s, U64s, Counters))
def _sentence_counts(data, rows, flags, abbreviations, starters, out):  # type: ignore[no-untyped-def]
    for row in range(len(rows) - 1):
        out[row] = sentences(data, rows[row], rows[row + 1], flags, abbreviations, starters)


def sentence_counts(text: pa.Array | pa.ChunkedArray) -> Ints:
    """Sentences of every row."""
    data, rows = buffers(text)
    out = np.empty(len(rows) - 1, np.int64)
    _sentence_counts(data, rows, tables()[0], *_word_tables(), out)
    return out


@kernel(types.void(Bytes, I64s, i64, Counters))
def _long_lines(data, rows, wanted, out):  # type: ignore[no-untyped-def]
    for row in range(len(rows) - 1):
        count = size = np.int64(0)
        for i in range(rows[row], rows[row + 1]):
            c = data[np.uint64(i)]
            if c == 10:
                count += np.int64(size >= wanted)
                size = np.int64(0)
            else:
                size += np.int64(c & 0xC0 != 0x80)
        out[row] = count + np.int64(size >= wanted)


def long_lines(text: pa.Array | pa.ChunkedArray, characters: int) -> Ints:
    r"""Lines ("\n") of at least so many characters of every row."""
    data, rows = buffers(text)
    out = np.empty(len(rows) - 1, np.int64)
    _long_lines(data, rows, characters, out)
    return out


@kernel(i64(Bytes, i64, i64, Bytes, I32s, Buffer, i64))
def _lower(data, i, end, flags, lower, out, o):  # type: ignore[no-untyped-def]
    """Write `str.lower` of data[i:end] to out[o:]; returns where it ends. Room for 1.5 times its bytes and 8."""
    start = i
    while i < end:
        if i + 8 <= end:
            x = load(data, i)
            if x & _HIGHS == 0:
                upper = (x + _ONES * np.uint64(0x3F)) & ~(x + _ONES * np.uint64(0x25)) & _HIGHS
                x |= upper >> np.uint64(2)
                for k in range(8):
                    out[np.uint64(o + k)] = x >> np.uint64(8 * k)
                i += 8
                o += 8
                continue
        c = data[np.uint64(i)]
        if c < 0x80:
            out[o] = c + 32 if 65 <= c <= 90 else c
            o += 1
            i += 1
            continue
        point, size = decode(data, i)
        low = np.int64(lower[point])
        if point == 0x3A3:
            low = np.int64(0x3C2 if final_sigma(data, i, start, end, flags) else 0x3C3)
        if low < 0:  # U+0130
            out[o] = 105
            o += 1
            low = np.int64(0x307)
        o = put(low, out, o)
        i += size
    return o


WordArray = types.Array(types.uint32, 1, "C")


@kernel(types.void(Bytes, I64s, Bytes, I32s, KeyArray, Counters))
def _line_keys(data, rows, flags, lower, keys, offsets):  # type: ignore[no-untyped-def]
    words = np.empty(SCRATCH // 4, np.uint32)
    starts = np.zeros(SCRATCH // 64 + 1, np.int64)
    w = np.empty(80 * LANES, np.uint32)
    state = np.empty(5 * LANES, np.uint32)
    line = count = 0
    offsets[0] = 0
    for row in range(len(rows) - 1):
        at, stop = rows[row], rows[row + 1]
        while at <= stop:
            end = at
            while end < stop and data[np.uint64(end)] != 10:
                end += 1
            first, last = strip(data, at, end, flags)
            room = (last - first) * 3 // 2 + 80
            if starts[count] * 64 + room > SCRATCH:
                hash_messages(words, starts, count, keys, line - count, w, state)
                count = 0
                if room > words.nbytes:
                    words = np.empty((room + 63) // 64 * 16, np.uint32)
            begin = starts[count] * 64
            count += 1
            starts[count] = pad(words, begin, _lower(data, first, last, flags, lower, words.view(np.uint8), begin))
            line += 1
            at = end + 1
        offsets[row + 1] = line
    hash_messages(words, starts, count, keys, line - count, w, state)


def line_keys(data: Data, rows: Offsets) -> tuple[Keys, Offsets]:
    r"""(keys, offsets) of the "\n"-separated lines of every row; a row of k line feeds has k + 1 lines.

    A key is the first 8 bytes of SHA-1 of the line, stripped and in lower case.
    """
    n = int(np.count_nonzero(data[rows[0] : rows[-1]] == 10)) + len(rows) - 1
    keys, offsets = np.empty(n, np.uint64), np.empty(len(rows), np.int64)
    flags, lower = tables()
    _line_keys(data, rows, flags, lower, keys, offsets)
    return keys, offsets


@kernel(types.void(Bytes, I64s, Bytes, I32s, Bytes, I32s, I32s, Counters))
def _listed_terms(data, rows, flags, lower, classes, child, term, out):  # type: ignore[no-untyped-def]
    width = np.int64(classes.max()) + 1
    buffer = np.empty(1 << 16, np.uint8)
    for row in range(len(rows) - 1):
        size = rows[row + 1] - rows[row]
        if size * 3 // 2 + 8 > len(buffer):
            buffer = np.empty(size * 3 // 2 + 8, np.uint8)
        end = _lower(data, rows[row], rows[row + 1], flags, lower, buffer, 0)
        out[row] = -1
        inside = False  # a word, so that no term can begin
        i = 0
        while i < end and out[row] < 0:
            if not inside and classes[buffer[i]] != 0:
                node = np.int64(0)
                k = i
                while k < end:
                    c = classes[buffer[k]]
                    if c == 0:
                        break
                    node = np.int64(child[node * width + c])
                    if node == 0:
                        break
                    k += 1
                    if term[node] > 0 and (k == end or not flags[decode(buffer, k)[0]] & WORD):
                        out[row] = term[node] - 1
                        break
            c = buffer[np.uint64(i)]
            if c < 0x80:
                inside = flags[c] & WORD != 0
                i += 1
            else:
                point, step = decode(buffer, i)
                inside = flags[point] & WORD != 0
                i += step


def term_table(terms: Sequence[str]) -> tuple[Data, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(class of each byte, children, number of the term + 1 that ends at a node): a trie of terms in lower case."""
    letters = sorted({b for term in terms for b in term.encode()})
    classes = np.zeros(256, np.uint8)
    classes[letters] = np.arange(1, len(letters) + 1)
    width = len(letters) + 1
    child, ends = [0] * width, [0]
    for number, term in enumerate(terms):
        node = 0
        for b in term.encode():
            at = node * width + int(classes[b])
            if child[at] == 0:
                child[at] = len(ends)
                child += [0] * width
                ends.append(0)
            node = child[at]
        ends[node] = ends[node] or number + 1
    return classes, np.array(child, np.int32), np.array(ends, np.int32)


def listed_terms(
    text: pa.Array | pa.ChunkedArray, table: tuple[Data, npt.NDArray[np.int32], npt.NDArray[np.int32]]
) -> Ints:
    r"""Number of a term of the table in every row, -1 for none: in lower case, with no `\w` at either side of it."""
    data, rows = buffers(text)
    out = np.empty(len(rows) - 1, np.int64)
    flags, lower = tables()
    _listed_terms(data, rows, flags, lower, *table, out)
    return out
