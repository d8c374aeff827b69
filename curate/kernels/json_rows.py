"""JSON lines to columns: rows of `text`, `url` and `timestamp`, as C4 is published.

`records` reads one object a line (RFC 8259, strictly) and puts the strings of "text", "url" and "timestamp" into
columns, escapes undone; whatever else the object holds is checked and passed over, nested values with a stack of
`DEPTH`. No line can make it recurse, or keep more than its own length.
"""

from __future__ import annotations

import numpy as np
from numba import types

from curate.kernels import Bytes, kernel

i64 = types.int64
PAIR = types.UniTuple(i64, 2)  # type: ignore[no-untyped-call]
Buffer = types.Array(types.uint8, 1, "C")
Counters = types.Array(i64, 1, "C")
Table = types.Array(i64, 2, "C")
Stamps = types.Array(types.uint8, 2, "C")
KeyArray = types.Array(types.uint64, 1, "C")

DEPTH = 200  # of nested values in one line
KEYS = 64  # keys of one object, beyond which a line is not a record of C4
DIGITS = 4300  # of one number
STAMP, LONGEST_URL = 40, 8192  # bytes
ODD_DATE = np.iinfo(np.int64).min  # not a time of the common forms: see `stamps`

# What is wrong with a line: its reason, and the words for it. The numbers follow.
WRONG = (
    ("", ""),
    ("bad_json", "not an object"),
    ("bad_json", "a string does not end"),
    ("bad_json", "a control character in a string"),
    ("bad_json", "a bad escape"),
    ("bad_json", "a bad number"),
    ("bad_json", "a bad value"),
    ("bad_json", "something is missing between two values"),
    ("bad_json", "the line ends within the object"),
    ("bad_json", "something stands behind the object"),
    ("bad_json", "one key occurs twice"),
    ("bad_json", f"nested more than {DEPTH} deep"),
    ("schema", f"more than {KEYS} keys"),
    ("schema", "no text"),
    ("schema", "text is not a string"),
    ("nul", "a NUL character"),
    ("encoding", "not UTF-8"),
)
_OBJECT, _STRING, _CONTROL, _ESCAPE, _NUMBER, _VALUE, _BETWEEN, _ENDS, _BEHIND, _TWICE, _DEEP = range(1, 12)
_MANY, _NO_TEXT, _NOT_STRING, _NUL, _ENCODING = range(12, 17)

# Entries of the `state` of `records`.
ROWS, BAD, LINE, BLANK, SURROGATES, CONTROLS, URLS, EXTRA = range(8)

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_TEXT, _TIMESTAMP, _URL = (np.frombuffer(x, np.uint8).copy() for x in (b"text", b"timestamp", b"url"))


@kernel()
def load(data, i):  # type: ignore[no-untyped-def]
    """Eight bytes as one little-endian number."""
    x = np.uint64(0)
    for k in range(8):
        x |= np.uint64(data[np.uint64(i + k)]) << np.uint64(8 * k)
    return x


@kernel()
def before(odd):  # type: ignore[no-untyped-def]
    """How many of eight bytes stand before the first whose high bit is set; `odd` is not 0."""
    below = ((odd & (~odd + np.uint64(1))) >> np.uint64(7)) - np.uint64(1)
    return np.int64(((below & _ONES) * _ONES) >> np.uint64(56))


@kernel(i64(i64, Buffer, i64))
def put(point, out, o):  # type: ignore[no-untyped-def]
    """Write one code point as UTF-8; the position after it."""
    if point < 0x80:
        out[o] = point
        return o + 1
    if point < 0x800:
        out[o] = 0xC0 | (point >> 6)
        out[o + 1] = 0x80 | (point & 0x3F)
        return o + 2
    if point < 0x10000:
        out[o] = 0xE0 | (point >> 12)
        out[o + 1] = 0x80 | ((point >> 6) & 0x3F)
        out[o + 2] = 0x80 | (point & 0x3F)
        return o + 3
    out[o] = 0xF0 | (point >> 18)
    out[o + 1] = 0x80 | ((point >> 12) & 0x3F)
    out[o + 2] = 0x80 | ((point >> 6) & 0x3F)
    out[o + 3] = 0x80 | (point & 0x3F)
    return o + 4


