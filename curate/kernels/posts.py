"""Kernels for posts of Stack Exchange: rows of XML to numbers and places, and the HTML of a body to text.

`scan` reads `<row .../>` elements: it finds their attributes and checks every byte of them (quotes, entities,
characters that XML allows, UTF-8). `write` takes the rows that were chosen and writes texts, titles and tags as the
columns of Arrow have them. Both pass over each byte once, whatever it is.

Text of a body (`_render`): paragraphs, headings, quotes, lists and code are divided by an empty line, items of lists
begin with "- " or their number, cells of a table are divided by " | ", white space is folded as a browser does, tags
are gone. The content of <pre> is kept byte for byte, its entities decoded, white space of <code> in a line as well.
Scripts, styles and comments are gone with their content.
"""

from __future__ import annotations

import functools
import html

import numpy as np
import numpy.typing as npt
from numba import types

from curate.kernels import Bytes, I64s, U64s, kernel

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Octets = npt.NDArray[np.uint8]

Buffer = types.Array(types.uint8, 1, "C")
Counters = types.Array(types.int64, 1, "C")
Table = types.Array(types.int64, 2, "C")
i64 = types.int64
u64 = types.uint64
Pair = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]

# From here on an id is not a site's own: the largest site has under 10^8 posts, and the two posts that the provider
# has added to every dump since 2024 have 1000000001 and 1000000010.
CANARY_ID = 10**9
MAX_ID = 1 << 30  # ids are bits of a map

# Columns of the table of rows. Places are positions in the window.
(
    START, END, STATUS, ID, TYPE, PARENT, SCORE, DATE, ACCEPTED, ANSWERS, OWNER, LICENSE, FLAGS,
    BODY, BODY_END, TITLE, TITLE_END, TAGS, TAGS_END,
) = range(19)  # fmt: skip
WIDTH = 19
NONE = -(1 << 62)  # number that is missing
ODD_DATE = -(1 << 63)  # numpy's not-a-time

# STATUS
WHOLE, BAD_XML, BAD_CHARACTER, BAD_ENTITY, BAD_UTF8, BAD_ID, DUPLICATE, CUT = range(8)
# FLAGS of a row
BAD_SCORE, BAD_DATE = 1, 2
# Slots of what `scan` gives beside the rows.
PLACE, SEEN = 0, 1
# Bits of SEEN
DTD, OPENED, CLOSED, ALIEN, STRAY = 1, 2, 4, 8, 16

FNV, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def fnv(word: str) -> int:
    """64-bit FNV-1a of the UTF-8 of a word."""
    value = int(FNV)
    for byte in word.encode():
        value = ((value ^ byte) * int(PRIME)) & (2**64 - 1)
    return value


def _table(words: dict[str, int], size: int) -> tuple[Hashes, Ints]:
    """An open-addressing table from the hash of a word to its value (not 0); `size` is a power of two."""
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for word, value in words.items():
        at = (fnv(word) >> 20) & (size - 1)
        while keys[at] != 0:
            at = (at + 1) & (size - 1)
        keys[at], values[at] = fnv(word), value
    return keys, values


# Attributes: the column that a number goes to, TEXTS + the column where a text begins.
TEXTS = 100
_ATTRIBUTES = {
    "Id": ID,
    "PostTypeId": TYPE,
    "ParentId": PARENT,
    "Score": SCORE,
    "CreationDate": DATE,
    "AcceptedAnswerId": ACCEPTED,
    "AnswerCount": ANSWERS,
    "OwnerUserId": OWNER,
    "ContentLicense": LICENSE,
    "Body": TEXTS + BODY,
    "Title": TEXTS + TITLE,
    "Tags": TEXTS + TAGS,
}
ATTRIBUTES = _table(_ATTRIBUTES, 64)

# Elements of HTML. BLOCK: an empty line before and after; LINE: a new line.
BLOCK, LINE, BREAK, PRE, CODE, ITEM, BULLETS, NUMBERS, ROW, CELL, RAW = range(1, 12)
_ELEMENTS = {
    BLOCK: "p div h1 h2 h3 h4 h5 h6 blockquote table hr dl section article figure center details aside header footer "
    "address fieldset form main nav",
    LINE: "dt dd summary figcaption caption thead tbody tfoot",
    BREAK: "br",
    PRE: "pre listing",
    CODE: "code kbd samp tt",
    ITEM: "li",
    BULLETS: "ul menu dir",
    NUMBERS: "ol",
    ROW: "tr",
    CELL: "td th",
    RAW: "script style",
}
ELEMENTS = _table({name: kind for kind, names in _ELEMENTS.items() for name in names.split()}, 256)

