"""Wikipedia: XML dumps of articles (`pages-articles`, also multistream) as documents of plain text.

A record is a page. Those of other namespaces, redirects (by the tag) and pages that are not wikitext are skipped; the
rest is text (`curate.kernels.wikitext`). What the wiki calls files and categories is read from the dump's own list of
namespaces; older names, which that list leaves out, are in `ALIASES`. recipes.md 4, robustness.md 3.5.

The XML is not given to an XML parser. A dump is written by one program, and inside a page a raw `<` can only be a tag
of that program's; so pages are found by their tags, a thing that is broken costs one page, and there are no entities
to expand: a document type is refused.

An input is a file (`.xml`, `.xml.gz`, `.xml.bz2`), a folder, an address, or the name of a dump (`bgwiki-20220801`; all
of LLaMA's languages: `llama-20220801`), whose list of files is asked for at `base`. A local multistream dump with its
index beside it is read as several splits, each a run of whole bzip2 streams.
"""

from __future__ import annotations

import bz2
import codecs
import hashlib
import html
import itertools
import json
import os
import re
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import io
from curate.errors import RecipeError, SourceError
from curate.kernels import wikitext
from curate.schema import DOCUMENT, doc_id
from curate.stage import Split, Tally
from curate.store import Corpus

SAMPLE = Path(__file__).parent / "samples" / "wikipedia"
BASE = "https://dumps.wikimedia.org"
_LANGUAGES = "bg ca cs da de en es fr hr hu it nl pl pt ro ru sl sr sv uk"
LANGUAGES = tuple(_LANGUAGES.split())  # LLaMA, section 2.1
SUFFIXES = (".xml", ".xml.gz", ".bz2")
DUMP = re.compile(r"(llama|[a-z][a-z0-9_]{0,30}wiki)-(20\d{6}|latest)")
DUMP_FILE = re.compile(r"([a-z][a-z0-9_]{0,30})-(20\d{6})-pages-articles[\w.-]*\.xml[\w.-]*")
INDEX = re.compile(r"-multistream-index\d*\.txt")
INDEXED = re.compile(r"(.*-multistream)(\d*)\.xml(.*\.bz2)")
PART = re.compile(r"(.*-pages-articles(?:-multistream)?)(\d+)\.xml-p(\d+)p(\d+)(.*)")
RUN = re.compile(r"(.+)#(\d+)-(\d+)")
VERSIONS = {f"0.{n}" for n in range(1, 12)}  # of the export format, as far as there are

OUTPUT = 1 << 20  # uncompressed bytes that are asked for at once
RATIO = 200  # a stream may hold so many bytes a stored byte, beyond its first OUTPUT
MAX_HEAD = 1 << 20  # bytes before the first page: a list of namespaces has some 5,000
MAX_SMALL = 64 << 20  # bytes of a list of files or checksums
STREAM = re.compile(rb"BZh[1-9]1AY&SY")  # a bzip2 stream with a block in it
WRONG = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"version https://git-lfs": "a git-LFS pointer",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
}

NAMESPACE = re.compile(rb'<namespace key="(-?\d{1,6})"[^>]*?(?:/>|>([^<]*)</namespace>)')
TITLE = re.compile(rb"<title>([^<]*)</title>")
NS = re.compile(rb"<ns>\s*(-?\d{1,6})\s*</ns>")
ID = re.compile(rb"<id>\s*(\d{1,18})\s*</id>")
MODEL = re.compile(rb"<model>([^<]*)</model>")
TIMESTAMP = re.compile(rb"<timestamp>([^<]*)</timestamp>")
ARCHIVE = re.compile(r"https?://(?:web\.)?archive\.org/web/[0-9a-z_*]{1,20}/(https?:/.*)", re.I | re.S)
LICENCE_CHANGED = "2023-06-07"  # the terms of use say CC BY-SA 4.0 since then, 3.0 (and GFDL) before

