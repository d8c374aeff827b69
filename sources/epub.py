"""What one book file holds: HTML in one file or several, and EPUB, read from a zip that nobody trusts.

A zip's directory and its members are bounded before they are read; nothing is written to disk. Of XML no entity is
resolved, and a file that declares one is refused. container.xml names the package file of an EPUB, whose spine lists
the documents in reading order.
"""

from __future__ import annotations

import posixpath
import re
import urllib.parse
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any
from xml.parsers import expat

from curate.stage import Tally
from sources import http
from sources.encodings import BadBook, cleaned

DIVIDER = "\f"
RATIO = 50  # a compressed file may hold so many bytes a stored byte (prose: 3 to 6)
MAX_DIRECTORY = 8 << 20  # bytes of a zip's directory: some 100,000 members
MAX_XML = 8 << 20
MAX_SPINE = 20_000


@dataclass
class Found:
    """What a book file holds, decoded."""

    text: str
    meta: dict[str, Any]
    flags: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)  # url, title, author, date, language, license


class _Bounded:
    """A file that refuses to hand out a directory of absurd size, which zipfile would ask for in one piece."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, n: int = -1) -> bytes:
        """BadZipFile: more than MAX_DIRECTORY bytes at once."""
        data = self.file.read(n if 0 <= n <= MAX_DIRECTORY else MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"{n if n > 0 else 'all'} bytes asked for at once")
        return data


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """BadBook: damaged, cut, or with a directory of absurd size."""
    try:
        return zipfile.ZipFile(_Bounded(file))
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        is_cut = "not a zip" in str(error).lower()
        raise BadBook("truncated_input" if is_cut else "corrupt_archive", f"{error}" if str(error) else "zip") from None


class Members:
    """Members of one zip, read with a budget for all of them together."""

    def __init__(self, archive: zipfile.ZipFile, limit: int, stored: int, tally: Tally) -> None:
        self.archive, self.limit, self.tally = archive, limit, tally
        self.left = limit + RATIO * stored

    def read(self, info: zipfile.ZipInfo, limit: int | None = None) -> bytes:
        """One member. BadBook: over `limit` bytes, encrypted, damaged, or a method that no book is packed with."""
        limit = self.limit if limit is None else limit
        if info.flag_bits & 0x41:
            raise BadBook("encrypted", info.filename)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadBook("unsupported_compression", f"method {info.compress_type} of {info.filename}")
        if min(limit, self.left) < info.file_size:
            raise BadBook(
                "record_too_large" if limit < info.file_size else "decompression_limit", f"{info.file_size} bytes"
            )
        try:
            with self.archive.open(info) as file:
                data = file.read(info.file_size + 1)
        except UNREADABLE as error:
            raise BadBook("corrupt_member", f"{info.filename}: {error}") from None
        if len(data) != info.file_size:
            raise BadBook("corrupt_member", f"{info.filename} is {len(data)} bytes, not {info.file_size}")
        self.left -= len(data)
        self.tally.bytes_in += len(data)
        return data


def html_book(parts: Sequence[tuple[str, bytes]]) -> Found:
    """An HTML book, of one file or several."""
    texts, charsets = [], []
    flags: list[str] = []
    for _, data in parts:
        try:
            text, charset, more = http.decode(data, "")
        except http.BadResponse as bad:
            raise BadBook(bad.reason, bad.value) from None
        flags += more
        charsets.append(charset)
        texts.append(cleaned(_opened(text.replace("\f", " ")), flags))
    return Found(DIVIDER.join(texts), {"format": "html", "type": "text/html", "charset": charsets[0]}, flags)


SELF_CLOSED = re.compile(r"<([A-Za-z][\w:.-]{0,40}+)([^<>]*+)(?<=/)>")
VOID = frozenset(
    (
        "area",
        "base",
        "br",
        "col",
        "embed",
        "frame",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    )
)
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


def _opened(page: str) -> str:
    """XHTML as HTML: <title/> and <a id="x"/> with the end tags that HTML wants, or all that follows is lost."""
    if "/>" not in page:
        return page
    return SELF_CLOSED.sub(lambda m: m[0] if m[1].lower() in VOID else f"<{m[1]}{m[2][:-1]}></{m[1]}>", page)


OBFUSCATED = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # of fonts: not encryption
DOCUMENTS = ("application/xhtml+xml", "text/html", "text/x-oeb1-document", "application/x-dtbook+xml")
Element = tuple[str, dict[str, str], str]  # name without namespace, attributes, text


def epub_book(members: Members) -> Found:
    """The documents of an EPUB in the order of its spine. BadBook `bad_epub`, `encrypted`, and those of its members."""
    infos = members.archive.NameToInfo
    container = _xml(members, "META-INF/container.xml")
    package = next((e[1].get("full-path", "") for e in container if e[0] == "rootfile"), "")
    if package not in infos:
        raise BadBook("bad_epub", f"no package file {package}")
    elements = _xml(members, package)
    base = posixpath.dirname(package)
    items = {e[1].get("id"): e[1] for e in elements if e[0] == "item"}
    order = [items.get(e[1].get("idref")) for e in elements if e[0] == "itemref"]
    if not order or len(order) > MAX_SPINE:
        raise BadBook("bad_epub", f"a spine of {len(order)}")
    locked = _encrypted(members)
    flags: list[str] = []
    parts: list[tuple[str, bytes]] = []
    left = members.limit
    for item in order:
        path = "" if item is None else _inside(base, item.get("href", ""))
        if item is None or path not in infos:
            flags.append("missing_spine_item")
        elif item.get("media-type", DOCUMENTS[0]) in DOCUMENTS and "nav" not in item.get("properties", "").split():
            if path in locked:
                raise BadBook("encrypted", path)
            parts.append((path, members.read(infos[path], left)))
            left -= len(parts[-1][1])
    if not parts:
        raise BadBook("bad_epub", "no document in the spine")
    found = html_book(parts)
    meta = {k: v for k, v in found.meta.items() if k != "charset"} | {"format": "epub"}
    return Found(found.text, meta, [*flags, *found.flags], _from_package(elements))


def _inside(base: str, href: str) -> str:
    """Name of the member that a relative address means."""
    return posixpath.normpath(posixpath.join(base, urllib.parse.unquote(href.partition("#")[0])))


def _encrypted(members: Members) -> set[str]:
    """Names of members that are encrypted, which EPUB says in a file of its own; obfuscated fonts are not."""
    if "META-INF/encryption.xml" not in members.archive.NameToInfo:
        return set()
    locked: set[str] = set()
    method = ""
    for name, attributes, _ in _xml(members, "META-INF/encryption.xml"):
        if name == "EncryptedData":
            method = ""
        elif name == "EncryptionMethod":
            method = method or attributes.get("Algorithm", "")
        elif name == "CipherReference" and method not in OBFUSCATED:
            locked.add(_inside("", attributes.get("URI", "").lstrip("/")))
    return locked


def _from_package(elements: list[Element]) -> dict[str, Any]:
    """What the metadata of a package file says of its book."""
    says: dict[str, list[str]] = {}
    for name, _, text in elements:
        says.setdefault(name, []).append(" ".join(text.split())[:1000])
    pages = [x for x in says.get("identifier", []) if x.startswith(("http://", "https://"))]
    first = {key: next(filter(None, says.get(told, [])), "") for key, told in
             {"title": "title", "date": "date", "language": "language", "license": "rights"}.items()}  # fmt: skip
    return first | {"author": "; ".join(filter(None, says.get("creator", [])[:20])), "url": pages[0] if pages else None}


def _xml(members: Members, name: str) -> list[Element]:
    """All elements of a small XML file, flat, in document order. No entity is declared, none is resolved."""
    if name not in members.archive.NameToInfo:
        raise BadBook("bad_epub", f"no {name}")
    data = members.read(members.archive.NameToInfo[name], MAX_XML)
    elements: list[tuple[str, dict[str, str], list[str]]] = []
    opened: list[int] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        opened.append(len(elements))
        elements.append((tag.rpartition(" ")[2], attributes, []))

    def refuse(*_: object) -> None:
        raise BadBook("bad_epub", f"{name} declares an entity")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: opened.pop()
    parser.CharacterDataHandler = lambda text: elements[opened[-1]][2].append(text) if opened else None
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise (error if isinstance(error, BadBook) else BadBook("bad_epub", f"{name}: {error}")) from None
    return [(tag, attributes, "".join(texts)) for tag, attributes, texts in elements]