LEVELS = 5  # of lists that have an indentation and a numbering of their own


@functools.cache
def entities() -> tuple[Hashes, Ints, Octets]:
    """HTML's named characters with their semicolon (html.entities.html5): hashes, place << 8 | bytes, UTF-8.

    Of an ASCII character minus itself stands for place and bytes.
    """
    from html.entities import html5

    data = bytearray()
    places = {}
    for name in sorted(html5):
        if name.endswith(";"):
            value = html5[name].encode()
            places[name[:-1]] = len(data) << 8 | len(value) if len(value) > 1 else -value[0]
            data += value
    keys, values = _table(places, 8192)
    return keys, values, np.frombuffer(bytes(data), np.uint8)


@functools.cache
def low_points() -> Ints:
    """What a numeric character reference of HTML below 160 stands for (html.unescape), 32 for what is no text."""
    found = []
    for point in range(160):
        text = html.unescape(f"&#{point};")
        is_text = len(text) == 1 and (text.isprintable() or text in "\t\n\r")
        found.append(ord(text) if is_text else 0xFFFD if point == 0 else 32)
    return np.array(found, np.int64)


@kernel(i64(u64, U64s, I64s))
def _find(h, keys, values):  # type: ignore[no-untyped-def]
    """Value of a hash, 0 for none."""
    mask = np.uint64(len(keys) - 1)
    at = (h >> np.uint64(20)) & mask
    while keys[at] != 0:
        if keys[at] == h:
            return values[at]
        at = (at + np.uint64(1)) & mask
    return 0


# -- XML -------------------------------------------------------------------------------------------------------------


@kernel(Pair(Bytes, i64, i64))
def _reference(data, p, size):  # type: ignore[no-untyped-def]
    """(code point, bytes) of the reference of XML at `data[p]`, an ampersand.

    (-1, 0): no reference of XML. (-2, 0): of a character that XML has not. (-3, 0): the data end in it.
    """
    q = p + 1
    if q >= size:
        return -3, 0
    if data[q] == 35:
        q += 1
        is_hex = q < size and data[q] == 120
        if is_hex:
            q += 1
        value = 0
        first = q
        while q < size:
            c = data[q] + 0
            if 48 <= c <= 57:
                digit = c - 48
            elif is_hex and 97 <= c <= 102:
                digit = c - 87
            elif is_hex and 65 <= c <= 70:
                digit = c - 55
            else:
                break
            value = value * (16 if is_hex else 10) + digit
            if value > 0x110000:
                value = 0x110000
            q += 1
        if q >= size:
            return -3, 0
        if q == first or data[q] != 59:
            return -1, 0
        if value < 32:
            if value != 9 and value != 10 and value != 13:
                return -2, 0
        elif 0xD800 <= value <= 0xDFFF or value == 0xFFFE or value == 0xFFFF or value > 0x10FFFF:
            return -2, 0
        return value, q + 1 - p
    a = data[q]
    n = 0
    value = 0
    if a == 108:
        n, value = 2, 60
    elif a == 103:
        n, value = 2, 62
    elif a == 113:
        n, value = 4, 34
    elif a == 97:
        if q + 1 >= size:
            return -3, 0
        if data[q + 1] == 109:
            n, value = 3, 38
        else:
            n, value = 4, 39
    else:
        return -1, 0
    if q + n >= size:
        return -3, 0
    ok = data[q + n] == 59
    if value == 60 or value == 62:
        ok = ok and data[q + 1] == 116
    elif value == 34:
        ok = ok and data[q + 1] == 117 and data[q + 2] == 111 and data[q + 3] == 116
    elif value == 38:
        ok = ok and data[q + 2] == 112
    else:
        ok = ok and data[q + 1] == 112 and data[q + 2] == 111 and data[q + 3] == 115
    if not ok:
        return -1, 0
    return value, n + 2


