"""Build the GitHub sample: archives, a zip and a table out of the project's own texts.

    python -m sources.samples.build_github            write the files
    python -m sources.samples.build_github --check    rebuild in memory, compare with what is committed

The texts lie in `github/repositories.txt`: each file begins with a line `=== repository: path`, and `%LICENCE% ID` in a
text stands for the words of a licence. Repositories become what GitHub's archives are: a tar with a global header that
holds the commit, everything in one folder `name-commit`; one becomes a zip, one a table of JSON lines. Damage and
oddities are added here. Nothing depends on a clock; compressed bytes may differ between zlib builds, contents may not.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sources import licences

FOLDER = Path(__file__).parent / "github"
ZIPPED, TABLED, CUT = "tidewatch", "snippets", "halfway"
DATE = 1_640_995_200  # 2022-01-01, what every file of the sample is dated
HOLDERS = "Copyright (c) 2021 The {} authors"


def texts(folder: Path = FOLDER) -> dict[str, dict[str, str]]:
    """{repository: {path: text}} as it is written."""
    found: dict[str, dict[str, str]] = {}
    for part in ("\n" + (folder / "repositories.txt").read_text(encoding="utf-8")).split("\n=== ")[1:]:
        head, _, text = part.partition("\n")
        repository, _, path = head.partition(": ")
        found.setdefault(repository, {})[path] = _filled(repository, text.rstrip("\n") + "\n")
    return found


def _filled(repository: str, text: str) -> str:
    """`%LICENCE% ID` replaced by the licence's words."""
    if not text.startswith("%LICENCE% "):
        return text
    name = text.split()[1]
    if name == "Apache-2.0":
        return (Path(licences.__file__).parent / "spdx" / "Apache-2.0.txt").read_text(encoding="utf-8")
    parts = licences.WORDING[name]
    body = "\n\n".join("\n".join(line.strip() for line in part.splitlines()) for _, part in parts)
    return f"{HOLDERS.format(repository)}\n\n{body}\n".replace("@", "the copyright holder")


def commit_of(repository: str) -> str:
    """A made-up commit."""
    return hashlib.sha1(repository.encode(), usedforsecurity=False).hexdigest()


def tar_of(repository: str, files: dict[str, str]) -> bytes:
    """A tar as `git archive` writes it."""
    out = io.BytesIO()
    commit = commit_of(repository)
    headers = {"comment": commit}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for path, data in members(files):
            info = tarfile.TarInfo(f"{repository}-{commit[:7]}/{path}")
            info.size, info.mtime, info.mode = len(data), DATE, 0o644
            tar.addfile(info, io.BytesIO(data))
        if "link" in repository:
            info = tarfile.TarInfo(f"{repository}-{commit[:7]}/latest.sh")
            info.type, info.linkname, info.mtime = tarfile.SYMTYPE, "run.sh", DATE
            tar.addfile(info)
    return out.getvalue()


def members(files: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes): `%BYTES% hex` in a text stands for bytes, anything else is UTF-8."""
    for path, text in sorted(files.items()):
        yield path, bytes.fromhex(text.split()[1]) if text.startswith("%BYTES% ") else text.encode()


def zip_of(repository: str, files: dict[str, str]) -> bytes:
    """A zip as GitHub gives it: its comment is the commit."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = commit_of(repository).encode()
        for path, data in members(files):
            info = zipfile.ZipInfo(f"{repository}-main/{path}", (2022, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, data)
    return out.getvalue()


def table_of(files: dict[str, str]) -> bytes:
    """A table of files as others publish it: path, content, repository and licence, a JSON object a line."""
    rows = []
    for path, text in sorted(files.items()):
        licence, _, place = path.partition("/")
        row = {
            "repo_name": "example/snippets",
            "path": place,
            "content": text,
            "license": licence if licence != "none" else None,
        }
        rows.append(json.dumps(row, ensure_ascii=False))
    return "\n".join([*rows, "{not json", ""]).encode()


def build(folder: Path = FOLDER) -> dict[str, bytes]:
    """{file name: bytes before compression} of the whole sample; a zip as it is stored."""
    made: dict[str, bytes] = {}
    for repository, files in texts(folder).items():
        if repository == ZIPPED:
            made[f"{repository}.zip"] = zip_of(repository, files)
        elif repository == TABLED:
            made[f"{repository}.jsonl.gz"] = table_of(files)
        else:
            data = tar_of(repository, files)
            made[f"{repository}.tar.gz"] = data[: len(data.rstrip(b"\0")) - 20] if repository == CUT else data
    return made


def stored(name: str, data: bytes) -> bytes:
    """The file as it is written."""
    return data if name.endswith(".zip") else gzip.compress(data, 9, mtime=0)


def content(name: str, data: bytes) -> object:
    """What must be the same on every machine."""
    if not name.endswith(".zip"):
        return gzip.decompress(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(i.filename, i.date_time, archive.read(i)) for i in archive.infolist()]


def differences(folder: Path = FOLDER) -> list[str]:
    """What of the committed files is not what would be built now."""
    found = []
    for name, data in build(folder).items():
        path = folder / name
        if not path.exists():
            found.append(f"{name}: missing")
        elif content(name, path.read_bytes()) != content(name, stored(name, data)):
            found.append(f"{name}: content differs")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args(arguments)
    if given.check:
        found = differences(given.folder)
        print("\n".join(found) or "the sample is what its texts make")
        return 1 if found else 0
    for name, data in build(given.folder).items():
        (given.folder / name).write_bytes(stored(name, data))
        print(f"{name}: {(given.folder / name).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
