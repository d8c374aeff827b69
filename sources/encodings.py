"""Encodings of books: bytes of any age and origin as clean text (robustness.md 3.6, rows 3, 13 and 14)."""

from __future__ import annotations

import codecs
import re

from resiliparse.parse.encoding import detect_encoding

DETECT_BYTES = 64 << 10  # of a text that a detector looks at


class BadBook(ValueError):
    """A book that cannot be read: the reason it is counted under, and what was seen."""

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(reason, value)
        self.reason, self.value = reason, value


MARKS = (
    (b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be"), (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)  # fmt: skip
DECLARED = re.compile(rb"character set encoding:[ \t]*([\w .()/-]{1,60})", re.I)
DECLARED_BYTES = 32 << 10  # of a text in which it may say what its encoding is
CODES = re.compile(
    r"iso[ -_]?8859-\d+|latin-?1\b|utf-?8|windows-\d+|cp-?\d+|koi8-[ru]|mac-?roman|big-?5|gb\w+|shift.?jis|euc-\w+",
    re.I,
)
SINGLE = ("cp1252", "mac_roman", "cp850")  # what older texts of Western Europe are written in
SAMPLE_BYTES = 512 << 10  # of a text that candidates are tried on
SAMPLED = 4000  # characters beyond ASCII that an encoding is judged by
BETTER = 0.02  # share by which a later candidate must be better than an earlier one
TYPED = frozenset("‘’“”„—–…«»¿¡°£§©®½¼¾·•†‡ªº×÷²³¹¢¥€\xa0")
JOINING = frozenset("’‘—–·…\xad")
MAX_CONTROLS = 0.003  # share of the bytes of a text
NUL_SHARE = 0.02  # of the first bytes: from here on, if they are all high or all low ones, it is UTF-16


def decoded(data: bytes, max_replaced: float) -> tuple[str, str, list[str]]:
    """(text as `cleaned` leaves it, encoding, flags) of a plain text.

    In this order: byte order mark; UTF-16 by its zero bytes; strict UTF-8; UTF-8 with at most `max_replaced` of its
    characters damaged; then of the encoding that a header of Project Gutenberg declares, the one that a detector finds
    and SINGLE, the one whose characters beyond ASCII stand best among their neighbours. BadBook: `binary`, `encoding`.
    """
    flags: list[str] = []
    for mark, name in MARKS:
        if data.startswith(mark):
            return _checked(data[len(mark) :].decode(name, "replace"), name, max_replaced, flags)
    data = data.removeprefix(b"\xef\xbb\xbf")
    wide = _wide(data[:4096])
    if wide:
        return _checked(data.decode(wide, "replace"), wide, max_replaced, ["charset_detected"])
    _refuse_binary(data)
    data = _without_controls(data, flags)
    try:
        return _without_wide(data, flags), "ascii" if data.isascii() else "utf-8", flags
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    replaced = text.count("\ufffd")
    high = len(text) - len(text.encode("ascii", "ignore")) - replaced
    if replaced <= max_replaced * len(text) and high > 6 * replaced:
        return _without_wide(text.encode(), flags), "utf-8", [*flags, "replaced_characters"]
    declared = _declared(data)
    name = _best(data, declared)
    flags += [] if name == declared else ["charset_detected"]
    return _checked(data.decode(name, "replace"), name, max_replaced, flags)


def _checked(text: str, name: str, max_replaced: float, flags: list[str]) -> tuple[str, str, list[str]]:
    replaced = text.count("\ufffd")
    if replaced > max_replaced * len(text):
        raise BadBook("encoding", f"{replaced} of {len(text)} characters are not {name}")
    flags += ["replaced_characters"] if replaced else []
    return cleaned(text, flags), name, flags


def _wide(head: bytes) -> str:
    """Which UTF-16 a text without a mark begins in: its zero bytes are the high ones of ASCII; empty for neither."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd < NUL_SHARE * len(head) or min(even, odd) * 10 > even + odd or even + odd < 2:
        return ""
    return "utf-16-be" if even > odd else "utf-16-le"


def _refuse_binary(data: bytes) -> None:
    head = data[: 64 << 10]
    controls = len(head) - len(head.translate(None, CONTROLS))
    if controls > MAX_CONTROLS * len(head) + 2:
        raise BadBook("binary", f"{controls} control characters in {len(head)} bytes")


def _declared(data: bytes) -> str:
    """Python's name of the encoding that a text's own header names; empty for none, and for ASCII, which it is not."""
    found = DECLARED.search(data[:DECLARED_BYTES])
    label = CODES.search(found[1].decode("ascii", "replace")) if found else None
    return _codec(label[0]) if label else ""


def _codec(label: str) -> str:
    """Python's name of an 8-bit or East Asian encoding; empty for none."""
    try:
        name = codecs.lookup(label.strip().replace(" ", "-")).name
    except LookupError:
        return ""
    return (
        "" if name.startswith(("utf", "ascii")) else {"iso8859-1": "cp1252", "mac-roman": "mac_roman"}.get(name, name)
    )


def _best(data: bytes, declared: str) -> str:
    """The encoding that fits a text best."""
    detected = _codec(detect_encoding(data, max_len=DETECT_BYTES) or "")
    names = dict.fromkeys(x for x in (declared, detected, *SINGLE) if x)
    pieces = [data[i * len(data) // 8 :][: SAMPLE_BYTES // 8] for i in range(8)]
    sample = b" ".join(pieces) if len(data) > SAMPLE_BYTES else data
    data = data if sample.isascii() else sample
    best, most = "cp1252", -1.0
    for name in names:
        fit = _fit(data, name)
        if fit > most + BETTER:
            best, most = name, fit
    return best


def _fit(data: bytes, name: str) -> float:
    """Share of the characters beyond ASCII, read as `name`, that stand where such characters do."""
    text = data.decode(name, "replace")
    good = seen = 0
    for found in BEYOND.finditer(text):
        i, c = found.start(), found[0]
        before, after = text[i - 1 : i] or " ", text[i + 1 : i + 2] or " "
        seen += 1
        if c.isalpha():
            small = before.islower() or after.islower()
            good += (before.isalpha() or after.isalpha() or before in " \n") and not (
                c.isupper() and before.islower() and small
            )
        else:
            good += c in TYPED and (c in JOINING or not (before.isalpha() and after.isalpha()))
        if seen == SAMPLED:
            break
    return good / max(1, seen)


BEYOND = re.compile(r"[^\x00-\x7f]")
CONTROLS = bytes({*range(32), 127} - {*b"\t\n\r\f\x1a"})
WIDE_CONTROLS = re.compile(rb"\xc2[\x80-\x84\x86-\x9f]")
LINE_ENDS = ((b"\r\n", b"\n"), (b"\r", b"\n"), (b"\f", b"\n"))
WIDE = (
    ("\x85", "\n", ""),
    ("\u2028", "\n", ""),
    ("\u2029", "\n", ""),
    ("\ufeff", "", "bom_inside"),
    ("\xad", "", "soft_hyphens"),
)


def cleaned(text: str, flags: list[str]) -> str:
    """Text with lines that end in LF, without control characters, soft hyphens, byte order marks, lone surrogates."""
    return _without_wide(_without_controls(_utf8(text, flags), flags), flags)


def _without_controls(data: bytes, flags: list[str]) -> bytes:
    """The part of it that concerns ASCII, which is the same in UTF-8 and in the older sets."""
    for old, new in LINE_ENDS:
        if old in data:
            data = data.replace(old, new)
    data = data.rstrip(b"\0\x1a")
    fresh = data.translate(None, CONTROLS)
    if b"\x1a" in fresh:
        fresh = fresh.replace(b"\x1a", b"")
    flags += ["control_characters"] if len(fresh) != len(data) else []
    return fresh


def _without_wide(data: bytes, flags: list[str]) -> str:
    """UTF-8 as text, without what of it is beyond ASCII."""
    if b"\xc2" in data and WIDE_CONTROLS.search(data):
        flags += [] if "control_characters" in flags else ["control_characters"]
        data = WIDE_CONTROLS.sub(b"", data)
    text = data.decode()
    for character, new, kind in () if text.isascii() else WIDE:
        if character in text:
            flags += [kind] if kind else []
            text = text.replace(character, new)
    return text


def _utf8(text: str, flags: list[str]) -> bytes:
    """Lone surrogates, which JSON lets through, as U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        flags.append("lone_surrogates")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