@kernel(i64(Bytes, i64, i64))
def _utf8(data, p, size):  # type: ignore[no-untyped-def]
    """Bytes of the character of UTF-8 at `data[p]` (128 or more); 0: none; -1: the data end in it."""
    b = data[p]
    if b < 0xC2 or b > 0xF4:
        return 0
    n = 2 if b < 0xE0 else 3 if b < 0xF0 else 4
    for k in range(1, n):
        if p + k >= size:
            return -1
        c = data[p + k]
        low, high = np.uint8(0x80), np.uint8(0xBF)
        if k == 1:
            if b == 0xE0:
                low = np.uint8(0xA0)
            elif b == 0xED:
                high = np.uint8(0x9F)
            elif b == 0xF0:
                low = np.uint8(0x90)
            elif b == 0xF4:
                high = np.uint8(0x8F)
        if c < low or c > high:
            return 0
    return n


@kernel(Pair(Bytes, i64, i64))
def _value(data, p, size):  # type: ignore[no-untyped-def]
    """(place of the closing quote, status) of the value whose opening quote is at `data[p]`.

    (-1, WHOLE): the data end in it. With BAD_XML the place is that of the "<" in the value. With the other statuses it
    is the end of the value, too: what is wrong in it was passed over.
    """
    quote = data[p]
    status = WHOLE
    p += 1
    while p < size:
        c = data[p]
        if c == quote:
            return p, status
        if c == 38:
            point, n = _reference(data, p, size)
            if point == -3:
                return -1, WHOLE
            if point < 0:
                status = BAD_ENTITY if point == -1 else BAD_CHARACTER
                p += 1
            else:
                p += n
        elif c >= 128:
            n = _utf8(data, p, size)
            if n < 0:
                return -1, WHOLE
            if n == 0:
                status = BAD_UTF8
                n = 1
            elif n == 3 and c == 0xEF and data[p + 1] == 0xBF and data[p + 2] >= 0xBE:
                status = BAD_CHARACTER
            p += n
        elif c == 60:
            return p, BAD_XML
        else:
            if c < 32 and c != 9 and c != 10 and c != 13:
                status = BAD_CHARACTER
            p += 1
    return -1, WHOLE


@kernel(i64(Bytes, i64, i64))
def _number(data, p, end):  # type: ignore[no-untyped-def]
    """The whole number that `data[p:end]` is, NONE for anything else."""
    negative = p < end and data[p] == 45
    if negative:
        p += 1
    if p >= end or end - p > 18:
        return NONE
    value = 0
    while p < end:
        if data[p] < 48 or data[p] > 57:
            return NONE
        value = value * 10 + data[p] - 48
        p += 1
    return -value if negative else value


@kernel(i64(Bytes, i64, i64))
def _date(data, p, end):  # type: ignore[no-untyped-def]
    """Microseconds since 1970 of "2021-04-27T15:06:44.553" (UTC; fraction and Z may be missing); ODD_DATE."""
    if end - p < 19 or end - p > 27:
        return ODD_DATE
    for k in range(19):
        c = data[p + k]
        if k == 4 or k == 7:
            ok = c == 45
        elif k == 10:
            ok = c == 84 or c == 32
        elif k == 13 or k == 16:
            ok = c == 58
        else:
            ok = 48 <= c <= 57
        if not ok:
            return ODD_DATE
    year = _number(data, p, p + 4)
    month = _number(data, p + 5, p + 7)
    day = _number(data, p + 8, p + 10)
    hour = _number(data, p + 11, p + 13)
    minute = _number(data, p + 14, p + 16)
    second = _number(data, p + 17, p + 19)
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    longest = 31
    if month == 2:
        longest = 29 if leap else 28
    elif month == 4 or month == 6 or month == 9 or month == 11:
        longest = 30
    bad = year < 1 or month < 1 or month > 12 or day < 1 or day > longest
    if bad or hour > 23 or minute > 59 or second > 59:
        return ODD_DATE
    q = p + 19
    micro = 0
    if q < end and data[q] == 46:
        q += 1
        first = q
        unit = 100_000
        while q < end and 48 <= data[q] <= 57:
            micro += (data[q] - 48) * unit
            unit //= 10
            q += 1
        if q == first:
            return ODD_DATE
    if q < end and data[q] == 90:
        q += 1
    if q != end:
        return ODD_DATE
    y = year - 1 if month <= 2 else year  # days of the civil calendar, years counted from March on
    era = y // 400
    in_era = y - era * 400
    in_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days = era * 146097 + in_era * 365 + in_era // 4 - in_era // 100 + in_year - 719468
    return ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micro


