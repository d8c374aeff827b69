"""Which licence a file of a repository is under, from all that the repository says.

Evidence is collected first (`Evidence.add` for every file), then `Evidence.of(path)` answers. Evidence is: licence
files, recognised by their text (`sources.licences`); statements in package metadata (never run, only read); SPDX tags
and notices in the heads of source files.

A folder with a licence file of its own is judged by that alone, one with package metadata by that and the texts above
it. What lies in a folder for foreign code (VENDORED) is never covered by the licence outside it. Sources that disagree
make a conflict, whichever of them would be allowed.
"""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.spdx import (
    CONFLICT,
    EXCEPTIONS,
    NONE,
    UNKNOWN,
    Expression,
    both,
    either,
    licences,
    needs_only,
    one,
    parse,
    write,
)
from sources.licences import FAMILIES, MAX_TEXT, Found, from_name, notice, recognise, tag
from sources.wording import is_attribution, is_name

MAX_METADATA = 1 << 20  # bytes of a metadata file that is read
HEAD = 4096  # bytes of a source file in which its licence is looked for
VENDORED = frozenset(
    [
        "vendor",
        "vendors",
        "vendored",
        "_vendor",
        "_vendored",
        "third_party",
        "third-party",
        "thirdparty",
        "3rdparty",
        "3rd_party",
        "3rd-party",
        "node_modules",
        "bower_components",
        "jspm_packages",
        "site-packages",
        "external",
        "externals",
        "extern",
        "deps",
        "bundled",
        "submodules",
        "pods",
        "carthage",
        "godeps",
    ]
)
_CODE = re.compile(
    r"\.(?:py[cix]?|rs|js|mjs|ts|tsx|go|c|h|cc|cpp|hpp|cs|java|kt|rb|php|json|ya?ml|conf|csv|xml|toml|sh|png|svg|jpg|css|tpl"
    r"|tmpl|in|ipynb|lua|swift|scala|vue|sha\d+|asc|sig|map)$"
)
_LICENCE_FILE = re.compile(
    r"(?:(?:un)?licen[cs]es?|copying|copyright|copyrights|eula|legal)(?:[-_. ][\w.+() -]*)?"
    r"|[\w.+]{1,24}[-_. ]licen[cs]e(?:\.(?:txt|md|rst|html?))?"
)
_INVENTORY = re.compile(r"third|3rd|bundled|vendor|dependenc|notices?\b|^licen[cs]es(?:\.(?:txt|md|rst|html?))?$|other")
_TEXT_FOLDER = ("licenses", "licences", "license")
_R_STUB = re.compile(r"\s*YEAR:[\s\d,-]*\n\s*COPYRIGHT HOLDER:([^\n]*)\s*", re.I)
_NOTICE_FILE = re.compile(r"notice(?:\.(?:txt|md|rst))?")
_ELSEWHERE = re.compile(  # a value of metadata that only says where the licence is
    r"(?:(?:file|see|refer to|see licen[sc]e in)[: ]\s*)?(?:the )?<?(?:\./)?(?:un)?(?:licen[sc]e|copying)"
    r"(?:[-.](?:txt|md|rst|mit|apache))?>?"
    r"(?: file)?(?: for (?:details|more information))?\.?",
    re.I,
)


@dataclass(frozen=True)
class Decision:
    """The licence of a file, as an SPDX expression, and where it was found."""

    licence: str
    note: str
    is_by_file: bool = False  # REUSE: the licences of a folder LICENSES, of which each file's head names its own


@dataclass
class _Folder:
    """What one folder says."""

    texts: list[tuple[str, Found]] = field(default_factory=list)
    inventories: list[tuple[str, Found]] = field(default_factory=list)  # lists of the licences of foreign parts
    stated: list[tuple[str, Expression]] = field(default_factory=list)
    heads: Counter[Expression] = field(default_factory=Counter)  # what source files say, by folder that judges them


