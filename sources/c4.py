"""C4: the shards as published (JSON lines), as LLaMA used them, and the pages of WET files that C4 is made of.

`C4`. A record is a line: `text` (kept as it is), `timestamp` and `url`; every row is kept. What is not a row of C4
fails with `bad_json`, `schema`, `nul`, `encoding` or `record_too_large` and costs no other row. Files are sniffed, not
believed: gzip (of any number of members), zstd or plain. Shards come from files, folders, globs, addresses, or by the
name of a data set on the hub: `allenai/c4:en`, `allenai/c4@REVISION:en:validation`, or FOLDER:CONFIG for a data set
that lies on this machine as the hub would hold it. `datasets` finds the shards of such a name and opens them as its
streaming mode does; the lines are read here, because its own reader gives up a file for one bad line.

`C4Wet`. Pages of WET files with all their lines, for the recipe that rebuilds C4.

Limits and bad inputs: robustness.md sections 2 and 3.3.
"""

from __future__ import annotations

import hashlib
import io as python_io
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from isal import isal_zlib

from curate import io
from curate.errors import RecipeError, SourceError
from curate.kernels import json_rows
from curate.kernels.arrow import from_buffers
from curate.schema import DOCUMENT, doc_id
from curate.stage import Split, Tally
from sources.commoncrawl import CommonCrawl
from sources.warc import DAMAGED, INPUT, OUTPUT, RATIO, Stored, what_is

SAMPLE = Path(__file__).parent / "samples" / "c4"
SUFFIXES = (".json.gz", ".jsonl.gz", ".json", ".jsonl", ".json.zst", ".jsonl.zst")
VARIANT = r"(?:(en(?:\.\w+)?|realnewslike|webtextlike)/)?"
UPSTREAM = re.compile(rf"(?:.*?/)??{VARIANT}(c4-(train|validation)\.(\d{{5}})-of-(\d{{5}})\.json\.gz)")
HUB = re.compile(
    r"(?P<data>[\w.-]+/[\w.-]+|.*/[^:/]+)(?:@(?P<revision>[\w./-]+))?:(?P<config>[\w.-]+)(?::(?P<split>\w+))?"
)
ZSTD, GZIP, LFS, BOM = b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"version https://git-lfs", b"\xef\xbb\xbf"
NEW_LINE = pa.scalar("\n", pa.large_string())
LICENCE = "ODC-By-1.0"  # of the collection; the pages are their sites'
BAD_ROWS = 4096  # lines that fail, before they are counted
MAX_FAILED = 100_000  # lines after which a shard is not worth reading: each of them is held in memory
TOO_LARGE, TRUNCATED, CORRUPT, LIMIT = "record_too_large", "truncated_input", "corrupt_member", "decompression_limit"

Octets = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class C4:
    """Published shards. `meta`: line (its number in the shard, from 0), split (train or validation, where known)."""

    name: ClassVar[str] = "c4"
    batch_bytes: int = 32 << 20  # text of a table; it ends with the row that reaches it
    batch_rows: int = 1 << 16
    max_record_bytes: int = 64 << 20
    allow_missing: bool = False  # read a folder, glob or data set of which shards are missing

    def __post_init__(self) -> None:
        for name, most in (("batch_bytes", 1 << 30), ("batch_rows", 1 << 24), ("max_record_bytes", 1 << 30)):
            if not 1 <= getattr(self, name) <= most:
                at_least = "at least 1" if getattr(self, name) < 1 else f"at most {most}"
                raise RecipeError(f"source.{name} is {getattr(self, name)}, must be {at_least}")

    def plan(self, inputs: Sequence[str]) -> list[Split]:
        """One split a shard, named as it is published where it is ("en/c4-train.00000-of-01024.json.gz").

        RecipeError: nothing found; two shards of one name, or of the same bytes; a shard missing from a folder, glob or
        data set (unless `allow_missing`); a git-LFS pointer in place of a shard; the hub cannot be reached.
        """
        if not inputs and not any(SAMPLE.glob("*.json.gz")):
            raise RecipeError(f"the embedded sample is missing: no *.json.gz in {SAMPLE}")
        found: list[io.Input] = []
        files: list[str] = []
        for given in inputs or [str(SAMPLE)]:
            name = None if Path(given).exists() or "://" in given else HUB.fullmatch(given)
            if name is None:
                files.append(given)
            else:
                found += self._checked(_on_hub(given, **name.groupdict()), given)
        for given in files:
            shards = io.expand([given], SUFFIXES)
            several = not Path(given).is_file() and not io.is_web(given)
            found += self._checked(shards, given) if several else shards
        found = list({item.path: item for item in found}.values())
        _check_files(found)
        found = io.unique([replace(item, name=_canonical(item)) for item in found])
        return [Split(item.name, item.path, item.bytes) for item in found]

    def _checked(self, shards: list[io.Input], given: str) -> list[io.Input]:
        """The shards, none of a numbered set missing; RecipeError."""
        if not self.allow_missing:
            _check_numbers([item.path for item in shards], given)
        return shards

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        """Rows of one shard in file order, in tables of about `batch_bytes`.

        SourceError: the shard cannot be read. Everything else that is wrong with it is in `tally`.
        """
        stored = Stored(_chunks(split))
        rows = _Rows(self, split)
        pieces = _pieces(stored, tally)
        for piece in pieces:
            tally.bytes_in += len(piece)
            yield from rows.add(piece, tally)
            if len(tally.failed) >= MAX_FAILED:
                tally.damage.append(f"{CORRUPT}: {len(tally.failed)} lines that are no rows; the rest is not read")
                break
        yield from rows.finish(tally)
        tally.input_digest = stored.digest()


