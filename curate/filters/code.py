"""Rules for source code: its licence, its path, whether a machine wrote it, how its lines look.

LLaMA (2302.13971, 2.1) kept projects under Apache, BSD and MIT licences, dropped files of low quality by line length
or alphanumeric share, and removed boilerplate such as headers; it gives no number. The numbers here are RedPajama's
(recipes.md 3.2). `title` holds the path of a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.kernels.code import code_counts
from curate.spdx import CONFLICT, NONE, PERMISSIVE, UNKNOWN, licences, needs_only, parse
from curate.stage import Outcome, stage

VAGUE = ("LicenseRef-BSD", "LicenseRef-Apache")  # a family's name without its version
EXTENSIONS = tuple(
    [
        ".asm",
        ".bat",
        ".cmd",
        ".c",
        ".h",
        ".cs",
        ".cpp",
        ".hpp",
        ".c++",
        ".h++",
        ".cc",
        ".hh",
        ".C",
        ".H",
        ".cmake",
        ".css",
        ".dockerfile",
        ".f90",
        ".f",
        ".f03",
        ".f08",
        ".f77",
        ".f95",
        ".for",
        ".fpp",
        ".go",
        ".hs",
        ".html",
        ".java",
        ".js",
        ".jl",
        ".lua",
        ".md",
        ".markdown",
        ".php",
        ".php3",
        ".php4",
        ".php5",
        ".phps",
        ".phpt",
        ".pl",
        ".pm",
        ".pod",
        ".perl",
        ".ps1",
        ".psd1",
        ".psm1",
        ".py",
        ".rb",
        ".rs",
        ".sql",
        ".scala",
        ".sh",
        ".bash",
        ".command",
        ".zsh",
        ".ts",
        ".tsx",
        ".tex",
        ".vb",
        "Dockerfile",
        "Makefile",
        ".xml",
        ".rst",
        ".m",
        ".smali",
        ".ipynb",
    ]
)  # RedPajama's, matched at the end of the path, and notebooks
LOCKS = ("package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "composer.lock", "Gemfile.lock",
         "Cargo.lock", "poetry.lock", "Pipfile.lock", "go.sum", "gradle.lockfile", "flake.lock", "uv.lock")  # fmt: skip
MINIFIED = re.compile(r"[.-]min\.(?:js|css|mjs|html)$")
GENERATED = re.compile(
    r"_pb2(?:_grpc)?\.py$|\.pb(?:\.gw)?\.(?:go|cc|h)$|\.pb\.|_grpc\.pb\.|\.g\.(?:dart|cs)$|\.freezed\.dart$"
    r"|\.designer\.(?:cs|vb)$|(?:^|/)zz_generated\.|_generated\.(?:go|py|rs|h|cc|ts|js)$|(?:^|/)(?:moc_|qrc_)[^/]+\.cpp$|(?:^|/)ui_[^/]+\.h$"
    r"|\.bundle\.js$|\.chunk\.js$|(?:^|/)_?parsetab\.py$"
)
# RE2 on the beginning of a text; a line of these words, near its start, is what generators write.
BY_MACHINE = (
    r"(?im)^\W{0,12}(?:this (?:file|code|class|module|source) (?:is|was|has been) |file |code |source |lines below )?"
    r"(?:auto-?\s?matically[- ]|auto-?|machine-?)?"
    r"generated (?:by|from|with|using|via|automatically|code|file|on|\S+ do not edit)\b"
    r"|\bdo not (?:hand-?)?(?:edit|modify)(?: (?:this|by hand|manually|directly|it|the)|[.!\s*/-]*$)"
    r"|@generated\b|\bauto-?\s?(?:matically[- ])?generated\b[^\n]{0,60}\b(?:do not|don't|file|code)\b"
    r"|\b(?:file|code) (?:is|was) (?:auto-?|automatically |machine-?)\s?generated\b|<auto-?generated"
)
HEAD = 1000  # characters in which a generator's line is looked for
LINGUIST_MEAN = 110  # characters a line from which github-linguist calls JavaScript and CSS minified
NOTICE = (  # a comment with one of these is a notice; the mere word "licence" is not enough
    r"(?i)copyright|\(c\)\s*\d|©|spdx-|all rights reserved|licen[sc]ed\b|licen[sc]e\s*:|@licen[sc]e|public domain"
    r"|under the [^\n]{0,60}licen[sc]e|see [^\n]{0,20}licen[sc]e"
    r"|\b(?:mit|bsd|apache|gpl|mozilla)\b[^\n]{0,20}licen[sc]e|permission is hereby"
)
LOOKED_AT = 8000  # characters in which a header is looked for
MAX_HEADER = 40_000  # characters of one


# --- licence -----------------------------------------------------------------------------------------------------


@stage(reads=("license", "meta"), reasons=("no_licence", "other_licence", "licence_conflict", "licence_unknown"))
def licence(table: pa.Table, *, allowed: tuple[str, ...] = PERMISSIVE) -> Outcome:
    """Keep what some choice of its SPDX expression lets one use under `allowed` licences alone (LLaMA 2.1).

    `no_licence`: none is known; `licence_conflict`: its sources contradict each other; `licence_unknown`: a text, or
    the member of a family, is not known; `other_licence`: anything else binds.
    """
    given = table["license"].combine_chunks() if table["license"].num_chunks != 1 else table["license"].chunk(0)
    encoded = given.dictionary_encode()
    reasons = [_licence_reason(x, allowed) for x in encoded.dictionary.to_pylist()]
    of_null = None if not allowed else "no_licence"
    codes = encoded.indices.to_pylist()
    reason = [of_null if c is None else reasons[c] for c in codes]
    metas, texts = table["meta"], given.to_pylist()
    values = [_licence_value(texts[i], metas[i].as_py()) if r else None for i, r in enumerate(reason)]
    return Outcome(reason=pa.array(reason, pa.string()), value=pa.array(values, pa.string()))


def _licence_reason(text: str, allowed: tuple[str, ...]) -> str | None:
    try:
        expression = parse(text)
    except ValueError:
        return "licence_unknown"
    if needs_only(expression, allowed):
        return None
    names = licences(expression)
    if names == {NONE}:
        return "no_licence"
    if CONFLICT in names:
        return "licence_conflict"
    others = names - set(allowed) - {UNKNOWN, *VAGUE}
    return "other_licence" if others else "licence_unknown"


def _licence_value(text: str | None, meta: str | None) -> str:
    """What the ledger says: the expression, and for one that is no licence what the repository said."""
    shown = text or "none"
    if shown.startswith("LicenseRef-") and " " not in shown and meta:
        found = re.search(r'"licence_from": "((?:[^"\\]|\\.){0,300})', meta)
        shown = f"{shown.removeprefix('LicenseRef-')} ({found[1]})" if found and found[1] else shown
    return shown


# --- path --------------------------------------------------------------------------------------------------------


@stage(reads=("title",), reasons=("extension", "licence_file", "lock_file", "minified", "generated", "vendored"))
def code_path(table: pa.Table, *, extensions: tuple[str, ...] = EXTENSIONS, keep_vendored: bool = True) -> Outcome:
    """Drop files by their path: what is no code (RedPajama's list of endings, and its `LICENSE` and `.crt`), locks of
    package managers, and what its name says is minified or generated.

    `keep_vendored=no` also drops what lies in a folder for foreign code; kept, each is judged by its own licence.
    """
    endings = tuple(extensions)
    rows = [_path_reason(path or "", endings, keep_vendored) for path in table["title"].to_pylist()]
    values = [path if r else None for path, r in zip(table["title"].to_pylist(), rows, strict=True)]
    return Outcome(reason=pa.array(rows, pa.string()), value=pa.array(values, pa.string()))


def _path_reason(path: str, extensions: tuple[str, ...], keep_vendored: bool) -> str | None:
    name = path.rpartition("/")[2]
    if name in LOCKS:
        return "lock_file"
    if re.fullmatch(r"(?:un)?licen[cs]e(?:[-_.].{0,20})?|copying(?:\..{1,12})?", name, re.I) and not name.endswith(
        ".py"
    ):
        return "licence_file"
    if MINIFIED.search(path):
        return "minified"
    if GENERATED.search(path):
        return "generated"
    if not path.endswith(extensions):
        return "extension"
    if not keep_vendored and VENDORED.search(path):
        return "vendored"
    return None


VENDORED = re.compile(
    r"(?i)(?:^|/)(?:_?vendor(?:s|ed)?|third[-_]?party|3rd[-_]?party|node_modules|bower_components|site-packages|externals?"
    r"|deps|bundled|pods|carthage|godeps)/"
)


# --- notebooks ---------------------------------------------------------------------------------------------------


@stage(reads=("title", "text"), reasons=("bad_notebook", "no_code"))
def notebooks(table: pa.Table, *, markdown: bool = True, outputs: bool = False) -> Outcome:
    """Put the code of Jupyter notebooks in the place of their JSON: cells with a blank line between them.

    Prose cells become comments, or go with `markdown=no`; outputs go, pictures with them, or, with `outputs=yes`, plain
    text ones become comments. `bad_notebook`: no notebook of format 3 or 4. `no_code`: no code cell that is not empty.
    """
    titles = table["title"].to_pylist()
    at = [i for i, path in enumerate(titles) if path is not None and path.endswith(".ipynb")]
    if not at:
        return Outcome()
    column = table["text"]
    texts: dict[int, str] = {}
    reasons: list[str | None] = [None] * table.num_rows
    values: list[str | None] = [None] * table.num_rows
    for i in at:
        try:
            texts[i] = _notebook(column[i].as_py(), markdown, outputs)
        except (ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:
            reasons[i], values[i] = "bad_notebook", f"{type(error).__name__}: {error}"[:100]
            continue
        if not texts[i]:
            reasons[i], values[i] = "no_code", "0 code cells"
    return Outcome({"text": _replaced(column, texts)}, pa.array(reasons, pa.string()), pa.array(values, pa.string()))


def _notebook(text: str, markdown: bool, outputs: bool) -> str:
    """The code of a notebook; empty if it has none. ValueError and its like: it is none."""
    data = json.loads(text)
    cells = data["cells"] if "cells" in data else [c for sheet in data["worksheets"] for c in sheet["cells"]]
    parts, has_code = [], False
    for cell in cells:
        body = _joined(cell.get("source", cell.get("input", ""))).strip("\n")
        if cell["cell_type"] == "code" and body.strip():
            has_code = True
            parts.append(body)
            printed = _printed(cell) if outputs else ""
            parts += [_commented(printed)] if printed else []
        elif cell["cell_type"] == "markdown" and markdown and body.strip():
            parts.append(_commented(body))
    return "\n\n".join(parts) + "\n" if has_code else ""


def _printed(cell: dict[str, Any]) -> str:
    found = [_joined(o.get("text", (o.get("data") or {}).get("text/plain", ""))) for o in cell.get("outputs", [])]
    return "\n".join(x.strip("\n") for x in found if x.strip())


def _joined(value: Any) -> str:
    return value if isinstance(value, str) else "".join(x for x in value if isinstance(x, str))


def _commented(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.split("\n"))


def _replaced(column: pa.ChunkedArray, texts: dict[int, str]) -> pa.ChunkedArray:
    """The column with some of its values replaced."""
    if not texts:
        return column
    mask = np.zeros(len(column), np.bool_)
    at = sorted(texts)
    mask[at] = True
    new = pa.array([texts[i] for i in at], pa.large_string())
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.replace_with_mask(whole, pa.array(mask), new)


# --- generated and minified ---------------------------------------------------------------------------------------


@stage(reads=("title", "text"), reasons=("generated", "minified"))
def generated(table: pa.Table, *, max_minified_mean: int = LINGUIST_MEAN) -> Outcome:
    """Drop files that a generator signed in their first lines ("DO NOT EDIT", "@generated"), and minified JavaScript
    and CSS: more than `max_minified_mean` characters a line, as github-linguist has it."""
    text = table["text"]
    signed = pc.match_substring_regex(pc.utf8_slice_codeunits(text, 0, HEAD), BY_MACHINE)
    counts = code_counts(text)
    mean = counts["characters"] / np.maximum(counts["lines"], 1)
    scripts = (".js", ".css", ".mjs", ".cjs")
    is_script = np.array([(t or "").endswith(scripts) for t in table["title"].to_pylist()], np.bool_)
    long = pa.array((mean > max_minified_mean) & is_script)
    none = pa.scalar(None, pa.string())
    reason = pc.if_else(long, "minified", pc.if_else(signed, "generated", none))
    shown = pa.array([f"{m:.4g} characters a line" for m in mean], pa.string())
    return Outcome(reason=reason, value=pc.if_else(long, shown, pc.if_else(signed, "a line of its head", none)))


# --- headers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Syntax:
    """Comments of a family of languages."""

    line: tuple[str, ...] = ()
    block: tuple[tuple[str, str], ...] = ()


_C = _Syntax(("//",), (("/*", "*/"),))
_HASH = _Syntax(("#",))
_XML = _Syntax((), (("<!--", "-->"),))
_SYNTAX: dict[str, _Syntax] = {
    **dict.fromkeys(
        [
            "c",
            "h",
            "cs",
            "cpp",
            "hpp",
            "c++",
            "h++",
            "cc",
            "hh",
            "C",
            "H",
            "go",
            "java",
            "js",
            "mjs",
            "cjs",
            "rs",
            "scala",
            "ts",
            "tsx",
            "swift",
            "kt",
            "dart",
        ],
        _C,
    ),
    **dict.fromkeys(
        [
            "py",
            "rb",
            "sh",
            "bash",
            "zsh",
            "command",
            "pl",
            "pm",
            "pod",
            "perl",
            "cmake",
            "dockerfile",
            "Dockerfile",
            "Makefile",
            "smali",
            "r",
        ],
        _HASH,
    ),
    **dict.fromkeys(["html", "xml", "md", "markdown"], _XML),
    **dict.fromkeys(["f90", "f95", "f03", "f08", "fpp"], _Syntax(("!",))),
    **dict.fromkeys(["f", "f77", "for"], _Syntax(("!", "C", "c", "*"))),
    **dict.fromkeys(["php", "php3", "php4", "php5", "phps", "phpt"], _Syntax(("//", "#"), (("/*", "*/"),))),
    **dict.fromkeys(["bat", "cmd"], _Syntax(("REM ", "rem ", "@REM ", "@rem ", "::"))),
    **dict.fromkeys(["ps1", "psd1", "psm1"], _Syntax(("#",), (("<#", "#>"),))),
    "css": _Syntax((), (("/*", "*/"),)),
    "jl": _Syntax(("#",), (("#=", "=#"),)),
    "hs": _Syntax(("--",), (("{-", "-}"),)),
    "lua": _Syntax(("--",), (("--[[", "]]"),)),
    "sql": _Syntax(("--",), (("/*", "*/"),)),
    "asm": _Syntax((";", "#", "//", "@"), (("/*", "*/"),)),
    "m": _Syntax(("%", "//"), (("/*", "*/"), ("%{", "%}"))),
    "tex": _Syntax(("%",)),
    "vb": _Syntax(("'",)),
    "rst": _Syntax((".. ", "..\n")),
}
# Lines at the beginning that say something to a tool: they stay, wherever in the header they stand.
_DIRECTIVE = re.compile(
    r"#!|<\?(?:php|xml)|<!doctype|@charset|[#/%;!*'-]{1,3}\s*(?:-\*-|vim?:|coding[:=]|encoding:|frozen_string_literal|type:|"
    r"pylint:|mypy:|flake8:|noqa|ruff:|syntax=|escape=|eslint|jshint|global\b|@ts-|@flow|prettier-|\+build|go:|!tex|!\[|cython:|"
    r"distutils:|rubocop|shellcheck|requires|cgo\b|line\b|<reference)|/\*\s*(?:eslint|jshint|global)\b|\{-#",
    re.I,
)
_SAYS_NOTICE = re.compile(NOTICE)


@stage(reads=("title", "text"), writes=[pa.field("headers_removed", pa.int32())])
def headers(table: pa.Table) -> Outcome:
    """Cut licence headers: comments at the beginning of a file that speak of copyright or licence.

    A comment is what the language of the file's ending says it is, so that `#include` is none in C. Shebang, encoding
    line, `<?php`, build constraints and the like stay, and so does every comment that is no notice: of a run of line
    comments only the paragraphs up to the last one with a notice go. `headers_removed`: characters that went.
    """
    text = table["text"]
    at = np.flatnonzero(pc.match_substring_regex(pc.utf8_slice_codeunits(text, 0, LOOKED_AT), NOTICE).to_numpy(False))
    titles = table["title"]
    texts: dict[int, str] = {}
    removed = np.zeros(table.num_rows, np.int32)
    for i in at.tolist():
        before = text[i].as_py()
        after = without_header(before, titles[i].as_py() or "")
        if len(after) != len(before):
            texts[i], removed[i] = after, len(before) - len(after)
    return Outcome({"text": _replaced(text, texts), "headers_removed": pa.array(removed)})


def without_header(text: str, path: str) -> str:
    """The text without its licence header; as it is where the language is not known or there is none."""
    name = path.rpartition("/")[2]
    syntax = _SYNTAX.get(name.rpartition(".")[2], _SYNTAX.get(name))
    if syntax is None:
        return text
    kept: list[str] = []
    at, cut_to, held = 0, 0, list[str]()
    for start, end, part, is_notice in _opening(text, syntax):
        if part == "directive":
            held.append(text[start:end])
        elif is_notice:
            kept += held
            held, cut_to = [], end
        at = end
        if at > MAX_HEADER:
            break
    if not cut_to:
        return text
    rest = text[cut_to:]
    return "".join(kept) + (rest.lstrip("\r\n") if not kept else rest)


def _opening(text: str, syntax: _Syntax) -> Iterator[tuple[int, int, str, bool]]:
    """(start, end, "directive" | "comment", whether a notice) of what stands before the first code, in order.

    Directives that are met inside a run of line comments are parts of their own.
    """
    at = len(text) - len(text.lstrip("\ufeff"))
    while at < len(text):
        end = _line_end(text, at)
        line = text[at:end]
        bare = line.strip()
        if not bare:
            at = end
            continue
        if _DIRECTIVE.match(bare):
            yield at, end, "directive", False
            at = end
            continue
        close = next((c for o, c in syntax.block if bare.startswith(o)), None)
        if close is not None:
            stop = text.find(close, at + 2, at + MAX_HEADER)
            if stop < 0:
                return
            end = _line_end(text, stop + len(close) - 1)
            if text[stop + len(close) : end].strip():  # code on the same line
                end = stop + len(close)
            said = bool(_SAYS_NOTICE.search(text, at, stop))
            yield at, end, "comment", said
            if not said:
                return
        elif line.startswith(syntax.line) or bare.startswith(syntax.line):
            end = _paragraph(text, at, syntax)
            yield at, end, "comment", bool(_SAYS_NOTICE.search(text, at, end))
        else:
            return
        at = end


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _paragraph(text: str, at: int, syntax: _Syntax) -> int:
    """The end of a run of line comments: up to an empty comment (which belongs to it), a directive or anything else."""
    while at < len(text):
        end = _line_end(text, at)
        bare = text[at:end].strip()
        if not bare.startswith(syntax.line) and text[at:end].rstrip() not in [m.strip() for m in syntax.line]:
            return at
        if _DIRECTIVE.match(bare):
            return at
        at = end
        if not bare.strip("#/%;!*'-=:. \t"):
            return at
    return at


# --- secrets -----------------------------------------------------------------------------------------------------

SECRETS: tuple[tuple[str, str], ...] = (
    ("private key",
     r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=\s\\:,.-]*?-----END (?:[A-Z]+ )*PRIVATE KEY"
     r"(?: BLOCK)?-----"),
    ("AWS key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
    ("Slack token", r"\bxox[abpors]-[A-Za-z0-9-]{10,200}\b"),
    ("Google key", r"\bAIza[0-9A-Za-z_-]{35}\b"),
    ("JSON web token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
)  # fmt: skip


@stage(reads=("text",), writes=[pa.field("secrets_masked", pa.int32())])
def secrets(table: pa.Table, *, mask: str = "<secret>") -> Outcome:
    """Put `mask` in the place of private keys, AWS, GitHub, Slack and Google keys and JSON web tokens.

    `secrets_masked`: how many. Nothing of them is logged.
    """
    column = table["text"].combine_chunks() if table["text"].num_chunks != 1 else table["text"].chunk(0)
    every = "|".join(pattern for _, pattern in SECRETS)
    at = np.flatnonzero(pc.match_substring_regex(column, every).to_numpy(False)).tolist()
    counts = np.zeros(table.num_rows, np.int32)
    if not at:
        return Outcome({"secrets_masked": pa.array(counts)})
    chosen = column.take(pa.array(at))
    counts[at] = pc.count_substring_regex(chosen, every).to_numpy(False)
    masked = pc.replace_substring_regex(chosen, every, mask).to_pylist()
    return Outcome({"text": _replaced(column, dict(zip(at, masked, strict=True))), "secrets_masked": pa.array(counts)})


# --- lines and letters ---------------------------------------------------------------------------------------------

FIGURES = {
    "n_lines": pa.int32(),
    "longest_line": pa.int32(),
    "mean_line": pa.float32(),
    "alphanumeric_ratio": pa.float32(),
    "letters_per_token": pa.float32(),
}
Rule = Callable[[dict[str, npt.NDArray[np.float64]]], npt.NDArray[np.bool_]]


@stage(
    writes=[pa.field(f"code_quality_{name}", t) for name, t in FIGURES.items()],
    reasons=("empty", "long_line", "long_lines", "few_alphanumeric", "few_letters"),
)
def code_quality(
    table: pa.Table,
    *,
    max_line: int = 1000,
    max_mean_line: float = 100.0,
    min_alphanumeric: float = 0.25,
    min_letters_per_token: float = 1.5,
) -> Outcome:
    """Drop files by their lines and letters, with RedPajama's thresholds; a figure that equals its threshold passes.

    `long_line`: the longest line (Codex and RedPajama: 1000). `long_lines`: characters a line, its end included (100).
    `few_alphanumeric`: share of characters with `str.isalnum` (0.25). `few_letters`: letters a token (1.5); RedPajama's
    tokens are Pythia's, ours are runs of letters, digits and other signs, which are never more, so that this rule drops
    nothing that theirs keeps. `empty`: white space alone. The figures are written for every file.
    """
    counts = code_counts(table["text"])
    characters, tokens = counts["characters"], counts["tokens"]
    figures = {
        "n_lines": counts["lines"].astype(np.float64),
        "longest_line": counts["longest_line"].astype(np.float64),
        "mean_line": characters / np.maximum(counts["lines"], 1),
        "alphanumeric_ratio": counts["alphanumeric"] / np.maximum(characters, 1),
        "letters_per_token": counts["letters"] / np.maximum(tokens, 1),
    }
    broken = (
        ("empty", "n_lines", tokens == 0),
        ("long_line", "longest_line", figures["longest_line"] > max_line),
        ("long_lines", "mean_line", figures["mean_line"] > max_mean_line),
        ("few_alphanumeric", "alphanumeric_ratio", figures["alphanumeric_ratio"] < min_alphanumeric),
        ("few_letters", "letters_per_token", figures["letters_per_token"] < min_letters_per_token),
    )
    reasons: list[str | None] = [None] * table.num_rows
    values: list[str | None] = [None] * table.num_rows
    for reason, figure, rows in reversed(broken):
        for row in np.flatnonzero(rows).tolist():
            reasons[row], values[row] = reason, f"{figures[figure][row]:.4g}"
    columns = {f"code_quality_{n}": pa.array(figures[n].astype(t.to_pandas_dtype())) for n, t in FIGURES.items()}
    return Outcome(columns, pa.array(reasons, pa.string()), pa.array(values, pa.string()))