@dataclass
class Evidence:
    """Everything that the files of one repository say about licences. Paths are relative to its root, with "/"."""

    folders: dict[str, _Folder] = field(default_factory=dict)
    is_whole: bool = True  # False: the archive ends too early, and a licence file may be missing
    _decided: dict[str, Decision] = field(default_factory=dict)
    _notices: dict[str, list[tuple[Expression, int]]] = field(default_factory=dict)

    def add(self, path: str, data: bytes | None) -> None:
        """Take note of a file. None: it is there but cannot be read."""
        folder, _, name = path.rpartition("/")
        low = name.lower()
        if _is_licence(low, folder):
            self._add_text(folder, name, data)
            return
        if _NOTICE_FILE.fullmatch(low):
            if data is None or not is_attribution(_decoded(data)):
                self._folder(folder).texts.append((name, Found(one(UNKNOWN))))
            return
        read = _READERS.get(low) or next((r for suffix, r in _BY_SUFFIX.items() if low.endswith(suffix)), None)
        if read is not None and data is not None and len(data) <= MAX_METADATA and ".egg-info" not in folder:
            for expression in _safely(read, data.decode("utf-8", "replace")):
                self._folder(folder).stated.append((name, expression))
        elif data is not None and b"SPDX-License-Identifier" in data[:HEAD]:
            said = tag(data[:HEAD].decode("utf-8", "replace"))
            if said is not None:
                self._folder(folder).heads[said] += 1

    def _folder(self, path: str) -> _Folder:
        return self.folders.setdefault(path, _Folder())

    def _add_text(self, folder: str, name: str, data: bytes | None) -> None:
        if data is None or len(data) > 4 * MAX_TEXT:
            found: Found | None = Found(one(UNKNOWN))
        else:
            text = _decoded(data)
            stub = _R_STUB.fullmatch(text)
            found = recognise(text) if stub is None else None if is_name(stub[1]) else Found(one(UNKNOWN))
        parent, _, last = folder.rpartition("/")
        if found is None:
            return
        if last.lower() in _TEXT_FOLDER:
            if last == "LICENSES":  # REUSE: a text for every licence that binds some file
                self._folder(parent).texts.append((f"{last}/{name}", found))
            elif "/" not in parent:
                self._folder(parent).inventories.append((f"{last}/{name}", found))
        elif _INVENTORY.search(name.lower()):
            self._folder(folder).inventories.append((name, found))
        else:
            self._folder(folder).texts.append((name, found))

    def below(self, top: str) -> Evidence:
        """The same evidence, paths relative to `top` (a folder with its "/", or nothing)."""
        if not top:
            return self
        moved = {path.removeprefix(top.rstrip("/")).removeprefix("/"): found for path, found in self.folders.items()}
        return Evidence(moved, self.is_whole)

    def of(self, path: str, data: bytes) -> Decision:
        """The licence of one file."""
        folder = path.rpartition("/")[0]
        base = self._decided.get(folder)
        if base is None:
            base = self._decided[folder] = self._of_folder(folder)
        said = head_notice(data)
        return base if said is None or not self.is_whole else with_head(base, said)

    def _of_folder(self, folder: str) -> Decision:
        if not self.is_whole:
            return Decision(UNKNOWN, "the archive is cut: a licence file may be missing")
        scope, decision = self._scope(folder)
        if not needs_only(parse(decision.licence)):
            return decision
        heads = self._heads(scope)
        against = sum(n for said, n in heads if not needs_only(parse(with_head(decision, said).licence)))
        if against and 2 * against >= sum(n for _, n in heads):
            most = write(max(heads, key=lambda h: h[1])[0])
            return Decision(CONFLICT, f"{decision.note}; {against} files say otherwise, such as {most}")
        return decision

    def _heads(self, scope: str) -> list[tuple[Expression, int]]:
        """What the heads of the files that a folder's licence covers say."""
        if not self._notices:
            for path, folder in self.folders.items():
                if folder.heads:
                    self._notices.setdefault(self._scope(path)[0], []).extend(folder.heads.items())
        return self._notices.get(scope, [])

    def _scope(self, folder: str) -> tuple[str, Decision]:
        """(folder whose licence covers this one, that licence before heads are looked at)."""
        fence = _fence(folder)
        stated: list[tuple[str, Expression]] = []
        scope, at = fence or "", folder
        while True:
            found = self.folders.get(at)
            if found is not None:
                if found.stated and not stated:
                    stated, scope = found.stated, at
                texts = found.texts or [i for i in found.inventories if at == "" or "/" not in i[0]]
                if texts or (at == "" and stated):
                    return (scope if stated else at), decide(texts, stated)
            if at in ("", fence):
                return scope, decide([], stated)
            at = at.rpartition("/")[0]