@dataclass(frozen=True)
class C4Wet(CommonCrawl):
    """Pages of WET files as C4 reads them: the first line is a line of the text like any other, and there is no title.

    Otherwise as `CommonCrawl`, which counts what is damaged.
    """

    name: ClassVar[str] = "c4"

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        """Pages of one WET file in file order."""
        for table in super().read(split, tally):
            whole = pc.binary_join_element_wise(table["title"].cast(pa.large_string()), table["text"], NEW_LINE)
            columns = {"text": whole, "title": pa.nulls(len(table), pa.string())}
            columns["source"] = pa.repeat(pa.scalar(self.name), len(table))
            for name, values in columns.items():
                table = table.set_column(DOCUMENT.get_field_index(name), DOCUMENT.field(name), values)
            yield table


def _canonical(item: io.Input) -> str:
    found = UPSTREAM.fullmatch(item.path.partition("?")[0])
    return item.name if found is None else "/".join(x for x in found.groups()[:2] if x)


def _check_numbers(paths: Sequence[str], given: str) -> None:
    """RecipeError `missing_shard` where a set of numbered shards has gaps."""
    have: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        found = UPSTREAM.fullmatch(path)
        if found is not None:
            variant, _, kind, number, total = found.groups()
            have.setdefault((f"{variant or ''} {kind}".strip(), int(total)), set()).add(int(number))
    for (kind, total), numbers in sorted(have.items()):
        missing = sorted({*range(total)} - numbers)
        if missing:
            shown = ", ".join(f"{n:05}" for n in missing[:5]) + (", ..." if len(missing) > 5 else "")
            advice = "name the files you want, or --set source.allow_missing=yes"
            raise RecipeError(
                f"missing_shard: {given} lacks {len(missing)} of {total} {kind} shards ({shown}); {advice}"
            )


def _check_files(items: Sequence[io.Input]) -> None:
    """RecipeError where a local file is a git-LFS pointer, or two hold the same bytes (asked of those of one size)."""
    sizes: dict[int, list[str]] = {}
    for item in items:
        if item.bytes is not None and not io.is_remote(item.path):
            sizes.setdefault(item.bytes, []).append(item.path)
    for size, paths in sizes.items():
        digests: dict[str, str] = {}
        for path in paths if size and (len(paths) > 1 or size < 1024) else ():
            with open(path, "rb") as file:
                if file.read(len(LFS)) == LFS:
                    raise RecipeError(f"lfs_pointer: {path} is a git-LFS pointer, not the file: run `git lfs pull`")
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest in digests:
                raise RecipeError(f"duplicate_input: {digests[digest]} and {path} hold the same bytes")
            digests[digest] = path


