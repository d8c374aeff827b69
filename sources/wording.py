"""The words that a text under MIT, BSD-2-Clause, BSD-3-Clause or Apache-2.0 may have: closed lists, nothing else.

A text is one of the four only where **every** word of it is allowed for: the licence's own words in order, with the
variants written here; copyright lines; titles; addresses of the licence itself. There is no list of forbidden sentences
to be outwitted: what is not allowed for makes the text unknown. Only in names, which nobody can list, are words
forbidden (DENIED), and names are short and stand only where a licence or a copyright line has one.

Patterns are matched against the words of a text in lower case with one space after each, so line breaks, punctuation,
quotes and comment marks do not matter. Every repetition in them is bounded.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from bisect import bisect_right
from pathlib import Path

WINDOW = 1300  # characters of a copyright line
MAX_NAME, MAX_HOLDERS = 12, 60  # words of a name, and of one copyright line with all its names

_TOKEN = re.compile(r"[^\W_]+(?:-[^\W\d_]+)*")  # "non-infringement" is one word, whether or not it has its hyphen
_SLOT = r"((?:\S+ ){1,12}?)"
_BULLET = r"(?:(?:\d|[a-d]|i{1,3}|iv) )?"

_MIT = """
permission is hereby granted free of charge to any person obtaining a copy of this (?:software|library|package)
and associated documentation files (?:the (?:software|library|package) )?to deal in the (?:software|library|package)
without restriction including without limitation the rights to use copy modify merge publish distribute sublicense
and (?:or )?sell copies of the (?:software|library|package) and to permit persons to whom the
(?:software|library|package) is furnished to do so subject to the following conditions
#the above copyright notice and this permission notice (?:including the next paragraph )?shall be included in all copies
or substantial portions of the (?:software|library|package)
#the (?:software|library|package) is provided as is without warranty of any kind express or implied including but not
limited to the warranties of merchant[ai]bility fitness for a particular purpose (?:title )?and
noninfringement(?: of third party rights)? in no event shall @be liable for any claim damages or other liability
(?:whether in an action of contract tort or otherwise arising from )?out of or in connection with the
(?:software|library|package) or the use or other dealings in the (?:software|library|package)
"""
APACHE_NOTICE = """Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in
compliance with the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
"AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific
language governing permissions and limitations under the License."""
LLVM = """As an exception, if, as a result of your compiling your source code, portions of this Software are embedded
into an Object form of such source code, you may redistribute such embedded portions in such Object form without
complying with the conditions of Sections 4(a), 4(b) and 4(d) of the License. In addition, if you combine or link
compiled forms of this Software with software that is licensed under the GPLv2 ("Combined Software") and if a
court of competent jurisdiction determines that the patent provision (Section 3), the indemnity provision
(Section 9) or other Section of
the License conflicts with the conditions of the GPLv2, you may retroactively and prospectively choose to deem waived or
otherwise exclude such Section(s) of the License, but only in their entirety and only with respect to the Combined
Software."""
_NOTICE_KEPT = "(?:the above copyright notices? |the copyright notice above )"
_BSD = f"""
redistribution and use in source and binary forms (?:of the software as well as documentation )?with or without
modification are permitted provided that the following conditions are met
#redistributions? of source code must retain {_NOTICE_KEPT}this list of conditions and (?:the following|the)
disclaimer
#redistributions? in binary form must reproduce {_NOTICE_KEPT}this list of conditions and (?:the following|the)
disclaimer in the documentation and or other materials provided with the distribution
"""
_BSD_NAMES = """
#(?:neither the names? (?:of )?@nor the names? of (?:(?:its|his|her|their|the|any|other|any other) )?
(?:contributors?|authors) (?:to this software )?may be used|the names? of @may not be used) to endorse or promote
products derived from this (?:software|library) without (?:specific )?prior (?:written )?permission
"""
_BSD_AS_IS = """
this (?:software|library)(?: and documentation)? is provided (?:by @)?as is and any express or implied warranties
(?:of any kind )?including but not limited to the implied warranties of merchant[ai]bility and fitness for a particular
purpose are disclaimed in no event shall @be liable for any direct indirect incidental special exemplary or
consequential damages including but not limited to procurement of substitute goods or services loss of use data or
profits or business interruption however caused and on any theory of liability whether in contract strict liability or
tort including
negligence or otherwise arising in any way out of the use of this software(?: and documentation)? even if advised of the
possibility of such damages?
"""
_TITLE = re.compile(
    r"(?:(?:the|project|full|software)\s+)*(?:"
    r"(?:mit/?x11|mit/expat|mit|expat|x11/mit)(?:\s+open\s+source)?(?:\s+licen[sc]e)?(?:\s*\((?:mit|expat|mit/expat)\))?"
    r"|(?:(?:2|3|two|three)[- ]clause\s+|new\s+|modified\s+|revised\s+|simplified\s+)?bsd(?:[- ](?:2|3|two|three)[- ]"
    r"clause)?(?:\s+[\"'(]?(?:new|simplified|revised|modified|freebsd)[\"')]?(?:\s+or\s+[\"']?(?:revised|modified|freebsd)"
    r"[\"']?)?)?(?:\s+licen[sc]e)?"
    r"|apache(?:\s+software)?\s+licen[sc]e(?:,?\s+version)?(?:\s+2(?:\.0)?)?(?:,?\s+january\s+2004)?"
    r"|version\s+2\.0,\s+january\s+2004|terms\s+and\s+conditions\s+for\s+use,\s+reproduction,\s+and\s+distribution"
    r"|(?:this|the)\s+(?:project|software|library|package|code)\s+is\s+(?:licensed|released|distributed)\s+under\s+"
    r"(?:the\s+terms\s+of\s+)?the\s+(?:mit|bsd|apache)\s+licen[sc]e"
    r"|-*\s*llvm exceptions to the apache 2\.0 licen[sc]e\s*-*"
    r"|licen[sc]es?(?:\s+(?:agreement|terms|text|file|information|notice|and\s+copyright))?|copying"
    r"|copyright(?:\s+notice)?\s+and\s+licen[sc]e|copyright\s+notice)(?!\w|-\w)",
    re.I,
)
_FOUR = r"(?:mit|bsd-[23]-clause|apache-2\.0)(?![\w+.]*\s+(?:with|and|or)\b|-\w)"
_ADDRESS = re.compile(
    r"(?:spdx-license-identifier:\s*" + _FOUR + r"|https?://(?:www\.)?(?:opensource\.org/licen[sc]es?/" + _FOUR +
    r"(?:-license)?(?:\.php|\.html)?|apache\.org/licenses(?:/license-2\.0(?:\.txt|\.html)?)?|spdx\.org/licenses/"
    + _FOUR + r"(?:\.html)?|mit-license\.org|choosealicense\.com/licenses/" + _FOUR + r")/?)(?![\w/-])",
    re.I,
)  # fmt: skip
_RIGHTS = re.compile(r"all\s+rights\s+reserved(?!\w)", re.I)
_HOLDER = re.compile(
    r"(?:(?:some\s+)?(?:portions|parts)\s+(?:are\s+)?)?(?:spdx-filecopyrighttext:|copyright(?!\s+(?:notice|and\s+licen))\b"
    r"|copr\.|©|\(c\)(?!\w))",
    re.I,
)
_CREDIT = re.compile(
    r"this\s+(?:product|software)\s+(?:includes|contains)\s+software\s+(?:originally\s+)?(?:developed|written|created)\s+"
    r"(?:by|at)\b",
    re.I,
)

_NEXT = re.compile(  # where a copyright line ends
    r"(?<!\w)(?:all\s+rights\s+reserved|copyright\b|spdx-filecopyrighttext:|portions\s+copyright|this\s+(?:product|software)"
    r"\s|(?:the\s+)?(?:mit|(?:\d-clause\s+)?bsd|apache)\s+(?:\d-clause\s+)?licen[sc]e\b)|©",
    re.I,
)

# In a name, none of these: words that make a sentence or a condition (English, and what is often added in others).
DENIED = frozenset(
    re.findall(
        r"\S+",
        """
    in at by as to with within outside from via into on valid rent rental lease see here there so but than then
    no non not never none without only except excepting excluding exclude unless until till if when while before
    after during but however must shall should may might can cannot could will would is are was were be been
    being has have had do does did you your yours we us our ours i me my they them who whom whose which that
    this these those it use used uses using usage user users run copy copies copying modify modified
    redistribute distribution distribute redistribution sell sold sale sales resale resell pay pays paid payment
    payments fee fees royalty royalties charge commercial commercially noncommercial nonprofit personal private
    internal evaluation trial demo test tests academic educational military civilian weapon weapons war hosting
    hosted host saas license licensed licence licensing relicense permit permits permitted permission
    permissions grant granted grants deny denied prohibit prohibited forbid forbidden restrict restricted
    restriction restrictions require required requires need needs needed ask contact write notify agree
    agreement agreements consent approval approve approved blessing subject terms term condition conditions
    provided exempt banned ban refused revoke revoked revocable expire expires terminate terminated gpl lgpl
    agpl copyleft patent patents trademark proprietary confidential secret reserved ethical evil good harm
    please donate donation buy purchase purchased subscription subscribe customer customers employee employees
    employer firm firms member members student students schools school hobby country countries every each all
    any under purpose purposes field reverse disclose obey comply violate ai training train model models nicht
    nur kein keine keinen ohne verboten untersagt erlaubt darf dürfen für gewerbliche kommerziell kommerzielle
    privat nutzung gebrauch außer bei pas sans seulement uniquement interdit interdite sauf pour autorisé vente
    sin solo sólo solamente prohibido prohibida salvo para uso permitido venta senza vietato soltanto consentito
    niet alleen geen zonder verboden gebruik door voor bedrijven nie tylko bez zakaz zabronione dla użytku não
    apenas somente sem proibido exceto inte endast utan förbjudet ikke kun uden ej vain ei kielletty
    """,
    )
)
_DENIED_BEGINNINGS = re.compile(
    r"(?:a?l?gpl|gnu|licen|lizen|restri|exclu|prohib|proib|verbot|commerc|kommer|comerc|evalu|sharew|freew|nonco|propriet"
    r"|eula|unauth|confid|vertraul|require|permi|forbid|rental)\w*|cc|nc|nd",
    re.I,
)
_DENIED_LETTERS = frozenset("禁止不得非仅僅限商用业業需须須勿请請只除外付费費授权權許可许")
_DENIED_STEMS = re.compile(
    r"тольк|запр|личн|коммер|нельзя|^не$|^нет$|^для$|^без$|кроме|исп|прод|лиценз|плат|разреш|μόν|μη|χωρ"
)
_PLAIN = frozenset(
    re.findall(
        r"\S+",
        """
    the of and or its his her their others other contributors contributor authors author developers developer
    team project projects copyright holder holders owner owners de da do dos del della di du la le las los van
    von der den ter ten het zu zur und et y e bin ibn al el st for     a  nor name names yyyy year
    fullname organization organizations organisation university regents company institute foundation respective
    collaborators individual many community inc ltd llc present initial original applicable above listed
    corporation consortium group maintainers committers
    """,
    )
)
_SHORT = frozenset(
    re.findall(
        r"\S+",
        """
    inc ltd corp co llc jr sr dr st prof gmbh univ dept al bros intl
    """,
    )
)
_BODY = re.compile(  # "Institute for ..."
    r"(?:institute|cent(?:er|re)|foundation|society|association|council|agency|laboratory|department|corporation)", re.I
)
_YEARS = re.compile(
    r"(?<!\d)(?:19|20)\d\d(?:\s{0,2}(?:[-–—,/]|to\s)\s{0,2}(?:(?:19|20)?\d\d(?!\d)|present|now|current))*", re.I
)
_WEB = re.compile(r"(?:https?://|www\.)[\w.~/@#-]{1,100}|[\w.+-]{1,64}\s?(?:@|\(at\)|\[at\])\s?[\w.-]{1,80}", re.I)
_SEE_AUTHORS = re.compile(
    r"[(,\s]\s*(?:see|as\s+shown\s+by)\s+(?:the\s+)?(?:authors|contributors)(?:\.\w{2,3})?(?:\s+file)?(?:\s+for\s+(?:details|more\s+"
    r"information|a\s+(?:full\s+|complete\s+)?list(?:\s+of\s+contributors)?))?\s*\)?",
    re.I,
)
_SIGNS = frozenset(" \t\n\r\f!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u00a0©®™“”‘’„«»–—―…•·●‐‑\ufeff")


def is_clean(text: str) -> bool:
    """Whether a text is all letters, digits and usual punctuation: nothing unseen, no symbol, nothing struck out."""
    text = unicodedata.normalize("NFC", text.removeprefix("\ufeff"))
    odd = {c for c in text if c not in _SIGNS and not c.isalpha() and not (c.isdecimal() and c.isascii())}
    return not odd and "\ufeff" not in text and re.search(r"~~\w|\w~~", text) is None


def _squash(pattern: str) -> re.Pattern[str]:
    """A pattern of words: a blank after each; "@" is a name and "#" the mark of an item of a list."""
    flat = (" ".join(pattern.split()) + " ").replace(" )? ", " )?")
    return re.compile(" " + flat.replace("@", _SLOT).replace("#", _BULLET))


def _literal(text: str) -> str:
    """Words of a text as a pattern; numbers of sections may be missing, and an address be broken anywhere."""
    pieces = re.split(r"(https?://[\w./-]+\w)", text)
    return " ".join(_address(piece) if i % 2 else _plain(piece) for i, piece in enumerate(pieces) if piece.split())


def _plain(text: str) -> str:
    forms = [m.lower().replace("-", "") for m in _TOKEN.findall(text)]
    return " ".join(f"(?:{form} )?" if form in "123456789" else form for form in forms)


def _address(text: str) -> str:
    signs = re.sub(r"\W|_", "", text.lower()).removeprefix("https").removeprefix("http").removeprefix("www")
    return "h ?t ?t ?p ?s? ?(?:w ?w ?w ?)?" + " ?".join(signs)


@functools.cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    reference = (Path(__file__).parent / "spdx" / "Apache-2.0.txt").read_text(encoding="utf-8")
    title, _, rest = reference.partition("1. Definitions")
    body, _, appendix = rest.partition("END OF TERMS AND CONDITIONS")
    how = appendix.partition("Copyright [yyyy]")[0]
    notice = _literal(APACHE_NOTICE)
    apache = (
        f"(?:{_literal(title)} )?(?:1 )?definitions {_literal(body)}(?: end of terms and conditions)?"
        f"(?: {_literal(how)})?(?: copyright @{notice})?"
    )
    return (
        ("MIT", _squash(_MIT)),
        ("BSD-2-Clause", _squash(f"{_BSD} {_BSD_AS_IS}")),
        ("BSD-3-Clause", _squash(f"{_BSD} {_BSD_NAMES} {_BSD_AS_IS}")),
        ("Apache-2.0", _squash(apache)),
        ("Apache-2.0", _squash(notice)),
        ("LLVM-exception", _squash(_literal(LLVM))),
    )


def complete(text: str) -> list[tuple[str, int, int]]:
    """(licence, first character, end) of every complete text of one of the four, and of the LLVM exception."""
    found = list(_TOKEN.finditer(text))
    forms = [m[0].lower().replace("-", "").replace("licence", "license") for m in found]
    joined = " " + "".join(f"{form} " for form in forms)
    starts, at = [], 1
    for form in forms:
        starts.append(at)
        at += len(form) + 1
    made = []
    for licence, pattern in _patterns():
        for match in pattern.finditer(joined):
            first, last = bisect_right(starts, match.start() + 1) - 1, bisect_right(starts, match.end() - 2) - 1
            names = [match.span(k) for k in range(1, (pattern.groups or 0) + 1) if match[k] is not None]
            places = [(bisect_right(starts, a) - 1, bisect_right(starts, b - 2) - 1) for a, b in names]
            if all(is_name(text[found[a].start() : found[b].end()]) for a, b in places):
                made.append((licence, found[first].start(), found[last].end()))
    return made


def is_name(text: str, most: int = MAX_NAME) -> bool:
    """Whether a text can be the name of somebody: short, without a sentence, and without words of restriction."""
    if not is_clean(text) or _said(text):
        return False
    bare = _YEARS.sub(" ", _WEB.sub(" ", text))
    words = re.findall(r"[^\W_]+", bare)
    if len(words) > most or any(f.lower() == "for" and not _BODY.fullmatch(w) for w, f in _pairs(words)):
        return False
    if re.search(r"(?<=[\w)])[.!?:;=]\s+\w", re.sub(r"\b(?:\w|" + "|".join(_SHORT) + r")\.", " ", bare, flags=re.I)):
        return False
    loose = [w for w in words if not (w[0].isupper() or w[0].isdigit() or w.lower() in _PLAIN or not w.isascii())]
    return len(loose) <= 2 and all(map(_is_one_script, words)) and _is_short_elsewhere(words)


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(["", *words]))


def _said(text: str) -> bool:
    """Whether there is more in a name than a name: a word of DENIED, single letters, a number of something."""
    words = re.findall(r"[^\W\d_]{2,}", text)
    if any((w.lower() in DENIED and w not in ("Will", "May")) or _DENIED_BEGINNINGS.fullmatch(w) for w in words):
        return True
    return re.search(r"\b(?:\w\s+){3}\w\b|\d\s*(?:%|days|months|users|seats|usd|eur|\$|€)", text, re.I) is not None


def _is_one_script(word: str) -> bool:
    scripts = {unicodedata.name(c, "?").split()[0] for c in word if c.isalpha()}
    return len(scripts) <= 1 and scripts <= {"LATIN", "CYRILLIC", "GREEK", "CJK", "HIRAGANA", "KATAKANA", "HANGUL"}


def _is_short_elsewhere(words: list[str]) -> bool:
    """In scripts whose words cannot be judged well: names of three words, or of four signs."""
    other = [w for w in words if any(ord(c) > 0x24F for c in w)]
    if not other:
        return True
    east = [w for w in other if ord(w[0]) > 0x2FFF or 0x1100 <= ord(w[0]) < 0x1200]
    if any(len(w) > 4 or _DENIED_LETTERS & set(w) for w in east):
        return False
    rest = [w for w in other if w not in east]
    is_upper = all(w[0].isupper() and not _DENIED_STEMS.search(w.lower()) for w in rest)
    return len(other) <= 3 and is_upper


def _is_holders(body: str) -> bool:
    """Whether what follows "Copyright" is years and names."""
    body = _SEE_AUTHORS.sub(" ", re.sub(r"\((?:c|C)\)|©", " ", body))
    body = re.sub(r"^((?:[\W\d]|present)*)by\s", r"\1", body)
    if len(body) > 1200 or len(body.split()) > MAX_HOLDERS:
        return False
    plain = re.findall(r"[^\W\d_]{2,}", body)
    if sum(w.islower() and w not in _PLAIN for w in _bare_words(body)) > 2 or len(plain) > MAX_HOLDERS:
        return False
    return all(is_name(part) for part in re.split(r"[,;()<>\n]|\band\b", body) if re.search(r"\w", part))


def _bare_words(body: str) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", _YEARS.sub(" ", _WEB.sub(" ", body)))


def is_explained(rest: str, is_notice: bool = False) -> bool:
    """Whether all of a text is titles, copyright lines and addresses of licences; for a NOTICE also credits."""
    if not is_clean(rest):
        return False
    lines = [re.sub(r"^(?:(?!\(c\)|©)[\W_])+", "", line, flags=re.I) for line in rest.split("\n")]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    return all(_is_paragraph(" ".join(p.split()), is_notice) for p in paragraphs)


def _is_paragraph(text: str, is_notice: bool) -> bool:
    at, size = 0, len(text)
    while at < size:
        if not text[at].isalnum() and text[at] != "©" and text[at : at + 3].lower() != "(c)":
            at += 1
            continue
        plain = _RIGHTS.match(text, at) or _ADDRESS.match(text, at) or _TITLE.match(text, at)
        holder = _HOLDER.match(text, at) or (_CREDIT.match(text, at) if is_notice else None)
        if plain is not None and (holder is None or plain.end() > holder.end()):
            at = plain.end()
        elif holder is not None:
            end = _end_of_holders(text, holder.end())
            if not _is_holders(text[holder.end() : end]):
                return False
            at = end
        else:
            return False
    return True


def _end_of_holders(text: str, at: int) -> int:
    """Where a copyright line ends: at the next item that can follow it."""
    found = _NEXT.search(text, at + 5, at + WINDOW)
    return found.start() if found is not None else min(len(text), at + WINDOW)


def is_attribution(text: str) -> bool:
    """Whether a NOTICE gives credit and nothing else: a name, copyright lines, sentences of credit."""
    if len(text) > 20_000:
        return False
    first, _, rest = text.lstrip("\ufeff \t\r\n").replace("\r\n", "\n").partition("\n")
    if _HOLDER.match(first.strip()) or _CREDIT.match(first.strip()):
        return is_explained(text.replace("\r\n", "\n"), is_notice=True)
    return is_name(first, 8) and is_explained(rest, is_notice=True)


# --- statements ----------------------------------------------------------------------------------------------------

_V2 = r"(?:(?:version )?v?2(?: 0)?|v2(?: 0)?)"
_SPELLINGS = (
    r"(?:the )?(?:mit(?: (?:x11|expat))?|expat|x11 mit)(?: open source)?(?: software)?(?: licen[sc]e)?"
    r"(?: mit| expat| x11)?",
    rf"(?:the )?apache2(?: 0)?(?: license)?|(?:the )?apachev2|asl {_V2}",
    rf"(?:the )?apache(?: software)?(?: license)?(?: {_V2})?(?: license)?(?: apache {_V2})?",
    r"(?:the )?(?:new|modified|revised|simplified|freebsd|2 clause|3 clause|two clause|three clause|bsd)(?: (?:new|"
    r"modified|revised|simplified|bsd|2|3|2 clause|3 clause|clause|two|three|or))*(?: license)?|bsd[23](?: license)?",
    r"(?:the )?(?:gnu )?(?:l|a)?gpl(?: ?v?[23](?: [01])?)?(?: version [23](?: [01])?)?(?: or later)?(?: license)?",
    r"(?:the )?gnu (?:lesser |affero )?general public license"
    r"(?: version [23](?: [01])?| v[23](?: [01])?)?(?: or later)?",
    r"(?:the )?(?:isc|zlib|unlicense|mpl 2 0|mozilla public license(?: version)? 2 0|public domain|cc0|0bsd)"
    r"(?: license)?",
)
_ONE = (
    r"(?:" + "|".join(_SPELLINGS) + r")(?: license (?:mit|apache)(?: txt| md)?){0,2}(?: or)?"
    r"(?: https? (?:www )?(?:apache org licenses license 2 0|opensource org licenses mit(?: license)?))?"
)
_MANY = _ONE + r"(?:(?: and or| or| and)?(?: under)?(?: the terms of)? " + _ONE + r"){0,3}"
_CLOSED = re.compile(
    r"(?:(?:license|licenses) )?(?:(?:(?:this|the) (?:project|software|library|package|code|source code|program|"
    r"work|module|repository|crate)(?: itself)? )?(?:is |are )?(?:freely |dual )?(?:licensed|released|distributed|"
    r"available|provided|published)(?: to you)? under (?:the )?(?:terms (?:and conditions )?of )?"
    r"(?:either (?:of )?)?(?:both )?|dual )?(?:the terms of )?" + _MANY + r"(?: at your (?:option|choice))?"
)


def is_statement(text: str) -> bool:
    """Whether a whole text is one known sentence, or known name, that says under which licences something is."""
    if len(text) > 2000 or not is_clean(text) or not text.isascii() or "?" in text:
        return False
    flat = text.lower().replace("licence", "license")
    joined = " ".join(re.findall(r"[a-z0-9]+", flat))
    linked = re.sub(r"terms and conditions|or later|(?:new|revised|modified|simplified) or", " ", joined)
    is_mixed = " and " in linked and (" or " in linked or "/" in flat)  # which binds what cannot be told
    return not is_mixed and _CLOSED.fullmatch(joined) is not None