@kernel(i64(Bytes, i64, i64))
def _license(data, p, end):  # type: ignore[no-untyped-def]
    """25, 30 or 40 for "CC BY-SA 2.5", 3.0 or 4.0; 0 for anything else."""
    if end - p != 12 or data[p] != 67 or data[p + 1] != 67 or data[p + 2] != 32 or data[p + 3] != 66:
        return 0
    if data[p + 4] != 89 or data[p + 5] != 45 or data[p + 6] != 83 or data[p + 7] != 65 or data[p + 10] != 46:
        return 0
    value = (data[p + 9] - 48) * 10 + data[p + 11] - 48
    return value if value == 25 or value == 30 or value == 40 else 0


@kernel(i64(Bytes, i64, i64, types.boolean, I64s, U64s, I64s, types.Array(types.int64, 1, "C")))
def _row(data, p, size, final, blank, keys, values, row):  # type: ignore[no-untyped-def]
    """Read one element from behind its "<row" on into `row`; the place behind it, -1 where the data end in it."""
    for k in range(len(blank)):
        row[k] = blank[k]
    done = np.int64(0)  # bits of the columns that are filled
    status = WHOLE
    while True:
        begun = p
        while p < size and data[p] <= 32 and (data[p] == 32 or data[p] == 9 or data[p] == 10 or data[p] == 13):
            p += 1
        if p + 1 >= size:
            if final and p < size and data[p] == 62:
                break
            return -1
        c = data[p]
        if c == 62:
            break
        if c == 47:
            if data[p + 1] != 62:
                status = BAD_XML
            p += 1
            break
        h = FNV
        first = p
        while p < size and (97 <= data[p] | 32 <= 122 or 48 <= data[p] <= 58 or 45 <= data[p] <= 46 or data[p] == 95):
            h = (h ^ np.uint64(data[p])) * PRIME
            p += 1
        named = p
        while p < size and data[p] <= 32 and data[p] > 0:
            p += 1
        if p < size and data[p] == 61:
            p += 1
            while p < size and data[p] <= 32 and data[p] > 0:
                p += 1
            if p < size and named > first and first > begun and (data[p] == 34 or data[p] == 39):
                stop, bad = _value(data, p, size)
                if stop < 0:
                    return -1
                if bad == BAD_XML:
                    p = stop
                    status = BAD_XML
                    break
                if status == WHOLE:
                    status = bad
                slot = _find(h, keys, values)
                if slot > 0:
                    if done & (1 << (slot % TEXTS)):
                        status = BAD_XML
                    done |= 1 << (slot % TEXTS)
                    if slot >= TEXTS:
                        row[slot - TEXTS] = p + 1
                        row[slot - TEXTS + 1] = stop
                    elif slot == DATE:
                        row[DATE] = _date(data, p + 1, stop)
                    elif slot == LICENSE:
                        row[LICENSE] = _license(data, p + 1, stop)
                    else:
                        row[slot] = _number(data, p + 1, stop)
                p = stop + 1
                continue
        if p >= size:
            return -1
        status = BAD_XML
        break
    if status == BAD_XML and data[p] != 62:  # go on with the next element
        while p < size and data[p] != 60:
            p += 1
        if p >= size and not final:
            return -1
        row[STATUS] = status
        return p
    row[STATUS] = status
    return p + 1


@kernel(types.boolean(Bytes, i64, i64, Bytes))
def _begins(data, p, size, word):  # type: ignore[no-untyped-def]
    """Whether `word` stands at `data[p]`."""
    if p + len(word) > size:
        return False
    for k in range(len(word)):  # noqa: SIM110
        if data[p + k] != word[k]:
            return False
    return True


WORDS = tuple(np.frombuffer(x, np.uint8) for x in (b"<row", b"<posts", b"</posts", b"<!--", b"</row"))
Words = types.UniTuple(Bytes, len(WORDS))  # type: ignore[no-untyped-call]
BLANK = np.array([0] * 4 + [NONE] * 3 + [ODD_DATE] + [NONE] * 3 + [0] * 8, np.int64)
BLANK[ID] = NONE


