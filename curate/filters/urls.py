"""Documents whose address is on a block list.

Block lists are files of the user: UTF-8, one entry a line, blank lines and what follows a "#" (at the start of a line
or after white space) left out. A file that is missing, holds no entry, or holds a line that cannot be an entry is a
RecipeError: a list that silently blocks nothing is worse than none.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from curate.errors import RecipeError
from curate.stage import Outcome, Stage, check_settings
from curate.url_forms import host_form, joined_form, parts, url_form

Entries = Mapping[str, str]  # the form that is compared -> the entry as it stands in the file

LONGEST_HOST = 253  # characters of a host name (RFC 1035, section 2.3.4)
_COMMENT = re.compile(r"(?:^|\s)#.*")
# Bytes of a word as they are, in lower case; ASCII punctuation as a space. Letters beyond ASCII are kept whole.
_WORD_BYTES = bytes(b if b >= 0x80 or chr(b).isalnum() else 0x20 for b in range(256)).lower()


def url_words(url: str) -> list[bytes]:
    """The words of an address: runs of letters and digits in lower case, percent signs undone."""
    if "%" in url:
        url = unquote(url)
    if not url.isascii():
        url = unicodedata.normalize("NFKC", url).lower()
    return url.encode().translate(_WORD_BYTES).split()


def _domain_entry(line: str) -> str:
    form = host_form(line.removeprefix("*").removeprefix("."))
    if not form or len(form) > LONGEST_HOST or re.search(r"[\s/\\?#@]|:(?!.*\])", form):
        raise ValueError("not a host name")
    return form


def _url_entry(line: str) -> str:
    host, _, _ = parts(line)
    if not host or re.search(r"\s", line):
        raise ValueError("not an address")
    return url_form(line)


def _word_entry(line: str) -> str:
    words = url_words(line)
    if len(words) != 1:
        raise ValueError("not one word of letters and digits")
    return words[0].decode()


_FORMS: dict[str, Callable[[str], str]] = {"domains": _domain_entry, "urls": _url_entry, "words": _word_entry}


def read_list(kind: str, path: str) -> Entries:
    """The entries of one list file; `kind` is "domains", "urls" or "words". RecipeError if it is of no use."""
    try:
        at = Path(path).stat()
    except OSError as error:
        raise RecipeError(f"url_blocklist.{kind}: cannot read {path}: {error.strerror}") from error
    return _read(kind, path, at.st_mtime_ns, at.st_size)


@functools.lru_cache(maxsize=8)
def _read(kind: str, path: str, _changed: int, _size: int) -> Entries:
    entries: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                entry = _COMMENT.sub("", line).strip()
                if entry:
                    form = _form(kind, path, number, entry)
                    entries.setdefault(entry if form == entry else form, entry)  # mostly one string for both
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise RecipeError(f"url_blocklist.{kind}: cannot read {path}: {reason}") from error
    if not entries:
        raise RecipeError(f"url_blocklist.{kind}: {path} holds no entry")
    return entries


def _form(kind: str, path: str, number: int, entry: str) -> str:
    try:
        return _FORMS[kind](entry)
    except ValueError as error:
        raise RecipeError(f"url_blocklist.{kind}: {path} line {number}: {entry!r} is {error}") from None


def blocked_domain(host: str, domains: Entries) -> str | None:
    """The entry that is `host` or that `host` is a sub-domain of, the longest one; `host` in its compared form."""
    tail = host[-LONGEST_HOST - 1 :]  # no entry is longer; keeps hostile hosts of 10^5 labels linear
    if len(tail) == len(host):
        found = domains.get(host)
        if found is not None:
            return found
    dot = tail.find(".")
    while dot >= 0:
        found = domains.get(tail[dot + 1 :])
        if found is not None:
            return found
        dot = tail.find(".", dot + 1)
    return None


def _blocked_word(url: str, words: Mapping[bytes, str]) -> str | None:
    found = url_words(url)
    return None if words.keys().isdisjoint(found) else next(words[w] for w in found if w in words)


def _load(domains: str | None, urls: str | None, words: str | None) -> tuple[Entries, Entries, dict[bytes, str]]:
    paths = {"domains": domains, "urls": urls, "words": words}
    if not any(paths.values()):
        raise RecipeError("url_blocklist has no list: set domains, urls or words to a file")
    lists = {kind: read_list(kind, path) if path is not None else {} for kind, path in paths.items()}
    return lists["domains"], lists["urls"], {k.encode(): v for k, v in lists["words"].items()}


def _blocked(
    table: pa.Table, *, domains: str | None = None, urls: str | None = None, words: str | None = None
) -> Outcome:
    of_domain, of_url, of_word = _load(domains, urls, words)
    reasons: list[str | None] = []
    values: list[str | None] = []
    for url in table["url"].to_pylist():
        reason = value = None
        if url:
            host, port, rest = parts(url)
            if of_domain and (value := blocked_domain(host, of_domain)) is not None:
                reason = "blocked_domain"
            elif of_url and (value := of_url.get(joined_form(host, port, rest))) is not None:
                reason = "blocked_url"
            elif of_word and (value := _blocked_word(url, of_word)) is not None:
                reason = "blocked_word"
        reasons.append(reason)
        values.append(value)
    return Outcome(reason=pa.array(reasons, pa.string()), value=pa.array(values, pa.string()))


def url_blocklist(**settings: Any) -> Stage:
    """Drop documents whose `url` is on a list. Settings `domains`, `urls`, `words`: paths of list files, or None.

    In the order of the reasons, the value being the entry as it stands in the file:

    * `blocked_domain`: the host is an entry or a sub-domain of one (of several entries, the longest). Scheme, user,
      password and port do not count; see `host_form` for what is one host.
    * `blocked_url`: the whole address is an entry, but for scheme, user, default port, fragment and last slash.
    * `blocked_word`: a run of letters and digits anywhere in the address is an entry, in any case: "casino" blocks
      /casino-bonus but not /casinos. (datatrove has such a list, too, and one of substrings, which blocks Scunthorpe.)

    A document without an address passes. The lists are read here, so that a missing, empty or unusable one (or none at
    all) is a RecipeError before any data is read, and again in each process that runs the stage.
    """
    checked = check_settings("url_blocklist", _blocked, settings)
    _load(**dict(checked))
    reasons = ("blocked_domain", "blocked_url", "blocked_word")
    return Stage("url_blocklist", _blocked, checked, ("url",), (), reasons, files=("domains", "urls", "words"))
