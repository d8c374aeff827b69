"""Addresses of pages in the form in which they are compared: by block lists, by the join with cited pages, by dedup."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

LONGEST_LABEL = 63  # and between its dots
DEFAULT_PORTS = ("", "80", "443")

# scheme and slashes as browsers take them ("\" is "/"), user and password, host, port, what follows
_PARTS = re.compile(
    r"(?:[Hh][Tt][Tt][Pp][Ss]?:[/\\]*|(?:[A-Za-z][A-Za-z0-9+.\-]*:)?[/\\]{2,})?(?:[^/\\?#]*@)?(\[[^\]/\\?#]*\]|[^/\\?#:]*)(?::([^/\\?#]*))?(.*)",
    re.DOTALL,
)


def host_form(host: str) -> str:
    """A host name as it is compared: lower case, without a final dot, punycode written out, percent signs undone.

    Unicode in compatibility form (NFKC) on both sides, so that "xn--bcher-kva.de", "BÜCHER.de" and "bu\u0308cher.de"
    are one host. A label that is not valid punycode stays as it is.
    """
    if "%" in host:
        host = unquote(host)
    if not host.isascii():
        host = unicodedata.normalize("NFKC", host).replace("。", ".")
    host = host.lower().rstrip(".")
    return ".".join(map(_label_form, host.split("."))) if "xn--" in host else host


def _label_form(label: str) -> str:
    if not label.startswith("xn--") or len(label) > LONGEST_LABEL:
        return label
    try:
        return unicodedata.normalize("NFKC", label[4:].encode().decode("punycode")).lower()
    except (UnicodeError, OverflowError, ValueError):
        return label


def parts(url: str) -> tuple[str, str, str]:
    """(host as it is compared, port, the rest from the path on) of an address, with or without a scheme."""
    found = _PARTS.match(url.strip())
    assert found is not None  # every part may be empty
    host, port, rest = found.groups("")
    return host_form(host), port, rest


def url_form(url: str) -> str:
    """An address as it is compared: no scheme, user, default port, fragment or last slash; path and query as given."""
    host, port, rest = parts(url)
    return joined_form(host, port, rest)


def joined_form(host: str, port: str, rest: str) -> str:
    """`url_form` of an address whose `parts` are known."""
    rest = rest.partition("#")[0].rstrip("/")
    return f"{host}{rest}" if port in DEFAULT_PORTS else f"{host}:{port}{rest}"


_C4_QUERY = re.compile(r"\?(?:utm_|ref|feed).*", re.DOTALL)


def c4_form(url: str) -> str:
    """An address as C4's published code compares it (recipes.md 2.1, step 4)."""
    bare = re.sub(r"^https?://(?:www\.)?", "", url.strip())
    return _C4_QUERY.sub("", bare).rstrip("/")
