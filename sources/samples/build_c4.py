"""Build the sample of C4: three shards as they are published, out of the project's own texts.

    python -m sources.samples.build_c4            write the shards
    python -m sources.samples.build_c4 --check    rebuild in memory, compare with what is committed

The texts are the English ones of the sample crawl (`commoncrawl/texts/`), without their frames: the lines of a page
that end as C4 asks for. A row is one JSON object a line with the keys of the published files in their order. Three
rows are what no published shard should hold (cut in two, without a text, with half of a surrogate pair), so that the
account of a sample run shows how such rows are counted.

Nothing depends on a clock, on the order of a directory or on the Python version; the gzip bytes may differ between
zlib builds, the rows may not.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sources.samples import COMMONCRAWL
from sources.samples.build_commoncrawl import read_sites

C4 = Path(__file__).resolve().parent / "c4"
TRAIN, VALIDATION = 2, 1  # shards
VALIDATION_OF = 12  # one page of so many is for validation: of the published 1000 the sample would have none
BEGIN = datetime(2019, 4, 18, 10, 0, tzinfo=UTC)  # the crawl of April 2019 (CC-MAIN-2019-18)
BETWEEN = timedelta(minutes=37, seconds=11)
ENDS = (".", "?", "!", '"')


def rows() -> list[dict[str, str]]:
    """A row for each English page with three lines or more, ordered by site and page."""
    found: list[dict[str, str]] = []
    for site in read_sites(COMMONCRAWL / "texts"):
        for page in site.pages if site.lang == "en" else ():
            lines = [x for x in page.lines if x.endswith(ENDS) and not x.endswith("...") and len(x.split()) >= 5]
            if len(lines) >= 3:
                when = (BEGIN + len(found) * BETWEEN).strftime("%Y-%m-%dT%H:%M:%SZ")
                found.append({"text": "\n".join(lines), "timestamp": when, "url": f"https://{site.host}{page.path}"})
    return found


def line(row: dict[str, str]) -> str:
    """A row as the published shards have it."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def odd_lines(row: dict[str, str]) -> list[str]:
    """What a shard should not hold: a row cut in two, one without a text, one with half of a surrogate pair."""
    nothing = {**row, "text": None}
    return [
        line(row)[: len(line(row)) // 2],
        json.dumps(nothing, separators=(",", ":")),
        line({**row, "url": f"{row['url']}?half"}).replace('"text":"', '"text":"\\ud83d ', 1),
    ]


def shards() -> dict[str, str]:
    """Text of each shard, by its name."""
    kinds: dict[str, list[list[str]]] = {
        "train": [[] for _ in range(TRAIN)],
        "validation": [[] for _ in range(VALIDATION)],
    }
    every = rows()
    for row in every:
        number = int.from_bytes(hashlib.md5(row["url"].encode(), usedforsecurity=False).digest(), "big")
        parts = kinds["train" if number % VALIDATION_OF else "validation"]
        smallest = min(parts, key=len)
        smallest.append(line(row))
    kinds["train"][1][3:3] = odd_lines(every[0])
    return {
        f"c4-{kind}.{i:05}-of-{len(parts):05}.json.gz": "".join(f"{x}\n" for x in part)
        for kind, parts in kinds.items()
        for i, part in enumerate(parts)
    }


def compressed(text: str) -> bytes:
    """One gzip member without a name or a time."""
    out = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, out, mtime=0) as file:
        file.write(text.encode())
    return out.getvalue()


def differences(folder: Path) -> list[str]:
    """What a folder holds other than the shards as they are built."""
    built = shards()
    there = {p.name for p in folder.glob("*.json.gz")}
    return [
        f"{name}: {'not built' if name not in built else 'missing' if name not in there else 'differs'}"
        for name in sorted({*built, *there})
        if name not in built
        or name not in there
        or gzip.decompress((folder / name).read_bytes()) != built[name].encode()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 1 where `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Build the sample of C4 out of the project's own texts.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing")
    parser.add_argument("--folder", type=Path, default=C4, help="where the shards are (default: the package's)")
    args = parser.parse_args(argv)
    if not args.check:
        args.folder.mkdir(parents=True, exist_ok=True)
        for name, text in shards().items():
            (args.folder / name).write_bytes(compressed(text))
        return 0
    found = differences(args.folder)
    print("\n".join(found) or "as built")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