def _fence(folder: str) -> str | None:
    """The innermost folder for foreign code around a folder; None: there is none."""
    parts = folder.split("/")
    for i in range(len(parts) - 1, -1, -1):
        if parts[i].lower() in VENDORED:
            return "/".join(parts[: i + 1])
    return None


def is_vendored(path: str) -> bool:
    """Whether a file lies in a folder for foreign code."""
    return _fence(path.rpartition("/")[0]) is not None


def _decoded(data: bytes) -> str:
    """The text of a file: UTF-8, or Latin-1 as older files have it."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\x00", "")


def _is_licence(name: str, folder: str) -> bool:
    if _CODE.search(name):
        return False
    if folder.rpartition("/")[2].lower() in _TEXT_FOLDER and re.fullmatch(r"[\w.+ -]+(?:\.(?:txt|rst|md))?", name):
        return True
    return _LICENCE_FILE.fullmatch(name) is not None


def head_notice(data: bytes) -> Expression | None:
    """What the head of a source file says of its own licence; None: nothing."""
    head = data[:HEAD]
    if b"icen" not in head and b"ICEN" not in head and b"opyright" not in head:
        return None
    return notice(head.decode("utf-8", "replace"))


def with_head(base: Decision, said: Expression) -> Decision:
    """What the licence of the repository and the head of a file make together.

    A head that names nothing but licences of the repository chooses among them if those are permissive, or all are in
    a folder LICENSES; any other head binds as well. So a tag never frees a file of a repository that binds.
    """
    outside = parse(base.licence)
    is_free = base.is_by_file or needs_only(outside)
    if outside == one(NONE) or (is_free and licences(said) <= licences(outside)):
        return Decision(write(said), "the file's own head")
    if not is_free:
        return base
    try:
        return Decision(write(both([outside, said])), f"{base.note}; the file's own head")
    except ValueError:
        return Decision(UNKNOWN, base.note)


def decide(texts: Sequence[tuple[str, Found]], metadata: Sequence[tuple[str, Expression]]) -> Decision:
    """The licence that licence files and statements give together.

    Texts bind all together unless a statement says which are alternatives. A statement must name every text that is
    there, or the texts everything that it names; what it does not name is added. Otherwise they are in conflict.
    """
    proved = [(name, found.expression) for name, found in texts if not found.is_statement]
    stated = [*((name, found.expression) for name, found in texts if found.is_statement), *metadata]
    note = "; ".join(dict.fromkeys(f"{name}: {write(e)}" for name, e in [*proved, *stated]))[:400]
    try:
        made = _together([e for _, e in proved], [e for _, e in stated])
        if made is not None and needs_only(made) and not all(found.is_whole for _, found in texts):
            made = both([made, one(UNKNOWN)])
    except ValueError:
        return Decision(UNKNOWN, note)
    by_file = bool(texts) and all(name.startswith("LICENSES/") for name, _ in texts)
    return Decision(NONE, "") if made is None else Decision(write(made), note, by_file)


def _together(proved: list[Expression], stated: list[Expression]) -> Expression | None:
    known = frozenset(name for e in (*proved, *stated) for name in licences(e))
    stated = list(dict.fromkeys(_resolved(e, known) for e in stated))
    text = both(proved) if proved else None
    if not stated:
        return text
    if UNKNOWN in known:
        return both([*proved, *stated])
    statement = max(stated, key=lambda e: (len(licences(e)), len(e)))
    if any(not _bases(e) <= _bases(statement) for e in stated):
        return one(CONFLICT) if any(map(needs_only, [*stated, *proved])) else both(stated)
    if text is None:
        return statement
    here, there = _bases(text), _bases(statement)
    if here <= there:
        return statement
    if not there <= here and not here & there and (needs_only(text) or needs_only(statement)):
        return one(CONFLICT)
    return both([statement, *(one(name) for name in sorted(licences(text)) if _base(name) not in there)])


def _base(licence: str) -> str:
    name, _, exception = licence.partition(" WITH ")
    return re.sub(r"-only$|-or-later$|\+$", "", name if exception in EXCEPTIONS else licence)


def _bases(expression: Expression) -> frozenset[str]:
    return frozenset(map(_base, licences(expression)))


def _resolved(expression: Expression, known: frozenset[str]) -> Expression:
    """The expression with names of families ("BSD") replaced by the members that are known of the repository."""

    def meant(licence: str) -> frozenset[str]:
        members = frozenset(FAMILIES.get(licence, ())) & known
        return members or frozenset([licence])

    return frozenset(frozenset(m for licence in choice for m in meant(licence)) for choice in expression)


# --- package metadata ----------------------------------------------------------------------------------------------


def _safely(read: Callable[[str], Iterable[Expression | None]], text: str) -> list[Expression]:
    """What a reader finds; UNKNOWN where the file says something about a licence and cannot be read."""
    try:
        return [e for e in read(text) if e is not None]
    except (ValueError, RecursionError, configparser.Error, KeyError, TypeError, AttributeError):
        return [one(UNKNOWN)] if re.search(r"licen[sc]e", text, re.I) else []


def _named(value: Any) -> Expression | None:
    """A licence given in metadata: a name, an expression or a whole text."""
    if not isinstance(value, str) or not value.strip():
        return None
    if "\n" in value.strip() or len(value) > 200:
        found = recognise(value)
        return found.expression if found else None
    value = re.sub(r"\s*\+\s*file LICEN[SC]E\s*$", "", value)
    if _ELSEWHERE.fullmatch(value.strip()):
        return None
    return from_name(value)


def classifiers(values: Iterable[str]) -> Expression | None:
    """What trove classifiers say: all of those that name a licence; None: none does."""
    found = []
    for value in values:
        name = value.rpartition("::")[2].strip()
        if not value.strip().startswith("License ::") or name in ("OSI Approved", "DFSG approved"):
            continue
        known = {"Apache Software License": "LicenseRef-Apache", "BSD License": "LicenseRef-BSD"}.get(name)
        slug = "LicenseRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
        made = one(known) if known else from_name(name)
        found.append(one(slug) if made is None or UNKNOWN in licences(made) else made)
    return both(found) if found else None


def _pkg_info(text: str) -> list[Expression | None]:
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    fields: dict[str, list[str]] = {}
    last: list[str] | None = None
    for line in head.splitlines():
        if line[:1] in (" ", "\t"):
            if last:
                last[-1] += "\n" + line.strip().removeprefix("|")
            continue
        key, _, value = line.partition(":")
        last = fields.setdefault(key.strip().lower(), [])
        last.append(value.strip())
    expression = [from_name(v) for v in fields.get("license-expression", [])]
    return [*expression, *map(_named, fields.get("license", [])), classifiers(fields.get("classifier", []))]


def _pyproject(text: str) -> list[Expression | None]:
    data = tomllib.loads(text)
    project, poetry = data.get("project", {}), data.get("tool", {}).get("poetry", {})
    given = project.get("license")
    given = given.get("text") if isinstance(given, dict) else given
    listed = [v for v in (*project.get("classifiers", ()), *poetry.get("classifiers", ())) if isinstance(v, str)]
    return [_named(given), _named(poetry.get("license")), classifiers(listed)]


def _setup_cfg(text: str) -> list[Expression | None]:
    config = configparser.RawConfigParser(strict=False)
    config.read_string(text)
    if not config.has_section("metadata"):
        return []
    section = dict(config.items("metadata"))
    listed = (section.get("classifiers") or section.get("classifier") or "").splitlines()
    return [_named(section.get("license")), classifiers(listed)]


def _setup_py(text: str) -> list[Expression | None]:
    """Never run: only literal values are read."""
    given = re.findall(r"\blicen[sc]e\s*=\s*[rub]?([\"'])([^\"'\n]{1,200})\1\s*([^\s])?", text)
    listed = re.findall(r"([\"'])(License ::[^\"'\n]{1,200})\1", text)
    named = [_named(v) if after in (",", ")", "", "#") else one(UNKNOWN) for _, v, after in given[:4]]
    return [*named, classifiers(v for _, v in listed[:20])]


def _package_json(text: str) -> list[Expression | None]:
    data = json.loads(text)
    given, several = data.get("license"), data.get("licenses")
    given = given.get("type") if isinstance(given, dict) else given
    if isinstance(given, str) and given.strip().upper() == "UNLICENSED":
        return [one("LicenseRef-proprietary")]
    if isinstance(given, list):
        given, several = None, given
    if not isinstance(several, list):
        return [_named(given)]
    named = [_named(s.get("type") if isinstance(s, dict) else s) for s in several[:20]]
    known = [n for n in named if n is not None]
    join = both if any(UNKNOWN in licences(n) for n in known) else either
    return [_named(given), join(known) if known else None]


def _cargo(text: str) -> list[Expression | None]:
    data = tomllib.loads(text)
    return [_named(data.get("package", {}).get("license")),
            _named(data.get("workspace", {}).get("package", {}).get("license"))]  # fmt: skip


def _gemspec(text: str) -> list[Expression | None]:
    found = re.findall(r"\.licenses?\s*=\s*([^\n]{1,300})", text)
    names = [_named(n) for value in found[:4] for _, n in re.findall(r"([\"'])([^\"'\n]{1,100})\1", value)]
    known = [n for n in names if n is not None]
    return [both(known)] if known else []


def _pom(text: str) -> list[Expression | None]:
    block = re.search(r"<licenses>(.{0,4000}?)</licenses>", text, re.S)
    names = [_named(n) for n in re.findall(r"<name>([^<]{1,200})</name>", block[1])] if block else []
    known = [n for n in names if n is not None]
    if block and "<comments>" in block[1]:
        known.append(one(UNKNOWN))
    return [both(known)] if known else []


def _description(text: str) -> list[Expression | None]:
    if not re.search(r"^Package:", text, re.M):
        return []
    found = re.search(r"^License:[ \t]*([^\n]{1,300})", text, re.M)
    parts = [_named(part.strip()) for part in found[1].split("|")] if found else []
    known = [p for p in parts if p is not None]
    return [either(known)] if known else []


def _cabal(text: str) -> list[Expression | None]:
    found = re.search(r"^license:[ \t]*([^\n]{1,200})", text, re.M | re.I)
    return [_named(found[1].strip())] if found else []


_Reader = Callable[[str], list[Expression | None]]
_READERS: dict[str, _Reader] = {
    "pkg-info": _pkg_info,
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "setup.py": _setup_py,
    "package.json": _package_json,
    "bower.json": _package_json,
    "composer.json": _package_json,
    "cargo.toml": _cargo,
    "pom.xml": _pom,
    "description": _description,
}
_BY_SUFFIX: dict[str, _Reader] = {".gemspec": _gemspec, ".cabal": _cabal}