# Names of the File, Media and Category namespaces that wikis take beside those of their own list (MediaWiki's
# languages/messages of each language, namespaceAliases and fallback languages).
ALIASES: dict[str, tuple[str, str]] = {
    "bg": ("Файл Картинка Медия", "Категория"),
    "ca": ("Fitxer Imatge Mèdia", "Categoria"),
    "cs": ("Soubor Obrázek Obrázok Média", "Kategorie"),
    "da": ("Fil Billede", "Kategori"),
    "de": ("Datei Bild Medium", "Kategorie"),
    "en": ("", ""),
    "es": ("Archivo Imagen Medio", "Categoría"),
    "fr": ("Fichier Média", "Catégorie"),
    "hr": ("Datoteka Slika Mediji", "Kategorija"),
    "hu": ("Fájl Kép Média", "Kategória"),
    "it": ("Immagine", "Categoria"),
    "nl": ("Bestand Afbeelding", "Categorie"),
    "pl": ("Plik Grafika", "Kategoria"),
    "pt": ("Ficheiro Arquivo Imagem Multimédia Multimídia", "Categoria"),
    "ro": ("Fișier Fişier Imagine", "Categorie"),
    "ru": ("Файл Изображение Медиа", "Категория"),
    "sl": ("Slika Datoteka", "Kategorija"),
    "sr": ("Датотека Слика Медиј Datoteka Slika Medij", "Категорија Kategorija"),
    "sv": ("Fil Bild", "Kategori"),
    "uk": ("Файл Зображення Медіа Изображение Медиа", "Категорія Категория"),
}
# Prefixes of links to the same article in other languages, which were in the text until 2013.
INTERLANGUAGE = (
    "aa ab ace ady af ak als am an ang ar arc arz as ast atj av ay az azb ba bar bat-smg bcl be be-tarask"
    " be-x-old bg bh bi bjn bm bn bo bpy br bs bug bxr ca cbk-zam cdo ce ceb ch cho chr chy ckb co cr crh cs"
    " csb cu cv cy da de din diq dsb dty dv dz ee el eml en eo es et eu ext fa ff fi fiu-vro fj fo fr frp frr"
    " fur fy ga gag gan gd gl glk gn gom gor got gu gv ha hak haw he hi hif ho hr hsb ht hu hy hyw hz ia id"
    " ie ig ii ik ilo inh io is it iu ja jam jbo jv ka kaa kab kbd kbp kg ki kj kk kl km kn ko koi kr krc ks"
    " ksh ku kv kw ky la lad lb lbe lez lfn lg li lij lmo ln lo lrc lt ltg lv mai map-bms mdf mg mh mhr mi"
    " min mk ml mn mr mrj ms mt mus mwl my myv mzn na nah nap nds nds-nl ne new ng nl nn no nov nrm nso nv ny"
    " oc olo om or os pa pag pam pap pcd pdc pfl pi pih pl pms pnb pnt ps pt qu rm rmy rn ro roa-rup roa-tara"
    " ru rue rw sa sah sat sc scn sco sd se sg sh shn si simple sk sl sm sn so sq sr srn ss st stq su sv sw"
    " szl ta tcy te tet tg th ti tk tl tn to tpi tr ts tt tum tw ty tyv udm ug uk ur uz ve vec vep vi vls vo"
    " wa war wo wuu xal xh xmf yi yo za zea zh zh-classical zh-min-nan zh-yue zu"
)
# Templates that say that a page only tells apart articles of one name.
DISAMBIGUATION = (
    "disambiguation|disambig|disamb|dab|hndis|geodis|human name disambiguation|пояснение|desambiguació"
    "|rozcestník|flertydig|begriffsklärung|desambiguación|homonymie|razdvojba|egyért|egyértelműsítő lap"
    "|disambigua|dp|doorverwijspagina|ujednoznacznienie|strona ujednoznaczniająca|desambiguação|desambig"
    "|dezambiguizare|dezamb|неоднозначность|многозначность|razločitev|вишезначна одредница"
    "|višeznačna odrednica|förgrening|gren|неоднозначність|багатозначність"
)
# Templates that cite a source, wherever they stand.
CITATION = (
    "citation|cite web|cite news|cite book|cite journal|cite magazine|cite press release|cite report"
    "|cite thesis|cite conference|cite encyclopedia|cite av media|cite video|cite map|cite episode|cite arxiv"
    "|cite interview|cite newspaper|cite document|cite podcast|cite patent|internetquelle|literatur|lien web"
    "|ouvrage|article|chapitre|cita web|cita noticia|cita libro|cita publicación|cita news|cita pubblicazione"
    "|cita testo|citar web|citar livro|citar jornal|citar periódico|citeer web|citeer nieuws|citeer boek"
    "|citeer journal|cytuj|cytuj stronę|cytuj książkę|cytuj pismo|книга|статья|публикация|стаття|публікація"
    "|citace elektronické monografie|citace monografie|citace periodika|citace elektronického periodika"
    "|citace sborníku|webbref|bokref|tidskriftsref|tidningsref|kilde www|kilde bog|kilde artikel|ref-web"
    "|ref-llibre|ref-notícia|ref-publicació|citat web|citat carte|citat știre|navedi splet|navedi knjigo"
    "|navedi novice|navedi revijo|цитат уеб|цитат книга|цитат периодика|цитат новина|citiranje weba"
    "|citiranje knjige"
)