@kernel(i64(Bytes, i64, i64))
def _sequence(data, i, end):  # type: ignore[no-untyped-def]
    """Bytes of the UTF-8 character above U+007F at data[i]; 0 where it is not valid."""
    c = data[i]
    if c < 0xC2 or c > 0xF4 or i + 1 >= end:
        return 0
    b = data[i + 1]
    if c < 0xE0:
        return 2 if b & 0xC0 == 0x80 else 0
    low = 0xA0 if c == 0xE0 else 0x90 if c == 0xF0 else 0x80
    high = 0x9F if c == 0xED else 0x8F if c == 0xF4 else 0xBF
    if b < low or b > high or i + 2 >= end or data[i + 2] & 0xC0 != 0x80:
        return 0
    if c < 0xF0:
        return 3
    return 4 if i + 3 < end and data[i + 3] & 0xC0 == 0x80 else 0


@kernel(i64(Bytes, i64, i64))
def _hex(data, i, end):  # type: ignore[no-untyped-def]
    """The number that the four hexadecimal digits at data[i] are; -1 where they are not."""
    if i + 4 > end:
        return -1
    value = np.int64(0)
    for k in range(4):
        c = np.int64(data[i + k])
        if 48 <= c <= 57:
            c -= 48
        elif 97 <= (c | 32) <= 102:
            c = (c | 32) - 87
        else:
            return -1
        value = value * 16 + c
    return value


@kernel(PAIR(Bytes, i64, i64, Buffer, i64, Counters, types.boolean))
def _escape(data, i, end, out, o, state, exact):  # type: ignore[no-untyped-def]
    r"""Undo the escape whose backslash is at data[i]: (position after it, or minus what is wrong; position in out).

    A lone surrogate becomes U+FFFD. A carriage return is a line feed, or goes where one follows; other control
    characters that are white space become a space, the others go. All are counted.
    """
    if i + 1 >= end:
        return -_STRING, o
    c = data[i + 1]
    i += 2
    if c == 34 or c == 92 or c == 47:
        point = np.int64(c)
    elif c == 110:
        point = np.int64(10)
    elif c == 116:
        point = np.int64(9)
    elif c == 114:
        point = np.int64(13)
    elif c == 98:
        point = np.int64(8)
    elif c == 102:
        point = np.int64(12)
    elif c == 117:
        point = _hex(data, i, end)
        if point < 0:
            return -_ESCAPE, o
        i += 4
        if 0xD800 <= point < 0xE000:
            low = np.int64(-1)
            if point < 0xDC00 and i + 1 < end and data[i] == 92 and data[i + 1] == 117:
                low = _hex(data, i + 2, end)
            if 0xDC00 <= low < 0xE000:
                point = 0x10000 + ((point - 0xD800) << 10) + low - 0xDC00
                i += 6
            elif not exact:
                point = np.int64(0xFFFD)
                state[SURROGATES] += 1
    else:
        return -_ESCAPE, o
    if point == 0:
        return -_NUL, o
    if exact:
        return i, put(point, out, o)
    if (point < 32 and point != 10 and point != 9) or 127 <= point < 160:
        state[CONTROLS] += 1
        if point == 13:
            if i + 1 < end and data[i] == 92 and data[i + 1] == 110:
                return i, o
            point = np.int64(10)
        elif point == 11 or point == 12 or 28 <= point < 32 or point == 0x85:
            point = np.int64(32)
        else:
            return i, o
    return i, put(point, out, o)


@kernel(PAIR(Bytes, i64, i64, Buffer, i64, Counters, types.boolean))
def _string(data, i, end, out, o, state, exact):  # type: ignore[no-untyped-def]
    """The string whose first byte after the quote is data[i], to out[o:], which has 8 bytes of room beyond it.

    (position after the closing quote, position in out), or (minus what is wrong, anything).
    """
    while True:
        while i + 8 <= end:
            x = load(data, i)
            quote = x ^ (_ONES * np.uint64(34))
            slash = x ^ (_ONES * np.uint64(92))
            odd = ((quote - _ONES) & ~quote) | ((slash - _ONES) & ~slash)
            odd |= x | (x - _ONES * np.uint64(32)) | (x + _ONES)
            odd &= _HIGHS
            for k in range(8):
                out[np.uint64(o + k)] = x >> np.uint64(8 * k)
            if odd != 0:
                run = before(odd)
                i += run
                o += run
                break
            i += 8
            o += 8
        if i >= end:
            return -_STRING, o
        c = data[i]
        if c == 34:
            return i + 1, o
        if c == 92:
            i, o = _escape(data, i, end, out, o, state, exact)
            if i < 0:
                return i, o
        elif c < 32:
            return (-_NUL if c == 0 else -_CONTROL), o
        elif c < 127 or (c == 127 and exact):
            out[o] = c
            o += 1
            i += 1
        elif c == 127:
            state[CONTROLS] += 1
            i += 1
        else:
            size = _sequence(data, i, end)
            if size == 0:
                return -_ENCODING, o
            if c == 0xC2 and data[i + 1] < 0xA0 and not exact:
                state[CONTROLS] += 1
                if data[i + 1] == 0x85:
                    out[o] = 32
                    o += 1
            else:
                for k in range(size):
                    out[o + k] = data[i + k]
                o += size
            i += size