def _on_hub(given: str, data: str, revision: str | None, config: str, split: str | None) -> list[io.Input]:
    """The shards of a data set, as `datasets` finds them; RecipeError in one line that says what exists."""
    import datasets  # type: ignore[import-untyped]

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each of its retries would be a line on stderr
    try:
        builder = datasets.load_dataset_builder(data, config, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise RecipeError(f"cannot find {given} by `datasets`: {why}; give the shards as files instead") from None
    by_split = {str(name): [str(x) for x in files] for name, files in (builder.config.data_files or {}).items()}
    if not by_split or (split is not None and split not in by_split):
        raise RecipeError(f"{given}: no split {split!r} (there is: {', '.join(by_split) or 'nothing'})")
    paths = by_split[split] if split is not None else [x for files in by_split.values() for x in files]
    other = [x for x in paths if not x.endswith(SUFFIXES)]
    if other:
        raise RecipeError(f"{given}: {other[0].rpartition('/')[2]} is not JSON lines, which is all that is read here")
    name = f"{Path(data).name}/{config}"
    return [
        io.Input(f"{name}/{x.rpartition('/')[2]}", x, None if "://" in x else Path(x).stat().st_size) for x in paths
    ]


def _chunks(split: Split) -> Iterator[bytes]:
    """The bytes of one shard as they are stored."""
    if not split.path.startswith("hf://"):
        yield from io.stream(split.path, split.bytes)
        return
    # It opens a file of the hub as streaming mode does, with its retries.
    from datasets.utils.file_utils import xopen  # type: ignore[import-untyped]

    try:
        with xopen(split.path, "rb") as file:
            while chunk := file.read(io.CHUNK):
                yield chunk
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"cannot read {split.path}: {' '.join(str(error).split())[:300]}") from None


def _pieces(stored: Stored, tally: Tally) -> Iterator[bytes]:
    """The uncompressed bytes of a shard; what is wrong with the file is in `tally.damage`."""
    while len(stored.data) < 64 and stored.more(0):
        pass
    head = stored.data
    if head.startswith(GZIP):
        yield from _gunzipped(stored, tally)
    elif head.startswith(ZSTD):
        yield from _unzstd(stored, tally)
    elif head.removeprefix(BOM).lstrip()[:1] in (b"{", b""):
        if not head:
            tally.damage.append("not_json_lines: the file is empty")
        yield head
        while stored.more(stored.end):
            yield stored.data
    else:
        tally.damage.append(f"not_json_lines: {what_is(head)}")


def _gunzipped(stored: Stored, tally: Tally) -> Iterator[bytes]:
    """What gzip members hold, one after the other. Ends at damage: a shard is one member, there is nothing behind."""
    place = size = 0
    member = isal_zlib.decompressobj(31)
    begun = True  # the member at hand has been given bytes
    while True:
        if place >= stored.end and not stored.more(place):
            break
        given = stored.tail(place)[:INPUT]
        if not begun:
            if not given.strip(b"\0"):  # padding
                place += len(given)
                continue
            if given[0] == 0 or (not given.startswith(GZIP) and not GZIP.startswith(given)):
                tally.damage.append(f"trailing_garbage: at byte {place}")
                return
            member, begun = isal_zlib.decompressobj(31), True
        try:
            piece = member.decompress(given, OUTPUT)
        except DAMAGED:
            tally.damage.append(f"{CORRUPT}: bad data near byte {place}; what stands behind it is lost")
            return
        place += len(given) - len(member.unconsumed_tail) - len(member.unused_data)
        begun = not member.eof
        size += len(piece)
        if size > OUTPUT and size > RATIO * place:
            tally.damage.append(f"{LIMIT}: {place} bytes have become {size}")
            return
        yield piece
    if begun:
        tally.damage.append(f"{TRUNCATED}: the file ends within a gzip member")


class _File(python_io.RawIOBase):
    """Stored bytes as a file that is read from its beginning to its end."""

    def __init__(self, stored: Stored) -> None:
        self.stored, self.place = stored, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self.place >= self.stored.end and not self.stored.more(self.place):
            return b""
        data = self.stored.tail(self.place)[: size if size >= 0 else INPUT]
        self.place += len(data)
        return data


def _unzstd(stored: Stored, tally: Tally) -> Iterator[bytes]:
    file = _File(stored)
    size = 0
    try:
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as plain:
            while piece := plain.read(OUTPUT):
                size += len(piece)
                if size > OUTPUT and size > RATIO * file.place:
                    tally.damage.append(f"{LIMIT}: {file.place} bytes have become {size}")
                    return
                yield piece
    except OSError as error:
        ends = not stored.more(stored.end) and "runcated" in str(error)
        said = "the file ends within a frame" if ends else f"bad data near byte {file.place}; the rest is lost"
        tally.damage.append(f"{TRUNCATED if ends else CORRUPT}: {said}")