@dataclass(frozen=True)
class Wikipedia:
    """Dumps of Wikipedias.

    A page fails as `truncated_input` or `corrupt_stream` (the file breaks off in it), `record_too_large`, `encoding`
    (not UTF-8), `malformed_page` (no text element), `nesting_limit` (over 256 deep). `meta`: page_id, revision,
    wikitext_bytes, and where there are any disambiguation (true) and cited (addresses in references).
    """

    name: ClassVar[str] = "wikipedia"
    base: str = BASE  # where dumps are published
    batch_bytes: int = 8 << 20  # wikitext of a table; it ends with the page that reaches it
    max_page_bytes: int = 16 << 20  # of XML; MediaWiki refuses text over 2 MiB
    run_bytes: int = 64 << 20  # stored bytes of a split of a multistream dump
    last_revision: bool = False  # read a history dump, and of each page the last revision
    allow_missing_parts: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_bytes", "max_page_bytes", "run_bytes"):
            if getattr(self, name) < 1:
                raise RecipeError(f"source.{name} is {getattr(self, name)}, must be at least 1")

    def plan(self, inputs: Sequence[str]) -> list[Split]:
        """One split a file, or several of a multistream dump with its index; no inputs: the embedded sample.

        RecipeError: nothing found, two files of one name, a hole in the parts of a dump, a dump that is there twice, an
        index that is not the dump's. SourceError: a dump is not published, or not finished.
        """
        if not inputs and not any(SAMPLE.glob("*.xml.bz2")):
            raise RecipeError(f"the embedded sample is missing: no *.xml.bz2 in {SAMPLE}")
        files: list[io.Input] = []
        for given in inputs or [str(SAMPLE)]:
            dump = DUMP.fullmatch(given)
            if dump and not os.path.exists(given):
                files += self._dump(dump[1], dump[2])
            else:
                files += _named(given)
        files = io.unique(list({item.path: item for item in files}.values()))
        _check_parts([item.name for item in files], self.allow_missing_parts)
        return [split for item in files for split in _splits(item, self.run_bytes)]

    def _dump(self, wiki: str, date: str) -> list[io.Input]:
        """The files of a published dump, or of LLaMA's twenty."""
        if date == "latest":
            raise RecipeError(f"{wiki}-latest: latest moves while it is read; name a date, such as {wiki}-20220801")
        wikis = [f"{lang}wiki" for lang in LANGUAGES] if wiki == "llama" else [wiki]
        return [item for each in wikis for item in published(each, date, self.base)]

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        """Articles of one split in file order, in tables of about `batch_bytes` of wikitext.

        SourceError: the file cannot be read, is no dump or another kind of dump, or has not the published checksum.
        """
        dump = _Dump(split, tally)
        batch = _Batch(self.name, dump.name)
        seen: set[int] = set()
        lost: Counter[str] = Counter()
        for page in _pages(dump, self.max_page_bytes):
            if isinstance(page, str):
                tally.fail(doc_id(self.name, split.name, f"damage {len(tally.failed)}"), None, page)
                continue
            self._add(batch, dump, page, seen, lost, tally)
            if batch.size >= self.batch_bytes:
                yield batch.table(dump.site, tally)
                batch = _Batch(self.name, dump.name)
        if batch.texts:
            yield batch.table(dump.site, tally)
        dump.finish()

    def _add(self, batch: _Batch, dump: _Dump, page: bytes, seen: set[int], lost: Counter[str], tally: Tally) -> None:
        """Take one page up, or count it otherwise. `lost`: how often a page of an id has failed."""
        if page.count(b"<revision>") > 1 and not self.last_revision:
            raise SourceError(
                f"{dump.name}: a dump with histories; take pages-articles, or --set source.last_revision=yes"
            )
        found = _parse(page, dump.site)
        if isinstance(found, _Failed):
            key = f"lost {found.key} {lost[found.key]}"  # its id may be that of a sound page, too
            lost[found.key] += 1
            tally.fail(doc_id(self.name, dump.name, key), None, found.reason, found.value)
        elif isinstance(found, str):
            tally.skip(found)
        elif found.number in seen:
            tally.skip("duplicate_id")
        else:
            seen.add(found.number)
            batch.add(found)


# -- what there is to read -------------------------------------------------------------------------------------------


def published(wiki: str, date: str, base: str = BASE) -> list[io.Input]:
    """The article files of a finished dump, as its status file lists them. SourceError: not there, or not finished."""
    address = f"{base.rstrip('/')}/{wiki}/{date}"
    try:
        status = json.loads(_small(f"{address}/dumpstatus.json"))
        job = status["jobs"]["articlesdump"]
        state, files = str(job["status"]), {str(k): int(v["size"]) for k, v in job["files"].items()}
    except SourceError as error:
        raise SourceError(f"no dump {wiki}-{date}: {error} (dumps are kept for some months)") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise SourceError(f"{io.named(address)}/dumpstatus.json: not the status of a dump") from None
    if state != "done":
        raise SourceError(f"{wiki}-{date}: the dump of articles is not finished but {state[:40]!a}")
    for name in files:
        match = DUMP_FILE.fullmatch(name)
        if not match or match[1] != wiki or match[2] != date:
            raise SourceError(f"{io.named(address)}/dumpstatus.json: lists {name[:80]!a}")
    if not files:
        raise SourceError(f"{io.named(address)}/dumpstatus.json: lists no files")
    return [io.Input(name, f"{address}/{name}", size) for name, size in sorted(files.items())]


def _named(given: str) -> list[io.Input]:
    """The dumps that an input names; indexes are left out of folders and globs."""
    found = io.expand([given], SUFFIXES)
    files = [item for item in found if not INDEX.search(item.name)]
    if not files:
        raise RecipeError(f"{io.named(given)}: an index, not a dump: name the multistream file that it belongs to")
    for item in files:
        if "://" in item.path and "-latest-" in item.name:
            raise RecipeError(f"{io.named(item.path)}: latest moves while it is read; name the dump of a date")
    return files