@kernel(i64(Bytes, i64, i64))
def _blank(data, i, end):  # type: ignore[no-untyped-def]
    """Position of the first byte from data[i] on that is not white space of JSON."""
    while i < end and (data[i] == 32 or data[i] == 9 or data[i] == 13 or data[i] == 10):
        i += 1
    return i


@kernel(i64(Bytes, i64, i64))
def _number(data, i, end):  # type: ignore[no-untyped-def]
    """Position after the number at data[i], or minus what is wrong."""
    start = i
    if data[i] == 45:
        i += 1
    first = i
    while i < end and 48 <= data[i] <= 57:
        i += 1
    if i == first or (data[first] == 48 and i - first > 1):
        return -_NUMBER
    if i < end and data[i] == 46:
        i += 1
        first = i
        while i < end and 48 <= data[i] <= 57:
            i += 1
        if i == first:
            return -_NUMBER
    if i < end and data[i] | 32 == 101:
        i += 1
        if i < end and (data[i] == 43 or data[i] == 45):
            i += 1
        first = i
        while i < end and 48 <= data[i] <= 57:
            i += 1
        if i == first:
            return -_NUMBER
    return i if i - start <= DIGITS else -_NUMBER


@kernel(i64(Bytes, i64, i64))
def _literal(data, i, end):  # type: ignore[no-untyped-def]
    """Position after the true, false or null at data[i], or minus what is wrong."""
    if i + 4 <= end:
        x = (np.int64(data[i]) << 24) | (np.int64(data[i + 1]) << 16) | (np.int64(data[i + 2]) << 8) | data[i + 3]
        if x == 0x74727565 or x == 0x6E756C6C:
            return i + 4
        if x == 0x66616C73 and i + 5 <= end and data[i + 4] == 101:
            return i + 5
    return -_VALUE


@kernel(i64(Bytes, i64, i64, Buffer, i64, Counters))
def _key(data, i, end, out, o, state):  # type: ignore[no-untyped-def]
    """Position after a nested key and its colon, or minus what is wrong."""
    i = _blank(data, i, end)
    if i >= end:
        return -_ENDS
    if data[i] != 34:
        return -_BETWEEN
    i, _ = _string(data, i + 1, end, out, o, state, False)
    if i < 0:
        return i
    i = _blank(data, i, end)
    if i >= end:
        return -_ENDS
    return i + 1 if data[i] == 58 else -_BETWEEN


@kernel(i64(Bytes, i64, i64, Buffer, i64, Counters, Buffer))
def _value(data, i, end, out, o, state, stack):  # type: ignore[no-untyped-def]
    """Position after the value at data[i], which is checked and not kept, or minus what is wrong."""
    depth = 0
    while True:
        i = _blank(data, i, end)
        if i >= end:
            return -_ENDS
        c = data[i]
        if c == 123 or c == 91:
            if depth == DEPTH:
                return -_DEEP
            stack[depth] = c
            depth += 1
            i = _blank(data, i + 1, end)
            if i >= end:
                return -_ENDS
            if data[i] != c + 2:  # "}" and "]" are two behind "{" and "["
                if c == 123:
                    i = _key(data, i, end, out, o, state)
                    if i < 0:
                        return i
                continue
        elif c == 34:
            i, _ = _string(data, i + 1, end, out, o, state, False)
        elif c == 45 or 48 <= c <= 57:
            i = _number(data, i, end)
        else:
            i = _literal(data, i, end)
        if i < 0:
            return i
        while depth > 0:
            i = _blank(data, i, end)
            if i >= end:
                return -_ENDS
            if data[i] == stack[depth - 1] + 2:
                depth -= 1
                i += 1
                continue
            if data[i] != 44:
                return -_BETWEEN
            i += 1
            if stack[depth - 1] == 123:
                i = _key(data, i, end, out, o, state)
                if i < 0:
                    return i
            break
        if depth == 0:
            return i


