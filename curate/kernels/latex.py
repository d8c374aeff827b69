"""LaTeX for kernels: comments out of one file, macros expanded over one paper. No TeX is run; every loop is bounded.

`clean` takes one file of a submission: comments go (`%` unless escaped, the `comment` environment, `\\iffalse`), what
stands after `\\end{document}` or `\\endinput` goes, verbatim text stays, and the places of `\\input` and its like are
noted. `expand` takes the joined paper: definitions are read where they stand, and taken out; uses are replaced.

How `expand` reads. The input lies at the right end of a work buffer. A macro and its arguments, `[t, q)`, are replaced
by writing the expansion so that it ends at q, over what has been read already, and reading goes on at its first byte.
So there is one flat text at all times, no stack and no recursion, and an argument may begin in one expansion and end
in another. Text behind `high` is as it came; a macro that is met there is a call from outside, and when such a call
makes too much text the buffer is restored, the macro stays as it is written, and its name is not tried again.

Every byte that is read more than once is paid for: expansions by `growth`, searches that fail (an argument that never
closes) by one allowance a paper. So time is linear whatever the input. Words are told apart by a 64-bit hash.
"""

# Kernels compare one by one: `in`, `any` and nested conditions folded into one cost numba compile time.
# ruff: noqa: SIM102, SIM109, SIM110, SIM114, SIM905

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import types

from curate.kernels import Bytes, I32s, I64s, U64s, kernel

Octets = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

# What `clean` looks for: kinds of words. From INPUT on they are noted for the caller.
VERB, INLINE, URL, BEGIN, END, IFFALSE, IF, ELSE, FI, LET, NEWIF, ENDINPUT, NOT_IF = range(1, 14)
INPUT, INCLUDE, SUBFILE, IMPORT, SUBIMPORT, PACKAGE = range(20, 26)
CLEAN_WORDS = {
    VERB: ("verb", "Verb"),
    INLINE: ("lstinline", "mintinline"),
    URL: ("url", "href", "path", "nolinkurl", "burl"),
    BEGIN: ("begin",),
    END: ("end",),
    IFFALSE: ("iffalse",),
    ELSE: ("else",),
    FI: ("fi",),
    LET: ("let",),
    NEWIF: ("newif", "protect", "noexpand", "string"),  # the word behind it does not do what it does elsewhere
    ENDINPUT: ("endinput",),
    INPUT: ("input",),
    INCLUDE: ("include",),
    SUBFILE: ("subfile", "subfileinclude"),
    IMPORT: ("import", "inputfrom", "includefrom"),
    SUBIMPORT: ("subimport", "subinputfrom", "subincludefrom"),
    PACKAGE: ("usepackage", "RequirePackage"),
}
# Words that begin as a conditional does and close with no \fi: "if and only if", ifthen, etoolbox, xifthen.
NOT_CONDITIONALS = (
    "iff ifthenelse ifstrequal ifstrempty ifdef ifundef ifcsdef ifcsundef ifdefempty ifdefvoid ifdefstring ifblank "
    "notblank ifbool iftoggle ifboolexpr ifnumcomp ifnumequal ifnumgreater ifnumless ifnumodd ifdimcomp ifdimequal "
    "ifdimgreater ifdimless ifcsempty ifcsstring ifcsvoid ifinlist ifinlistcs ifstrcmp ifentrytype ifkeyword iffield "
    "ifempty ifnotempty ifoot ifpackageloaded ifclassloaded ifthispageodd ifsubfile"
).split()
VERBATIM = (
    "verbatim verbatim* Verbatim Verbatim* BVerbatim LVerbatim SaveVerbatim lstlisting lstlisting* minted minted* "
    "filecontents filecontents* alltt spverbatim listing* tcblisting pycode pyblock luacode luacode* comment"
).split()  # `comment` comes last: what `clean` takes out
MAX_VERBATIM = 64

# Counters of `clean`.
EVENTS, UNCLOSED, CONTROLS, ENDED = range(4)
CLEAN_COUNTS = 4

NEWCOMMAND, PROVIDE, RENEW, DEF, PREFIX, OPERATOR, NEWENV, TRUE_FALSE, XSPACE = range(30, 39)
SECTION, BIBLIOGRAPHY, APPENDIX, TITLE, AUTHOR, AT_LETTER, AT_OTHER, KEPT, XPARSE, PAIRED, CHOOSE = range(40, 51)
IFTRUE, FOREIGN_IF, FLAG_IF, FLAG_SET, GUARD = range(60, 65)
USER, FINAL, DEAD = range(70, 73)
EXPAND_WORDS = {
    VERB: CLEAN_WORDS[VERB],
    INLINE: CLEAN_WORDS[INLINE],
    BEGIN: ("begin",),
    END: ("end",),
    NEWCOMMAND: ("newcommand", "DeclareRobustCommand"),
    RENEW: ("renewcommand",),
    PROVIDE: ("providecommand",),
    DEF: ("def", "gdef", "edef", "xdef"),
    PREFIX: ("long", "global", "outer", "protected"),
    LET: ("let",),
    OPERATOR: ("DeclareMathOperator",),
    NEWENV: ("newenvironment", "renewenvironment"),
    NEWIF: ("newif",),
    XSPACE: ("xspace",),
    GUARD: ("protect", "noexpand", "string"),
    XPARSE: ("NewDocumentCommand", "RenewDocumentCommand", "DeclareDocumentCommand", "ProvideDocumentCommand"),
    PAIRED: ("DeclarePairedDelimiter",),
    CHOOSE: ("IfBooleanTF", "IfNoValueTF", "IfValueTF"),
    SECTION: ("part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph"),
    BIBLIOGRAPHY: ("bibliography", "printbibliography"),
    APPENDIX: ("appendix", "appendices"),
    TITLE: ("title",),
    AUTHOR: ("author",),
    AT_LETTER: ("makeatletter",),
    AT_OTHER: ("makeatother",),
    IFTRUE: ("iftrue",),
    IFFALSE: ("iffalse",),
    ELSE: ("else",),
    FI: ("fi",),
    NOT_IF: tuple(NOT_CONDITIONALS),
    FOREIGN_IF: tuple(
        "if ifcat ifnum ifdim ifodd ifvmode ifhmode ifmmode ifinner ifvoid ifhbox ifvbox ifx ifeof ifcase ifdefined "
        "ifcsname iffontchar ifpdf ifxetex ifluatex ifPDFTeX ifXeTeX ifLuaTeX ifvtex".split()
    ),
    # Words that carry the structure of a paper: a paper that redefines one still uses it for what it is.
    KEPT: tuple(
        "input include subfile import documentclass documentstyle usepackage RequirePackage item label ref eqref "
        "pageref autoref cref Cref cite citep citet citealt citealp citeauthor citeyear citeyearpar nocite footnote "
        "footnotetext thanks caption includegraphics maketitle date affiliation address email keywords abstract "
        "thebibliography bibitem newblock url href path tableofcontents newtheorem text textbf textit emph texttt "
        "mathbf mathrm mathcal mathbb frac sqrt left right ensuremath operatorname newline linebreak hspace vspace "
        "noindent par bibliographystyle hline multicolumn and centering csname endcsname expandafter relax "
        "begingroup endgroup bgroup egroup endinput write openin openout read catcode".split()
    ),
}
KEPT_SYMBOLS = b"\\{}%#$&_ \n\t"

# What a macro is: columns of the macro table.
KIND, STYLE, SPEC, SPEC_END, BODY, BODY_END, EXTRA, EXTRA_LEFT = range(8)
COLUMNS = 8
PLAIN, DELIMITED = 0, 1
MAX_MACROS = 1 << 13
SLOTS = 1 << 15
MAX_NAME = 128

# State and counters of `expand`; marks are places in the output, -1 where there is none.
(
    P, OUT, HIGH, POOL, MACROS, AT, CONDITIONS, WASTED, EXPANSIONS, WRITTEN, LEFT, LIMIT, DOCUMENT, DOCUMENT_END,
    FIRST_SECTION, BIBLIO, APPENDIX_AT, ABSTRACT, ABSTRACT_END, TITLE_AT, WORD_AT, DEFINITIONS, FAILED, N_AUTHORS, STOP,
) = range(25)  # fmt: skip
AUTHORS = 25
MAX_AUTHORS = 64
STATE = AUTHORS + MAX_AUTHORS
MARKS = (DOCUMENT, DOCUMENT_END, FIRST_SECTION, BIBLIO, APPENDIX_AT, ABSTRACT, ABSTRACT_END, TITLE_AT)
CALL_BYTES, CALL_EXPANSIONS, MAX_FAILED = 1 << 20, 20_000, 32
ALLOWANCE = 4 << 20  # bytes that failed searches may read, and half a byte a byte of the paper
MAX_CONDITIONS = 256
MAX_DELIMITERS = 256  # bytes of the parameter text of a \def