@kernel(i64(Bytes, i64, i64, types.boolean, I64s, Words, U64s, I64s, Buffer, Table, Counters))
def scan(data, p, size, final, blank, words, keys, values, seen, rows, out):  # type: ignore[no-untyped-def]
    """Read elements from `data[p:size]` on into `rows`; how many there are.

    `out[PLACE]`: where to go on (an element that is not whole, or whatever comes when `rows` is full); `out[SEEN]`:
    bits of what else was there. `seen`: a bit an id, set here. `final`: nothing comes behind `size`.
    """
    n = 0
    while n < len(rows):
        while p < size and data[p] != 60:
            if data[p] > 32:
                out[SEEN] |= STRAY
            p += 1
        if p >= size or (not final and size - p < 9):
            break
        after = data[p + 4] if p + 4 < size else np.uint8(1)
        if (after <= 32 or after == 47 or after == 62) and _begins(data, p, size, words[0]):
            row = rows[n]
            end = _row(data, p + 4, size, final, blank, keys, values, row)
            if end < 0:
                if not final:
                    break
                end = size
                row[STATUS] = CUT
            row[START] = p
            row[END] = end
            if row[STATUS] == WHOLE:
                one = row[ID]
                if one < 1 or one >= MAX_ID:
                    row[STATUS] = BAD_ID
                else:
                    bit = np.uint8(1 << (one & 7))
                    if seen[one >> 3] & bit:
                        row[STATUS] = DUPLICATE
                    else:
                        seen[one >> 3] |= bit
            n += 1
            p = end
            continue
        if _begins(data, p, size, words[3]):
            q = p + 4
            while q + 2 < size and not (data[q] == 45 and data[q + 1] == 45 and data[q + 2] == 62):
                q += 1
            q += 2
        else:
            q = p + 1
            while q < size and data[q] != 62 and data[q] != 60:
                q += 1
        if q >= size and not final:
            break
        if data[p + 1] == 33 and not _begins(data, p, size, words[3]):
            out[SEEN] |= DTD
        elif _begins(data, p, size, words[1]):
            out[SEEN] |= OPENED
        elif _begins(data, p, size, words[2]):
            if q < size:
                out[SEEN] |= CLOSED
        elif not (data[p + 1] == 63 or data[p + 1] == 33 or _begins(data, p, size, words[4])):
            out[SEEN] |= ALIEN
        p = min(q if q < size and data[q] == 60 else q + 1, size)
    out[PLACE] = p
    return n


# -- text ------------------------------------------------------------------------------------------------------------


@kernel(i64(Buffer, i64, i64))
def _put(out, o, point):  # type: ignore[no-untyped-def]
    """Write a character as UTF-8; the place behind it."""
    if point < 0x80:
        out[o] = point
        return o + 1
    if point < 0x800:
        out[o] = 0xC0 | point >> 6
        out[o + 1] = 0x80 | point & 0x3F
        return o + 2
    if point < 0x10000:
        out[o] = 0xE0 | point >> 12
        out[o + 1] = 0x80 | point >> 6 & 0x3F
        out[o + 2] = 0x80 | point & 0x3F
        return o + 3
    out[o] = 0xF0 | point >> 18
    out[o + 1] = 0x80 | point >> 12 & 0x3F
    out[o + 2] = 0x80 | point >> 6 & 0x3F
    out[o + 3] = 0x80 | point & 0x3F
    return o + 4


@kernel(i64(Bytes, i64, i64, Buffer, i64))
def _decode(data, p, end, out, o):  # type: ignore[no-untyped-def]
    """Write a value that `_value` found whole, its references resolved; the place behind it."""
    while p < end:
        c = data[p]
        if c == 38:
            if data[p + 2] == 116:  # &lt; and &gt; are a third of all
                out[o] = 60 if data[p + 1] == 108 else 62
                o += 1
                p += 4
                continue
            point, n = _reference(data, p, end)
            o = _put(out, o, point)
            p += n
        else:
            out[o] = c if c >= 32 else 32  # XML: white space of a value that is no reference is a space
            o += 1
            p += 1
    return o