class _Rows:
    """Holds the line that is not complete yet, and the columns of the table that is being filled."""

    def __init__(self, source: C4, split: Split) -> None:
        self.source, self.split = source, split
        found = UPSTREAM.fullmatch(split.name)
        self.kind = found[3] if found else None
        self.held: Octets = np.empty(2 * OUTPUT, np.uint8)
        self.size = 0
        self.started = False
        self.skipping = False  # within a line that is too long to be held
        self.state = np.zeros(8, np.int64)
        self.bad = np.zeros((BAD_ROWS, 2), np.int64)
        self.clear()

    def clear(self) -> None:
        """Begin a table. Memory that is not written to is not used, so that the sizes may be generous."""
        n = self.source.batch_rows
        self.text = np.empty(self.source.batch_bytes + (4 << 20), np.uint8)
        self.url = np.empty(4 << 20, np.uint8)
        self.ends, self.url_ends = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
        self.dates, self.lines = np.empty(n, np.int64), np.empty(n, np.int64)
        self.stamps = np.empty((n, json_rows.STAMP), np.uint8)
        self.state[json_rows.ROWS] = 0

    def add(self, piece: bytes, tally: Tally) -> Iterator[pa.Table]:
        """Take bytes; the tables that become full."""
        if not self.started and piece:
            self.started = True
            if piece.startswith(BOM):
                piece = piece[len(BOM) :]
                tally.flags["bom"] += 1
        end = piece.rfind(b"\n") + 1
        if self.skipping:
            first = piece.find(b"\n") + 1
            if first == 0:
                return
            piece, end, self.skipping = piece[first:], end - first, False
        self.hold(piece)
        if end > 0:
            yield from self.parse(self.size - len(piece) + end, tally)
        if self.size > self.source.max_record_bytes:
            self.too_large(tally)

    def hold(self, piece: bytes) -> None:
        """Add bytes to what is held."""
        n = self.size + len(piece)
        if n > len(self.held):
            larger = np.empty(max(n, 2 * len(self.held)), np.uint8)
            larger[: self.size] = self.held[: self.size]
            self.held = larger
        self.held.data[self.size : n] = piece
        self.size = n

    def too_large(self, tally: Tally) -> None:
        """Give up the line that is held, and what is still to come of it."""
        self.lose(tally, TOO_LARGE, f"more than {self.source.max_record_bytes} bytes")
        self.skipping = True
        self.held = np.empty(2 * OUTPUT, np.uint8)

    def lose(self, tally: Tally, reason: str, value: str) -> None:
        """Count the line that is held as lost."""
        number = int(self.state[json_rows.LINE])
        tally.fail(self.id(number), None, reason, f"line {number}: {value}")
        self.state[json_rows.LINE] += 1
        self.size = 0

    def id(self, number: int) -> str:
        """`doc_id` of a line."""
        return doc_id(self.source.name, self.split.name, number)

    def parse(self, stop: int, tally: Tally) -> Iterator[pa.Table]:
        """Read the lines up to `stop`; what is behind it moves to the front."""
        at = 0
        while at < stop:
            self.make_room(stop - at)
            at = int(
                json_rows.records(
                    self.held, at, stop, self.source.batch_bytes, self.text, self.ends, self.url, self.url_ends,
                    self.dates, self.stamps, self.lines, self.bad, self.state,
                )
            )  # fmt: skip
            self.count_bad(tally)
            rows = int(self.state[json_rows.ROWS])
            if rows == self.source.batch_rows or self.ends[rows] >= self.source.batch_bytes:
                yield self.table(tally)
        self.held[: self.size - stop] = self.held[stop : self.size].copy()
        self.size -= stop
        if len(self.held) > 8 * OUTPUT and self.size < OUTPUT:  # a buffer that had to grow is given back
            self.held = np.concatenate([self.held[: self.size], np.empty(2 * OUTPUT, np.uint8)])

    def make_room(self, more: int) -> None:
        """Let the columns have room for so many bytes of lines."""
        row = self.state[json_rows.ROWS]
        self.text = _roomy(self.text, int(self.ends[row]), more + 64)
        self.url = _roomy(self.url, int(self.url_ends[row]), more + 64)

    def count_bad(self, tally: Tally) -> None:
        """Count the lines that failed since the last time."""
        for number, wrong in self.bad[: self.state[json_rows.BAD]].tolist():
            reason, value = json_rows.WRONG[wrong]
            tally.fail(self.id(number), None, reason, f"line {number}: {value}")
        self.state[json_rows.BAD] = 0

    def finish(self, tally: Tally) -> Iterator[pa.Table]:
        """The last line, which may have no line feed, and the last table."""
        cut = [x.partition(":")[0] for x in tally.damage if x.startswith((TRUNCATED, CORRUPT, LIMIT))]
        if self.size and cut:
            self.lose(tally, cut[0], "the file is damaged within it")
        elif self.size:
            yield from self.parse(self.size, tally)
        if self.state[json_rows.ROWS]:
            yield self.table(tally)
        if blank := int(self.state[json_rows.BLANK]):
            tally.skip("blank_line", blank)
        flags = {
            "lone_surrogate": json_rows.SURROGATES,
            "control_characters": json_rows.CONTROLS,
            "bad_url": json_rows.URLS,
        }
        for kind, entry in {**flags, "other_fields": json_rows.EXTRA}.items():
            if self.state[entry]:
                tally.flags[kind] += int(self.state[entry])

    def table(self, tally: Tally) -> pa.Table:
        """Give the table out and begin the next one."""
        n = int(self.state[json_rows.ROWS])
        dates = self.dates[:n]
        for row in np.flatnonzero(dates == json_rows.ODD_DATE).tolist():
            dates[row] = _odd_date(self.stamps[row])
        odd = int(np.count_nonzero(dates == json_rows.ODD_DATE))
        if odd:
            tally.flags["bad_date"] += odd
        text, url = (
            from_buffers(data[: ends[n]], ends[: n + 1])
            for data, ends in ((self.text, self.ends), (self.url, self.url_ends))
        )
        known = pc.not_equal(pc.binary_length(url), 0)
        columns = {
            "doc_id": pa.array(self.ids(self.lines[:n]), pa.string()),
            "source": pa.repeat(pa.scalar(self.source.name), n),
            "url": pc.if_else(known, url, pa.scalar(None, pa.large_string())).cast(pa.string()),
            "title": pa.nulls(n, pa.string()),
            "text": text,
            "date": pa.array(dates.view("datetime64[us]"), DOCUMENT.field("date").type),  # ODD_DATE: not-a-time
            "lang": pa.repeat(pa.scalar("en" if self.kind else None, pa.string()), n),
            "license": pa.repeat(pa.scalar(LICENCE), n),
            "meta": self.meta(self.lines[:n]),
        }
        table = pa.Table.from_arrays(list(columns.values()), schema=DOCUMENT)
        self.clear()
        return table

    def ids(self, lines: npt.NDArray[np.int64]) -> list[str]:
        """`schema.doc_id` of lines, the common part of its input prepared."""
        prefix, blake2b = f"{self.source.name}\0{self.split.name}\0".encode(), hashlib.blake2b
        return [blake2b(prefix + b"%d" % n, digest_size=16).hexdigest() for n in lines.tolist()]

    def meta(self, lines: npt.NDArray[np.int64]) -> pa.Array:
        """JSON objects."""
        kind = f', "split": "{self.kind}"' if self.kind else ""
        numbers: Any = pa.array(lines).cast(pa.string())
        return pc.binary_join_element_wise('{"line": ', numbers, f"{kind}}}", "")


def _roomy(buffer: Octets, used: int, more: int) -> Octets:
    """A buffer with room for `more` bytes behind the `used` ones: the same where it has."""
    if used + more <= len(buffer):
        return buffer
    larger = np.empty(max(used + more, 2 * len(buffer)), np.uint8)
    larger[:used] = buffer[:used]
    return larger


def _odd_date(stamp: Octets) -> int:
    """Microseconds since 1970 of a date in another ISO 8601 form, UTC where it does not say; ODD_DATE for no date."""
    try:
        date = datetime.fromisoformat(stamp.tobytes().partition(b"\0")[0].decode("ascii"))
        since = (date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return int(json_rows.ODD_DATE)
    return (since.days * 86400 + since.seconds) * 10**6 + since.microseconds