@kernel(types.boolean(Bytes, i64, i64, Bytes))
def same(out, start, end, name):  # type: ignore[no-untyped-def]
    """Whether out[start:end] is `name`."""
    if end - start != len(name):
        return False
    equal = True
    for k in range(len(name)):
        equal &= out[start + k] == name[k]
    return equal


@kernel(i64(Bytes, i64, i64, Buffer, i64, Counters, Counters, KeyArray, Buffer))
def _line(data, i, end, out, o, state, fields, seen, stack):  # type: ignore[no-untyped-def]
    """Read one line: 0, or what is wrong. `fields`: (start, end) in `out` of text, timestamp, url; -1: not there."""
    fields[:] = -1
    i = _blank(data, i, end)
    if i >= end or data[i] != 123:
        return _OBJECT
    keys = 0
    is_string = True
    i = _blank(data, i + 1, end)
    if i < end and data[i] == 125:
        i += 1
    else:
        while True:
            i = _blank(data, i, end)
            if i >= end:
                return _ENDS
            if data[i] != 34:
                return _BETWEEN
            start = o
            i, stop = _string(data, i + 1, end, out, o, state, True)
            if i < 0:
                return -i
            key = np.uint64(0xCBF29CE484222325)
            for k in range(start, stop):
                key = (key ^ np.uint64(out[k])) * np.uint64(0x100000001B3)
            for k in range(keys):
                if seen[k] == key:
                    return _TWICE
            if keys == KEYS:
                return _MANY
            seen[keys] = key
            keys += 1
            which = -1
            if same(out, start, stop, _TEXT):
                which = 0
            elif same(out, start, stop, _TIMESTAMP):
                which = 2
            elif same(out, start, stop, _URL):
                which = 4
            else:
                state[EXTRA] += 1
            i = _blank(data, i, end)
            if i >= end:
                return _ENDS
            if data[i] != 58:
                return _BETWEEN
            i = _blank(data, i + 1, end)
            if i >= end:
                return _ENDS
            if which >= 0 and data[i] == 34:
                fields[which] = o
                i, o = _string(data, i + 1, end, out, o, state, False)
                fields[which + 1] = o
            else:
                is_string &= which != 0
                i = _value(data, i, end, out, o, state, stack)
            if i < 0:
                return -i
            i = _blank(data, i, end)
            if i >= end:
                return _ENDS
            c = data[i]
            i += 1
            if c == 125:
                break
            if c != 44:
                return _BETWEEN
    if _blank(data, i, end) != end:
        return _BEHIND
    if not is_string:
        return _NOT_STRING
    return _NO_TEXT if fields[0] < 0 else 0


@kernel(i64(Bytes, i64, i64))
def _digits(data, i, count):  # type: ignore[no-untyped-def]
    """The number that `count` decimal digits at data[i] are; below -9999 where they are not."""
    value = np.int64(0)
    for k in range(count):
        c = np.int64(data[i + k]) - 48
        if c < 0 or c > 9:
            return -100000
        value = value * 10 + c
    return value


@kernel(i64(Bytes, i64, i64))
def _date(data, i, end):  # type: ignore[no-untyped-def]
    """Microseconds since 1970 of "2019-04-25T12:57:54Z" or "2019-04-25 12:57:54"; ODD_DATE for another form."""
    if not (end - i == 19 or (end - i == 20 and data[i + 19] == 90)) or (data[i + 10] != 84 and data[i + 10] != 32):
        return ODD_DATE
    if data[i + 4] != 45 or data[i + 7] != 45 or data[i + 13] != 58 or data[i + 16] != 58:
        return ODD_DATE
    year, month, day = _digits(data, i, 4), _digits(data, i + 5, 2), _digits(data, i + 8, 2)
    hour, minute, second = _digits(data, i + 11, 2), _digits(data, i + 14, 2), _digits(data, i + 17, 2)
    if year < 1583 or month < 1 or month > 12 or hour < 0 or hour > 23:
        return ODD_DATE
    if minute < 0 or minute > 59 or second < 0 or second > 59:
        return ODD_DATE
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    last = 28 + np.int64(leap) if month == 2 else 30 if month in (4, 6, 9, 11) else 31
    if day < 1 or day > last:
        return ODD_DATE
    if month <= 2:  # years that begin in March
        year -= 1
        month += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day - 719469
    return ((days * 24 + hour) * 60 + minute) * 60000000 + second * 1000000


