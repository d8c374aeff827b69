"""GitHub, end to end and stage by stage, on source archives beside the checkout (or the sample, many times).

The archives are those of shared/data/github/sdists.tsv, fetched once into $CURATE_SDISTS or github/sdists there.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa

from curate.stage import Split, Tally
from tests.bench.stages import ROOT, Timed, stage

GROUP = "GitHub"


def archives() -> list[Path]:
    """Source archives: real ones where they lie, else those of the sample."""
    folder = Path(os.environ.get("CURATE_SDISTS", ROOT.parent / "shared" / "data" / "github" / "sdists"))
    found = sorted(folder.glob("*.tar.gz")) if folder.is_dir() else []
    return found or sorted((ROOT / "sources" / "samples" / "github").glob("*.tar.gz"))


def size() -> float:
    """MB of uncompressed tar."""
    from sources.archives import BrokenArchive, inflated

    total = 0
    for path in archives():
        with path.open("rb") as file:
            try:
                total += sum(map(len, inflated(file, "gz")))
            except BrokenArchive:
                continue
    return total / 1e6


def documents() -> pa.Table:
    """All files of the archives."""
    from sources.github import GitHub

    tables = [t for p in archives() for t in GitHub().read(Split(p.name, str(p)), Tally())]
    return pa.concat_tables(tables).combine_chunks()


def text_mb(table: pa.Table) -> float:
    """MB of UTF-8 text."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(table["text"])).as_py()) / 1e6


@stage(f"{GROUP}: archive to committed shards", "ours, all rules")
def _(wet: Path) -> Timed:
    from curate.engine import run
    from pipelines.llama import GITHUB as RECIPE

    keep = Path(tempfile.mkdtemp(prefix="curate-bench-"))
    names = [str(p) for p in archives()]

    def go() -> None:
        shutil.rmtree(keep, ignore_errors=True)
        run(RECIPE, names, out=keep, engine="inline")

    return size(), go


@stage(f"{GROUP}: read an archive", "ours, with licences, to Arrow")
def _(wet: Path) -> Timed:
    return size(), documents


@stage(f"{GROUP}: read an archive", "tarfile, read and decode alone")
def _(wet: Path) -> Timed:
    def run() -> int:
        total = 0
        for path in archives():
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and member.size < 1 << 20:
                        file = archive.extractfile(member)
                        total += len(file.read().decode("utf-8", "replace")) if file else 0
        return total

    return size(), run


@stage(f"{GROUP}: lines and letters of code", "ours, kernel")
def _(wet: Path) -> Timed:
    from curate.filters.code import code_quality

    table, rules = documents(), code_quality()
    return text_mb(table), lambda: rules(table)


@stage(f"{GROUP}: lines and letters of code", "plain Python")
def _(wet: Path) -> Timed:
    table = documents()
    texts = table["text"].to_pylist()[:400]

    def run() -> int:
        total = 0
        for text in texts:
            lines = text.split("\n")
            total += max(map(len, lines)) + sum(map(len, lines)) + sum(c.isalnum() for c in text)
        return total

    return sum(len(t.encode()) for t in texts) / 1e6, run


@stage(f"{GROUP}: cut licence headers", "ours")
def _(wet: Path) -> Timed:
    from curate.filters.code import headers

    table, rules = documents(), headers()
    return text_mb(table), lambda: rules(table)


@stage(f"{GROUP}: licence of a text", "ours, all licence files, cold")
def _(wet: Path) -> Timed:
    from sources.licences import recognise

    texts = []
    for path in archives():
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.rpartition("/")[2].upper().startswith(("LICEN", "COPYING")):
                    file = archive.extractfile(member)
                    texts.append(file.read().decode("utf-8", "replace") if file else "")

    def run() -> None:
        recognise.cache_clear()
        for text in texts:
            recognise(text)

    return sum(len(t.encode()) for t in texts) / 1e6, run
