"""GitHub: the files of repositories, from archives (tar, tar.gz, zip), folders and tables (Parquet, JSON lines).

Each file carries the licence that it is under, as an SPDX expression (`sources.repository`); nothing is dropped for it
here: the stages of `curate.filters.code` do. An archive or folder is read twice: for the evidence first, since a
licence file may come after the files that it covers. A table states the licence of every row, which the head of a
file can only make stricter. Nothing is extracted, no git command is run, no link is followed.

LLaMA took the public dataset of BigQuery (2302.13971, 2.1), which has no binary files and none above 1 MB; the same
holds here. Limits and bad inputs: robustness.md sections 2 and 3.4.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from curate import io
from curate.errors import RecipeError, SourceError
from curate.schema import DOCUMENT, doc_id
from curate.spdx import NONE, UNKNOWN, both, one, write
from curate.stage import Split, Tally
from curate.store import file_digest
from sources.archives import (
    FAILED,
    FILE,
    FREE,
    MAX_PATH,
    RATIO,
    SKIPPED,
    BrokenArchive,
    Entry,
    escaped,
    folder_entries,
    inflated,
    kind_of,
    tar_entries,
    zip_entries,
)
from sources.licences import from_name
from sources.repository import Decision, Evidence, head_notice, is_vendored, with_head

SAMPLE = Path(__file__).parent / "samples" / "github"
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
TABLES = (".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json.gz")
REPOSITORY = re.compile(r"https?://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
AT_GITHUB = re.compile(r"https?://(?:codeload\.)?github\.com/([\w.-]+)/([\w.-]+)/(?:archive/|tar\.gz/|zip/)(.+)")
MARKS = re.compile(  # what the top folder of a repository holds
    r"\.git|(?:un)?licen[cs]e.*|copying.*|readme.*|setup\.py|pyproject\.toml|package\.json|cargo\.toml|go\.mod"
    r"|pom\.xml|makefile|pkg-info|cmakelists\.txt|.*\.gemspec",
    re.I,
)
LFS = b"version https://git-lfs.github.com/spec/"
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
COLUMNS = {  # of a table: what we call them, and what published ones do (BigQuery, The Stack, RedPajama's output)
    "content": ("content", "text", "code", "contents"),
    "path": ("path", "max_stars_repo_path", "file_path", "filepath"),
    "repository": ("repository", "repo_name", "repo", "max_stars_repo_name", "sample_repo_name"),
    "licence": ("license", "licence", "licenses", "max_stars_repo_licenses", "detected_licenses", "gha_license_id"),
}
MAX_LINE = 64 << 20  # bytes of a line of JSON
MAX_BAD_ROWS = 100_000  # of one table: from here on it is no table of files, and each of them is held in memory


@dataclass(frozen=True)
class GitHub:
    """Files of repositories.

    Skipped: `binary`, `too_large`, `link`, `git_internal`, `lfs_pointer`. Failed: `unsafe_path`, `encoding`,
    `encrypted`, `corrupt_member`, `decompression_limit`, `duplicate_path`, `sparse_file`, `unreadable`, `bad_row`.
    `title`: the path in the repository; `url`: its address, or archive and path where no owner is known. `meta`:
    repository, path, licence_from, and commit and vendored where known.
    """

    name: ClassVar[str] = "github"
    batch_bytes: int = 32 << 20  # text of a table; it ends with the document that reaches it
    max_file_bytes: int = 1 << 20  # BigQuery holds no larger ones
    max_notebook_bytes: int = 16 << 20  # of a .ipynb: nearly all of a large one are its pictures
    max_members: int = 200_000  # files of one archive or folder

    def __post_init__(self) -> None:
        for name in ("batch_bytes", "max_file_bytes", "max_notebook_bytes", "max_members"):
            if getattr(self, name) < 1:
                raise RecipeError(f"source.{name} is {getattr(self, name)}, must be at least 1")

    def plan(self, inputs: Sequence[str]) -> list[Split]:
        """One split an archive, a table or a repository's folder.

        A folder is a repository if it holds a licence, a README or package metadata, or nothing but folders without
        archives; else the archives, tables and repositories in it are meant. RecipeError: nothing found, no archive
        or table, or two of one name.
        """
        if not inputs and not any(SAMPLE.glob("*.tar.gz")):
            raise RecipeError(f"the embedded sample is missing: no archives in {SAMPLE}")
        found = [item for given in inputs or [str(SAMPLE)] for item in _expand(given)]
        return [Split(item.name, item.path, item.bytes) for item in io.unique(_once(found))]

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        """Documents of one archive, folder or table in its order, in tables of about `batch_bytes`.

        SourceError: it cannot be read at all. What is wrong with it as a whole is in `tally.damage`.
        """
        if Path(split.path).is_dir():
            tally.input_digest = file_digest(Path(split.path))[1]
            yield from self._repository(split, tally, None, "folder")
            return
        with _stored(split, tally) as file:
            head = file.read(512)
            file.seek(0)
            kind = kind_of(head)
            is_table = kind == "parquet" or (split.name.endswith(TABLES) and kind in ("", "gz"))
            if not head or (not kind and not is_table):
                tally.damage.append(
                    f"not_an_archive: it begins {head[:20]!r}" if head else "not_an_archive: it is empty"
                )
            elif is_table:
                yield from self._table(split, tally, file, kind)
            else:
                yield from self._repository(split, tally, file, kind)

    def _limit(self, path: str) -> int:
        return self.max_notebook_bytes if path.endswith(".ipynb") else self.max_file_bytes

    def _entries(self, split: Split, file: IO[bytes] | None, kind: str, note: dict[str, str]) -> Iterator[Entry]:
        if file is None:
            return folder_entries(split.path, self._limit)
        file.seek(0)
        return zip_entries(file, self._limit, note) if kind == "zip" else tar_entries(file, kind, self._limit, note)

    def _repository(self, split: Split, tally: Tally, file: IO[bytes] | None, kind: str) -> Iterator[pa.Table]:
        note: dict[str, str] = {}
        evidence, top = self._evidence(self._entries(split, file, kind, note))
        common = {"repository": _repository_name(split.name)} | (
            {"commit": note["commit"]} if note.get("commit") else {}
        )
        made = _Documents(self, split, tally)
        seen: set[str] = set()
        try:
            for entry in self._entries(split, file, kind, note):
                tally.bytes_in += entry.size if kind in ("folder", "zip") else 0
                if len(seen) == self.max_members:
                    raise BrokenArchive("too_many_members", f"more than {self.max_members}")
                text = _usable(entry, seen, made)
                if text is None:
                    continue
                path = entry.path.removeprefix(top)
                decision = evidence.of(path, entry.data)
                made.add(entry.path, path, text, decision, common, entry.modified)
                if made.size >= self.batch_bytes:
                    yield made.table()
        except BrokenArchive as error:
            tally.damage.append(str(error))
        if kind not in ("folder", "zip"):
            tally.bytes_in += int(note.get("bytes", "0"))
        if made.rows:
            yield made.table()

    def _evidence(self, entries: Iterator[Entry]) -> tuple[Evidence, str]:
        """(what the repository says of its licence, the one folder that everything lies in with its "/" or nothing)."""
        evidence, tops, count = Evidence(), set[str](), 0
        try:
            for entry in entries:
                count += 1
                if count > self.max_members:
                    break
                if entry.reason != "link" and not _is_git(entry.path):
                    first, slash, _ = entry.path.partition("/")
                    tops.add(first + slash)
                    evidence.add(entry.path, entry.data if entry.kind == FILE else None)
        except BrokenArchive:
            evidence.is_whole = False
        top = next(iter(tops)) if len(tops) == 1 else ""
        top = top if top.endswith("/") else ""
        return evidence.below(top), top

    def _table(self, split: Split, tally: Tally, file: IO[bytes], kind: str) -> Iterator[pa.Table]:
        made = _Documents(self, split, tally)
        rows = _parquet_rows(file, tally) if kind == "parquet" else _json_rows(file, kind, tally)
        try:
            for number, row in rows:
                self._row(number, row, made)
                if made.size >= self.batch_bytes:
                    yield made.table()
        except BrokenArchive as error:
            tally.damage.append(str(error))
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name in Parquet that is no UTF-8
            tally.damage.append(f"corrupt_member: {' '.join(str(error).split())[:200]}")
        if made.rows:
            yield made.table()

    def _row(self, number: int, row: dict[str, Any] | None, made: _Documents) -> None:
        """One row of a table."""
        values = {} if row is None else {name: _first(row, names) for name, names in COLUMNS.items()}
        path, content = values.get("path"), values.get("content")
        key = f"row:{number}"
        if not isinstance(path, str) or not isinstance(content, str) or "\x00" in path or len(path) > MAX_PATH:
            made.fail(key, "bad_row", "no text in path or content" if row is not None else "not a JSON object")
            if len(made.tally.failed) >= MAX_BAD_ROWS:
                raise BrokenArchive("corrupt_member", f"{MAX_BAD_ROWS} bad rows; the rest is not read")
            return
        path = _shown(path)
        data = content.encode("utf-8", "replace")
        if len(data) > self._limit(path):
            made.tally.skip("too_large")
            return
        if data.startswith(LFS):
            made.tally.skip("lfs_pointer")
            return
        repository = _shown(values["repository"][:MAX_PATH]) if isinstance(values["repository"], str) else ""
        decision = _stated(values["licence"])
        said = head_notice(data)
        decision = decision if said is None else with_head(decision, said)
        made.add(key, path, _clean(data.decode(), made.tally), decision, {"repository": repository}, 0)


class _Documents:
    """Rows of the table that is being filled."""

    def __init__(self, source: GitHub, split: Split, tally: Tally) -> None:
        self.source, self.split, self.tally = source, split, tally
        self.rows: list[tuple[Any, ...]] = []
        self.size = 0

    def fail(self, key: str, reason: str, value: str = "") -> None:
        """Count one file lost to damage."""
        url = f"{_repository_name(self.split.name)}/{value}" if value == key else None
        self.tally.fail(doc_id(self.source.name, self.split.name, key), url, reason, value[:200])

    def add(self, key: str, path: str, text: str, decision: Decision, common: dict[str, str], modified: int) -> None:
        """One file as a document."""
        meta = {**common, "path": path, "licence_from": decision.note} | (
            {"vendored": True} if is_vendored(path) else {}
        )
        repository = common.get("repository", "")
        at_github = re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is not None
        place = f"https://github.com/{repository}/blob/{common.get('commit', 'HEAD')}" if at_github else repository
        url = f"{place}/{path}" if place else path
        date = datetime.fromtimestamp(modified, UTC) if modified else None
        name = self.source.name
        row = (doc_id(name, self.split.name, key), name, url, path, text, date, None, decision.licence,
               json.dumps(meta, ensure_ascii=False))  # fmt: skip
        self.rows.append(row)
        self.size += len(text) + len(row[-1]) + 200

    def table(self) -> pa.Table:
        """What was added since the last one."""
        columns = zip(*self.rows, strict=True)
        made = [pa.array(column, f.type) for column, f in zip(columns, DOCUMENT, strict=True)]
        self.rows, self.size = [], 0
        return pa.Table.from_arrays(made, schema=DOCUMENT)


def _usable(entry: Entry, seen: set[str], made: _Documents) -> str | None:
    """The text of one member; None where it is counted otherwise."""
    if entry.path in seen:
        made.fail(f"{entry.path}\0{len(made.tally.failed)}", "duplicate_path", entry.path)
        return None
    seen.add(entry.path)
    if _is_git(entry.path):
        made.tally.skip("git_internal")
    elif entry.kind == SKIPPED:
        made.tally.skip(entry.reason)
    elif entry.kind == FAILED:
        made.fail(entry.path, entry.reason, entry.path)
    elif entry.data.startswith(LFS) and len(entry.data) < 1024:
        made.tally.skip("lfs_pointer")
    else:
        try:
            return decode(entry.data, made.tally)
        except UnicodeError:
            made.fail(entry.path, "encoding", entry.path)
        except _Binary:
            made.tally.skip("binary")
    return None


class _Binary(Exception):
    """The bytes are no text."""


def decode(data: bytes, tally: Tally) -> str:
    """The text of a file: UTF-8, else UTF-16 by its mark or its zeros, else Windows-1252 for a few odd bytes.

    UnicodeError: another encoding. `_Binary` is raised for what is no text. Line ends stay as they are; zeros and other
    control characters but tab, form feed and escape go.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not data.startswith(codecs.BOM_UTF32_LE):
        text = data.decode("utf-16")
        tally.flags["utf_16"] += 1
        return _clean(text, tally)
    data = data.rstrip(b"\0").removeprefix(codecs.BOM_UTF8)
    if b"\0" in data:
        return _clean(_utf_16(data, tally), tally)
    try:
        return _clean(data.decode(), tally)
    except UnicodeDecodeError:
        pass
    high = len(data) - len(data.translate(None, bytes(range(128, 256))))
    controls = len(data) - len(data.translate(None, bytes([*range(9), 11, *range(14, 27), *range(28, 32), 127])))
    if controls or high * 2 > len(data):
        raise _Binary
    if high * 5 > len(data):  # not a Western text with a few accents
        raise UnicodeError("not UTF-8")
    text = data.decode("cp1252", "replace")
    if text.count("\ufffd") * 50 > len(text):
        raise UnicodeError("not Windows-1252")
    tally.flags["windows_1252"] += 1
    return _clean(text, tally)


