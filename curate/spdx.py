"""SPDX licence expressions: what choices they give, and whether one of them needs nothing but given licences.

An expression is kept as its choices: a set of sets of licence identifiers, one of which must be kept to. So "MPL-2.0
AND (Apache-2.0 OR MIT)" is {{Apache-2.0, MPL-2.0}, {MIT, MPL-2.0}}. Grammar: SPDX 2.3, annex D; operators in any case,
as SPDX 3.0 has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Expression = frozenset[frozenset[str]]

PERMISSIVE = ("MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0")  # LLaMA 2.1: Apache, BSD and MIT
EXCEPTIONS = ("LLVM-exception", "Swift-exception")  # only ever give more rights than their licence
UNKNOWN, CONFLICT, NONE = "LicenseRef-unknown", "LicenseRef-conflict", "LicenseRef-none"
MAX_CHOICES, MAX_TOKENS, MAX_DEPTH = 64, 200, 20

_TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z0-9.+:-]{1,100})")
_CANONICAL = {
    name.lower(): name
    for name in (
        *PERMISSIVE, *EXCEPTIONS, "MIT-0", "BSD-4-Clause", "0BSD", "ISC", "Zlib", "BSL-1.0", "Unlicense", "CC0-1.0",
        "WTFPL", "MPL-1.1", "MPL-2.0", "EPL-1.0", "EPL-2.0", "GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0",
        "Python-2.0",
        "PSF-2.0", "CNRI-Python", "Artistic-2.0", "BSD-3-Clause-Clear", "Apache-1.1", "OFL-1.1", "NCSA", "BUSL-1.1",
        "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "LGPL-2.1-only", "LGPL-2.1-or-later",
        "LGPL-3.0-only", "LGPL-3.0-or-later", "AGPL-3.0-only", "AGPL-3.0-or-later",
    )
}  # fmt: skip


def one(licence: str) -> Expression:
    """The expression of a single licence."""
    return frozenset([frozenset([licence])])


def both(parts: Iterable[Expression]) -> Expression:
    """AND: every choice of one with every choice of the next. ValueError: more than MAX_CHOICES, or no part."""
    made: Expression | None = None
    for part in parts:
        made = part if made is None else frozenset(a | b for a in made for b in part)
        if len(made) > MAX_CHOICES:
            raise ValueError("too many choices")
    if made is None:
        raise ValueError("nothing to join")
    return made


def either(parts: Iterable[Expression]) -> Expression:
    """OR: the choices of all. ValueError: more than MAX_CHOICES."""
    made = frozenset(choice for part in parts for choice in part)
    if len(made) > MAX_CHOICES:
        raise ValueError("too many choices")
    return made


def licences(expression: Expression) -> frozenset[str]:
    """Every licence that an expression names."""
    return frozenset(name for choice in expression for name in choice)


def parse(text: str) -> Expression:
    """The choices of an expression. ValueError: it is none, or it is longer or deeper than the limits above."""
    tokens: list[str] = []
    at = 0
    text = text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or len(tokens) == MAX_TOKENS:
            raise ValueError(f"not an SPDX expression: {text[:80]!r}")
        tokens.append(found[1])
        at = found.end()
    made, end = _alternatives(tokens, 0, 0)
    if end != len(tokens):
        raise ValueError(f"not an SPDX expression: {text[:80]!r}")
    return made


def _alternatives(tokens: list[str], at: int, depth: int) -> tuple[Expression, int]:
    parts = []
    while True:
        part, at = _together(tokens, at, depth)
        parts.append(part)
        if at >= len(tokens) or tokens[at].upper() != "OR":
            return either(parts), at
        at += 1


def _together(tokens: list[str], at: int, depth: int) -> tuple[Expression, int]:
    parts = []
    while True:
        part, at = _term(tokens, at, depth)
        parts.append(part)
        if at >= len(tokens) or tokens[at].upper() != "AND":
            return both(parts), at
        at += 1


def _term(tokens: list[str], at: int, depth: int) -> tuple[Expression, int]:
    if at >= len(tokens) or tokens[at] == ")" or tokens[at].upper() in ("AND", "OR", "WITH") or depth > MAX_DEPTH:
        raise ValueError("not an SPDX expression")
    if tokens[at] == "(":
        made, at = _alternatives(tokens, at + 1, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise ValueError("not an SPDX expression: a bracket is open")
        return made, at + 1
    name = _CANONICAL.get(tokens[at].lower(), tokens[at])
    if at + 2 < len(tokens) and tokens[at + 1].upper() == "WITH":
        return one(f"{name} WITH {_CANONICAL.get(tokens[at + 2].lower(), tokens[at + 2])}"), at + 3
    return one(name), at + 1


def write(expression: Expression) -> str:
    """An expression as text, in one order whatever order it was given in."""
    choices = sorted((sorted(c) for c in expression), key=lambda c: (len(c), c))
    parts = [" AND ".join(c) if len(c) == 1 or len(choices) == 1 else f"({' AND '.join(c)})" for c in choices]
    return " OR ".join(parts)


def needs_only(expression: Expression, allowed: Iterable[str] = PERMISSIVE) -> bool:
    """Whether some choice needs no licence but those allowed.

    "X+" (or a later version) offers X itself; an exception of EXCEPTIONS takes nothing away.
    """
    names = set(allowed)
    return any(all(_bare(licence) in names for licence in choice) for choice in expression)


def _bare(licence: str) -> str:
    """A licence without what only adds to its rights."""
    name, _, exception = licence.partition(" WITH ")
    if exception and exception not in EXCEPTIONS:
        return licence
    return name.removesuffix("+")