def _check_parts(names: Sequence[str], holes: bool) -> None:
    """RecipeError for a dump that is there twice, and for a hole between the parts of one."""
    plain = {name.replace("-multistream", "") for name in names if "-multistream" in name}
    for name in names:
        if name in plain:
            raise RecipeError(f"{name} and its multistream form hold the same pages: give one of them")
    parts = sorted((m[1], int(m[3]), int(m[4]), name) for name in names if (m := PART.fullmatch(name)))
    for one, other in itertools.pairwise(parts):
        if one[0] == other[0] and one[2] + 1 != other[1] and not holes:
            gap = f"missing_part: between {one[3]} and {other[3]} pages {one[2] + 1} to {other[1] - 1} are missing"
            raise RecipeError(f"{gap}; --set source.allow_missing_parts=yes reads what there is")


def _splits(item: io.Input, run_bytes: int) -> list[Split]:
    """A file as one split, or as runs of bzip2 streams where its index lies beside it."""
    match = INDEXED.fullmatch(os.path.basename(item.path))
    if not match or "://" in item.path or item.bytes is None or item.bytes <= run_bytes:
        return [Split(item.name, item.path, item.bytes)]
    beside = Path(item.path).parent / f"{match[1]}-index{match[2]}.txt{match[3]}"
    index = next((p for p in (beside, beside.with_suffix("")) if p.is_file()), None)
    if index is None:
        return [Split(item.name, item.path, item.bytes)]
    cuts = _cuts(index, item, run_bytes)
    return [Split(f"{item.name}#{first}-{last}", item.path, last - first) for first, last in itertools.pairwise(cuts)]


def _cuts(index: Path, item: io.Input, run_bytes: int) -> list[int]:
    """Places in a multistream dump where runs of about `run_bytes` begin, and its end."""
    size = item.bytes or 0
    cuts, last = [0], 0
    with open(item.path, "rb") as file:
        for offset in _offsets(index):
            if offset < last or offset >= size:
                raise RecipeError(f"{index}: not the index of {item.path}: it names byte {offset}")
            last = offset
            if offset >= cuts[-1] + run_bytes:
                file.seek(offset)
                if not STREAM.match(file.read(10)):
                    raise RecipeError(f"{index}: not the index of {item.path}: no stream begins at byte {offset}")
                cuts.append(offset)
    return [*cuts, size]


def _offsets(index: Path) -> Iterator[int]:
    """The places that the lines of an index ("offset:page:title") name, in their order."""
    rest = b""
    tally = Tally()
    for piece in _inflated(io.stream(str(index)), tally, str(index)):
        lines = (rest + (piece or b"")).split(b"\n")
        rest = lines.pop()
        if len(rest) > 1 << 16:
            raise RecipeError(f"{index}: not an index of a multistream dump")
        last = b""
        for line in lines:
            offset = line.partition(b":")[0]
            if offset != last:
                last = offset
                if not offset.isdigit() or len(offset) > 18:
                    raise RecipeError(f"{index}: not an index of a multistream dump: {line[:60]!r}")
                yield int(offset)
    if rest or tally.damage:
        raise RecipeError(f"{index}: the index is cut or damaged ({'; '.join(tally.damage) or 'its last line'})")


# -- stored bytes to pages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Site:
    """What a dump says of its wiki."""

    lang: str | None
    page_url: str  # what page names are appended to
    namespaces: dict[str, int]  # by lower-case name
    names: wikitext.Names
    variants: bool


class _Dump:
    """One split on its way: its bytes, what its head said, and what has been seen of its end."""

    def __init__(self, split: Split, tally: Tally) -> None:
        run = RUN.fullmatch(split.name)
        self.range = (int(run[2]), int(run[3])) if run and not split.path.endswith(split.name) else None
        self.name = run[1] if run and self.range else split.name  # of the whole file: it names the documents
        self.split, self.tally = split, tally
        self.sha256 = hashlib.sha256()
        self.expected = None if self.range else _checksum(split.path, tally)
        self.check = hashlib.new(self.expected[0], usedforsecurity=False) if self.expected else None
        self.closed = False
        self._site: _Site | None = None

    @property
    def site(self) -> _Site:
        """What the head of the dump says."""
        if self._site is None:
            self.head(_first_stream(self.split.path) if self.range and self.range[0] else b"")
        assert self._site is not None
        return self._site

    def head(self, head: bytes) -> None:
        """Take in what stands before the first page."""
        if self._site is None and not (self.range and self.range[0] and b"<mediawiki" not in head):
            if self.range and self.range[0]:
                self.sha256.update(head)
            self._site = _site(head, self.name)

    def pieces(self) -> Iterator[bytes | None]:
        """Uncompressed UTF-8 in pieces; None where a stream broke off."""
        for piece in _as_utf8(_inflated(self.stored(), self.tally, self.split.name), self.split.name):
            self.tally.bytes_in += len(piece or b"")
            yield piece

    def stored(self) -> Iterator[bytes]:
        """The bytes as stored, digested."""
        for chunk in (
            _range(self.split.path, *self.range) if self.range else io.stream(self.split.path, self.split.bytes)
        ):
            self.sha256.update(chunk)
            if self.check is not None:
                self.check.update(chunk)
            yield chunk

    def finish(self) -> None:
        """Note what is wrong with the file as a whole. SourceError: it has not the published checksum."""
        self.tally.input_digest = self.sha256.hexdigest()
        if self.expected and self.check and self.check.hexdigest() != self.expected[1]:
            raise SourceError(f"{self.name}: checksum_mismatch: its {self.expected[0]} is not the published one")
        is_last = self.range is None or self.range[1] == io.size_of(self.split.path)
        if not self.closed and is_last and not self.tally.damage:
            self.tally.damage.append("truncated_input: the dump breaks off before </mediawiki>")


