"""LaTeX papers: ours beside pylatexenc, and both judged by shared/bench/quality/score_latex.py.

    python -m tests.bench --only "arXiv"
    python -m tests.bench.arxiv [--data shared/data/arxiv] [--out DIR]      text, then the scorer's table

The scorer wants the source of each paper: `raw` is a plain one of regular expressions, without any of ours.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from curate.stage import Tally
from sources.arxiv import Arxiv
from tests.bench.stages import ROOT, Timed, installed, stage

DATA = ROOT.parent / "shared" / "data" / "arxiv"
SCORER = ROOT.parent / "shared" / "bench" / "quality" / "score_latex.py"
CALL = re.compile(r"(?m)^((?:[^%\n\\]|\\.)*?)\\(?:input|include|subfile)(?:\{([^}]+)\}|[ ]+([^\s\\{}%]+))")
MAINS = {"2004.14974": "emnlp2020.tex", "astropy-v5.0-paper": "arxiv/ms.tex", "metastability": "manuscript_flat"}
HEADING = re.compile(r"(?m)^(?:[^%\n]*[^%\n\\])?\\(?:part|chapter|section|subsection|paragraph)\b\*?\s*[\[{]")
LIST = re.compile(
    r"(?mi)^(?:[^%\n]*[^%\n\\])?\\(?:begin\{thebibliography\}|bibliography\{|printbibliography|section\*?\{References\})"
)


def stored() -> list[Path]:
    """The submissions beside the checkout, one a paper."""
    return sorted(DATA.glob("*.gz"))


def key(path: Path) -> str:
    """Name of a paper."""
    return path.name.removesuffix(".gz").removesuffix(".tar")


def files(path: Path) -> dict[str, str]:
    """Members of a submission as text."""
    import gzip

    data = gzip.decompress(path.read_bytes())
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found = {m.name.removeprefix("./"): tar.extractfile(m) for m in tar if m.isfile()}
            return {n: f.read().decode("utf-8", "replace") for n, f in found.items() if f and not n.endswith(".pdf")}
    except tarfile.ReadError:
        return {"main.tex": data.decode()}


def raw(path: Path) -> str:
    """The LaTeX of a paper with its inputs put in, comments and all."""
    there = files(path)
    usual = [MAINS.get(key(path), ""), "main.tex", "ms.tex", "paper.tex", "thesis.tex", "manuscript.tex"]
    main = next(n for n in usual if n in there)
    return _joined(there, main, main.rpartition("/")[0], 0)


def _joined(there: dict[str, str], name: str, root: str, depth: int) -> str:
    def put(match: re.Match[str]) -> str:
        wanted = (match[2] or match[3]).strip()
        for path in (f"{root}/{wanted}".lstrip("/"), wanted):
            for found in (path, f"{path}.tex"):
                if found in there and depth < 8:
                    return match[1] + _joined(there, found, root, depth + 1)
        return match[0]

    return CALL.sub(put, there[name])


def ruled(text: str) -> str:
    """A source from its first heading to its references: what the paper's rule leaves, found by other means."""
    start = text.find("\\begin{document}")
    found = HEADING.search(text, max(start, 0))
    begin = found.start() if found else 0
    stop = LIST.search(text, begin)
    return text[begin : stop.start() if stop else len(text)]


def ours(begin: str = "section", end: str = "bibliography") -> Callable[[Path], str]:
    """The whole way of one submission, from its file to the body."""
    from curate.filters.latex import latex
    from curate.stage import Split

    body = latex(begin=begin, end=end)

    def run(path: Path) -> str:
        tables = Arxiv().read(Split(path.name, str(path)), Tally())
        return "".join(t for table in tables for t in body(table).columns["text"].to_pylist())

    return run


def pylatexenc(text: str) -> str:
    """What pylatexenc makes of a source: plain text."""
    from pylatexenc.latex2text import LatexNodes2Text

    return str(LatexNodes2Text().latex_to_text(text))


@stage("arXiv: submission to body, macros expanded", "ours, .gz to documents (MB of LaTeX joined)")
def _(wet: Path) -> Timed:
    run = ours()
    return sum(len(raw(p).encode()) for p in stored()) / 1e6, lambda: [run(p) for p in stored()]


@stage("arXiv: submission to body, macros expanded", "ours, a tar of LaTeX alone as arXiv's month (MB inflated)")
def _(wet: Path) -> Timed:
    import tempfile

    from curate.filters.latex import latex
    from curate.stage import Split

    path = Path(tempfile.mkdtemp(prefix="curate-bench-")) / "arXiv_src_2001_001.tar"
    month(path, [p for p in stored() for _ in range(4)])
    body, tally = latex(), Tally()
    for _table in Arxiv().read(Split(path.name, str(path)), tally):
        pass
    return tally.bytes_in / 1e6, lambda: [body(t) for t in Arxiv().read(Split(path.name, str(path)), Tally())]


def month(path: Path, submissions: list[Path]) -> None:
    """Write an archive laid out as arXiv's, of the LaTeX of the submissions: figures would only be passed over."""
    import gzip

    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, submission in enumerate(submissions):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as one:
                for name, text in files(submission).items():
                    if name.endswith((".tex", ".sty", ".bbl", "_flat")):
                        data = text.encode()
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        one.addfile(info, io.BytesIO(data))
            data = gzip.compress(inner.getvalue(), 6, mtime=0)
            info = tarfile.TarInfo(f"2001/2001.{number:05d}.gz")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@stage("arXiv: submission to body, macros expanded", "pylatexenc, joined LaTeX to text", "pylatexenc")
def _(wet: Path) -> Timed:
    texts = [raw(p) for p in stored()]
    fit: list[str] = []
    for text in sorted(texts, key=len)[:6]:
        try:
            pylatexenc(text)
        except Exception as error:  # noqa: BLE001 - a peer that breaks on a paper is not timed on it
            print(type(error).__name__, file=sys.stderr)
            continue
        fit.append(text)
    return sum(len(t.encode()) for t in fit) / 1e6, lambda: [pylatexenc(t) for t in fit]


def rows(function: Callable[[Path], str]) -> Iterator[dict[str, object]]:
    """Text and seconds of each paper; a tool that raises gives no text."""
    for path in stored():
        started = time.process_time()
        try:
            text = function(path)
        except Exception as error:  # noqa: BLE001
            print(f"{key(path)}: {type(error).__name__}: {str(error)[:80]}", file=sys.stderr)
            text = ""
        yield {"id": key(path), "text": text, "seconds": time.process_time() - started}


def main() -> None:
    """Write the sources and what each tool makes of them, and score."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    tools: dict[str, Callable[[Path], str]] = {
        "raw": raw,
        "raw_ruled": lambda path: ruled(raw(path)),
        "ours": ours(),
        "ours_abstract": ours("abstract"),
        "ours_document": ours("document", "document"),
    }
    if installed("pylatexenc"):
        tools["pylatexenc"] = lambda path: pylatexenc(raw(path))
    for name, tool in tools.items():
        if name.startswith("ours"):
            list(rows(tool))  # kernels are compiled
        with open(a.out / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(tool))
    made = [str(a.out / f"{name}.jsonl") for name in tools if not name.startswith("raw")]
    for source in ("raw_ruled", "raw"):
        print(f"\nsource: {source}", flush=True)
        subprocess.run([sys.executable, str(SCORER), "--source", str(a.out / f"{source}.jsonl"), *made], check=True)


if __name__ == "__main__":
    main()