def _utf_16(data: bytes, tally: Tally) -> str:
    """UTF-16 without a mark, which has its zeros in every second place."""
    even, odd = data[0:4096:2].count(0), data[1:4096:2].count(0)
    half = max(1, min(len(data), 4096) // 2)
    if max(even, odd) * 10 < 7 * half or min(even, odd) * 20 > half:
        raise _Binary
    try:
        text = (data + b"\0" * (len(data) % 2)).decode("utf-16-le" if odd > even else "utf-16-be")
    except UnicodeDecodeError:
        raise _Binary from None
    tally.flags["utf_16"] += 1
    return text


def _clean(text: str, tally: Tally) -> str:
    if CONTROLS.search(text):
        tally.flags["control_characters"] += 1
        text = CONTROLS.sub("", text)
    if not text.isascii() and BIDI.search(text):
        tally.flags["bidi_controls"] += 1  # Trojan Source: kept, since it is what the file says
    return text


def _is_git(path: str) -> bool:
    return path.startswith(".git/") or "/.git/" in path


def _stated(value: Any) -> Decision:
    """The licence that a row of a table states: a name, an expression, or a list of which all bind."""
    values = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    if not values:
        return Decision(NONE, "")
    note = _shown(f"stated: {', '.join(map(str, values[:20]))}"[:400])
    named = [from_name(v) if isinstance(v, str) else None for v in values[:20]]
    if len(values) > 20:
        return Decision(UNKNOWN, note)
    try:
        return Decision(write(both(n or one(UNKNOWN) for n in named)), note)
    except ValueError:
        return Decision(UNKNOWN, note)


def _shown(text: str) -> str:
    """Text of a row as a name that can be shown and stored: JSON may hold lone surrogates, and line ends in a path."""
    return escaped(text.encode("utf-8", "surrogatepass"))


def _first(row: dict[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _parquet_rows(file: IO[bytes], tally: Tally) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Rows of a Parquet file. BrokenArchive: it swells beyond RATIO."""
    stored = file.seek(0, 2)
    table = pq.ParquetFile(file)
    tally.bytes_in = sum(table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))
    if not 0 <= tally.bytes_in <= FREE + RATIO * stored:
        said, tally.bytes_in = tally.bytes_in, stored
        raise BrokenArchive("decompression_limit", f"{said} bytes from {stored}")
    wanted = [name for names in COLUMNS.values() for name in names if name in table.schema_arrow.names]
    texts = [n for n in wanted if n in COLUMNS["content"] and pa.types.is_string(table.schema_arrow.field(n).type)]
    table = pq.ParquetFile(file, metadata=table.metadata, read_dictionary=texts)
    number = 0
    for batch in table.iter_batches(batch_size=64, columns=wanted, use_threads=False):
        for i in range(batch.num_rows):  # a value at a time: many rows may share one large value
            yield number, {name: batch[name][i].as_py() for name in batch.schema.names}
            number += 1


def _json_rows(file: IO[bytes], kind: str, tally: Tally) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Objects of a file of JSON lines; None for a line that is none. BrokenArchive: it is cut or corrupt."""
    number = 0
    for line in _lines(inflated(file, kind), tally):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield number, row if isinstance(row, dict) else None
        number += 1


def _lines(chunks: Iterator[bytes], tally: Tally) -> Iterator[bytes]:
    """Lines of a stream; what is beyond MAX_LINE bytes of one is left out, so that it is no JSON any more."""
    held = bytearray()
    for chunk in chunks:
        tally.bytes_in += len(chunk)
        *whole, last = chunk.split(b"\n")
        for part in whole:
            yield bytes(held) + part
            held.clear()
        if len(held) < MAX_LINE:
            held += last
    if held:
        yield bytes(held)


# --- inputs --------------------------------------------------------------------------------------------------------


def _stored(split: Split, tally: Tally) -> IO[bytes]:
    """The file of a split, to be read more than once; a remote one is fetched into a nameless file first."""
    if not io.is_remote(split.path):
        try:
            tally.input_digest = file_digest(Path(split.path))[1]
            return open(split.path, "rb")
        except OSError as error:
            raise SourceError(f"cannot read {split.path}: {error.strerror}") from None
    file, digest = tempfile.TemporaryFile(prefix="curate-"), hashlib.sha256()
    try:
        for chunk in io.stream(split.path, split.bytes):
            digest.update(chunk)
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    tally.input_digest = digest.hexdigest()
    return file


def _repository_name(name: str) -> str:
    suffix = next((s for s in ARCHIVES if name.endswith(s)), "")
    return name.removesuffix(suffix)


def _expand(given: str) -> list[io.Input]:
    """What one argument names."""
    if (repository := REPOSITORY.fullmatch(given)) is not None:
        owner, name = repository[1], repository[2]
        return [io.Input(f"{owner}/{name}", f"https://codeload.github.com/{owner}/{name}/tar.gz/HEAD", None)]
    if (archive := AT_GITHUB.fullmatch(given)) is not None:
        return [io.Input(f"{archive[1]}/{archive[2]}/{archive[3]}", given, None)]
    if io.is_remote(given):
        return io.expand([given], (*ARCHIVES, *TABLES))
    path = Path(given).expanduser()
    if path.is_dir():
        found = _folders(path, path, 3)
        return found or [io.Input(path.resolve().name, str(path), None)]
    found = io.expand([given], (*ARCHIVES, *TABLES))
    for item in found:
        if not item.name.lower().endswith((*ARCHIVES, *TABLES)):
            known = " ".join((*ARCHIVES, *TABLES))
            raise RecipeError(
                f"{item.path} is no archive and no table of files (known: {known}); name its folder instead"
            )
    return found


def _folders(root: Path, path: Path, depth: int) -> list[io.Input]:
    """Repositories, archives and tables in a folder; nothing if it is no collection of such."""
    there = sorted(p for p in path.iterdir() if not p.name.startswith(".") or p.name == ".git")
    name = path.relative_to(root).as_posix() if path != root else path.resolve().name
    if any(MARKS.fullmatch(p.name) for p in there):
        return [io.Input(name, str(path), None)]
    files = [p for p in there if p.is_file() and not p.is_symlink() and p.name.lower().endswith((*ARCHIVES, *TABLES))]
    found = [io.Input(p.relative_to(root).as_posix(), str(p), p.stat().st_size) for p in files]
    if depth:
        for folder in there:
            if folder.is_dir() and not folder.is_symlink():
                found += _folders(root, folder, depth - 1)
    return found


def _once(found: list[io.Input]) -> list[io.Input]:
    """Each path once."""
    return list({str(Path(i.path).resolve()) if "://" not in i.path else i.path: replace(i) for i in found}.values())
