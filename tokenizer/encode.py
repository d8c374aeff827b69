"""Texts to token ids and back, the same as SentencePiece's.

An `Encoder` runs a SentencePiece BPE model through the kernel in `curate.kernels.bpe`. A model that the kernel cannot
run exactly (a unigram model, rules of normalisation, user-defined pieces: `Encoder.reason` says which) is run by the
library itself, text by text.

Strings such as `<s>` or `<0x41>` in a text are text: their ids are those of ordinary pieces. BOS and EOS come from the
options alone. Ids are uint16 where the vocabulary has at most 65,536 pieces, else uint32; a narrower type is refused.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from sentencepiece import sentencepiece_model_pb2

from curate.errors import RecipeError, SourceError, StageError
from curate.kernels import bpe
from curate.kernels.arrow import buffers, from_buffers, large_strings

MARK = "▁"  # U+2581, a space in pieces; in a text it is the same as a space
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
MODEL_LIMIT = 64 << 20  # bytes of a model file
SHORT_BYTES, LONG_BYTES = 8 << 20, 4 << 20  # of the two tables of units that were met
ROOM = 1 << 12  # bytes of a unit that is merged without more room
KEEP_ROOM = 1 << 20  # what was made for a longer unit is given back
protobuf: Any = sentencepiece_model_pb2  # its messages are made at run time: no type checker sees them


class Encoder:
    """A tokenizer model. Units of text that it has met stay with it from table to table.

    `size`: pieces; `type`: pa.uint16() or pa.uint32(), of ids; `unk`, `bos`, `eos`: ids, -1 where the model has none;
    `dummy_prefix`: whether a space is set before each text; `sha256`: of the model file; `reason`: why the library and
    not the kernel encodes, else "". Pickled as the path: the other process reads the file again and refuses a changed
    one. Memory: 12 MB of tables, 5 MB of pieces, and 33 bytes a byte of the longest unit.
    """

    def __init__(self, path: Path | str, type: pa.DataType | None = None, sha256: str | None = None) -> None:
        """SourceError: not a model, or another one than `sha256` says. RecipeError: ids do not fit `type`."""
        self.path = Path(path)
        serialized, proto = read_model(self.path)
        self.sha256 = hashlib.sha256(serialized).hexdigest()
        if sha256 not in (None, self.sha256):
            raise SourceError(f"{path}: the model has changed: its SHA-256 is {self.sha256}, expected {sha256}")
        self.size = len(proto.pieces)
        self.type = _checked_type(self.size, type)
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        except RuntimeError as error:
            raise SourceError(f"{path}: not a SentencePiece model: {' '.join(str(error).split())}") from None
        self.unk, self.bos, self.eos = (int(getattr(self.processor, f"{x}_id")()) for x in ("unk", "bos", "eos"))
        self.dummy_prefix = bool(proto.normalizer_spec.add_dummy_prefix)
        self.reason = unsupported(proto)
        self._bytes = _piece_bytes(proto)
        self._lock = threading.Lock()  # the kernel releases the GIL and writes to the tables
        if not self.reason:
            self._prepare(proto)

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoder, (self.path, self.type, self.sha256)

    def _prepare(self, proto: Any) -> None:
        """Tables of the model for the kernel: pieces are numbered by rank, the best score first."""
        pieces = proto.pieces
        order = sorted((i for i, p in enumerate(pieces) if p.type == NORMAL), key=lambda i: -pieces[i].score)
        inner = {pieces[i].piece.replace(MARK, " "): rank for rank, i in enumerate(order)}
        chars = np.full(0x110000, -1, np.int32)
        for piece, rank in inner.items():
            if len(piece) == 1:
                chars[ord(piece)] = rank
        entries = [
            inner[piece[:k]] << 2 * bpe.FIELD | inner[piece[k:]] << bpe.FIELD | rank
            for piece, rank in inner.items()
            for k in range(1, len(piece))
            if piece[:k] in inner and piece[k:] in inner
        ]
        pairs = np.zeros(1 << int(2 * len(entries) + 1).bit_length(), np.uint64)
        bpe.build_pairs(pairs, np.array(entries, np.uint64).view(np.int64))
        joins, bloom = np.zeros(1024, np.uint64), np.zeros(1 << 14, np.uint64)
        bpe.build_borders(*buffers(pa.array(list(inner), pa.large_string())), joins, bloom)
        byte_ids = np.full(256, -1, np.int32)
        if proto.trainer_spec.byte_fallback:
            byte_ids[:] = [self.processor.piece_to_id(f"<0x{b:02X}>") for b in range(256)]
        self._model = joins, bloom, chars, pairs, np.array(order, np.int32), byte_ids
        self._kept = _lines(SHORT_BYTES), _lines(LONG_BYTES)
        self._batch = np.zeros(4 * bpe.BATCH, np.uint64), np.zeros(3 * bpe.BATCH, np.int64)
        self._make_room(ROOM)

    def _make_room(self, n: int) -> None:
        """Let units of n bytes be merged."""
        self._prefixed = np.empty(n + 64, np.uint8)
        self._symbols = np.empty(n, np.int32)
        self._work = (self._symbols, *(np.empty(n, np.int32) for _ in range(3)), np.empty(2 * n, np.uint64))

    def encode(self, column: pa.Array | pa.ChunkedArray, bos: bool = False, eos: bool = False) -> pa.LargeListArray:
        """Ids of every text of a string column (null: of the empty text), as `sentencepiece` gives them.

        `bos`, `eos`: add that id before, after each text. RecipeError: the model has none.
        """
        if (bos and self.bos < 0) or (eos and self.eos < 0):
            raise RecipeError(f"{self.path}: the model has no {'BOS' if bos and self.bos < 0 else 'EOS'} piece")
        ends = (self.bos if bos else -1, self.eos if eos else -1)
        column = large_strings(column)
        return self._by_library(column, *ends) if self.reason else self._by_kernel(column, *ends)

    def _by_kernel(self, column: pa.LargeStringArray, bos: int, eos: int) -> pa.LargeListArray:
        data, offsets = buffers(column)
        if bpe.has_mark(data, offsets[0], offsets[-1]):
            data, offsets = buffers(pc.replace_substring(column, MARK, " "))
        narrow = self.type == pa.uint16()
        kernel = bpe.encode16 if narrow else bpe.encode32
        rows = len(offsets) - 1
        # memory that is not written to is not used
        ids = np.empty(int(offsets[-1] - offsets[0]) + 3 * rows + 16, np.uint16 if narrow else np.uint32)
        ends = np.zeros(rows + 1, np.int64)
        special = np.array([self.unk, bos, eos, self.dummy_prefix], np.int64)
        row = 0
        with self._lock:
            while row < rows:
                row = kernel(
                    data, offsets, row, *self._model, special, self._prefixed, self._prefixed,
                    *self._kept, *self._batch, *self._work, ids, ends,
                )  # fmt: skip
                if row < rows:
                    self._make_room(int(self._symbols[0]) + 64)
            if len(self._prefixed) > KEEP_ROOM:
                self._make_room(ROOM)
        return _lists(ids[: ends[-1]], ends)

    def _by_library(self, column: pa.LargeStringArray, bos: int, eos: int) -> pa.LargeListArray:
        before, after = ([bos] if bos >= 0 else []), ([eos] if eos >= 0 else [])
        dtype = np.uint16 if self.type == pa.uint16() else np.uint32
        with self._lock:
            parts = [np.array([*before, *self.processor.encode(t), *after], dtype) for t in column.to_pylist()]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return _lists(np.concatenate([np.empty(0, dtype), *parts]), ends)

    def decode(self, lists: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
        """Texts of lists of ids. BOS and EOS are nothing, the dummy prefix is taken off.

        SourceError: an id that the model does not have, or ids whose bytes are no UTF-8.
        """
        if isinstance(lists, pa.ChunkedArray):
            lists = lists.combine_chunks()
        starts = lists.offsets.to_numpy()
        values = lists.values.slice(int(starts[0]), int(starts[-1] - starts[0]))
        if pc.max(values).as_py() is not None and pc.max(values).as_py() >= self.size:
            raise SourceError(f"id {pc.max(values)}: {self.path} has {self.size} pieces")
        taken = pc.take(self._bytes, values)
        data, pieces = buffers(taken.view(pa.large_string()))
        offsets = pieces[starts - starts[0]] - pieces[0]
        data = data[pieces[0] : pieces[-1]]
        if self.dummy_prefix:
            data, offsets = _without_prefix(data, offsets)
        texts = from_buffers(np.ascontiguousarray(data), np.ascontiguousarray(offsets))
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid:
            raise SourceError(f"{self.path}: these ids are no UTF-8 text") from None
        return texts


def check(encoder: Encoder, column: pa.Array | pa.ChunkedArray, sample: int = 100, limit: int = 1 << 20) -> int:
    """Compare the ids of `sample` rows, evenly spread, with SentencePiece's; how many were compared.

    Rows of more than `limit` bytes, which SentencePiece takes long for, are compared in their first `limit` bytes.
    StageError: they differ.
    """
    column = large_strings(column)
    rows = np.unique(np.linspace(0, max(len(column) - 1, 0), min(sample, len(column))).astype(np.int64))
    texts = [column[int(row)].as_py().encode()[:limit].decode("utf-8", "ignore") for row in rows]
    found = encoder.encode(pa.array(texts, pa.large_string()))
    for row, text, ids in zip(rows, texts, found, strict=True):
        if encoder.processor.encode(text) != ids.as_py():
            raise StageError(f"ids of row {row} are not SentencePiece's ({encoder.path}); nothing may be kept of this")
    return len(texts)


def read_model(path: Path) -> tuple[bytes, Any]:
    """(bytes, ModelProto) of a SentencePiece model file. SourceError: it is none, or special ids could be injected."""
    try:
        with path.open("rb") as file:
            serialized = file.read(MODEL_LIMIT + 1)
        proto = protobuf.ModelProto()
        proto.ParseFromString(serialized)
    except (OSError, DecodeError) as error:
        raise SourceError(f"{path}: not a SentencePiece model: {error}") from None
    if not proto.pieces or len(serialized) > MODEL_LIMIT:
        raise SourceError(f"{path}: not a SentencePiece model: it has no pieces, or more than {MODEL_LIMIT} bytes")
    for piece in proto.pieces:
        if piece.type == CONTROL and len(piece.piece) == 1:
            raise SourceError(f"{path}: its control piece {piece.piece!r} is a character that texts may have")
    return serialized, proto


def _checked_type(size: int, wanted: pa.DataType | None) -> pa.DataType:
    if wanted not in (None, pa.uint16(), pa.uint32()):
        raise RecipeError(f"ids of type {wanted}: there is uint16 and uint32")
    if wanted == pa.uint16() and size > 1 << 16:
        raise RecipeError(f"ids of a vocabulary of {size:,} do not fit uint16")
    return wanted or (pa.uint16() if size <= 1 << 16 else pa.uint32())


def unsupported(proto: Any) -> str:
    """Why the kernel cannot run a model exactly; "" where it can."""
    trainer, normaliser, pieces = proto.trainer_spec, proto.normalizer_spec, proto.pieces
    normal = [p.piece for p in pieces if p.type == NORMAL]
    made = [p.score for p in pieces if p.type == NORMAL and len(p.piece) > 1]
    alone = {p for p in normal if len(p) == 1}
    checks: dict[str, Callable[[], bool]] = {
        "it is not a BPE model": lambda: trainer.model_type != protobuf.TrainerSpec.BPE,
        "its normaliser has rules": lambda: bool(normaliser.precompiled_charsmap),
        "it removes extra white space": lambda: normaliser.remove_extra_whitespaces,
        "it does not escape white space": lambda: not normaliser.escape_whitespaces,
        "white space is a suffix": lambda: trainer.treat_whitespace_as_suffix,
        "it has user-defined or unused pieces": lambda: any(p.type in (USER_DEFINED, UNUSED) for p in pieces),
        "two pieces have one score": lambda: len(set(made)) != len(made),
        "a score is no number": lambda: any(score != score for score in made),
        "a space is no piece": lambda: MARK not in alone,
        "a piece holds a plain space": lambda: any(" " in p for p in normal),
        "a piece holds a character that is no piece": lambda: not alone.issuperset(c for p in normal for c in p),
        "it has too many pieces": lambda: len(pieces) >= 1 << bpe.FIELD,
    }
    return next((why for why, holds in checks.items() if holds()), "")


def _piece_bytes(proto: Any) -> pa.LargeBinaryArray:
    """What each id stands for in a text."""

    def shown(p: Any) -> bytes:
        if p.type == BYTE:
            return bytes([int(p.piece[3:5], 16)])
        text = {UNKNOWN: proto.trainer_spec.unk_surface, CONTROL: ""}.get(p.type, p.piece.replace(MARK, " "))
        return str(text).encode()

    return pa.array([shown(p) for p in proto.pieces], pa.large_binary())


def _lines(size: int) -> npt.NDArray[np.uint64]:
    """Zeros that begin at a line of the memory cache."""
    whole = np.zeros(size // 8 + 8, np.uint64)
    first = -whole.ctypes.data % 64 // 8
    return whole[first : first + size // 8]


def _lists(ids: npt.NDArray[Any], ends: npt.NDArray[np.int64]) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(ends), pa.array(ids))


def _without_prefix(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Texts without the one space that each begins with."""
    begins = offsets[:-1][offsets[:-1] < offsets[1:]]
    begins = begins[data[begins] == 32]
    keep = np.ones(len(data), np.bool_)
    keep[begins] = False
    return data[keep], offsets - np.searchsorted(begins, offsets, side="left")