@kernel(Pair(Bytes, i64, i64, U64s, I64s, I64s))
def _character(text, p, size, keys, values, low):  # type: ignore[no-untyped-def]
    """(what, bytes) of the character reference of HTML at `text[p]`, an ampersand; 0 bytes where there is none.

    what: a code point, or -1 - (place << 8 | bytes) of a named one.
    """
    q = p + 1
    if q < size and text[q] == 35:
        q += 1
        is_hex = q < size and text[q] | 32 == 120
        if is_hex:
            q += 1
        first = q
        value = 0
        while q < size:
            c = text[q] + 0
            if 48 <= c <= 57:
                digit = c - 48
            elif is_hex and 97 <= c | 32 <= 102:
                digit = (c | 32) - 87
            else:
                break
            value = value * (16 if is_hex else 10) + digit
            if value > 0x110000:
                value = 0x110000
            q += 1
        if q == first:
            return 0, 0
        if q < size and text[q] == 59:
            q += 1
        if value < len(low):
            value = low[value]
        elif value > 0x10FFFF or 0xD800 <= value <= 0xDFFF:
            value = 0xFFFD
        elif value & 0xFFFE == 0xFFFE or 0xFDD0 <= value <= 0xFDEF:
            value = 32
        return value, q - p
    h = FNV
    while q < size and q - p < 34 and (97 <= text[q] | 32 <= 122 or 48 <= text[q] <= 57):
        h = (h ^ np.uint64(text[q])) * PRIME
        q += 1
    if q == p + 1 or q >= size or text[q] != 59:
        return 0, 0
    found = _find(h, keys, values)
    if found == 0:
        return 0, 0
    return -1 - found if found > 0 else -found, q + 1 - p


@kernel(Pair(Bytes, i64, i64, Counters))
def _tag_end(text, p, size, last):  # type: ignore[no-untyped-def]
    """(place of the ">" that ends the tag, 1) from inside it on; (-1, 0) where there is none.

    `last`: last places of `"`, `'` and `>`, so that no search runs to the end twice.
    """
    while p < size:
        c = text[p]
        if c == 62:
            return p, 1
        if (c == 34 or c == 39) and text[p - 1] == 61:
            if last[0 if c == 34 else 1] > p:
                p += 1
                while text[p] != c:
                    p += 1
        elif p > last[2]:
            return -1, 0
        p += 1
    return -1, 0


@kernel(i64(i64, i64, Buffer, i64))
def _separate(begin, want, out, o):  # type: ignore[no-untyped-def]
    """Let `out` end with at least `want` new lines; the place behind them."""
    have = 0
    while have < want and o - 1 - have >= begin and out[o - 1 - have] == 10:
        have += 1
    for _ in range(want - have):
        out[o] = 10
        o += 1
    return o


