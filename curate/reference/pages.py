"""Which pages a reference classifier learns from: crawl pages that are cited, and as many random ones.

Nothing is fetched: cited addresses are joined with the pages at hand. Memory is bounded by the number of cited
addresses (8 bytes each) and of pages that are wanted, not by the pages that are read.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.errors import RecipeError, SourceError
from curate.kernels.arrow import buffers
from curate.store import Corpus
from curate.url_forms import parts, url_form

Keys = npt.NDArray[np.uint64]
Tables = Callable[[], Iterator[pa.Table]]  # the same tables in the same order at each call
Pages = str | Path | Sequence[Path] | Tables
COLUMNS = ("url", "text", "lang")
LEAST = 20  # pages of a kind; fewer say nothing
CHUNK = 1 << 20  # addresses


def page_key(url: str) -> int:
    """64 bits of an address for the join: as block lists compare addresses (`url_form`), without a leading "www."."""
    form = url_form(url).removeprefix("www.")
    return int.from_bytes(hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def site(url: str) -> str:
    """The host of an address, without "www.": pages of one site share their boilerplate."""
    return parts(url)[0].removeprefix("www.")


def cited_keys(cited: Iterable[str] | Path) -> Keys:
    """Sorted distinct keys of cited addresses: given, or in a file.

    A file is text (an address a line, UTF-8, also .gz) or a table with a column `url` (.arrow, .parquet). Raises
    RecipeError where it cannot be read, has no such column or holds no address.
    """
    urls: Iterable[str | None] = _addresses(cited) if isinstance(cited, Path) else cited
    held, chunk = [np.zeros(0, np.uint64)], []
    for url in urls:
        if url and not url.isspace():
            chunk.append(page_key(url))
        if len(chunk) == CHUNK:
            held = [np.unique(np.concatenate([*held, np.array(chunk, np.uint64)]))]
            chunk = []
    keys = np.unique(np.concatenate([*held, np.array(chunk, np.uint64)]))
    if not len(keys):
        raise RecipeError(f"{cited if isinstance(cited, Path) else 'the list of cited pages'}: holds no address")
    return keys


def _addresses(path: Path) -> Iterator[str | None]:
    try:
        if path.suffix == ".parquet":
            for batch in pq.ParquetFile(path).iter_batches(columns=["url"]):
                yield from batch["url"].to_pylist()
        elif path.suffix == ".arrow":
            for table in _read([path], ("url",)):
                yield from table["url"].to_pylist()
        else:
            with _text(path) as lines:
                for line in lines:
                    yield line.decode().strip()
    except (OSError, EOFError, UnicodeDecodeError, KeyError, pa.ArrowException) as error:
        raise RecipeError(f"{path}: not a list of cited addresses: {' '.join(str(error).split())}") from None


def _text(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def tables(pages: Pages) -> Tables:
    """A way to go through pages: the crawl of a corpus folder, a folder or list of Arrow files, or given tables."""
    if callable(pages):
        return pages
    files = _corpus_files(Path(pages)) if isinstance(pages, (str, Path)) else [Path(p) for p in pages]
    if not files:
        raise RecipeError(f"{pages}: holds no pages (a corpus with a crawl, or .arrow files of documents)")
    return lambda: _read(files, COLUMNS)


def _corpus_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    corpus = Corpus(folder)
    if not corpus.sources():
        return sorted(folder.glob("*.arrow"))
    if "commoncrawl" not in corpus.sources():
        raise RecipeError(f"{folder}: has no commoncrawl, only {', '.join(corpus.sources())}")
    return [commit.path("documents") for commit in corpus.commits("commoncrawl")]


def _read(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    for path in files:
        try:
            with pa.OSFile(str(path)) as file:
                names = pa.ipc.open_file(file).schema.names
                wanted = [names.index(c) for c in columns if c in names]
                reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted))
                if columns[0] not in reader.schema.names:
                    raise SourceError(f"{path}: has no column {columns[0]!r}")
                for i in range(reader.num_record_batches):
                    yield pa.Table.from_batches([reader.get_batch(i)])
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path}: {' '.join(str(error).split())}") from None


@dataclass
class Smallest:
    """The `limit` smallest distinct keys of a stream, each with the first row that it was seen at."""

    limit: int
    keys: Keys = field(default_factory=lambda: np.zeros(0, np.uint64))
    rows: Keys = field(default_factory=lambda: np.zeros(0, np.uint64))

    def add(self, keys: Keys, rows: Keys) -> None:
        """Take in keys and their rows; sorted and cut when twice too many are held."""
        self.keys, self.rows = np.concatenate([self.keys, keys]), np.concatenate([self.rows, rows])
        if len(self.keys) > 2 * self.limit + CHUNK:
            self.cut()

    def cut(self) -> None:
        """Sort by key, drop repeats and what is over the limit."""
        self.keys, first = np.unique(self.keys, return_index=True)
        self.rows = self.rows[first]
        self.keys, self.rows = self.keys[: self.limit], self.rows[: self.limit]


@dataclass(frozen=True)
class Choice:
    """Rows to learn from, by their number in the stream of pages, each with its key; ascending by key."""

    positive: Smallest
    negative: Smallest
    counts: dict[str, int]


def choose(read: Tables, cited: Keys, *, seed: int, min_characters: int, max_pages: int, lang: str | None) -> Choice:
    """Pages that are cited and as many that are not, at most `max_pages` of each.

    A page's key is a seeded hash of its text and the smallest keys are taken: a uniform sample that does not depend
    on the order of the pages, in which no text occurs twice. Both kinds have `min_characters` or more: RedPajama had
    that floor for positives alone, from which a classifier can learn length. Raises RecipeError for too few.
    """
    positive, negative = Smallest(max_pages), Smallest(max_pages)
    found, counts, base = np.zeros(len(cited), bool), Counter({"pages": 0, "cited_pages": 0, "long_cited_pages": 0}), 0
    for table in read():
        at, joined = _join(table, cited)
        joined, long = joined & _of(table, lang), _long(table, min_characters)
        counts.update(pages=len(table), cited_pages=int(joined.sum()), long_cited_pages=int((joined & long).sum()))
        found[at[joined]] = True
        keys = _text_keys(table, seed)
        rows = np.arange(base, base + len(table), dtype=np.uint64)
        for kind, mask in ((positive, joined & long), (negative, ~joined & long & _of(table, lang))):
            kind.add(keys[mask], rows[mask])
        base += len(table)
    counts.update(cited_urls=len(cited), cited_urls_found=int(found.sum()))
    _balance(positive, negative)
    _check(len(positive.keys), counts, min_characters)
    return Choice(positive, negative, dict(counts))


def _balance(positive: Smallest, negative: Smallest) -> None:
    positive.cut()
    negative.cut()
    other = ~np.isin(negative.keys, positive.keys)  # a cited text may lie at an address that is not cited, too
    negative.keys, negative.rows = negative.keys[other], negative.rows[other]
    for kind in (positive, negative):
        kind.limit = min(len(positive.keys), len(negative.keys))
    positive.cut()
    negative.cut()


def _check(pages: int, counts: Counter[str], min_characters: int) -> None:
    if pages < LEAST:
        raise RecipeError(
            f"too little to learn from: {counts['cited_urls_found']} of {counts['cited_urls']} cited addresses are "
            f"among {counts['pages']} pages; {counts['long_cited_pages']} cited pages have {min_characters} characters "
            f"or more, and {pages} distinct ones have a page beside them that is not cited; {LEAST} are needed"
        )


def _join(table: pa.Table, cited: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """(where each page's address stands among the cited ones, whether it does)."""
    urls = table["url"].to_pylist()
    keys = np.array([page_key(url) if url else 0 for url in urls], np.uint64)
    at = np.searchsorted(cited, keys).clip(max=len(cited) - 1)
    return at, (cited[at] == keys) & np.array([bool(url) for url in urls], bool)


def _of(table: pa.Table, lang: str | None) -> npt.NDArray[np.bool_]:
    if lang is None:
        return np.ones(len(table), bool)
    if "lang" not in table.column_names:
        raise RecipeError(f"the pages have no column lang, so those in {lang!r} cannot be told")
    return _numpy(pc.fill_null(pc.equal(table["lang"], lang), False))


def _long(table: pa.Table, min_characters: int) -> npt.NDArray[np.bool_]:
    return _numpy(pc.greater_equal(pc.fill_null(pc.utf8_length(table["text"]), 0), min_characters))


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(column.to_numpy(), bool)


def _text_keys(table: pa.Table, seed: int) -> Keys:
    data, offsets = buffers(table["text"])
    salt, ends = str(seed).encode()[:64], offsets.tolist()
    digests = b"".join(
        hashlib.blake2b(data[a:b].data, digest_size=8, key=salt).digest() for a, b in itertools.pairwise(ends)
    )
    return np.frombuffer(digests, "<u8")


@dataclass(frozen=True)
class Page:
    """One page to learn from."""

    key: int
    cited: bool
    url: str
    lang: str
    text: str


def chosen_pages(read: Tables, choice: Choice) -> Iterator[Page]:
    """The chosen pages, in the order of the stream. SourceError where the pages changed since they were chosen."""
    rows = np.concatenate([choice.positive.rows, choice.negative.rows])
    keys = np.concatenate([choice.positive.keys, choice.negative.keys])
    kinds = np.arange(len(rows)) < len(choice.positive.rows)
    order = np.argsort(rows)
    rows, keys, kinds, base, done = rows[order], keys[order], kinds[order], 0, 0
    for table in read():
        end = int(np.searchsorted(rows, base + len(table)))
        part = table.take(pa.array(rows[done:end].astype(np.int64) - base))
        langs = part["lang"].to_pylist() if "lang" in part.column_names else [None] * len(part)
        columns = (keys[done:end].tolist(), kinds[done:end].tolist(), part["url"].to_pylist(), langs)
        for key, kind, url, lang, text in zip(*columns, part["text"].to_pylist(), strict=True):
            yield Page(key, kind, url or "", lang or "", text)
        base, done = base + len(table), end
    if done < len(rows):
        raise SourceError(f"the pages changed while they were read: {len(rows) - done} are gone")


def held_out(sites: Sequence[str], cited: Sequence[bool], *, seed: int, share: float) -> npt.NDArray[np.bool_]:
    """Which pages are held out: whole sites, in the order of a seeded hash, as long as neither kind is over `share`.

    By site and not by page, since a page's neighbours share its menu and its footer.
    """
    pages: dict[str, list[int]] = {}
    for i, name in enumerate(sites):
        pages.setdefault(name, []).append(i)
    salt = str(seed).encode()[:64]
    order = sorted(pages, key=lambda s: hashlib.blake2b(s.encode("utf-8", "surrogatepass"), key=salt).digest())
    kinds = np.array(cited, bool)
    most = {True: share * kinds.sum(), False: share * (~kinds).sum()}
    held, taken = np.zeros(len(kinds), bool), {True: 0, False: 0}
    for name in order:
        positive = int(kinds[pages[name]].sum())
        more = {True: positive, False: len(pages[name]) - positive}
        if all(taken[k] + more[k] <= most[k] for k in most):
            held[pages[name]] = True
            taken = {k: taken[k] + more[k] for k in taken}
    return held
