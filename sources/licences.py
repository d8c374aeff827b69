"""What licence a text is: the permissive ones proved word by word, all others named by their own phrases.

To keep what must not be kept is worse than to lose what could be. So a text counts as MIT, BSD-2-Clause, BSD-3-Clause
or Apache-2.0 only where **all** of it is allowed for by the closed lists of `sources.wording`. Here is what comes
before and after: what other licences a text names, so that a drop has its reason, and what a statement says. A name
or a statement that would keep something counts only where the whole of it is one of the closed list of spellings.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from curate.spdx import PERMISSIVE, UNKNOWN, Expression, both, either, licences, needs_only, one, parse
from sources.wording import APACHE_NOTICE, LLVM, complete, is_clean, is_explained, is_statement

MAX_TEXT = 200_000  # characters of a licence file that are looked at; a longer one is unknown
PROSE = 120  # words: a longer text without the words of a licence is not read as a statement about one

_EXCEPTION = "LLVM-exception"
_MIT = (
    (
        True,
        """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
        documentation files (the "Software"), to deal in the Software without restriction, including without limitation
        the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and
        to permit persons to whom the Software is furnished to do so, subject to the following conditions: The above
        copyright notice and this permission notice shall be included in all copies or substantial portions of the
        Software.""",
    ),
    (
        False,
        """THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
        TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
        THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
        CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
        DEALINGS IN THE SOFTWARE.""",
    ),
)
_BSD_2 = (
    True,
    """Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
    following conditions are met: Redistributions of source code must retain the above copyright notice, this list of
    conditions and the following disclaimer. Redistributions in binary form must reproduce the above copyright notice,
    this list of conditions and the following disclaimer in the documentation and/or other materials provided with the
    distribution.""",
)
_BSD_DISCLAIMER = (
    False,
    """THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED
    WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR
    PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT,
    INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO,
    PROCUREMENT OF SUBSTITUTE GOODS OR
    SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
    WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
    OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.""",
)
_NAMES_CLAUSE = (
    "Neither the name of @ nor the names of its contributors may be used to endorse or promote products derived from "
    "this software without specific prior written permission.",
    "The name of @ may not be used to endorse or promote products derived from this software without specific prior "
    "written permission.",
    "Neither the name of @ nor the names of its contributors may be used to endorse or promote products derived from "
    "this software without prior written permission.",
)
WORDING = {  # the usual wording of the short ones; "@" stands for a name
    "MIT": _MIT,
    "BSD-2-Clause": (_BSD_2, _BSD_DISCLAIMER),
    "BSD-3-Clause": (_BSD_2, (True, _NAMES_CLAUSE[0]), _BSD_DISCLAIMER),
}
_APACHE_NOTICE, _LLVM = APACHE_NOTICE, LLVM
_HTML = re.compile(
    r"</?(?:p|br|div|pre|h[1-6]|b|i|em|strong|li|ul|ol|span|html|body|head|title|tt|code|center|hr|font)\s*/?>",
    re.I,
)
_WORD = re.compile(r"[^\W_]+(?:-[^\W\d_]+)*|@")  # "non-exclusive" may be broken at its hyphen: one word
_SHORT_NUMBER = re.compile(r"\d{1,2}|i[iv]i?|vi{0,3}|ix")  # bullets, section numbers

# Names of licences in prose and metadata, the longer before the shorter.
_NAMES: tuple[tuple[str, str], ...] = (
    ("MIT-0", r"mit[- ]?0\b|mit no attribution"),
    ("CC-BY-NC", r"creative commons[^.\n]{0,40}non-?commercial|cc[- ]by[- ](?:nc|nd)[\w.-]*"),
    ("CC0-1.0", r"\bcc0\b(?:[- ]1\.0)?|creative commons zero"),
    ("CC-BY", r"creative commons|\bcc[- ]by\b[\w.-]*"),
    ("AGPL-3.0", r"(?:gnu )?affero (?:general public|gpl)|\bagpl\w*"),
    ("LGPL-3.0", r"(?:gnu )?lesser general public license,?\s+(?:version |v)3|\bl-?gpl\s*-?(?:v|version )?3"),
    ("LGPL-2.1", r"(?:gnu )?(?:lesser|library) (?:general public|gpl)|\bl-?gpl\w*"),
    ("GPL-3.0", r"gnu general public license,?\s+(?:version |v)3|\bgpl\s*-?(?:v|version )?\s?3"),
    ("GPL-2.0", r"gnu general public license,?\s+(?:version |v)2|\bgpl\s*-?(?:v|version )?\s?2"),
    ("LicenseRef-GPL", r"gnu general public|general public license|\bgpl\b|\bgnu (?:gpl|public)"),
    ("MPL-2.0", r"mozilla public|\bmpl\b(?:[- ]?\d\.\d)?"),
    ("EPL-2.0", r"eclipse public|\bepl\b(?:[- ]?\d\.\d)?"),
    ("CDDL-1.0", r"common development and distribution|\bcddl\b"),
    ("EUPL-1.2", r"european union public|\beupl\b"),
    ("BUSL-1.1", r"business source|\bbusl\b"),
    ("SSPL-1.0", r"server side public|\bsspl\b"),
    ("Elastic-2.0", r"elastic license"),
    ("LicenseRef-Commons-Clause", r"commons clause"),
    ("CNRI-Python", r"\bcnri\b"),
    ("PSF-2.0", r"python software foundation|\bpsf\b(?:[- ]?(?:license|2\.0))?|\bpython license"),
    ("OFL-1.1", r"open font license"),
    ("Artistic-2.0", r"artistic license"),
    ("BSL-1.0", r"boost software license"),
    ("Zlib", r"\bzlib(?:[-/ ]libpng)?(?:[- ]license)?\b"),
    ("ISC", r"\bisc\b"),
    ("WTFPL", r"\bwtfpl\b|do what the fuck"),
    ("Unlicense", r"\bunlicense\b|public[- ]domain"),
    ("LicenseRef-proprietary", r"\bproprietary\b"),
    ("0BSD", r"\b0bsd\b|zero[- ]clause bsd|bsd[- ](?:0|zero)[- ]clause"),
    ("BSD-4-Clause", r"(?:4|four)[- ]clause bsd|bsd[- ](?:4|four)[- ]clause|original bsd"),
    ("BSD-3-Clause-Clear", r"clear bsd|bsd[- ]3[- ]clause[- ]clear"),
    ("BSD-3-Clause",
     r"(?:3|three)[- ]clause (?:[\"']?(?:new|revised|modified)[\"']? )?[\"']?bsd"
     r"|\bbsd[- ]?(?:license )?\(?(?:3|three)(?:[- ]clause\)?|\b)|(?:new|revised|modified)[\"']? bsd"),
    ("BSD-2-Clause",
     r"(?:2|two)[- ]clause [\"']?bsd|\bbsd[- ]?(?:license )?\(?(?:2|two)(?:[- ]clause\)?|\b)"
     r"|simplified[\"']? bsd|freebsd license"),
    ("LicenseRef-BSD", r"\bbsd\b"),
    ("Apache-1.1", r"apache(?: software)?(?: license)?,?\s*-?(?:version |v)?1\.[01]"),
    ("Apache-2.0",
     r"apache(?: software)?(?: license)?,?\s*-?\(?(?:version |v\.? ?|license )?2(?:\.0)?\b\)?|\basl ?2(?:\.0)?"),
    ("LicenseRef-Apache", r"\bapache\b"),
    ("MIT", r"\b(?:mit|expat)(?:[/ ](?:x11|expat))?\b"),
)  # fmt: skip
_NAME_IDS = tuple(licence for licence, _ in _NAMES)
_NAME = re.compile("|".join(f"(?P<n{i}>{pattern})" for i, (_, pattern) in enumerate(_NAMES)), re.M)
_COPYRIGHT = re.compile(
    r"^\W*(?:(?:portions|parts|some\s+portions)\W+(?:are\s+)?)?(?:spdx-filecopyrighttext|copyright|copr\.|©|\(c\))[^\n]*$",
    re.M,
)
_BADGE = re.compile(r"^\W*(?:spdx-license-identifier:[^\n]*|https?://\S+|\[?(?:yyyy|year)\]?[^\n]{0,40})\W*$", re.M)
_LIST = re.compile(  # what stands between the names of a list of licences
    r"[\s\"'(),;:<>*`_]*(?:(?:licen[sc]es?|version|public|v?\d[\d.]*)[\s\"'(),;:<>*`_]*)*(?:(?:and/)?or|and|/)?[\s\"'(*`_]*"
    r"(?:(?:under|terms|of|the|an?|gnu)[\s\"'(*`_]*)*"
)
_OR = re.compile(r"\bor\b|/")
_FREE_CHOICE = re.compile(r"\beither\b|\bdual\b|\bdual-?licen|\bchoose\b|\bat\s+your\s+(?:option|choice)\b")
_CONTEXT = re.compile(
    r"licen[sc]ed|licen[sc]e\b|terms\s+of|released\s+under|distributed\s+under|available\s+under|placed|dedicat"
)
_SPDX_LINE = re.compile(r"^[^\w\n]{0,20}(?:dnl |rem |REM )?SPDX-License-Identifier:[ \t]*([^\r\n]{1,200})", re.M)
_TAG_END = re.compile(r"\s*(?:\*/|-->|\*\)|#\}|--%>|%>|\}\}|\"\"\"|'''|;+|\*+|#+|//+|\)\))?\s*$")

# Licences by phrases of their own, for texts that are none of the four; earliest in the text is the one it is.
_PHRASES: tuple[tuple[str, str], ...] = (
    ("LicenseRef-Commons-Clause", "commons clause"),
    ("BSD-4-Clause", "all advertising materials mentioning"),
    ("JSON", "shall be used for good not evil"),
    ("BSD-3-Clause-Clear", "no express or implied licenses to any party s patent rights"),
    ("AGPL-3.0", "gnu affero general public license"),
    ("MPL-2.0", "covered software means"),
    ("MPL-2.0", "subject to the terms of the mozilla public license"),
    ("MPL-2.0", "mozilla public license version"),
    ("LGPL-3.0", "gnu lesser general public license version june 2007"),
    ("LGPL-2.1", "gnu lesser general public license"),
    ("LGPL-2.1", "gnu library general public license"),
    ("LGPL-2.1", "lesser general public license"),
    ("GPL-3.0", "gnu general public license version june 2007"),
    ("GPL-2.0", "gnu general public license version june 1991"),
    ("LicenseRef-GPL", "gnu general public license"),
    ("EPL-2.0", "eclipse public license"),
    ("CDDL-1.0", "common development and distribution license"),
    ("Unlicense", "this is free and unencumbered software"),
    ("CC0-1.0", "cc0 universal"),
    ("CC0-1.0", "creative commons cc0"),
    ("CC-BY-NC", "noncommercial"),
    ("CC-BY", "creative commons"),
    ("Zlib", "origin of this software must not be misrepresented"),
    ("BSL-1.0", "boost software license"),
    ("OFL-1.1", "sil open font license"),
    ("WTFPL", "do what the fuck you want"),
    ("BUSL-1.1", "business source license"),
    ("SSPL-1.0", "server side public license"),
    ("Elastic-2.0", "elastic license"),
    ("Unicode-3.0", "unicode license"),
    ("CNRI-Python", "cnri"),
    ("PSF-2.0", "python software foundation license"),
    ("Artistic-2.0", "artistic license"),
    ("ISC", "permission to use copy modify and or distribute this software for any purpose with or without fee is "
            "hereby granted provided that"),
    ("ISC", "permission to use copy modify and distribute this software for any purpose with or without fee is hereby "
            "granted provided that"),
    ("0BSD", "permission to use copy modify and or distribute this software for any purpose with or without fee is"),
    ("HPND", "permission to use copy modify and distribute this software and its documentation"),
    ("HPND", "permission to use copy modify and distribute this software"),
    ("Apache-1.1", "apache software license version 1"),
)  # fmt: skip
_GPL_BODY = " everyone is permitted to copy and distribute verbatim copies "  # of every licence of the GNU family
_BODIES = (  # words of a licence itself, which no statement about licences has
    *((name, phrase) for name, phrase in _PHRASES if name in ("ISC", "0BSD", "HPND", "Zlib", "JSON", "BSD-4-Clause")),
    ("Unlicense", "this is free and unencumbered software"),
    ("MPL-2.0", "subject to the terms of the mozilla public license"),
    ("MPL-2.0", "owns covered software"),
    ("BSL-1.0", "any person or organization obtaining copy of the software"),
    ("MIT-0", "without limitation the rights to use copy modify merge publish distribute sublicense and or sell copies "
              "of the software and to permit persons to whom the software is furnished to do so the software is"),
)  # fmt: skip
# What a file's own head says of it, where that is no SPDX tag; only phrases that a list of names does not have.
_NOTICES: tuple[tuple[str, str], ...] = (
    ("AGPL-3.0", "terms of the gnu affero general public license"),
    ("LGPL-2.1", "terms of the gnu lesser general public license"),
    ("LGPL-2.1", "terms of the gnu library general public license"),
    ("LicenseRef-GPL", "terms of the gnu general public license"),
    ("LicenseRef-GPL", "under the gnu general public license"),
    ("LicenseRef-GPL", "under the gpl"),
    ("LGPL-2.1", "under the lgpl"),
    ("LGPL-2.1", "under the gnu lesser general public license"),
    ("MPL-2.0", "subject to the terms of the mozilla public license"),
    ("MPL-2.0", "subject to the mozilla public license"),
    ("EPL-2.0", "under the terms of the eclipse public license"),
    ("CDDL-1.0", "terms of the common development and distribution license"),
    ("LicenseRef-proprietary", "unauthorized copying of this file"),
    ("LicenseRef-proprietary", "proprietary and confidential"),
    ("LicenseRef-proprietary", "confidential and proprietary"),
    ("BUSL-1.1", "business source license"),
    ("SSPL-1.0", "server side public license"),
    ("BSD-4-Clause", "all advertising materials mentioning"),
    ("HPND", "permission to use copy modify and distribute this software and its"),
    ("LicenseRef-noncommercial", "noncommercial use only"),
    ("LicenseRef-noncommercial", "non commercial use only"),
    ("LicenseRef-noncommercial", "non commercial purposes only"),
)


@dataclass(frozen=True)
class Word:
    """A word of a text, in the form that is compared, and where it stands."""

    form: str
    start: int
    end: int


@dataclass(frozen=True)
class Found:
    """What a licence text is."""

    expression: Expression
    is_statement: bool = False  # says what the licence is ("MIT or Apache-2.0, at your option") and is none itself
    is_whole: bool = True  # False: some of the text is not understood


def words(text: str) -> list[Word]:
    """Words in lower case, without bullets and single letters."""
    return [w for w in _words(text) if w.form != "@"]


def _words(text: str) -> Iterator[Word]:
    for found in _WORD.finditer(text):
        form = found[0].lower().replace("-", "")
        if form == "@" or (len(form) > 1 and not _SHORT_NUMBER.fullmatch(form)):
            yield Word(form.replace("licence", "license"), found.start(), found.end())


@functools.lru_cache(maxsize=512)
def recognise(text: str) -> Found | None:
    """What a licence file says; None: nothing about a licence (an empty file, a mere path).

    UNKNOWN is one of its licences where some of the text is not understood.
    """
    if len(text) > MAX_TEXT:
        return Found(one(UNKNOWN))
    text = _HTML.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub(r"^[ \t]*@?(?:rem|dnl)\b", "", text, flags=re.I | re.M)
    text = re.sub(r"(?<=[a-z])-\n[\W_]{0,8}(?=[a-z])", "", text, flags=re.I)
    found = words(text)
    if not found or (len(found) <= 8 and "\n" not in text.strip() and re.fullmatch(r"[\w./-]+", text.strip())):
        return _short(text.strip())
    spans = complete(text)
    proved = {licence for licence, _, _ in spans}
    rest = _without(text, [(first, last) for _, first, last in spans])
    is_whole = is_clean(text) and is_explained(rest)
    if not proved - {_EXCEPTION}:
        return None if is_whole and not _NAME.search(rest.lower()) else _unproved(text, found)
    names = {
        f"{p} WITH {_EXCEPTION}" if p == "Apache-2.0" and _EXCEPTION in proved else p for p in proved - {_EXCEPTION}
    }
    others = [] if is_whole else _strangers(rest, proved)
    more = [UNKNOWN] if not is_whole and needs_only(both(map(one, [*names, *others]))) else []
    return Found(both(map(one, sorted([*names, *others, *more]))), is_whole=is_whole)


def _short(text: str) -> Found | None:
    """A single name, or a path (what a symbolic link is in some archives)."""
    expression = from_name(text) if text and "/" not in text and not text.endswith((".txt", ".md")) else None
    return Found(expression, is_statement=True) if expression and text.lower() not in ("license", "copying") else None


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """What of the text no licence explains."""
    pieces, at = [], 0
    for first, last in sorted(spans):
        pieces.append(text[at : max(at, first)])
        at = max(at, last)
    return "\n\n".join([*pieces, text[at:]])


def _strangers(rest: str, proved: set[str]) -> list[str]:
    """Licences that the rest of a text names and that are not proved."""
    rest = re.sub(
        r"-*\s*llvm exceptions to the apache 2.0 license\s*-*", " ", rest.lower().replace("licence", "license")
    )
    lines = _COPYRIGHT.sub(lambda m: _holders(m[0]), _BADGE.sub(" ", rest))
    named = {_NAME_IDS[int((m.lastgroup or "n0")[1:])] for m in _NAME.finditer(lines)}
    return sorted(n for n in named if not any(_stands_for(n, p) for p in proved))


def _holders(line: str) -> str:
    """A copyright line without the names of licences that are names of holders as well."""
    return re.sub(r"\bmit\b|\bapache\b|\bmozilla\b|\bpython software foundation\b", " ", line)


def _stands_for(name: str, licence: str) -> bool:
    """Whether a licence's name, maybe only its family's, is that of `licence`."""
    return name == licence or (name in FAMILIES and licence in FAMILIES[name])


FAMILIES = {
    "LicenseRef-BSD": ("BSD-2-Clause", "BSD-3-Clause"),
    "LicenseRef-Apache": ("Apache-2.0",),
    "LicenseRef-GPL": ("GPL-2.0", "GPL-3.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"),
}


def _unproved(text: str, found: list[Word]) -> Found:
    """A text without the words of one of the four: a statement, another licence, or unknown."""
    joined = " ".join(["", *(w.form for w in found), ""])
    bodies = _phrases(joined, _BODIES)
    if _GPL_BODY in joined:
        bodies = [*_phrases(joined, _PHRASES), "LicenseRef-GPL"]
    if bodies:
        return Found(one(bodies[0]))
    if len(found) <= PROSE:
        statement = _statement(text)
        if statement is not None:
            return Found(statement, is_statement=True)
    others = _phrases(joined, _PHRASES)
    return Found(one(others[0]) if others else one(UNKNOWN))


def _phrases(joined: str, phrases: Sequence[tuple[str, str]]) -> list[str]:
    """Licences whose phrases occur, in the order in which they do."""
    places = [(joined.find(f" {p} "), k, name) for k, (name, p) in enumerate(phrases) if f" {p} " in joined]
    return [name for _, _, name in sorted(places)]


def _statement(text: str) -> Expression | None:
    """The licences that a short text says it is under; None: it names none, or in no such sentence."""
    tags = tag(text)
    if tags is not None:
        rest = _SPDX_LINE.sub(" ", text)
        return tags if is_clean(text) and is_explained(rest) else _closed(tags, False)
    plain = _COPYRIGHT.sub(lambda m: " " if is_explained(m[0]) else m[0], text.lower())
    low = " ".join(plain.replace("licence", "license").split())
    low = re.sub(
        r"either version [\d.]+ of the license|\(?(?:or )?\(?at your option\)?,? any later(?: version)?", " ", low
    )
    spans = [(m.start(), m.end(), _NAME_IDS[int((m.lastgroup or "n0")[1:])]) for m in _NAME.finditer(low)]
    if not spans or not _CONTEXT.search(low):
        return None
    names = sorted({name for _, _, name in spans})
    names = [n for n in names if not any(n != m and _stands_for(n, m) for m in names)]
    gaps = [low[a[1] : b[0]] for a, b in itertools.pairwise(spans)]
    is_list = len(names) > 1 and all(len(gap) < 80 and _LIST.fullmatch(gap) for gap in gaps)
    is_free = is_list and (bool(_FREE_CHOICE.search(low)) or any(map(_OR.search, gaps)))
    return _closed((either if is_free else both)(map(one, names)), is_clean(text) and is_statement(_untitled(plain)))


def _untitled(text: str) -> str:
    """A statement without a title line."""
    return re.sub(r"\A\W*licen[sc]e\W*\n\s*\n", "", text)


def _closed(expression: Expression, is_known: bool) -> Expression:
    """An expression, with UNKNOWN in each choice where it would keep something that is not wholly understood."""
    could_keep = needs_only(expression, (*PERMISSIVE, "LicenseRef-BSD", "LicenseRef-Apache"))
    return expression if is_known or not could_keep else both([expression, one(UNKNOWN)])


def tag(text: str) -> Expression | None:
    """What the SPDX tags at the beginning of lines say (all of them together); None: there is none."""
    found = []
    for value in _SPDX_LINE.findall(text)[:8]:
        try:
            found.append(parse(_TAG_END.sub("", value)))
        except ValueError:
            found.append(one(UNKNOWN))
    return both(found) if found else None


def notice(head: str) -> Expression | None:
    """What the head of a source file says of its own licence, by SPDX tag or sentence; None: nothing."""
    tagged = tag(head)
    joined = " ".join(["", *(w.form for w in words(head)), ""])
    others = _phrases(joined, _NOTICES)
    if tagged is not None:
        binds = [name for name in others if name.startswith("LicenseRef-") and name != "LicenseRef-GPL"]
        return both([tagged, *map(one, binds)])
    return one(others[0]) if others else None


def from_name(text: str) -> Expression | None:
    """What a name in package metadata means: "Apache License, Version 2.0", "BSD", "MIT/Apache-2.0"; None: nothing.

    A family without its version ("BSD") is a LicenseRef of FAMILIES.
    """
    low = " ".join(text.lower().replace("licence", "license").split()).strip(" .\"'")
    if not low or low in ("unknown", "none", "license", "see license", "n/a", "osi approved"):
        return None
    try:
        made = parse(re.sub(r"\s*/\s*", " OR ", text.strip()))
        if not any(_is_free_word(n) for n in licences(made)):
            return made
    except ValueError:
        pass
    names = sorted({_NAME_IDS[int((m.lastgroup or "n0")[1:])] for m in _NAME.finditer(low)})
    names = [n for n in names if not any(n != m and _stands_for(n, m) for m in names)]
    if not names:
        return one(UNKNOWN)
    rest = _NAME.sub("\x01", low)
    is_free = len(names) > 1 and bool(re.search(r"\bor\b(?! (?:any )?later)|/|\beither\b|\bdual\b", rest))
    return _closed((either if is_free else both)(map(one, names)), is_clean(text) and is_statement(text))


def _is_free_word(name: str) -> bool:
    """Whether a token is a word of prose and no identifier of SPDX's kind."""
    return name.lower() in _FREE or (not re.search(r"[-\d]", name) and name not in _PLAIN_IDS)


_PLAIN_IDS = ("MIT", "ISC", "Zlib", "Unlicense", "WTFPL", "JSON", "NCSA", "PostgreSQL", "Ruby", "Vim", "curl",
              "OpenSSL", "HPND", "X11", "Beerware", "TCL", "Libpng", "SSPL", "Info-ZIP")  # fmt: skip
_FREE = {"apache-2", "bsd-3", "bsd-2", "gpl-3", "gpl-2", "lgpl-3", "lgpl-2", "bsd3", "bsd2", "apache2", "gpl3", "gpl2",
         "gplv3", "gplv2", "apache2.0", "lgplv3", "apachev2", "mit-license"}  # fmt: skip