@kernel(i64(Bytes, i64, Buffer, i64, types.boolean, U64s, I64s, U64s, I64s, Bytes, I64s, Counters, Counters))
def _render(text, size, out, begin, inline, tag_keys, tag_values, keys, values, utf8, low, numbers, last):  # type: ignore[no-untyped-def]
    """Write the text of HTML to `out[begin:]`; the place behind it. `inline`: something stands before it in its line.

    At most four bytes are written for one that is read, and 64.
    """
    for k in range(3):
        last[k] = -1
    for k in range(size):
        c = text[k]
        if c == 34:
            last[0] = k
        elif c == 39:
            last[1] = k
        elif c == 62:
            last[2] = k
    o = begin
    p = 0
    want = 0  # new lines before the next character
    space = False  # a space before the next character
    pre = False
    code = False
    depth = 0  # of lists
    item = False  # a mark is to be written
    cells = 0
    bar = False
    fresh = False  # directly behind <pre>, where a new line does not count
    while p < size:
        c = text[p]
        n = 1
        what = c + 0
        if c == 60 and p + 1 < size:
            d = text[p + 1]
            if d == 33 or d == 63:  # comment, or what HTML takes for one
                q = p + 2
                if d == 33 and p + 3 < size and text[p + 2] == 45 and text[p + 3] == 45:
                    q = p + 4
                    while q < size and not (text[q] == 62 and text[q - 1] == 45 and text[q - 2] == 45):
                        q += 1
                else:
                    while q < size and text[q] != 62:
                        q += 1
                p = q + 1
                continue
            closing = d == 47
            q = p + 2 if closing else p + 1
            if q < size and 97 <= text[q] | 32 <= 122:
                h = FNV
                first = q
                while q < size and (97 <= text[q] | 32 <= 122 or 48 <= text[q] <= 57):
                    h = (h ^ np.uint64(text[q] | 32 if text[q] >= 65 else text[q])) * PRIME
                    q += 1
                end, found = _tag_end(text, q, size, last)
                if found:
                    is_name = text[q] == 62 or text[q] == 47 or text[q] <= 32
                    kind = _find(h, tag_keys, tag_values) if is_name else 0
                    p = end + 1
                    if kind == RAW:
                        if closing:
                            continue
                        length = q - first
                        while p < size:
                            if text[p] == 60 and p + 2 + length <= size and text[p + 1] == 47:
                                same = True
                                for k in range(length):
                                    if text[p + 2 + k] | 32 != text[first + k] | 32:
                                        same = False
                                if same:
                                    break
                            p += 1
                        continue
                    if kind == PRE:
                        pre = not closing
                        fresh = pre
                        code = False
                        want = 2
                        space = False
                        bar = False
                        continue
                    if pre:
                        fresh = False
                        if kind != BREAK:
                            continue
                        what = 10
                        n = 0
                    elif kind == BREAK:
                        want = min(want + 1, 2)
                        space = False
                        continue
                    else:
                        if kind == CODE:
                            code = not closing
                        elif kind != 0:
                            code = False
                            space = False
                        if kind == BLOCK:
                            want = want if item else 2
                        elif kind == LINE:
                            want = max(want, 1)
                        elif kind in (BULLETS, NUMBERS):
                            if closing:
                                depth = max(depth - 1, 0)
                                item = False
                            else:
                                depth += 1
                                numbers[min(depth, LEVELS)] = 0 if kind == NUMBERS else -1
                            want = 1 if depth > (0 if closing else 1) else 2
                        elif kind == ITEM:
                            level = min(depth, LEVELS)
                            if closing:
                                want = max(want, 1)
                            else:
                                item = True
                                if depth > 0 and (numbers[level] == 0 or numbers[level] == -1):
                                    want = max(want, 1)
                                else:
                                    want = 1
                                if numbers[level] == -1:
                                    numbers[level] = -2
                                elif numbers[level] >= 0 and depth > 0:
                                    numbers[level] += 1
                        elif kind == ROW:
                            want = max(want, 1)
                            cells = 0
                            bar = False
                        elif kind == CELL and not closing:
                            bar = cells > 0
                            cells += 1
                        continue
        elif c == 38:
            what, n = _character(text, p, size, keys, values, low)
            if n == 0:
                what, n = 38, 1
        elif c >= 128:
            n = 2 if c < 0xE0 else 3 if c < 0xF0 else 4
            if c == 0xC2 and text[p + 1] < 0xA0:
                what = 32
        elif c == 127 or c < 9 or c == 11 or 13 < c < 32:
            what = 32
        p += n
        if pre:
            if what == 13:
                if p < size and text[p] == 10:
                    continue
                what = 10
            if fresh:
                fresh = False
                if what == 10:
                    continue
        elif 0 <= what <= 32:
            if not code:
                space = True
                continue
            what = 32
        if o == begin:
            if inline and (pre or item):
                out[o - 1] = 10  # code and lists begin a line of their own
        elif bar:
            out[o] = 32
            out[o + 1] = 124
            out[o + 2] = 32
            o += 3
        elif want > 0:
            o = _separate(begin, want, out, o)
        elif space:
            out[o] = 32
            o += 1
        if item:
            level = min(depth, LEVELS)
            for _ in range(2 * (level - 1)):
                out[o] = 32
                o += 1
            if depth > 0 and numbers[level] > 0:
                power = 1
                while numbers[level] // power >= 10:
                    power *= 10
                while power > 0:
                    out[o] = 48 + numbers[level] // power % 10
                    o += 1
                    power //= 10
                out[o] = 46
            else:
                out[o] = 45
            out[o + 1] = 32
            o += 2
            if pre:
                out[o - 1] = 10
            item = False
        want = 0
        space = False
        bar = False
        if what < 0:
            place = (-1 - what) >> 8
            for k in range((-1 - what) & 255):
                out[o] = utf8[place + k]
                o += 1
        elif c >= 128 and what == c + 0:
            for k in range(p - n, p):
                out[o] = text[k]
                o += 1
        else:
            o = _put(out, o, what)
    while o > begin and (out[o - 1] == 10 or out[o - 1] == 32):
        o -= 1
    return o