BACKSLASH, PERCENT, OPEN, CLOSE, LBRACKET, RBRACKET, HASH, STAR, NEWLINE, SPACE, TAB, EQUALS = (
    np.uint8(ord(c)) for c in "\\%{}[]#*\n \t="
)
FNV_SEED, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)

Wide = types.Array(types.int64, 2, "C")
Out = types.Array(types.uint8, 1, "C")
State = types.Array(types.int64, 1, "C")
Keys = types.Array(types.uint64, 1, "C")
Slots = types.Array(types.int32, 1, "C")


def word_hash(name: bytes) -> int:
    """What `hash_of` gives for the bytes of a word."""
    value = int(FNV_SEED)
    for byte in name:
        value = ((value ^ byte) * int(FNV_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return value or 1


@functools.cache
def word_table(which: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32], int]:
    """(hashes, values, number of words) of `clean` (values: kinds) or `expand` (values: rows of its macro table)."""
    words = {**CLEAN_WORDS, NOT_IF: tuple(NOT_CONDITIONALS)} if which == "clean" else EXPAND_WORDS
    size = 1 << 10 if which == "clean" else SLOTS
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    row = 0
    for kind, names in words.items():
        for name in names:
            at = word_hash(name.encode()) & (size - 1)
            while keys[at]:
                at = (at + 1) & (size - 1)
            keys[at], values[at] = word_hash(name.encode()), kind if which == "clean" else row
            row += 1
    return keys, values, row


@functools.cache
def built_in() -> Ints:
    """The first rows of the macro table: the words that `expand` knows."""
    rows = [[kind, 0, 0, 0, 0, 0, i, 0] for kind, names in EXPAND_WORDS.items() for i, _ in enumerate(names)]
    return np.array(rows, np.int64)


def names_table(extra: Sequence[bytes]) -> tuple[Octets, Ints]:
    """(bytes, ends) of the verbatim environments: those of the papers' own after those known; `comment` is last."""
    known = [name.encode() for name in VERBATIM[:-1]]
    more = [name for name in dict.fromkeys(extra) if name not in known and name != b"comment"]
    names = [*known, *more[: MAX_VERBATIM - len(known) - 1], b"comment"]
    return np.frombuffer(b"".join(names), np.uint8), np.cumsum([0, *map(len, names)]).astype(np.int64)


@kernel(types.boolean(types.uint8))
def is_letter(b):  # type: ignore[no-untyped-def]
    """What TeX makes a word of."""
    return (np.uint8(97) <= b <= np.uint8(122)) or (np.uint8(65) <= b <= np.uint8(90))


@kernel(types.int64(Bytes, types.int64, types.int64, types.boolean))
def word_end(data, i, stop, at):  # type: ignore[no-untyped-def]
    """End of the name that begins at `i`, behind a backslash: letters (and @ where it is one), or one byte."""
    e = i
    while e < stop and (is_letter(data[e]) or (at and data[e] == np.uint8(64))):
        e += 1
    return e if e > i else min(i + 1, stop)


@kernel(types.uint64(Bytes, types.int64, types.int64))
def hash_of(data, i, e):  # type: ignore[no-untyped-def]
    """FNV-1a of a name; never 0, and 1 for one that is too long to be any."""
    if e - i > MAX_NAME:
        return np.uint64(1)
    value = FNV_SEED
    for k in range(i, e):
        value = (value ^ np.uint64(data[k])) * FNV_PRIME
    return value if value != np.uint64(0) else np.uint64(1)


@kernel(types.int64(U64s, types.uint64))
def slot_of(keys, value):  # type: ignore[no-untyped-def]
    """Slot of a hash in an open table, or the free slot where it would be."""
    mask = len(keys) - 1
    at = np.int64(value & np.uint64(mask))
    while keys[at] != np.uint64(0) and keys[at] != value:
        at = (at + 1) & mask
    return at


@kernel(types.int64(Bytes, types.int64, types.int64))
def past_blanks(data, i, stop):  # type: ignore[no-untyped-def]
    """Behind spaces and at most one end of line: where an empty line follows, the first byte is given back."""
    k = i
    lines = 0
    while k < stop and (data[k] == SPACE or data[k] == TAB or data[k] == NEWLINE):
        if data[k] == NEWLINE:
            lines += 1
            if lines == 2:
                return i
        k += 1
    return k


@kernel(types.int64(Bytes, types.int64, types.int64, State))
def past_group(data, i, stop, s):  # type: ignore[no-untyped-def]
    """Behind the brace that closes the one at `i`; -1 where none does (which is paid for)."""
    if s[WASTED] <= 0:
        return np.int64(-1)
    depth = 0
    k = i
    while k < stop:
        b = data[k]
        if b == BACKSLASH:
            k += 1
        elif b == OPEN:
            depth += 1
        elif b == CLOSE:
            depth -= 1
            if depth == 0:
                return k + 1
        k += 1
    s[WASTED] -= stop - i
    return np.int64(-1)


@kernel(types.int64(Bytes, types.int64, types.int64, State))
def past_option(data, i, stop, s):  # type: ignore[no-untyped-def]
    """Behind the `]` that closes the `[` at `i`, braces balanced; -1 where none does (which is paid for)."""
    if s[WASTED] <= 0:
        return np.int64(-1)
    depth = 0
    k = i + 1
    while k < stop:
        b = data[k]
        if b == BACKSLASH:
            k += 1
        elif b == OPEN:
            depth += 1
        elif b == CLOSE:
            depth -= 1
            if depth < 0:
                break
        elif b == RBRACKET and depth == 0:
            return k + 1
        k += 1
    s[WASTED] -= k - i
    return np.int64(-1)


@kernel(types.int64(Bytes, types.int64, types.int64, Bytes, types.int64, types.int64))
def find_end(data, i, stop, names, n0, n1):  # type: ignore[no-untyped-def]
    """Where `\\end{name}` begins, from `i` on; -1 where there is none."""
    size = n1 - n0
    k = i
    while k + 6 + size <= stop:
        if (
            data[k] == BACKSLASH
            and data[k + 1] == np.uint8(101)
            and data[k + 2] == np.uint8(110)
            and data[k + 3] == np.uint8(100)
            and data[k + 4] == OPEN
            and data[k + 5 + size] == CLOSE
        ):
            same = True
            for j in range(size):
                if data[k + 5 + j] != names[n0 + j]:
                    same = False
                    break
            if same:
                return k
        k += 1
    return np.int64(-1)


@kernel(types.int64(Bytes, types.int64, types.int64, Bytes, I64s))
def which_name(data, i, e, names, ends):  # type: ignore[no-untyped-def]
    """Number of the name that stands in `[i, e)`; -1 for none of them."""
    for n in range(len(ends) - 1):
        if ends[n + 1] - ends[n] == e - i:
            same = True
            for j in range(e - i):
                if data[i + j] != names[ends[n] + j]:
                    same = False
                    break
            if same:
                return np.int64(n)
    return np.int64(-1)


@kernel(types.int64(Bytes, types.int64, types.int64))
def name_in_braces(data, i, stop):  # type: ignore[no-untyped-def]
    """Place of the `}` of `{name}` at `i`; -1 where there is none within MAX_NAME bytes and one line."""
    if i >= stop or data[i] != OPEN:
        return np.int64(-1)
    for k in range(i + 1, min(stop, i + MAX_NAME)):
        if data[k] == CLOSE:
            return np.int64(k)
        if data[k] == NEWLINE or data[k] == OPEN or data[k] == BACKSLASH:
            break
    return np.int64(-1)


@kernel(types.int64(Bytes, types.int64, types.int64, types.int64, types.int64))
def past_inline(data, e, stop, kind, index):  # type: ignore[no-untyped-def]
    """Behind `\\verb|...|` and its like, whose name ends at `e`; `e` where it does not close on its line."""
    k = e
    if k < stop and data[k] == STAR:
        k += 1
    if kind == INLINE:
        closes = RBRACKET
        for _ in range(2):  # [options], and {language} of \mintinline
            if k < stop and (data[k] == LBRACKET or (data[k] == OPEN and index == 1)):
                closes = RBRACKET if data[k] == LBRACKET else CLOSE
                while k < stop and data[k] != closes and data[k] != NEWLINE:
                    k += 1
                k += 1
                if closes == CLOSE:
                    break
    if k >= stop or data[k] == NEWLINE or data[k] == SPACE or is_letter(data[k]):
        return e
    delimiter = data[k]
    depth = 0
    if delimiter == OPEN:
        delimiter = CLOSE
    k += 1
    while k < stop and data[k] != NEWLINE:
        if data[k] == delimiter and depth == 0:
            return k + 1
        if delimiter == CLOSE and data[k] == OPEN:
            depth += 1
        elif delimiter == CLOSE and data[k] == CLOSE:
            depth -= 1
        k += 1
    return e


@kernel(types.int64(Bytes, types.int64, types.int64))
def past_address(data, e, stop):  # type: ignore[no-untyped-def]
    """Behind the group at `e`, in which `%` is itself; `e` where it does not close on its line."""
    depth = 0
    for k in range(e, min(stop, e + 4096)):
        if data[k] == OPEN:
            depth += 1
        elif data[k] == CLOSE:
            depth -= 1
            if depth == 0:
                return k + 1
        elif data[k] == NEWLINE:
            break
    return e


@kernel(types.int64(Bytes, types.int64, types.int64, U64s, I32s))
def past_false(data, i, stop, keys, kinds):  # type: ignore[no-untyped-def]
    """Behind the `\\fi` that ends the branch at `i`, or minus the place behind its `\\else`; 0 where neither is."""
    depth = 0
    k = i
    while k < stop:
        if data[k] == PERCENT:
            while k < stop and data[k] != NEWLINE and data[k] != np.uint8(13):
                k += 1
            continue
        if data[k] != BACKSLASH:
            k += 1
            continue
        e = word_end(data, k + 1, stop, True)
        kind = kinds[slot_of(keys, hash_of(data, k + 1, e))]
        if kind == NEWIF and e < stop and data[e] == BACKSLASH:
            e = word_end(data, e + 1, stop, True)
        elif kind == FI:
            if depth == 0:
                return np.int64(e)
            depth -= 1
        elif kind == ELSE and depth == 0:
            return np.int64(-e)
        elif e - k > 2 and data[k + 1] == np.uint8(105) and data[k + 2] == np.uint8(102) and kind != NOT_IF:
            depth += 1
        k = e
    return np.int64(0)


@kernel(types.int64(Bytes, types.int64, types.int64, Out, types.int64, State))
def copy_verbatim(data, i, stop, out, o, counts):  # type: ignore[no-untyped-def]
    """Copy as it is, apart from control characters and kinds of line ends; the new end of `out`."""
    while i < stop:
        b = data[i]
        if b == np.uint8(13):
            if i + 1 >= len(data) or data[i + 1] != NEWLINE:
                out[o] = NEWLINE
                o += 1
        elif b == np.uint8(12):
            out[o] = NEWLINE
            o += 1
        elif (b < SPACE and b != NEWLINE and b != TAB) or b == np.uint8(127):
            counts[CONTROLS] += 1
        else:
            out[o] = b
            o += 1
        i += 1
    return o


@kernel(types.int64(Bytes, Bytes, I64s, U64s, I32s, Out, Wide, State))
def _clean(data, names, ends, keys, kinds, out, events, counts):  # type: ignore[no-untyped-def]
    """See `clean`. `out` has room for what `data` has; its length in use is returned."""
    stop = len(data)
    n_names = len(ends) - 1
    has_end = np.ones(n_names, np.uint8)  # 0: no \end of it any more
    nested = np.zeros(64, np.int64)  # conditionals open inside each \else branch that is kept
    branches = 0
    tries = 8
    i = 0
    o = 0
    bol = 0  # where the line begins in `out`
    word = -1  # end of the last word in `out`
    while i < stop:
        b = data[i]
        if b > SPACE and b != BACKSLASH and b != PERCENT and b != np.uint8(127):
            out[o] = b
            o += 1
            i += 1
        elif b == SPACE or b == TAB:
            out[o] = b
            o += 1
            i += 1
        elif b == NEWLINE or b == np.uint8(13) or b == np.uint8(12):
            if b == np.uint8(13) and i + 1 < stop and data[i + 1] == NEWLINE:
                i += 1
            out[o] = NEWLINE
            o += 1
            bol = o
            i += 1
        elif b == PERCENT:
            j = i
            while j < stop and data[j] != NEWLINE and data[j] != np.uint8(13):
                j += 1
            k = o
            while k > bol and (out[k - 1] == SPACE or out[k - 1] == TAB):
                k -= 1
            next_line = j + 1
            if j + 1 < stop and data[j] == np.uint8(13) and data[j + 1] == NEWLINE:
                next_line = j + 2
            if k == bol:  # nothing else on the line: it goes
                o = k
                i = next_line
            elif k < o:  # a space stood before: the end of line stays
                o = k
                i = j
            else:  # TeX reads on at the first character of the next line
                k = next_line
                while k < stop and (data[k] == SPACE or data[k] == TAB):
                    k += 1
                if k >= stop or data[k] == NEWLINE or data[k] == np.uint8(13) or (word == o and is_letter(data[k])):
                    i = j
                else:
                    i = k
        elif b == BACKSLASH:
            e = word_end(data, i + 1, stop, False)
            if e > i + 1 and not is_letter(data[i + 1]):
                if data[i + 1] == NEWLINE or data[i + 1] == np.uint8(13):
                    e = i + 1
                out[o] = b
                o += 1
                if e > i + 1 and (data[i + 1] < SPACE or data[i + 1] == np.uint8(127)) and data[i + 1] != TAB:
                    counts[CONTROLS] += 1
                elif e > i + 1:
                    out[o] = data[i + 1]
                    o += 1
                i = e
                continue
            kind = kinds[slot_of(keys, hash_of(data, i + 1, e))]
            is_word = True
            is_last = False
            if kind == VERB or kind == INLINE:
                is_word = False
                e = past_inline(data, e, stop, kind, 1 if kind == INLINE and data[i + 1] == np.uint8(109) else 0)
            elif kind == URL and e < stop and data[e] == OPEN:
                is_word = False
                e = past_address(data, e, stop)
            elif kind == BEGIN or kind == END:
                at = e
                while at < stop and (data[at] == SPACE or data[at] == TAB):
                    at += 1
                close = name_in_braces(data, at, stop)
                n = -1
                if close >= 0 and kind == BEGIN:
                    n = which_name(data, at + 1, close, names, ends)
                elif close >= 0 and close - at == 9 and hash_of(data, at + 1, close) == DOCUMENT_HASH:
                    counts[ENDED] = 1
                    is_last = True
                    e = close + 1
                if n >= 0 and has_end[n]:
                    found = find_end(data, close + 1, stop, names, ends[n], ends[n + 1])
                    if found < 0:
                        has_end[n] = 0
                        counts[UNCLOSED] += 1
                    else:
                        is_word = False
                        e = found + 6 + ends[n + 1] - ends[n]
                        if n == n_names - 1:  # a comment
                            k = e
                            while k < stop and (data[k] == SPACE or data[k] == TAB):
                                k += 1
                            i = k + 1 if o == bol and k < stop and data[k] == NEWLINE else e
                            continue
            elif kind == IFFALSE and tries > 0:
                past = past_false(data, e, stop, keys, kinds)
                if past == 0:
                    tries -= 1
                    counts[UNCLOSED] += 1
                elif past > 0 or branches < len(nested):
                    if past < 0:
                        nested[branches] = 0
                        branches += 1
                    i = abs(past)
                    k = i
                    while k < stop and (data[k] == SPACE or data[k] == TAB):
                        k += 1
                    if o == bol and k < stop and data[k] == NEWLINE:
                        i = k + 1
                    elif word != o:  # as TeX: blanks behind a word go; but two words are kept apart
                        i = k
                    continue
            elif kind == FI and branches > 0:
                nested[branches - 1] -= 1
                if nested[branches - 1] < 0:
                    branches -= 1
                    i = e
                    continue
            elif kind == LET or kind == NEWIF:  # the names that follow are not read as what they mean
                for _ in range(2 if kind == LET else 1):
                    k = e
                    while k < stop and (data[k] == SPACE or data[k] == EQUALS):
                        k += 1
                    if k < stop and data[k] == BACKSLASH:
                        e = word_end(data, k + 1, stop, True)
            elif kind == ENDINPUT:
                k = o
                while k > bol and (out[k - 1] == SPACE or out[k - 1] == TAB):
                    k -= 1
                if k == bol:
                    break
            elif kind >= INPUT and counts[EVENTS] < len(events):
                n = counts[EVENTS]
                events[n, 0] = kind
                events[n, 1] = o
                events[n, 2] = o + e - i
                counts[EVENTS] = n + 1
            elif branches > 0 and kind != NOT_IF and e - i > 2:
                if data[i + 1] == np.uint8(105) and data[i + 2] == np.uint8(102):
                    nested[branches - 1] += 1
            o = copy_verbatim(data, i, e, out, o, counts)
            if is_word:
                word = o
            if is_last:
                break
            i = e
        else:
            counts[CONTROLS] += 1
            i += 1
    return np.int64(o)


def _constant(name: str) -> np.uint64:
    return np.uint64(word_hash(name.encode()))


DOCUMENT_HASH = _constant("document")


def clean(data: bytes, verbatim: Sequence[bytes] = ()) -> tuple[bytes, Ints, Ints]:
    """One file without comments: (text, events, counts). Takes UTF-8 or any encoding that ASCII is a part of.

    events: rows of (kind, begin, end) of the words from INPUT on, places in the text. counts: EVENTS, UNCLOSED
    (verbatim and comment environments and `\\iffalse` without an end: kept as they are), CONTROLS (control characters
    taken out), ENDED (1: `\\end{document}` was seen). `verbatim`: names of environments of the paper's own.
    """
    names, ends = names_table(verbatim)
    keys, kinds, _ = word_table("clean")
    raw = np.frombuffer(data, np.uint8)
    out = np.empty(len(raw) + 8, np.uint8)
    events, counts = np.empty((min(len(raw) // 6, 10_000) + 1, 3), np.int64), np.zeros(CLEAN_COUNTS, np.int64)
    n = _clean(raw, names, ends, keys, kinds, out, events, counts)
    return out[:n].tobytes(), events[: counts[EVENTS]], counts


@kernel(types.boolean(State, Out, Bytes, types.int64, types.int64))
def emit(s, out, data, i, e):  # type: ignore[no-untyped-def]
    """Write `[i, e)` to the output; a space first where a word would grow by its letters."""
    if e <= i:
        return True
    o = s[OUT]
    if s[WORD_AT] == o and is_letter(data[i]):
        out[o] = SPACE
        o += 1
    for k in range(i, e):
        out[o + k - i] = data[k]
    s[OUT] = o + e - i
    return True


@kernel(types.boolean(State, Out, Bytes, types.int64, types.int64))
def keep(s, pool, data, i, e):  # type: ignore[no-untyped-def]
    """Write `[i, e)` to the pool of definitions; False where it is full."""
    if s[POOL] + e - i > len(pool):
        s[LIMIT] = 1
        return False
    for k in range(i, e):
        pool[s[POOL] + k - i] = data[k]
    s[POOL] += e - i
    return True


@kernel(types.int64(State, Keys, Slots, Wide, types.uint64, types.int64))
def row_for(s, keys, values, macros, value, only_new):  # type: ignore[no-untyped-def]
    """Row of the macro table for a name that is being defined; -1 where it may not be (or is there, `only_new`)."""
    at = slot_of(keys, value)
    if keys[at] != np.uint64(0):
        row = np.int64(values[at])
        kind = macros[row, KIND]
        if only_new != 0 and kind != DEAD:
            return np.int64(-1)
        if kind == USER or kind == FINAL or kind == DEAD or kind == NOT_IF:
            return row
        macros[row, EXTRA_LEFT] = 1  # the paper's own by now, but read for what LaTeX means by it: its uses are counted
        return np.int64(-1)
    if s[MACROS] >= MAX_MACROS:
        s[LIMIT] = 1
        return np.int64(-1)
    row = s[MACROS]
    s[MACROS] += 1
    macros[row, EXTRA_LEFT] = 0
    keys[at] = value
    values[at] = row
    return np.int64(row)


@kernel(types.boolean(Bytes, types.int64, types.int64))
def has_inner_word(data, i, e):  # type: ignore[no-untyped-def]
    """Whether a word with an @ in it (an inner one of LaTeX) stands in `[i, e)`; `\\@` alone is none."""
    k = i
    while k < e:
        if data[k] != BACKSLASH:
            k += 1
            continue
        end = word_end(data, k + 1, e, True)
        if end > k + 2:
            for j in range(k + 1, end):
                if data[j] == np.uint8(64) and not (j == k + 1 and j + 1 == end):
                    return True
        k = max(end, k + 2)
    return False


@kernel(types.UniTuple(types.int64, 3)(State, Bytes, types.int64, types.int64))  # type: ignore[no-untyped-call]
def read_name(s, buf, i, stop):  # type: ignore[no-untyped-def]
    """(begin, end, behind) of the name in `{\\name}` or `\\name`; begin is -1 where there is none."""
    k = past_blanks(buf, i, stop)
    braced = k < stop and buf[k] == OPEN
    if braced:
        k = past_blanks(buf, k + 1, stop)
    if k + 1 >= stop or buf[k] != BACKSLASH:
        return np.int64(-1), np.int64(0), np.int64(0)
    e = word_end(buf, k + 1, stop, s[AT] != 0)
    q = e
    if braced:
        q = past_blanks(buf, e, stop)
        if q >= stop or buf[q] != CLOSE:
            return np.int64(-1), np.int64(0), np.int64(0)
        q += 1
    return np.int64(k + 1), np.int64(e), np.int64(q)


@kernel(types.UniTuple(types.int64, 3)(State, Bytes, types.int64, types.int64))  # type: ignore[no-untyped-call]
def read_argument(s, buf, i, stop):  # type: ignore[no-untyped-def]
    """(begin, end, behind) of a group without its braces, or of one token; begin is -1 where there is none."""
    k = past_blanks(buf, i, stop)
    if k >= stop or buf[k] == CLOSE or buf[k] == NEWLINE:
        return np.int64(-1), np.int64(0), np.int64(0)
    if buf[k] == OPEN:
        q = past_group(buf, k, stop, s)
        return (np.int64(-1), np.int64(0), np.int64(0)) if q < 0 else (np.int64(k + 1), np.int64(q - 1), np.int64(q))
    if buf[k] == BACKSLASH:
        q = word_end(buf, k + 1, stop, s[AT] != 0)
        return np.int64(k), np.int64(q), np.int64(q)
    q = k + 1
    while q < stop and (buf[q] & np.uint8(0xC0)) == np.uint8(0x80):
        q += 1
    return np.int64(k), np.int64(q), np.int64(q)


@kernel(types.boolean(State, Keys, Slots, Wide, Bytes, types.int64, types.int64))
def is_kept_name(s, keys, values, macros, buf, n0, n1):  # type: ignore[no-untyped-def]
    """Whether a name may not be defined: a symbol that LaTeX needs, or an inner word."""
    if n1 - n0 == 1 and not is_letter(buf[n0]):
        for j in range(len(SYMBOLS)):
            if buf[n0] == SYMBOLS[j]:
                return True
        return buf[n0] >= np.uint8(128)
    for j in range(n0, n1):
        if buf[j] == np.uint8(64):
            return True
    return False


SYMBOLS = np.frombuffer(KEPT_SYMBOLS, np.uint8)
ONEDOT = _constant("onedot")
DOT = np.frombuffer(b".\\xspace", np.uint8)
OPERATOR_TEXT = np.frombuffer(b"\\operatorname*{}", np.uint8)
PAIR_SPEC = np.frombuffer(b"som", np.uint8)
PAIR_ARGUMENT = np.frombuffer(b" #3 ", np.uint8)
MANDATORY = np.frombuffer(b"mmmmmmmmm", np.uint8)
NO_VALUE = np.frombuffer(b"-NoValue-", np.uint8)
RELAX = _constant("relax")
UNDEFINED = (_constant("undefined"), _constant("empty"), RELAX)
ABSTRACT_HASH, BIB_HASH, REF_HASH, REFS_HASH = (
    _constant(x) for x in ("abstract", "thebibliography", "references", "REFERENCES")
)
TRUE_WORD, FALSE_WORD = np.frombuffer(b"true", np.uint8), np.frombuffer(b"false", np.uint8)

Define = types.int64(State, Keys, Slots, Wide, Out, Bytes, types.int64, types.int64, types.int64, types.int64)


@kernel(Define)
def define(s, keys, values, macros, pool, buf, kind, index, e, stop):  # type: ignore[no-untyped-def]
    """Read the definition whose command ends at `e`; behind it, or -1 where it is not well formed."""
    star = False
    q = past_blanks(buf, e, stop)
    if q < stop and buf[q] == STAR:
        star = True
        e = q + 1
    n0, n1, q = read_name(s, buf, e, stop)
    if n0 < 0:
        return np.int64(-1)
    value = hash_of(buf, n0, n1)
    spec = s[POOL]
    style = PLAIN
    is_sound = True
    b0, b1 = np.int64(0), np.int64(0)
    if kind == DEF:
        k = q
        while k < stop and k < q + MAX_DELIMITERS and buf[k] != OPEN:
            if buf[k] == BACKSLASH:
                k += 1
            k += 1
        if k >= stop or buf[k] != OPEN:
            return np.int64(-1)
        simple = True
        j = q
        n = 0
        while j < k:
            if j + 1 < k and buf[j] == HASH and buf[j + 1] == np.uint8(49 + n) and n < 9:
                n += 1
                j += 2
            elif buf[j] == SPACE or buf[j] == NEWLINE or buf[j] == TAB:
                j += 1
            else:
                simple = False
                break
        if simple:
            is_sound = keep(s, pool, MANDATORY, 0, n)
        else:
            style = DELIMITED
            if buf[k - 1] == HASH:
                is_sound = False
            elif not keep(s, pool, buf, q, k):
                is_sound = False
        spec_end = s[POOL]
        b0, b1, q = read_argument(s, buf, k, stop)
    elif kind == XPARSE:
        a0, a1, q = read_argument(s, buf, q, stop)
        if a0 < 0:
            return np.int64(-1)
        is_sound = keep(s, pool, buf, a0, a1)
        spec_end = s[POOL]
        b0, b1, q = read_argument(s, buf, q, stop)
    elif kind == PAIRED:
        a0, a1, q = read_argument(s, buf, q, stop)
        if a0 < 0:
            return np.int64(-1)
        b0, b1, q = read_argument(s, buf, q, stop)
        if b0 < 0:
            return np.int64(-1)
        is_sound = keep(s, pool, PAIR_SPEC, 0, 3)
        spec_end = s[POOL]
        is_sound = is_sound and keep(s, pool, buf, a0, a1) and keep(s, pool, PAIR_ARGUMENT, 0, 4)
        is_sound = is_sound and keep(s, pool, buf, b0, b1)
    elif kind == OPERATOR:
        b0, b1, q = read_argument(s, buf, q, stop)
        if b0 < 0:
            return np.int64(-1)
        spec_end = s[POOL]
        is_sound = keep(s, pool, OPERATOR_TEXT, 0, 13) and (not star or keep(s, pool, OPERATOR_TEXT, 13, 14))
        is_sound = is_sound and keep(s, pool, OPERATOR_TEXT, 14, 15) and keep(s, pool, buf, b0, b1)
        is_sound = is_sound and keep(s, pool, OPERATOR_TEXT, 15, 16)
    else:
        given = 0
        k = past_blanks(buf, q, stop)
        if k + 2 < stop and buf[k] == LBRACKET:
            j = past_blanks(buf, k + 1, stop)
            given = int(buf[j]) - 48
            j = past_blanks(buf, j + 1, stop)
            if given < 0 or given > 9 or j >= stop or buf[j] != RBRACKET:
                return np.int64(-1)
            q = j + 1
            k = past_blanks(buf, q, stop)
            if given > 0 and k < stop and buf[k] == LBRACKET:
                q = past_option(buf, k, stop, s)
                if q < 0:
                    return np.int64(-1)
                is_sound = (
                    keep(s, pool, DEFAULT, 0, 2) and keep(s, pool, buf, k + 1, q - 1) and keep(s, pool, DEFAULT, 2, 3)
                )
                given -= 1
        is_sound = is_sound and keep(s, pool, MANDATORY, 0, given)
        spec_end = s[POOL]
        b0, b1, q = read_argument(s, buf, q, stop)
    if b0 < 0:
        return np.int64(-1)
    s[DEFINITIONS] += 1
    if is_kept_name(s, keys, values, macros, buf, n0, n1):
        return q
    row = row_for(s, keys, values, macros, value, 1 if kind == PROVIDE else 0)
    if row < 0:
        return q
    body = s[POOL] if kind != PAIRED and kind != OPERATOR else spec_end
    if kind != PAIRED and kind != OPERATOR:
        if value == ONEDOT:  # "e.g." of the vision conferences: a dot unless one follows
            is_sound = is_sound and keep(s, pool, DOT, 0, len(DOT))
        else:
            is_sound = is_sound and keep(s, pool, buf, b0, b1)
    macros[row, KIND] = USER
    if not is_sound or (has_inner_word(buf, b0, b1) and value != ONEDOT):
        macros[row, KIND] = DEAD
    macros[row, STYLE] = style
    macros[row, SPEC] = spec
    macros[row, SPEC_END] = spec_end
    macros[row, BODY] = body
    macros[row, BODY_END] = s[POOL]
    return q


DEFAULT = np.frombuffer(b"O{}", np.uint8)


@kernel(Define)
def define_alias(s, keys, values, macros, pool, buf, kind, index, e, stop):  # type: ignore[no-untyped-def]
    """`\\let\\a=\\b`: \\a becomes what \\b is now. Behind it, or -1."""
    n0, n1, q = read_name(s, buf, e, stop)
    if n0 < 0:
        return np.int64(-1)
    q = past_blanks(buf, q, stop)
    if q < stop and buf[q] == EQUALS:
        q = past_blanks(buf, q + 1, stop)
    if q >= stop or buf[q] == OPEN or buf[q] == CLOSE:
        return np.int64(-1)
    b0, b1, q = read_argument(s, buf, q, stop)
    if b0 < 0:
        return np.int64(-1)
    s[DEFINITIONS] += 1
    if is_kept_name(s, keys, values, macros, buf, n0, n1):
        return q
    source = np.int64(-1)
    meant = np.uint64(0)
    if buf[b0] == BACKSLASH:
        meant = hash_of(buf, b0 + 1, b1)
        at = slot_of(keys, meant)
        if keys[at] == meant:
            source = np.int64(values[at])
    row = row_for(s, keys, values, macros, hash_of(buf, n0, n1), 0)
    if row < 0:
        return q
    if source >= 0 and macros[source, KIND] != KEPT:
        kind_of = macros[source, KIND]
        is_flag = kind_of == IFTRUE or kind_of == IFFALSE or kind_of == FLAG_IF
        if is_flag or kind_of == USER or kind_of == FINAL or kind_of == DEAD:
            for c in range(COLUMNS):
                macros[row, c] = macros[source, c]
            if is_flag:
                macros[row, KIND] = FLAG_IF
                macros[row, EXTRA] = (
                    1 if kind_of == IFTRUE or (kind_of == FLAG_IF and macros[source, EXTRA] == 1) else 0
                )
            return q
    macros[row, KIND] = FINAL
    macros[row, STYLE] = PLAIN
    macros[row, SPEC] = s[POOL]
    macros[row, SPEC_END] = s[POOL]
    macros[row, BODY] = s[POOL]
    if meant != UNDEFINED[0] and meant != UNDEFINED[1] and meant != UNDEFINED[2]:
        if has_inner_word(buf, b0, b1) or not keep(s, pool, buf, b0, b1):
            macros[row, KIND] = DEAD
    macros[row, BODY_END] = s[POOL]
    return q


@kernel(Define)
def define_flag(s, keys, values, macros, pool, buf, kind, index, e, stop):  # type: ignore[no-untyped-def]
    """`\\newif\\ifdraft`: \\ifdraft (false), \\drafttrue and \\draftfalse. Behind it, or -1."""
    n0, n1, q = read_name(s, buf, e, stop)
    if n0 < 0 or n1 - n0 < 3 or n1 - n0 > MAX_NAME - 8 or s[POOL] + 2 * MAX_NAME > len(pool):
        return np.int64(-1)
    s[DEFINITIONS] += 1
    flag = row_for(s, keys, values, macros, hash_of(buf, n0, n1), 0)
    if flag < 0:
        return q
    macros[flag, KIND] = FLAG_IF
    macros[flag, EXTRA] = 0
    base = s[POOL]  # the names are built behind the pool, and given up again
    for setting in range(2):
        ending = TRUE_WORD if setting == 1 else FALSE_WORD
        size = n1 - n0 - 2
        for k in range(size):
            pool[base + k] = buf[n0 + 2 + k]
        for k in range(len(ending)):
            pool[base + size + k] = ending[k]
        row = row_for(s, keys, values, macros, hash_of(pool, base, base + size + len(ending)), 0)
        if row >= 0:
            macros[row, KIND] = FLAG_SET
            macros[row, STYLE] = flag
            macros[row, EXTRA] = setting
    return q


@kernel(types.int64(State, Keys, Slots, Wide, Bytes, types.int64, types.int64))
def past_branch(s, keys, values, macros, buf, i, stop):  # type: ignore[no-untyped-def]
    """Behind the `\\fi` that ends the branch at `i`, or minus the place behind its `\\else`; 0: neither (paid for)."""
    if s[WASTED] <= 0:
        return np.int64(0)
    depth = 0
    k = i
    while k < stop:
        if buf[k] != BACKSLASH:
            k += 1
            continue
        e = word_end(buf, k + 1, stop, s[AT] != 0)
        value = hash_of(buf, k + 1, e)
        at = slot_of(keys, value)
        kind = macros[values[at], KIND] if keys[at] == value else np.int64(0)
        if kind == NEWIF or kind == LET or kind == GUARD:
            for _ in range(2 if kind == LET else 1):
                j = e
                while j < stop and (buf[j] == SPACE or buf[j] == EQUALS):
                    j += 1
                if j < stop and buf[j] == BACKSLASH:
                    e = word_end(buf, j + 1, stop, s[AT] != 0)
        elif kind == FI:
            if depth == 0:
                return np.int64(e)
            depth -= 1
        elif kind == ELSE and depth == 0:
            return np.int64(-e)
        elif e - k > 2 and buf[k + 1] == np.uint8(105) and buf[k + 2] == np.uint8(102):
            if kind != NOT_IF and kind != USER and kind != FINAL and kind != DEAD:
                depth += 1
        k = e
    s[WASTED] -= stop - i
    return np.int64(0)


Call = types.int64(State, Wide, Bytes, Bytes, types.int64, types.int64, types.int64, State, State, State)


@kernel(Call)
def read_arguments(s, macros, pool, buf, row, e, stop, begins, finishes, where):  # type: ignore[no-untyped-def]
    """Arguments of a use whose name ends at `e`: behind them, or -1.

    `where`: 0 in the buffer, 1 in the pool, 2 empty, 3 the mark that says there is none.
    """
    q = e
    n = 0
    k, last = macros[row, SPEC], macros[row, SPEC_END]
    is_plain = macros[row, STYLE] == PLAIN
    if not is_plain and is_letter(buf[e - 1]):
        q = past_blanks(buf, e, stop)
    while k < last:
        b = pool[k]
        if is_plain:
            if b == np.uint8(109):  # m
                a0, a1, q = read_argument(s, buf, q, stop)
                if a0 < 0:
                    return np.int64(-1)
                begins[n], finishes[n], where[n] = a0, a1, 0
                k += 1
            elif b == np.uint8(115):  # s
                j = past_blanks(buf, q, stop)
                begins[n], finishes[n], where[n] = 0, 0, 2
                if j < stop and buf[j] == STAR:
                    begins[n], finishes[n], where[n] = j, j + 1, 0
                    q = j + 1
                k += 1
            elif b == np.uint8(111) or b == np.uint8(79):  # o, O{default}
                k += 1
                d0, d1 = np.int64(0), np.int64(0)
                found = np.int64(3)
                if b == np.uint8(79):
                    j = past_group(pool, k, last, s) if k < last and pool[k] == OPEN else np.int64(-1)
                    if j < 0:
                        return np.int64(-1)
                    d0, d1 = k + 1, j - 1
                    found = np.int64(1)
                    k = j
                j = past_blanks(buf, q, stop)
                begins[n], finishes[n], where[n] = d0, d1, found
                if j < stop and buf[j] == LBRACKET:
                    behind = past_option(buf, j, stop, s)
                    if behind < 0:
                        return np.int64(-1)
                    begins[n], finishes[n], where[n] = j + 1, behind - 1, 0
                    q = behind
            elif b == SPACE or b == np.uint8(43) or b == np.uint8(33) or b == NEWLINE:  # "+m", "!o"
                k += 1
                continue
            else:
                return np.int64(-1)
            n += 1
        elif b == HASH and k + 1 < last:
            k += 2
            d1 = k
            while d1 < last and pool[d1] != HASH:
                d1 += 1
            if d1 == k:
                a0, a1, q = read_argument(s, buf, q, stop)
                if a0 < 0:
                    return np.int64(-1)
                begins[n], finishes[n], where[n] = a0, a1, 0
            else:  # up to the delimiter, braces balanced
                j = q
                depth = 0
                found = np.int64(-1)
                if s[WASTED] <= 0:
                    return np.int64(-1)
                while j < stop:
                    if depth == 0 and buf[j] == pool[k]:
                        same = j + d1 - k <= stop
                        if same:
                            for x in range(d1 - k):
                                if buf[j + x] != pool[k + x]:
                                    same = False
                                    break
                        if same and not (
                            pool[d1 - 1] != BACKSLASH
                            and is_letter(pool[d1 - 1])
                            and j + d1 - k < stop
                            and is_letter(buf[j + d1 - k])
                            and pool[k] == BACKSLASH
                        ):
                            found = np.int64(j)
                            break
                    if buf[j] == BACKSLASH:
                        j += 1
                    elif buf[j] == OPEN:
                        depth += 1
                    elif buf[j] == CLOSE:
                        depth -= 1
                        if depth < 0:
                            break
                    j += 1
                if found < 0:
                    s[WASTED] -= min(j, stop) - q
                    return np.int64(-1)
                begins[n], finishes[n], where[n] = q, found, 0
                if found - q >= 2 and buf[q] == OPEN and past_group(buf, q, found, s) == found:
                    begins[n], finishes[n] = q + 1, found - 1
                q = found + d1 - k
                if pool[k] == BACKSLASH and is_letter(pool[d1 - 1]):
                    q = past_blanks(buf, q, stop)
                k = d1
            n += 1
        else:  # a delimiter before the first argument
            if b == SPACE or b == NEWLINE:
                q = past_blanks(buf, q, stop)
                k += 1
                continue
            if q >= stop or buf[q] != b:
                return np.int64(-1)
            q += 1
            k += 1
        if n >= 9 and k < last:
            return np.int64(-1)
    begins[9] = n
    return q


Substitute = types.int64(Wide, Bytes, Bytes, types.int64, State, State, State, Out, types.int64)


@kernel(Substitute)
def substitute(macros, pool, buf, row, begins, finishes, where, out, room):  # type: ignore[no-untyped-def]
    """Write the body with its arguments in place to `out`, which holds `room` bytes; the length, or -1.

    `finishes[9]`: whether it ends with a word, which must not grow by a letter behind it.
    """
    k, last = macros[row, BODY], macros[row, BODY_END]
    o = 0
    word = -1
    while k < last:
        b = pool[k]
        if b == BACKSLASH:
            e = word_end(pool, k + 1, last, False)
            if o + e - k > room:
                return np.int64(-1)
            for x in range(k, e):
                out[o] = pool[x]
                o += 1
            if e > k + 1 and is_letter(pool[k + 1]):
                word = o
            k = e
        elif b == HASH and k + 1 < last:
            n = np.int64(pool[k + 1]) - 49
            k += 2
            if n < 0 or n >= begins[9]:
                if o + 1 > room:
                    return np.int64(-1)
                out[o] = HASH
                o += 1
                if n != HASH - 49:
                    k -= 1
                continue
            source = buf if where[n] == 0 else pool
            a0, a1 = begins[n], finishes[n]
            if where[n] == 2:
                a1 = a0
            elif where[n] == 3:
                source, a0, a1 = NO_VALUE, np.int64(0), np.int64(len(NO_VALUE))
            if o + a1 - a0 + 1 > room:
                return np.int64(-1)
            if a1 > a0:
                if word == o and is_letter(source[a0]):
                    out[o] = SPACE
                    o += 1
                for x in range(a0, a1):
                    out[o] = source[x]
                    o += 1
                x = a1
                while x > a0 and x > a1 - MAX_NAME and is_letter(source[x - 1]):
                    x -= 1
                if x < a1 and x > a0 and source[x - 1] == BACKSLASH:
                    word = o
        else:
            if o + 2 > room:
                return np.int64(-1)
            if word == o and is_letter(b):
                out[o] = SPACE
                o += 1
            out[o] = b
            o += 1
            k += 1
    finishes[9] = 1 if word == o else 0
    return np.int64(o)


@kernel(types.int64(State, Bytes, types.int64, types.int64))
def past_environment(s, buf, e, stop):  # type: ignore[no-untyped-def]
    """Behind `{name}[n][default]{begin}{end}` of a \\newenvironment, or -1."""
    q = past_blanks(buf, e, stop)
    if q < stop and buf[q] == STAR:
        q += 1
    n0, _, q = read_argument(s, buf, q, stop)
    if n0 < 0:
        return np.int64(-1)
    for _ in range(2):
        k = past_blanks(buf, q, stop)
        if k < stop and buf[k] == LBRACKET:
            q = past_option(buf, k, stop, s)
            if q < 0:
                return np.int64(-1)
    for _ in range(2):
        n0, _, q = read_argument(s, buf, q, stop)
        if n0 < 0:
            return np.int64(-1)
    return q


@kernel(types.boolean(Bytes, types.int64, types.int64))
def is_references(buf, e, stop):  # type: ignore[no-untyped-def]
    """Whether the heading whose command ends at `e` is that of the list of references."""
    k = e
    if k < stop and buf[k] == STAR:
        k += 1
    k = past_blanks(buf, k, stop)
    if k >= stop or buf[k] != OPEN:
        return False
    k += 1
    value = FNV_SEED
    n = 0
    while k < stop and n < 16 and buf[k] != CLOSE:
        b = buf[k]
        if is_letter(b):
            value = (value ^ np.uint64(b | np.uint8(32))) * FNV_PRIME
            n += 1
        elif b != SPACE:
            return False
        k += 1
    return k < stop and buf[k] == CLOSE and (value == HEAD_REFERENCES or value == HEAD_BIBLIOGRAPHY)


HEAD_REFERENCES, HEAD_BIBLIOGRAPHY = _constant("references"), _constant("bibliography")


@kernel(types.boolean(Bytes, types.int64, types.int64))
def wants_space(buf, i, stop):  # type: ignore[no-untyped-def]
    """What \\xspace decides: whether a space belongs before what follows."""
    if i >= stop:
        return False
    b = buf[i]
    for j in range(len(CLOSERS)):
        if b == CLOSERS[j]:
            return False
    return not (b == BACKSLASH and i + 1 < stop and (buf[i + 1] == SPACE or buf[i + 1] == np.uint8(47)))


CLOSERS = np.frombuffer(b" \t\n{}~.!,:;?/'`)]-", np.uint8)


@kernel(types.int64(State, Bytes, types.int64, types.int64, types.int64))
def choose(s, buf, e, stop, index):  # type: ignore[no-untyped-def]
    """\\IfBooleanTF and its like, whose name ends at `e`: 1 or 2 for the branch, 0 where it cannot be told."""
    a0, a1, _ = read_argument(s, buf, e, stop)
    if a0 < 0:
        return np.int64(0)
    if index == 0:
        if a1 == a0:
            return np.int64(2)
        return np.int64(1 if a1 == a0 + 1 and buf[a0] == STAR else 0)
    is_none = a1 - a0 == len(NO_VALUE)
    if is_none:
        for k in range(len(NO_VALUE)):
            is_none = is_none and buf[a0 + k] == NO_VALUE[k]
    return np.int64(1 if is_none == (index == 1) else 2)


@kernel(types.boolean(Bytes, types.int64, types.int64, Bytes))
def stands_at(buf, i, stop, text):  # type: ignore[no-untyped-def]
    """Whether `text` stands at `i`."""
    if i + len(text) > stop:
        return False
    for k in range(len(text)):
        if buf[i + k] != text[k]:
            return False
    return True


DETOKENIZE = np.frombuffer(b"\\if\\relax\\detokenize{", np.uint8)
RELAX_TEXT = np.frombuffer(b"\\relax", np.uint8)
COMPARE = np.frombuffer(b"\\ifx\\\\", np.uint8)
DOUBLE = np.frombuffer(b"\\\\", np.uint8)


@kernel(types.UniTuple(types.int64, 2)(State, Bytes, types.int64, types.int64, types.int64))  # type: ignore[no-untyped-call]
def is_empty_test(s, buf, p, e, stop):  # type: ignore[no-untyped-def]
    """(1 true, 0 false, -1 not known; behind it) of the two usual tests that ask if an argument is empty."""
    if stands_at(buf, p, stop, DETOKENIZE):  # \if\relax\detokenize{#1}\relax
        q = past_group(buf, p + len(DETOKENIZE) - 1, stop, s)
        if q >= 0 and stands_at(buf, q, stop, RELAX_TEXT):
            behind = past_blanks(buf, q + len(RELAX_TEXT), stop)
            return np.int64(1 if q == p + len(DETOKENIZE) + 1 else 0), np.int64(behind)
    elif stands_at(buf, p, stop, COMPARE):  # \ifx\\#1\\
        q = p + len(COMPARE)
        if stands_at(buf, q, stop, DOUBLE):
            return np.int64(1), np.int64(q + 2)
        return np.int64(0), np.int64(q)
    return np.int64(-1), np.int64(e)


Expand = types.int64(
    Bytes, types.int64, Bytes, I64s, Keys, Slots, Wide, Out, Out, Out, State, types.int64, types.int64
)  # fmt: skip


@kernel(Expand)
def _expand(src, slack, names, ends, keys, values, macros, pool, buf, out, s, max_expansions, max_written):  # type: ignore[no-untyped-def]
    """See `expand`. `buf` holds `slack` free bytes and the text; `out` has room for whatever may come."""
    stop = len(buf)
    p = slack
    s[HIGH] = slack
    conditions = np.zeros(MAX_CONDITIONS, np.uint8)
    has_end = np.ones(len(ends), np.uint8)
    begins, finishes, where = np.zeros(10, np.int64), np.zeros(10, np.int64), np.zeros(10, np.int64)
    scratch = np.empty(4096, np.uint8)
    call_start, call_out, call_row = p, s[OUT], np.int64(0)
    call_conditions, call_at, call_word = s[CONDITIONS], s[AT], s[WORD_AT]
    call_bytes = call_count = 0
    while p < stop:
        j = p
        while j < stop and buf[j] != BACKSLASH:
            j += 1
        if j > p:
            emit(s, out, buf, p, j)
            p = j
            continue
        e = word_end(buf, p + 1, stop, s[AT] != 0)
        value = hash_of(buf, p + 1, e)
        slot = slot_of(keys, value)
        row = np.int64(values[slot]) if keys[slot] == value else np.int64(-1)
        kind = macros[row, KIND] if row >= 0 else np.int64(0)
        behind = np.int64(-1)
        is_word = (
            e < stop + 1 and p + 1 < stop and (is_letter(buf[p + 1]) or (s[AT] != 0 and buf[p + 1] == np.uint8(64)))
        )

        if kind == USER:
            if s[STOP] == 0:
                if p >= s[HIGH]:
                    call_start, call_out, call_row = p, s[OUT], row
                    call_bytes = call_count = 0
                    call_conditions, call_at, call_word = s[CONDITIONS], s[AT], s[WORD_AT]
                behind = read_arguments(s, macros, pool, buf, row, e, stop, begins, finishes, where)
            if behind >= 0:
                if begins[9] == 0 and is_word:
                    behind = past_blanks(buf, behind, stop)
                room = behind - 1  # the expansion and one space must fit before `behind`
                allowed = CALL_BYTES + 8 * (max(s[HIGH], behind) - call_start) - call_bytes
                room = min(room, min(allowed, max_written - s[WRITTEN]))
                is_over = s[EXPANSIONS] >= max_expansions or s[WRITTEN] >= max_written
                size = np.int64(-1)
                if room > 0 and not is_over and call_count < CALL_EXPANSIONS:
                    needed = macros[row, BODY_END] - macros[row, BODY]
                    for n in range(begins[9]):
                        needed += finishes[n] - begins[n] + 16
                    if needed > len(scratch):
                        scratch = np.empty(min(max(2 * needed, 4096), max(room, 4096)), np.uint8)
                    while True:
                        size = substitute(
                            macros, pool, buf, row, begins, finishes, where, scratch, min(room, len(scratch))
                        )
                        if size >= 0 or len(scratch) >= room:
                            break
                        scratch = np.empty(min(4 * len(scratch), int(room)), np.uint8)
                if size >= 0:
                    s[EXPANSIONS] += 1
                    call_count += 1
                    s[WRITTEN] += size + 1
                    call_bytes += size + behind - p
                    s[HIGH] = max(s[HIGH], behind)
                    start = behind - size
                    if finishes[9] != 0 and behind < stop and is_letter(buf[behind]):
                        start -= 1
                        buf[behind - 1] = SPACE
                    for k in range(size):
                        buf[start + k] = scratch[k]
                    p = start
                    continue
                # Too much: everything back to where this call began, and its macro stays as it is written.
                for k in range(call_start, s[HIGH]):
                    buf[k] = src[k - slack]
                s[OUT], s[CONDITIONS], s[AT], s[WORD_AT] = call_out, call_conditions, call_at, call_word
                for k in range(DOCUMENT, TITLE_AT + 1):
                    if s[k] >= call_out:
                        s[k] = -1
                s[HIGH] = call_start
                macros[call_row, KIND] = DEAD
                s[FAILED] += 1
                s[EXPANSIONS] -= call_count
                s[LIMIT] = 1
                if s[FAILED] >= MAX_FAILED or s[EXPANSIONS] >= max_expansions or s[WRITTEN] >= max_written - 1:
                    s[STOP] = 1
                p = call_start
                continue
            s[LEFT] += 1
        elif kind == FINAL:
            emit(s, out, pool, macros[row, BODY], macros[row, BODY_END])
            size = macros[row, BODY_END] - macros[row, BODY]
            if size > 1 and is_letter(pool[macros[row, BODY] + 1]) and pool[macros[row, BODY]] == BACKSLASH:
                s[WORD_AT] = s[OUT]
            elif is_word:
                e = past_blanks(buf, e, stop)
            p = e
            s[HIGH] = max(s[HIGH], p)
            continue
        elif kind == DEAD:
            s[LEFT] += 1
        elif kind == 0:
            if is_word and e - p > 3 and buf[p + 1] == np.uint8(105) and buf[p + 2] == np.uint8(102):
                if s[CONDITIONS] < MAX_CONDITIONS:
                    conditions[s[CONDITIONS]] = 0
                    s[CONDITIONS] += 1
        elif kind == FOREIGN_IF or kind == FLAG_IF or kind == IFTRUE or kind == IFFALSE:
            truth, after = np.int64(kind == IFTRUE or (kind == FLAG_IF and macros[row, EXTRA] == 1)), np.int64(e)
            if kind == FOREIGN_IF:
                truth, after = is_empty_test(s, buf, p, e, stop)
            if truth < 0 and s[CONDITIONS] < MAX_CONDITIONS:
                conditions[s[CONDITIONS]] = 0
                s[CONDITIONS] += 1
            elif truth == 1 and s[CONDITIONS] < MAX_CONDITIONS:
                conditions[s[CONDITIONS]] = 1
                s[CONDITIONS] += 1
                behind = after
            elif truth == 0:
                past = past_branch(s, keys, values, macros, buf, after, stop)
                if past < 0 and s[CONDITIONS] < MAX_CONDITIONS:
                    conditions[s[CONDITIONS]] = 1
                    s[CONDITIONS] += 1
                    behind = -past
                elif past > 0:
                    behind = past
        elif kind == ELSE or kind == FI:
            if s[CONDITIONS] > 0 and conditions[s[CONDITIONS] - 1] == 1:
                behind = np.int64(e)
                if kind == ELSE:
                    past = past_branch(s, keys, values, macros, buf, e, stop)
                    behind = past if past > 0 else np.int64(e)
                s[CONDITIONS] -= 1
            elif s[CONDITIONS] > 0 and kind == FI:
                s[CONDITIONS] -= 1
        elif kind == FLAG_SET:
            macros[macros[row, STYLE], EXTRA] = macros[row, EXTRA]
            behind = np.int64(e)
        elif kind == NEWIF:
            behind = define_flag(s, keys, values, macros, pool, buf, kind, 0, e, stop)
        elif kind == LET:
            behind = define_alias(s, keys, values, macros, pool, buf, kind, 0, e, stop)
        elif kind == NEWENV:
            behind = past_environment(s, buf, e, stop)
        elif NEWCOMMAND <= kind <= DEF or kind == OPERATOR or kind == XPARSE or kind == PAIRED:
            behind = define(s, keys, values, macros, pool, buf, kind, 0, e, stop)
        elif kind == PREFIX:
            k = past_blanks(buf, e, stop)
            if k < stop and buf[k] == BACKSLASH:
                k2 = word_end(buf, k + 1, stop, True)
                other = slot_of(keys, hash_of(buf, k + 1, k2))
                following = macros[values[other], KIND] if keys[other] != np.uint64(0) else np.int64(0)
                if NEWCOMMAND <= following <= PREFIX or following == LET or following == OPERATOR:
                    behind = np.int64(k)
        elif kind == GUARD:
            if e < stop and buf[e] == BACKSLASH:
                k = word_end(buf, e + 1, stop, s[AT] != 0)
                other = slot_of(keys, hash_of(buf, e + 1, k))
                following = macros[values[other], KIND] if keys[other] != np.uint64(0) else np.int64(0)
                if following == ELSE or following == FI or following == IFFALSE or IFTRUE <= following <= FLAG_IF:
                    e = k
        elif kind == AT_LETTER or kind == AT_OTHER:
            s[AT] = 1 if kind == AT_LETTER else 0
            behind = np.int64(e)
        elif kind == XSPACE:
            if wants_space(buf, e, stop):
                out[s[OUT]] = SPACE
                s[OUT] += 1
            behind = np.int64(e)
            p = e
            s[HIGH] = max(s[HIGH], p)
            continue
        elif kind == CHOOSE:
            branch = choose(s, buf, e, stop, macros[row, EXTRA])
            if branch > 0:
                _, _, q = read_argument(s, buf, e, stop)
                b0, b1, q = read_argument(s, buf, q, stop)
                if b0 >= 0:
                    c0, c1, q = read_argument(s, buf, q, stop)
                    if c0 >= 0:
                        if branch == 2:
                            b0, b1 = c0, c1
                        if p >= s[HIGH]:
                            call_start, call_out, call_row = p, s[OUT], row
                            call_bytes = call_count = 0
                        k = q
                        while b1 > b0:  # to the right, last byte first: source and target may overlap
                            k -= 1
                            b1 -= 1
                            buf[k] = buf[b1]
                        call_bytes += q - k
                        s[WRITTEN] += q - k
                        s[HIGH] = max(s[HIGH], q)
                        p = k
                        continue
        elif kind == SECTION:
            if s[FIRST_SECTION] < 0:
                s[FIRST_SECTION] = s[OUT]
                s[LEFT] = 0
            if s[BIBLIO] < 0 and is_references(buf, e, stop):
                s[BIBLIO] = s[OUT]
        elif kind == BIBLIOGRAPHY:
            if s[BIBLIO] < 0 and s[FIRST_SECTION] >= 0:
                s[BIBLIO] = s[OUT]
        elif kind == APPENDIX:
            if s[APPENDIX_AT] < 0:
                s[APPENDIX_AT] = s[OUT]
        elif kind == TITLE:
            s[TITLE_AT] = s[OUT]
        elif kind == AUTHOR:
            if s[N_AUTHORS] < MAX_AUTHORS:
                s[AUTHORS + s[N_AUTHORS]] = s[OUT]
                s[N_AUTHORS] += 1
        elif kind == VERB or kind == INLINE:
            e = past_inline(buf, e, stop, kind, macros[row, EXTRA])
            is_word = False
        elif kind == BEGIN or kind == END:
            close = name_in_braces(buf, past_blanks(buf, e, stop), stop)
            if close >= 0:
                n0 = past_blanks(buf, e, stop) + 1
                what = hash_of(buf, n0, close)
                if kind == END:
                    if what == DOCUMENT_HASH and s[DOCUMENT_END] < 0:
                        s[DOCUMENT_END] = s[OUT]
                    elif what == ABSTRACT_HASH and s[ABSTRACT_END] < 0:
                        s[ABSTRACT_END] = s[OUT]
                elif what == DOCUMENT_HASH:
                    if s[DOCUMENT] < 0:
                        s[DOCUMENT] = s[OUT]
                        s[FIRST_SECTION] = s[BIBLIO] = s[APPENDIX_AT] = -1
                        s[LEFT] = 0
                        s[LIMIT] = s[STOP]  # what went wrong in packages before is not the paper's
                        s[AT] = 0
                elif what == ABSTRACT_HASH:
                    if s[ABSTRACT] < 0:
                        s[ABSTRACT] = s[OUT]
                elif what == BIB_HASH or what == REF_HASH or what == REFS_HASH:
                    if s[BIBLIO] < 0 and s[FIRST_SECTION] >= 0:
                        s[BIBLIO] = s[OUT]
                else:
                    n = which_name(buf, n0, close, names, ends)
                    if n >= 0 and has_end[n]:
                        found = find_end(buf, close + 1, stop, names, ends[n], ends[n + 1])
                        if found < 0:
                            has_end[n] = 0
                        else:
                            e = found + 6 + ends[n + 1] - ends[n]
                            is_word = False
        if row >= 0 and macros[row, EXTRA_LEFT] == 1 and kind != USER and kind != DEAD:
            s[LEFT] += 1
        if behind >= 0:  # a definition, a flag or a conditional: nothing of it is written
            p = int(behind)
            if kind == ELSE or kind == FI or kind == IFFALSE or IFTRUE <= kind <= FLAG_SET:  # blanks behind a word go
                p = past_blanks(buf, p, stop)
            k = p
            while k < stop and (buf[k] == SPACE or buf[k] == TAB):
                k += 1
            if k < stop and buf[k] == NEWLINE and (s[OUT] == 0 or out[s[OUT] - 1] == NEWLINE):
                p = k + 1
        else:
            emit(s, out, buf, p, e)
            if is_word:
                s[WORD_AT] = s[OUT]
            p = e
        s[HIGH] = max(s[HIGH], p) if p > s[HIGH] else s[HIGH]
    return s[OUT]


def expand(
    text: bytes, verbatim: Sequence[bytes] = (), max_expansions: int = 100_000, growth: int = 10
) -> tuple[bytes, Ints]:
    """A joined paper without comments: (text with macros expanded and definitions taken out, state).

    state: the places MARKS (and AUTHORS + i, i < N_AUTHORS) in the new text; EXPANSIONS made, DEFINITIONS read, LEFT
    (uses of the paper's own macros that stay, from the first section on), LIMIT (1: a budget ended it). Budgets:
    `max_expansions` a paper, `growth` bytes written a byte of the paper.
    """
    names, ends = names_table(verbatim)
    keys, values, first = word_table("expand")
    macros = np.empty((MAX_MACROS, COLUMNS), np.int64)
    macros[:first] = built_in()
    n = len(text)
    slack = CALL_BYTES + n
    raw = np.frombuffer(text, np.uint8)
    buf = np.empty(slack + n, np.uint8)
    buf[slack:] = raw
    max_written = growth * n + CALL_BYTES
    out = np.empty((n + max_written) * 3 // 2 + 2 * CALL_BYTES, np.uint8)
    s = np.zeros(STATE, np.int64)
    s[list(MARKS)] = -1
    s[WORD_AT], s[AT], s[MACROS], s[WASTED] = -1, 1, first, ALLOWANCE + n // 2
    pool = np.empty(n + CALL_BYTES, np.uint8)
    size = _expand(
        raw, slack, names, ends, keys.copy(), values.copy(), macros, pool, buf, out, s, max_expansions, max_written
    )
    return out[:size].tobytes(), s
