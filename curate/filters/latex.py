"""The body of a paper from its LaTeX: macros expanded, cut at the first section and at the bibliography.

LLaMA (arXiv 2302.13971, 2.1) follows Lewkowycz et al. (arXiv 2206.14858, appendix B.1): everything before the first
section goes, and the bibliography; comments go; definitions and macros of the authors are put in where they are used.
The text stays LaTeX. Comments have gone where the source joined the files. What the papers leave open:

* The first section is the first heading of any level, from \\part to \\subparagraph, of the expanded text.
* The bibliography begins at \\bibliography, \\printbibliography, the environment thebibliography or references, or a
  heading "References" or "Bibliography". All behind it goes. An appendix before it stays (`end="appendix"` cuts there,
  as Lewkowycz et al. and RedPajama do; LLaMA names the bibliography alone). With `end="document"` the list itself goes
  and what stands behind it stays.
* A paper without a heading is dropped (`no_section`), as Lewkowycz et al. do.
* Environments of the authors' own keep their names: `\\begin{claim}` says more than the list it is made of.

Title, authors and abstract are taken from the text before it is cut, into `title` and `meta`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from curate.kernels import latex as kernel
from curate.stage import Outcome, stage

NEW_VERBATIM = re.compile(
    rb"\\(?:lstnewenvironment|newminted|DefineVerbatimEnvironment|newtcblisting)\s*(?:\[[^\]]{0,200}\])?\{([A-Za-z*@]{1,60})\}"
)
NOTE = re.compile(r"\\(?:thanks|footnote|footnotemark|inst|fnmsep|affiliation|orcid|orcidlink|email|corref)\b")
COMMAND = re.compile(r"\\(?:\\(?:\[[^\]]{0,20}\])?|(?:newline|linebreak|LARGE|Large|large|huge|Huge|bf|bfseries|sc)\b)")
LIST = re.compile(
    rb"\\begin\{(thebibliography|references|REFERENCES)\}|\\bibliography\{[^{}]{0,4000}\}"
    rb"|\\printbibliography(?:\[[^\]]{0,400}\])?"
)
MAX_HEAD = 400  # bytes between a heading "References" and the list itself
LATEST = 1000  # arXiv gives a paper's latest version under the name without one
MAX_TITLE, MAX_AUTHOR, MAX_ABSTRACT = 1000, 1000, 20_000


@dataclass(frozen=True)
class Body:
    """What is left of a paper, and what it says of itself before."""

    text: str
    reason: str | None
    value: str | None
    title: str | None
    front: dict[str, Any]  # authors, abstract
    expansions: int
    left: int
    is_limited: bool


Begin = Literal["section", "abstract", "document"]
End = Literal["bibliography", "appendix", "document"]


@stage(
    reads=("text", "title", "meta"),
    writes=(
        pa.field("latex_expansions", pa.int32()),  # uses of macros that were expanded
        pa.field("latex_macros_left", pa.int32()),  # uses of the paper's own macros that were not
        pa.field("latex_limit", pa.bool_()),  # an expansion went over a budget
        pa.field("latex_version", pa.int32()),  # of the submission; LATEST where its name has none
    ),
    reasons=("no_section", "no_body"),
)
def latex(
    table: pa.Table,
    *,
    begin: Begin = "section",
    end: End = "bibliography",
    max_expansions: int = 100_000,
    growth: int = 10,
) -> Outcome:
    """Put the body of each paper in the place of its LaTeX; drop papers that have none.

    begin: where the body begins: the first section, the abstract (kept where it stands before), or \\begin{document}.
    end: where it ends at the latest. max_expansions, growth (bytes written a byte of it): budgets of a paper.
    """
    bodies = [body(t, begin, end, max_expansions, growth) for t in table["text"].to_pylist()]
    metas = [_merged(m, b.front) for m, b in zip(table["meta"].to_pylist(), bodies, strict=True)]
    titles = [b.title or t for t, b in zip(table["title"].to_pylist(), bodies, strict=True)]
    columns = {
        "text": pa.array([b.text for b in bodies], pa.large_string()),
        "title": pa.array(titles, pa.string()),
        "meta": pa.array(metas, pa.string()),
        "latex_expansions": pa.array([b.expansions for b in bodies], pa.int32()),
        "latex_macros_left": pa.array([b.left for b in bodies], pa.int32()),
        "latex_limit": pa.array([b.is_limited for b in bodies], pa.bool_()),
        "latex_version": pa.array([_version(m) for m in table["meta"].to_pylist()], pa.int32()),
    }
    reason, value = pa.array([b.reason for b in bodies], pa.string()), pa.array([b.value for b in bodies], pa.string())
    return Outcome(columns, reason, value)


def _version(meta: str | None) -> int:
    """3 of "v3"."""
    known = str(json.loads(meta or "{}").get("version", ""))
    return int(known[1:]) if re.fullmatch(r"v\d{1,3}", known) else LATEST


def body(text: str, begin: Begin, end: End, max_expansions: int = 100_000, growth: int = 10) -> Body:
    """The body of one paper, from its LaTeX without comments."""
    data = text.encode()
    full, state = kernel.expand(data, NEW_VERBATIM.findall(data), max_expansions, growth)
    first, last = _cut(state, begin, end, len(full))
    kept = full[first:last]
    if end == "document" and state[kernel.BIBLIO] >= first >= 0:
        kept = _without_list(full, first, int(state[kernel.BIBLIO]), last)
    found, reason, value = kept.strip().decode("utf-8", "replace"), None, None
    if first < 0:
        found, reason, value = text, "no_section", f"{len(full)} bytes"
    elif not found:
        found, reason, value = text, "no_body", f"{len(full)} bytes"
    title, front = _front(full, state)
    numbers = (int(state[kernel.EXPANSIONS]), int(state[kernel.LEFT]), bool(state[kernel.LIMIT]))
    return Body(found, reason, value, title, front, *numbers)


def _cut(state: Any, begin: Begin, end: End, size: int) -> tuple[int, int]:
    """(first, last) place of the body; first is -1 where there is none."""
    first = int(state[kernel.FIRST_SECTION])
    if begin == "document" and state[kernel.DOCUMENT] >= 0:
        first = int(state[kernel.DOCUMENT]) + len("\\begin{document}")
    elif begin == "abstract" and 0 <= state[kernel.ABSTRACT] < first:
        first = int(state[kernel.ABSTRACT])
    stops = [kernel.DOCUMENT_END]
    stops += [kernel.BIBLIO] if end != "document" else []  # there, `_without_list` takes it out
    stops += [kernel.APPENDIX_AT] if end == "appendix" else []
    return first, min([int(state[s]) for s in stops if state[s] >= max(first, 0)], default=size)


def _without_list(full: bytes, first: int, at: int, last: int) -> bytes:
    """The text without its list of references: from where it begins to where its environment or command ends."""
    found = LIST.search(full, at, min(at + MAX_HEAD, last))
    behind = at
    if found and found[1]:
        end = full.find(b"\\end{" + found[1] + b"}", found.end(), last)
        behind = last if end < 0 else end + len(b"\\end{}") + len(found[1])
    elif found:
        behind = found.end()
    return full[first:at] + full[behind:last]


def _front(full: bytes, state: Any) -> tuple[str | None, dict[str, Any]]:
    """(title, authors and abstract) as the paper gives them, in LaTeX, white space squeezed."""
    title = _argument(full, int(state[kernel.TITLE_AT]), MAX_TITLE)
    places = [int(x) for x in state[kernel.AUTHORS : kernel.AUTHORS + int(state[kernel.N_AUTHORS])]]
    authors = [a for at in places for x in _argument(full, at, MAX_AUTHOR).split("\\and") if (a := x.strip(" ,"))]
    front: dict[str, Any] = {"authors": authors} if authors else {}
    first, last = int(state[kernel.ABSTRACT]), int(state[kernel.ABSTRACT_END])
    if 0 <= first < last <= first + MAX_ABSTRACT:
        front["abstract"] = _squeezed(full[first:last].decode("utf-8", "replace").partition("}")[2])
    return title or None, front


def _argument(full: bytes, at: int, limit: int) -> str:
    """The argument of the command at a place, without notes; empty where it has none or it is long."""
    if at < 0:
        return ""
    text = full[at : at + 8 * limit].decode("utf-8", "ignore")
    head = re.match(r"\\[A-Za-z]+\*?\s*(?:\[[^\]]{0,400}\]\s*)?", text)
    found = _group(text, head.end()) if head else ""
    while note := NOTE.search(found):
        inner = _group(found, note.end())
        found = found[: note.start()] + found[note.end() + (len(inner) + 2 if inner else 0) :]
    found = _squeezed(COMMAND.sub(" ", found).replace("~", " "))
    return found if len(found) <= limit else ""


def _group(text: str, at: int) -> str:
    """What stands between the brace at a place and the one that closes it; empty where none does."""
    if text[at : at + 1] != "{":
        return ""
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text[at:], re.S):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[at + 1 : at + brace.start()]
    return ""


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _merged(meta: str | None, front: dict[str, Any]) -> str:
    return json.dumps({**json.loads(meta or "{}"), **front}, ensure_ascii=False)