@kernel(types.boolean(Bytes, i64, i64))
def _is_address(data, i, end):  # type: ignore[no-untyped-def]
    """Whether data[i:end] looks like a URL: a scheme, "://", and no control character."""
    if end - i > LONGEST_URL:
        return False
    k = i
    while k < end and (97 <= (data[k] | 32) <= 122 or (k > i and (43 <= data[k] <= 57) and data[k] != 47)):
        k += 1
    if k == i or k + 3 >= end or data[k] != 58 or data[k + 1] != 47 or data[k + 2] != 47:
        return False
    plain = True
    for n in range(k, end):
        plain &= data[n] >= 32
    return plain


@kernel(i64(Bytes, i64, i64, i64, Buffer, Counters, Buffer, Counters, Counters, Stamps, Counters, Table, Counters))
def records(data, at, stop, budget, text, ends, url, url_ends, dates, stamps, lines, bad, state):  # type: ignore[no-untyped-def]
    """Read the lines of data[at:stop], which ends with a line or the file; returns where it came to.

    Goes on until the text of the table reaches `budget` bytes, or a column or `bad` is full. `ends`, `url_ends`: rows +
    1 offsets; `dates`: microseconds, ODD_DATE where there is none of a common form (then `stamps` holds it, cut and
    ended by 0); `lines`: numbers of the lines; `bad`: (line number, what is wrong); `state`: see ROWS and following.
    `text` needs room for the bytes read and 16.
    """
    fields = np.empty(6, np.int64)
    seen = np.empty(KEYS, np.uint64)
    stack = np.empty(DEPTH, np.uint8)
    row = state[ROWS]
    while at < stop and row < len(dates) and state[BAD] < len(bad) and ends[row] < budget:
        end = at
        while end + 8 <= stop:
            x = load(data, end) ^ (_ONES * np.uint64(10))
            found = (x - _ONES) & ~x & _HIGHS
            if found != 0:
                end += before(found)
                break
            end += 8
        while end < stop and data[end] != 10:
            end += 1
        number = state[LINE]
        state[LINE] += 1
        o = ends[row]
        surrogates, controls, extra = state[SURROGATES], state[CONTROLS], state[EXTRA]
        if _blank(data, at, end) == end:
            state[BLANK] += 1
            at = end + 1
            continue
        wrong = _line(data, at, end, text, o, state, fields, seen, stack)
        at = end + 1
        # Flags count lines that are kept, not characters.
        state[SURROGATES] = surrogates + np.int64(wrong == 0 and state[SURROGATES] > surrogates)
        state[CONTROLS] = controls + np.int64(wrong == 0 and state[CONTROLS] > controls)
        state[EXTRA] = extra + np.int64(wrong == 0 and state[EXTRA] > extra)
        if wrong != 0:
            bad[state[BAD], 0] = number
            bad[state[BAD], 1] = wrong
            state[BAD] += 1
            continue
        dates[row] = _date(text, fields[2], fields[3]) if fields[2] >= 0 else ODD_DATE
        stamps[row, 0] = 0
        if dates[row] == ODD_DATE and fields[2] >= 0 and fields[3] - fields[2] < STAMP:
            for k in range(fields[3] - fields[2]):
                stamps[row, k] = text[fields[2] + k]
            stamps[row, fields[3] - fields[2]] = 0
        u = url_ends[row]
        if fields[4] >= 0 and _is_address(text, fields[4], fields[5]):
            for k in range(fields[5] - fields[4]):
                url[u + k] = text[fields[4] + k]
            u += fields[5] - fields[4]
        else:
            state[URLS] += 1
        if fields[0] > o:
            for k in range(fields[1] - fields[0]):
                text[o + k] = text[fields[0] + k]
        lines[row] = number
        row += 1
        ends[row] = o + fields[1] - fields[0]
        url_ends[row] = u
        state[ROWS] = row
    return at