def _range(path: str, first: int, last: int) -> Iterator[bytes]:
    """A part of a local file in chunks."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(first)
            while first < last:
                chunk = file.read(min(io.CHUNK, last - first))
                if not chunk:
                    raise SourceError(f"{path}: shorter than when it was planned")
                first += len(chunk)
                yield chunk
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None


def _inflated(chunks: Iterator[bytes], tally: Tally, name: str) -> Iterator[bytes | None]:
    """Uncompressed bytes of a file, whatever packs it. SourceError: something that no dump is packed in."""
    first = next(chunks, b"")
    for magic, what in WRONG.items():
        if first[:32].lower().startswith(magic.lower()):
            raise SourceError(f"{name}: {what}, not an XML dump (.xml, .xml.gz, .xml.bz2)")
    whole = _joined(first, chunks)
    if first.startswith(b"BZh"):
        yield from _bunzip(whole, tally)
    elif first.startswith(b"\x1f\x8b"):
        yield from _gunzip(whole, tally)
    else:
        yield from whole


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _bunzip(chunks: Iterator[bytes], tally: Tally) -> Iterator[bytes | None]:
    """All bzip2 streams of a file, one after another. After a damaged one, on at the next; None marks the place."""
    place, chunk = 0, next(chunks, b"")
    while chunk:
        while len(chunk) < 4 and (more := next(chunks, b"")):
            chunk += more
        if not chunk.startswith(b"BZh"):
            chunk = yield from _no_stream(chunk, chunks, tally, place)
            continue
        stream = bz2.BZ2Decompressor()
        begun, taken, given = place, 0, 0
        while chunk and not stream.eof:
            try:
                piece = stream.decompress(chunk, OUTPUT)
                taken, given = taken + len(chunk), given + len(piece)
                while piece and given <= OUTPUT + RATIO * taken:
                    yield piece
                    piece = b"" if stream.needs_input or stream.eof else stream.decompress(b"", OUTPUT)
                    given += len(piece)
            except OSError:
                tally.damage.append(f"corrupt_stream: the bzip2 stream at byte {begun} is damaged")
                place, chunk = _resume(chunk, chunks, place, begun)
                yield None
                break
            if piece:
                tally.damage.append(f"decompression_limit: the stream at byte {begun} swells beyond {RATIO}:1")
                place, chunk = _resume(chunk, chunks, place, begun)
                yield None
                break
            place += len(chunk)
            chunk = stream.unused_data if stream.eof else next(chunks, b"")
            place -= len(chunk) if stream.eof else 0
            if not chunk and not stream.eof:
                tally.damage.append(f"truncated_input: the file ends in the bzip2 stream at byte {begun}")
        chunk = chunk or next(chunks, b"")


def _no_stream(chunk: bytes, chunks: Iterator[bytes], tally: Tally, place: int) -> Any:
    """Bytes that are no bzip2 stream: padding, or noted as damage. Yields nothing; gives back b"": there it ends."""
    padding = not chunk.strip(b"\0") and not any(more.strip(b"\0") for more in chunks)
    if not padding:
        tally.damage.append(f"garbage: from byte {place} on there is no bzip2 stream")
        for _ in chunks:
            pass
    return b""
    yield


def _resume(chunk: bytes, chunks: Iterator[bytes], place: int, begun: int) -> tuple[int, bytes]:
    """(place, bytes from there) of the next stream behind a damaged one that began at `begun`."""
    skip = max(0, begun + 1 - place)
    while True:
        found = STREAM.search(chunk, skip)
        if found:
            return place + found.start(), chunk[found.start() :]
        kept = chunk[-9:]
        more = next(chunks, b"")
        if not more:
            return place + len(chunk), b""
        place += len(chunk) - len(kept)
        chunk, skip = kept + more, 0


def _gunzip(chunks: Iterator[bytes], tally: Tally) -> Iterator[bytes | None]:
    """All members of a gzip file; what follows damage is lost."""
    stream, taken, given = zlib.decompressobj(31), 0, 0
    for chunk in chunks:
        while chunk:
            if stream.eof:
                if not chunk.strip(b"\0"):
                    break
                stream = zlib.decompressobj(31)
            before = len(chunk)
            try:
                piece = stream.decompress(chunk, OUTPUT)
            except zlib.error:
                tally.damage.append("corrupt_stream: the gzip data is damaged")
                yield None
                return
            chunk = stream.unused_data if stream.eof else stream.unconsumed_tail
            taken, given = taken + before - len(chunk), given + len(piece)
            if given > OUTPUT + RATIO * taken:
                tally.damage.append(f"decompression_limit: the gzip data swells beyond {RATIO}:1")
                yield None
                return
            yield piece
    if not stream.eof:
        tally.damage.append("truncated_input: the gzip data is cut")


def _as_utf8(pieces: Iterator[bytes | None], name: str) -> Iterator[bytes | None]:
    """The same as UTF-8, without a byte order mark, whatever that says. SourceError: another declared encoding."""
    first = b""
    for piece in pieces:
        first += piece or b""
        if len(first) >= 256:
            break
    sort = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(first[:2])
    if sort is None:
        first = first.removeprefix(codecs.BOM_UTF8)
        declared = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([^\"']*)", first)
        if declared and declared[1].lower() not in (b"utf-8", b"us-ascii", b"ascii"):
            raise SourceError(f"{name}: its encoding is {declared[1][:40].decode('ascii', 'replace')!a}, not UTF-8")
        yield first
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(sort)("replace")
    for piece in _joined_pieces(first, pieces):
        yield None if piece is None else decoder.decode(piece).removeprefix("\ufeff").encode("utf-8", "replace")


def _joined_pieces(first: bytes, rest: Iterator[bytes | None]) -> Iterator[bytes | None]:
    yield first
    yield from rest


def _pages(dump: _Dump, limit: int) -> Iterator[bytes | str]:
    """The pages of a dump as `<page>...</page>`, or the reason why one was lost."""
    data, skipping, pages = b"", False, 0
    for piece in dump.pieces():
        if piece is None:
            if not skipping and b"<page>" in data:
                yield "corrupt_stream"
            data, skipping = b"", False
            continue
        data += piece
        at = 0
        while True:
            if skipping:
                end = data.find(b"</page>", at)
                if end < 0:
                    at = max(at, len(data) - 6)
                    break
                at, skipping = end + 7, False
            start = data.find(b"<page>", at)
            if start < 0:
                at = _between(dump, data, at, pages)
                break
            if not pages:
                dump.head(data[at:start])
            end = data.find(b"</page>", start)
            if (end if end >= 0 else len(data)) - start > limit:
                yield "record_too_large"
                skipping, pages, at = True, pages + 1, start
                continue
            at = start
            if end < 0:
                break
            pages += 1
            at = end + 7
            yield data[start:at]
        data = data[at:]
    if not skipping and b"<page>" in data:
        yield "truncated_input"
    elif not pages:
        _no_pages(dump, data)


def _between(dump: _Dump, data: bytes, at: int, pages: int) -> int:
    """Look at what stands between pages; how much of it may be forgotten."""
    dump.closed |= b"</mediawiki>" in data[at:]
    if pages:
        return max(at, len(data) - 16)
    if len(data) - at > MAX_HEAD:
        raise SourceError(f"{dump.name}: not a MediaWiki dump: no page in its first {MAX_HEAD} bytes")
    return at


def _no_pages(dump: _Dump, head: bytes) -> None:
    """A file that ended without a page: an error, or damage where it is at least the beginning of a dump."""
    if b"<mediawiki" in head:
        dump.head(head)
        dump.tally.damage.append("no_pages: the dump holds no page")
    elif dump.range is None and not dump.tally.damage:
        raise SourceError(f"{dump.name}: not a MediaWiki dump: it begins with {head[:40]!a}")


def _first_stream(path: str) -> bytes:
    """What the first bzip2 stream of a multistream dump holds: all that stands before the pages."""
    with open(path, "rb") as file:
        try:
            return bz2.BZ2Decompressor().decompress(file.read(MAX_HEAD), MAX_HEAD)
        except OSError:
            raise SourceError(f"{path}: corrupt_stream: its head is damaged") from None


def _site(head: bytes, name: str) -> _Site:
    """What a dump says of its wiki. SourceError: a document type, or a version of the format that is not known."""
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
        raise SourceError(f"{name}: dtd_forbidden: a dump has no document type")
    version = re.search(rb"<mediawiki[^>]* version=[\"']([^\"']*)", head)
    if version and version[1].decode("ascii", "replace") not in VERSIONS:
        raise SourceError(f"{name}: version {version[1][:20]!a} of the dump format is not known")
    lang = _language(head, name)
    spaces = {int(key): _plain(value or b"") for key, value in NAMESPACE.findall(head)}
    prefixes = dict.fromkeys(INTERLANGUAGE.split(), wikitext.LANGUAGE)
    prefixes |= dict.fromkeys([f"{n.lower()} talk" for n in ("file", "category")], 0)
    files, categories = ALIASES.get(lang or "", ("", ""))
    for number, kind, more in ((6, wikitext.FILE, files), (-2, wikitext.FILE, ""), (14, wikitext.CATEGORY, categories)):
        prefixes |= dict.fromkeys([*more.split(), *([spaces[number]] if spaces.get(number) else [])], kind)
    prefixes |= {"File": wikitext.FILE, "Image": wikitext.FILE, "Media": wikitext.FILE, "Category": wikitext.CATEGORY}
    templates = dict.fromkeys(CITATION.split("|"), wikitext.CITATION) | dict.fromkeys(
        DISAMBIGUATION.split("|"), wikitext.DISAMBIGUATION
    )
    base = re.search(rb"<base>\s*(https?://[^<\s]*/)[^/<]*</base>", head)
    url = (
        base[1].decode("utf-8", "replace").replace("http://", "https://")
        if base
        else f"https://{lang}.wikipedia.org/wiki/"
    )
    by_name = {value.lower(): number for number, value in spaces.items() if value}
    return _Site(lang, url, by_name, wikitext.names(prefixes, templates), lang in ("sr", "sh", "zh"))


def _language(head: bytes, name: str) -> str | None:
    """Language of a dump: by its database, else by its root element, else by its name."""
    found = re.search(rb"<dbname>([a-z_]+)wiki</dbname>", head) or re.search(
        rb"<mediawiki[^>]* xml:lang=[\"']([\w-]+)", head
    )
    if found:
        return found[1].decode("ascii", "replace").replace("_", "-")
    by_name = re.match(r"([a-z_]+)wiki-", name.rpartition("/")[2])
    return by_name[1].replace("_", "-") if by_name else None


# -- pages to documents ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Page:
    """An article as the dump has it."""

    number: int
    title: str
    revision: str
    timestamp: str
    text: bytes  # XML character data


@dataclass(frozen=True)
class _Failed:
    """A page that is lost."""

    key: str
    reason: str
    value: str = ""


def _parse(page: bytes, site: _Site) -> _Page | _Failed | str:
    """A page, the kind under which it is skipped, or why it fails."""
    revision = max(page.rfind(b"<revision>"), 0)
    opening = page.find(b"<text", revision)
    head = page[: opening if opening >= 0 else len(page)]
    number, title = ID.search(page, 0, revision), TITLE.search(page, 0, revision)
    if not number or not title:
        return "missing_id"
    name = _plain(title[1])
    space = NS.search(page, 0, revision)
    where = int(space[1]) if space else site.namespaces.get(name.partition(":")[0].lower(), 0)
    if where:
        return f"namespace_{where}"
    if b"<redirect" in page[:revision]:
        return "redirect"
    inside = page.find(b">", opening) + 1
    if opening < 0 or not inside:
        return _Failed(number[1].decode(), "malformed_page", "no text element")
    tag = page[opening:inside]
    end = inside if tag.endswith(b"/>") else page.find(b"</text>", inside)
    model = MODEL.search(head, revision) or MODEL.search(page, max(end, 0))
    if model and model[1] != b"wikitext":
        return f"model_{re.sub(r'[^A-Za-z0-9.-]', '_', model[1].decode('ascii', 'replace'))[:40]}"
    if b" deleted=" in tag:
        return "deleted_text"
    if end < 0:
        return _Failed(number[1].decode(), "malformed_page", "the text element does not end")
    if not page[inside:end].strip():
        return "empty_text"
    changed, when = ID.search(head, revision), TIMESTAMP.search(head, revision)
    return _Page(
        int(number[1]),
        name,
        changed[1].decode() if revision and changed else "",
        when[1].decode("ascii", "replace") if when else "",
        page[inside:end],
    )


def _plain(value: bytes) -> str:
    """XML character data of a name as text."""
    return " ".join(html.unescape(value.decode("utf-8", "replace")).split())


@dataclass
class _Batch:
    """Pages that will be one table."""

    source: str
    name: str
    pages: list[_Page] = field(default_factory=list)
    size: int = 0

    @property
    def texts(self) -> list[bytes]:
        """Their wikitext, as XML."""
        return [page.text for page in self.pages]

    def add(self, page: _Page) -> None:
        """Take up a page."""
        self.pages.append(page)
        self.size += len(page.text)

    def table(self, site: _Site, tally: Tally) -> pa.Table:
        """The pages as documents; those that are not UTF-8 or nest too deep are counted."""
        ends = np.cumsum([len(page.text) for page in self.pages])
        starts = np.concatenate([[0], ends[:-1]])
        plain, valid = wikitext.unescape(np.frombuffer(b"".join(self.texts), np.uint8), starts, ends)
        made = wikitext.convert(plain, site.names, variants=site.variants)
        deep = made.said & wikitext.IS_TOO_DEEP != 0
        sound = valid.to_numpy(zero_copy_only=False) & ~deep
        for row in np.flatnonzero(~sound).tolist():
            page = self.pages[row]
            reason = "nesting_limit" if deep[row] else "encoding"
            tally.fail(doc_id(self.source, self.name, page.number), _url(page, site), reason, f"page {page.number}")
        rows = np.flatnonzero(sound)
        pages = [self.pages[row] for row in rows.tolist()]
        sizes = pc.binary_length(plain).take(pa.array(rows)).to_pylist()
        columns = {
            "doc_id": pa.array([doc_id(self.source, self.name, page.number) for page in pages], pa.string()),
            "source": pa.array([self.source] * len(pages), pa.string()),
            "url": pa.array([_url(page, site) for page in pages], pa.string()),
            "title": pa.array([page.title for page in pages], pa.string()),
            "text": made.text if len(pages) == len(self.pages) else made.text.take(pa.array(rows)),
            "date": _dates([page.timestamp for page in pages], tally),
            "lang": pa.array([site.lang] * len(pages), pa.string()),
            "license": pa.array([_licence(page.timestamp) for page in pages], pa.string()),
            "meta": pa.array(
                [
                    _meta(page, size, int(made.said[row]), made.cited[row].as_py())
                    for page, size, row in zip(pages, sizes, rows.tolist(), strict=True)
                ],
                pa.string(),
            ),
        }
        return pa.table(columns, DOCUMENT)


def _url(page: _Page, site: _Site) -> str:
    return site.page_url + urllib.parse.quote(page.title.replace(" ", "_"), safe=":/,;@$!*()'~")


def _dates(stamps: list[str], tally: Tally) -> pa.Array:
    """Times of revisions; null, and counted, where one is none."""
    found = pc.strptime(pa.array(stamps, pa.string()), "%Y-%m-%dT%H:%M:%SZ", "us", error_is_null=True)
    if found.null_count:
        tally.flags["bad_date"] += found.null_count
    return pc.assume_timezone(found, "UTC")


def _licence(stamp: str) -> str:
    return "CC-BY-SA-4.0" if stamp[:10] >= LICENCE_CHANGED else "CC-BY-SA-3.0"


def _meta(page: _Page, size: int, said: int, cited: list[str]) -> str:
    known: dict[str, Any] = {"page_id": page.number, "revision": int(page.revision or 0), "wikitext_bytes": size}
    if said & wikitext.IS_DISAMBIGUATION:
        known["disambiguation"] = True
    if cited:
        known["cited"] = list(dict.fromkeys(map(_original, cited)))
    return json.dumps(known, ensure_ascii=False)


def _original(url: str) -> str:
    """A cited address as it was before it was archived, references in it resolved."""
    if "&" in url:
        url = html.unescape(url)
    archived = ARCHIVE.match(url) if "archive.org" in url else None
    return archived[1] if archived else url


# -- checksums, and what else is small ---------------------------------------------------------------------------------


def _checksum(path: str, tally: Tally) -> tuple[str, str] | None:
    """(algorithm, hex digits) that the dump's list of checksums has for a file; None where there is no list.

    The list lies beside the file, under the dump's name: `bgwiki-20220801-sha1sums.txt` or `...-md5sums.txt`.
    """
    folder, _, name = path.rpartition("/")
    match = DUMP_FILE.fullmatch(name)
    if not match or ("://" in path and not io.is_web(path)):
        return None
    for algorithm in ("sha1", "md5"):
        beside = (
            f"{folder}/{match[1]}-{match[2]}-{algorithm}sums.txt"
            if folder
            else f"{match[1]}-{match[2]}-{algorithm}sums.txt"
        )
        listed = _sums(beside)
        if name in listed:
            return algorithm, listed[name]
    if "://" in path:
        tally.flags["no_checksum"] += 1
    return None


def _sums(path: str) -> dict[str, str]:
    """Digests by file name, of a list as `sha1sum` writes it; empty where there is none."""
    if "://" not in path and not os.path.isfile(path):
        return {}
    try:
        text = _small(path)
    except SourceError as error:
        if "HTTP status 404" in str(error):
            return {}
        raise
    lines = (line.split() for line in text.decode("utf-8", "replace").splitlines())
    return {parts[1].lstrip("*"): parts[0].lower() for parts in lines if len(parts) == 2}


def _small(path: str) -> bytes:
    """A small file as a whole."""
    data = b""
    for chunk in io.stream(path):
        data += chunk
        if len(data) > MAX_SMALL:
            raise SourceError(f"{io.named(path)}: more than {MAX_SMALL} bytes")
    return data


# -- addresses that articles cite --------------------------------------------------------------------------------------

CITED = pa.schema([pa.field("url", pa.string()), pa.field("cited_by", pa.string()), pa.field("lang", pa.string())])


def cited_urls(corpus: str | Path, out: str | Path) -> int:
    """Write the addresses that the articles of a corpus cite as a table `out` (.parquet, else Arrow); how many.

    Columns: url, cited_by (URL of the article), lang; a row for each address of each article. Positives for
    `curate classifier train --cited`. RecipeError: no wikipedia in the corpus, or nothing cited.
    """
    folder, target = Corpus(Path(corpus)), Path(out)
    if Wikipedia.name not in folder.sources():
        raise RecipeError(f"{corpus}: has no wikipedia, only {', '.join(folder.sources()) or 'nothing'}")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    total = 0
    try:
        writer = pq.ParquetWriter(part, CITED) if target.suffix == ".parquet" else pa.ipc.new_file(part, CITED)
        with writer:
            for batch in _cited_batches(folder):
                total += batch.num_rows
                writer.write_batch(batch)
        if not total:
            raise RecipeError(f"{corpus}: its articles cite nothing")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return total


def _cited_batches(corpus: Corpus) -> Iterator[pa.RecordBatch]:
    for commit in corpus.commits(Wikipedia.name):
        reader = commit.open("documents")
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            rows = zip(*(batch[name].to_pylist() for name in ("meta", "url", "lang")), strict=True)
            found = [(url, by, lang) for meta, by, lang in rows for url in _cited_in(meta)]
            if found:
                yield pa.RecordBatch.from_arrays(
                    [pa.array(c, pa.string()) for c in zip(*found, strict=True)], schema=CITED
                )


def _cited_in(meta: str | None) -> Iterable[str]:
    cited = json.loads(meta).get("cited", []) if meta and '"cited"' in meta else []
    return cited if isinstance(cited, list) else []