@kernel(i64(Bytes, i64, Buffer, i64))
def _fold(text, size, out, o):  # type: ignore[no-untyped-def]
    """Write a title: one line, white space and controls folded to a space."""
    begin = o
    space = False
    p = 0
    while p < size:
        c = text[p]
        if c <= 32 or c == 127 or (c == 0xC2 and text[p + 1] < 0xA0):
            space = True
            p += 2 if c == 0xC2 else 1
            continue
        if space and o > begin:
            out[o] = 32
            o += 1
        space = False
        out[o] = c
        o += 1
        p += 1
    return o


@kernel(i64(Bytes, i64, Buffer, i64))
def _tags(text, size, out, o):  # type: ignore[no-untyped-def]
    """Write "<a><b>", or "|a|b|" as dumps since 2024 have it, as an array of JSON."""
    out[o] = 91
    o += 1
    inside = False
    n = 0
    for p in range(size):
        c = text[p]
        if c == 60 or c == 62 or c == 124:
            if inside:
                out[o] = 34
                o += 1
            inside = False
        elif c > 32 and c != 34 and c != 92 and c != 127:
            if not inside:
                if n > 0:
                    out[o] = 44
                    out[o + 1] = 32
                    o += 2
                out[o] = 34
                o += 1
                n += 1
                inside = True
            out[o] = c
            o += 1
    if inside:
        out[o] = 34
        o += 1
    out[o] = 93
    return o + 1


def scratch() -> tuple[Ints, Ints]:
    """What `write` keeps between two tags: numbers of lists, last places of quotes."""
    return np.zeros(LEVELS + 1, np.int64), np.zeros(3, np.int64)


_Outs = (Buffer, Counters) * 3  # texts, titles, tags


@kernel(i64(Bytes, Table, I64s, *(Bytes,) * 3, *(U64s, I64s) * 2, Bytes, I64s, Buffer, *_Outs, Counters, Counters))
def write(  # type: ignore[no-untyped-def]
    data, rows, chosen, question, between, answer, tag_keys, tag_values, keys, values, utf8, low, scratch,
    text, text_ends, title, title_ends, tags, tag_ends, numbers, last,
):  # fmt: skip
    """Write texts, titles and tags of the chosen rows; rows written.

    A question is `question`, title, `between`, body; an answer (a row of type 2) `answer`, body. The buffers need
    four bytes for one of the values, and 64 more a row (and the three pieces); `scratch` those of the largest.
    `numbers` and `last` come from `scratch()`.
    """
    o, t, g = 0, 0, 0
    for i in range(len(chosen)):
        row = rows[chosen[i]]
        n = _decode(data, row[TITLE], row[TITLE_END], scratch, 0)
        first = t
        t = _fold(scratch, n, title, t)
        title_ends[i + 1] = t
        n = _decode(data, row[TAGS], row[TAGS_END], scratch, 0)
        g = _tags(scratch, n, tags, g)
        tag_ends[i + 1] = g
        is_answer = row[TYPE] == 2
        head = answer if is_answer else question
        for k in range(len(head)):
            text[o] = head[k]
            o += 1
        if not is_answer and t > first:
            for k in range(first, t):
                text[o] = title[k]
                o += 1
            for k in range(len(between)):
                text[o] = between[k]
                o += 1
        n = _decode(data, row[BODY], row[BODY_END], scratch, 0)
        inline = o > 0 and text[o - 1] == 32
        end = _render(scratch, n, text, o, inline, tag_keys, tag_values, keys, values, utf8, low, numbers, last)
        if end == o:  # no body: nothing to be divided from
            while end > 0 and text[end - 1] <= 32 and end > text_ends[i]:
                end -= 1
        o = end
        text_ends[i + 1] = o
    return len(chosen)
