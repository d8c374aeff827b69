"""Documents held out by the hash of their text, beside the definition in plain Python."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.cli import main
from curate.errors import RecipeError, StoreError
from curate.recipe import digest
from curate.schema import doc_id, unit_name
from curate.store import SHARD, Attempt, Corpus, to_json
from curate.token_shards import _code, shard_schema, tokenize, verify_tokens
from curate.trace import trace
from model.data import Data, audit_reading, open_data
from model.plan import audit, held_out_share, load_plan, make_plan, plan_hash, problems, table
from tests.model import MODEL, commit_documents, commit_tokens, tokenizer_digest
from tests.tokenizer import trained
from tokenizer.encode import Encoder

Units = Mapping[str, Sequence[tuple[str, Sequence[int]]]]  # text and ids of each document, by name of the unit
SHARES = (0.0, 1e-9, 0.05, 0.3, 0.49)
TEXTS = [f"text {i} é" for i in range(12)]  # few, so that there are copies
DOCUMENTS = st.lists(st.tuples(st.sampled_from(TEXTS), st.lists(st.integers(3, 60_000), max_size=9)), min_size=1,
                     max_size=9)  # fmt: skip
SOURCES = st.lists(st.dictionaries(st.sampled_from(["u1", "u2", "u3"]), DOCUMENTS, min_size=1), min_size=1, max_size=2)


def is_held(text: str, share: float) -> bool:
    return Fraction(xxhash.xxh3_64_intdigest(text.encode()), 2**64) < Fraction(share)


def some(held: bool, n: int, share: float = 0.3) -> list[str]:
    """Texts of one side."""
    return [text for i in range(2000) if is_held(text := f"some {i}", share) == held][:n]


def side_of(units: Units, share: float, held: bool, bos: int | None = 1, eos: int | None = 2) -> list[int]:
    """Tokens of the documents of one side."""
    tokens: list[int] = []
    for name in sorted(units):
        for text, ids in units[name]:
            if is_held(text, share) == held:
                tokens += [*([] if bos is None else [bos]), *ids, *([] if eos is None else [eos])]
    return tokens


def windows_of(tokens: list[int], length: int, rows: int) -> list[tuple[list[int], int]]:
    """(length + 1 tokens, targets) of the windows that have a target."""
    found = []
    for start in range(0, len(tokens) - 1, length):
        window = tokens[start : start + length + 1]
        found.append((window + [0] * (length + 1 - len(window)), len(window) - 1))
    return found[:rows]


def committed(root: Path, sources: Mapping[str, Units]) -> Corpus:
    corpus = Corpus(root)
    for source, units in sources.items():
        for name, documents in units.items():
            commit_documents(corpus, source, name, [text for text, _ in documents])
            commit_tokens(corpus, source, name, [ids for _, ids in documents])
    return corpus


def planned(corpus: Corpus, share: float, length: int = 5, **more: Any) -> Data:
    weights = {p.name: 1.0 for p in (corpus.root / "tokens").iterdir()}
    settings_ = {"weights": weights, "length": length, "batch": 4, "tokenizer": trained() / MODEL, **more}
    return open_data(corpus, make_plan(corpus, 20 * length, held_out=share, **settings_), deep=True)


def rows_of(data: Data, source: str, held: bool) -> set[tuple[str, int]]:
    """(doc_id, row in its unit) of every document of a side, by asking for the document of each token."""
    stream = data._held(source) if held else data.streams[data.order.sources.index(source)]
    found = [stream.find(at) for at in range(stream.lap)]
    assert all(f.doc_id == doc_id(source, f.unit["name"], f.row) for f in found)
    return {(f.doc_id, f.row) for f in found}


@given(SOURCES, st.sampled_from(SHARES), st.booleans(), st.booleans(), st.integers(1, 30), st.data())
@settings(max_examples=60, deadline=None)
def test_both_sides_are_as_defined(
    units: list[Units], share: float, bos: bool, eos: bool, length: int, draw: st.DataObject
) -> None:
    sources = {f"s{i}": u for i, u in enumerate(units)}
    policy = {"bos": 1 if bos else None, "eos": 2 if eos else None}
    laps = {s: side_of(u, share, False, **policy) for s, u in sources.items()}
    with tempfile.TemporaryDirectory() as folder:
        corpus = committed(Path(folder), sources)
        if not all(laps.values()) or not all(any(ids for d in u.values() for _, ids in d) for u in sources.values()):
            with pytest.raises(RecipeError, match="nothing is left to train on|no tokens of"):
                planned(corpus, share, length, bos=bos, eos=eos)
            return
        data = planned(corpus, share, length, bos=bos, eos=eos)
        assert held_out_share(data.plan) == share and audit(data.plan).ok and audit_reading(data, 3, (1,)) == []
        for i, (source, lap) in enumerate(laps.items()):
            stream, entry = data.streams[i], data.plan["sources"][source]
            start = draw.draw(st.integers(0, 2 * len(lap)))
            n = draw.draw(st.integers(1, len(lap)))
            assert stream.read(0, len(lap)).tolist() == lap and entry["tokens"] == len(lap)
            assert stream.read(start, n).tolist() == (3 * lap)[start : start + n]
            held = side_of(sources[source], share, True, **policy)
            texts = [text for name in sorted(sources[source]) for text, _ in sources[source][name]]
            n_held = sum(is_held(text, share) for text in texts)
            assert entry["held_out"] == {"documents": n_held, "tokens": len(held)}
            assert sum(u["documents"] for u in entry["units"]) == len(texts) - n_held
            rows, world = draw.draw(st.integers(0, 12)), draw.draw(st.integers(1, 3))
            wanted = windows_of(held, length, rows)
            for rank in range(world):
                tokens, targets = data.held_out(source, rows, rank, world)
                assert tokens.shape == (len(targets), length + 1) and tokens.dtype == targets.dtype == np.int64
                assert list(zip(tokens.tolist(), targets.tolist(), strict=True)) == wanted[rank::world]
            assert sum(data.held_out(source, 10**9)[1].tolist()) == max(0, len(held) - 1)


@given(SOURCES, st.sampled_from(SHARES), DOCUMENTS)
@settings(max_examples=30, deadline=None)
def test_every_document_is_on_one_side_with_its_copies(units: list[Units], share: float, later: Any) -> None:
    always = [(some(False, 1, max(SHARES))[0], [7])]  # so that there is something to train on
    sources = {f"s{i}": {**u, "u": always} for i, u in enumerate(units)}
    with tempfile.TemporaryDirectory() as folder:
        corpus = committed(Path(folder), sources)
        found = sides(planned(corpus, share), sources)
        committed(Path(folder), {"s0": {"u0": later}})
        more = sides(planned(corpus, share), {**sources, "s0": {**sources["s0"], "u0": later}})
    for held, other in zip(found, more, strict=True):
        assert held <= other  # those of before are where they were
    assert not more[0] & more[1]
    if share == 0.49:
        assert more[0]
    if share < 1e-6:
        assert not more[1]


def sides(data: Data, sources: Mapping[str, Units]) -> tuple[set[str], set[str]]:
    """Texts that are trained on and texts that are held out; each document is in one of both sides."""
    texts: tuple[set[str], set[str]] = set(), set()
    for source, units in sources.items():
        known = {(doc_id(source, name, i), i): t for name, d in units.items() for i, (t, _) in enumerate(d)}
        rows = [rows_of(data, source, held) for held in (False, True)]
        assert rows[0] | rows[1] == known.keys() and not rows[0] & rows[1]
        for kept, side in zip(texts, rows, strict=True):
            kept |= {known[key] for key in side}
    return texts


def test_a_share_of_the_documents_is_held_out(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(4000)]
    corpus = committed(tmp_path, {"books": {"a": [(t, [5]) for t in texts]}})
    before: set[str] = set()
    for share in (0.005, 0.05, 0.25):
        held = sides(planned(corpus, share), {"books": {"a": [(t, [5]) for t in texts]}})[1]
        assert abs(len(held) / 4000 - share) < 4 * (share / 4000) ** 0.5 and held > before
        before = held


def test_units_with_nothing_to_train_on(tmp_path: Path) -> None:
    train, held = some(False, 3), some(True, 3)
    units = {"a": [(held[0], [10])], "b": [(train[0], [20, 21]), (held[1], [11])], "c": [(held[2], [12])],
             "d": [(train[1], []), (train[2], [22])], "e": [(held[0], [13])]}  # fmt: skip
    data = planned(committed(tmp_path, {"books": units}), 0.3, length=3)
    counts = [(u["documents"], u["tokens"], u["held_out"]["tokens"]) for u in data.plan["sources"]["books"]["units"]]
    assert counts == [(0, 0, 3), (1, 4, 3), (0, 0, 3), (2, 5, 0), (0, 0, 3)]
    assert data.streams[0].read(0, 12).tolist() == [1, 20, 21, 2, 1, 2, 1, 22, 2, 1, 20, 21]
    tokens, targets = data.held_out("books", 100)
    assert tokens.tolist() == [[1, 10, 2, 1], [1, 11, 2, 1], [1, 12, 2, 1], [1, 13, 2, 0]]
    assert targets.tolist() == [3, 3, 3, 2]


def test_what_is_refused(tmp_path: Path) -> None:
    corpus = committed(tmp_path, {"books": {"a": [(t, [5, 6]) for t in some(True, 2)]},
                                  "c4": {"a": [(t, [5, 6]) for t in some(False, 2)]}})  # fmt: skip
    for share in (-0.01, 0.5, 1.0, float("nan")):
        with pytest.raises(RecipeError, match=r"held out must be a share from 0 to below 0.5, not "):
            planned(corpus, share)
    with pytest.raises(RecipeError, match=r"books: nothing is left to train on, .* \(2 documents, 8 tokens\) is held"):
        planned(corpus, 0.3)
    data = planned(corpus, 0.3, weights={"c4": 1})
    assert [a.shape for a in data.held_out("c4", 5)] == [(0, 6), (0,)]
    with pytest.raises(RecipeError, match="the plan has no source 'c44'; did you mean 'c4'"):
        data.held_out("c44", 1)
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(RecipeError, match="there is no such rank"):
            data.held_out("c4", 1, rank, world)


def test_no_more_shards_than_needed_are_read(tmp_path: Path) -> None:
    (kept,), texts = some(False, 1), some(True, 6)
    units = {name: [(kept, [9]), *[(t, [5, 6]) for t in texts]] for name in ("a", "b", "c")}  # 24 tokens held of each
    data = planned(committed(tmp_path, {"books": {**units, "aa": [(kept, [8])]}}), 0.3, length=8)
    whole = data.held_out("books", 100)
    assert len(whole[0]) == 9 and whole[1].tolist() == [8] * 8 + [7]
    files = [u["file"] for u in data.plan["sources"]["books"]["units"]]  # a, aa, b, c
    for name in (files[1], files[3]):
        (tmp_path / "tokens" / "books" / name).write_bytes(b"damaged")
    assert np.array_equal(data.held_out("books", 5)[0], whole[0][:5])
    assert np.array_equal(data.held_out("books", 100, 4, 9)[0], whole[0][4:5])
    with pytest.raises(StoreError, match=files[3]):
        data.held_out("books", 6)  # the sixth window's last target is the first token of c
    with pytest.raises(StoreError, match=files[1]):
        make_plan(Corpus(tmp_path), weights={"books": 1}, held_out=0.3, tokenizer=trained() / MODEL)
    make_plan(Corpus(tmp_path), weights={"books": 1}, tokenizer=trained() / MODEL)  # reads none


def test_a_shard_with_other_hashes_than_the_plan_saw(tmp_path: Path) -> None:
    (kept,), (held,) = some(False, 1), some(True, 1)
    corpus = committed(tmp_path, {"books": {"a": [(kept, [5, 6]), (held, [7])]}})
    data = planned(corpus, 0.3)
    committed(tmp_path / "other", {"books": {"a": [(held, [5, 6]), (kept, [7])]}})
    (file,) = (tmp_path / "other" / "tokens" / "books").glob("*.arrow")
    (tmp_path / "tokens" / "books" / data.plan["sources"]["books"]["units"][0]["file"]).write_bytes(file.read_bytes())
    for read in (lambda: data.batch(0), lambda: data.held_out("books", 1)):
        with pytest.raises(StoreError, match="tokens, the plan says"):
            read()


def commit_old_shards(corpus: Corpus, source: str, name: str) -> None:
    """A shard as it was before there were hashes, with the fingerprint that it had."""
    encoder, of = Encoder(trained() / MODEL), corpus.final(source).latest(unit_name(name))
    assert of is not None
    documents, sha256 = of.open("documents").read_all(), of.record["files"]["documents"]["sha256"]
    old = pa.schema([shard_schema(pa.uint16()).field(i) for i in range(2)])
    ids = encoder.encode(documents["text"]).cast(old.field(1).type)
    with Attempt(corpus.tokens(source), unit_name(name)) as attempt:
        shard = attempt.arrow(SHARD, old, None)
        shard.write(pa.table([documents["doc_id"], ids], schema=old))
        attempt.commit({"name": name, "fingerprint": digest([sha256, encoder.sha256, str(encoder.type), _code()]),
                        "tokenizer": tokenizer_digest(), "documents_sha256": sha256,
                        "counts": {"documents": len(documents), "tokens": len(ids.values), "bytes": 0}})  # fmt: skip


def test_shards_from_before_there_were_hashes(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    for name in ("a", "b"):
        commit_documents(corpus, "books", name, [*some(False, 3), *some(True, 3)])
        commit_old_shards(corpus, "books", name)
    old = planned(corpus, 0.0)
    stream = old.streams[0].read(0, old.streams[0].lap).tolist()
    plan = {k: v for k, v in old.plan.items() if k not in ("hash", "held_out")}  # one from before the share, too
    for part in (plan["sources"]["books"], *plan["sources"]["books"]["units"]):
        part.pop("held_out")
    plan["hash"] = plan_hash(plan)
    (tmp_path / "mixture.json").write_bytes(to_json(plan))
    read = open_data(corpus, load_plan(corpus))
    assert read.streams[0].read(0, len(stream)).tolist() == stream and held_out_share(plan) == 0
    assert len(read.held_out("books", 9)[0]) == 0 and table(plan) and problems(corpus, plan) == []
    with pytest.raises(StoreError, match="has no hashes of its texts .*; run curate tokenize again"):
        planned(corpus, 0.3)
    assert [line for line in verify_tokens(corpus, "books") if "its columns are not those" in line]
    assert tokenize(tmp_path, trained() / MODEL, engine="inline").done == 2
    assert list(verify_tokens(corpus, "books")) == []
    assert planned(corpus, 0.3).plan["sources"]["books"]["held_out"]["documents"] == 6
    assert tokenize(tmp_path, trained() / MODEL, engine="inline").done == 0


@pytest.fixture()
def real(tmp_path: Path) -> Path:
    """A corpus that the commands made, of two sources with copies of each other's texts."""
    corpus = Corpus(tmp_path / "corpus")
    texts = [f"{text}, which is a document of some words. " * (1 + i % 4) for i, text in enumerate(some(False, 40))]
    for source, name in product(("books", "c4"), ("one", "two")):
        commit_documents(corpus, source, name, texts[5 * len(source) :] if name == "one" else texts[:30], rows=7)
    (corpus.root / "models" / "tokenizer").mkdir(parents=True)
    (corpus.root / "models" / "tokenizer" / MODEL).write_bytes((trained() / MODEL).read_bytes())
    tokenize(corpus.root, engine="inline")
    return corpus.root


def test_trace_and_audit(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix = ["mix", str(real), "--weights", "books=2,c4=1", "--length", "64", "--batch", "4"]
    assert main([*mix, "--held-out", "0.3"]) == 0
    printed = capsys.readouterr().out
    plan = load_plan(real)
    assert held_out_share(plan) == 0.3 and "held out, 30 %" in printed
    for source, entry in plan["sources"].items():
        held = entry["held_out"]
        line = next(line for line in printed.splitlines() if line.startswith(f"    {source}"))
        assert line.split()[1:] == [f"{held['documents']:,}", "documents", f"{held['tokens']:,}", "tokens"]
        assert held["documents"]
    assert main(["mix", str(real), "--audit"]) == 0 and "the plan holds" in capsys.readouterr().out
    processor, data = Encoder(trained() / MODEL).processor, open_data(real, plan)
    for step, row in product(range(0, data.order.steps, 7), range(4)):
        tokens = data.batch(step).tokens[row]
        for found in trace(real, plan, step, row)["documents"]:
            text = full_text(real, found)
            assert not is_held(text, 0.3)
            ids = [1, *processor.encode(text), 2]
            part = tokens[found["from"] : found["to"]].tolist()
            assert ids[found["at"] : found["at"] + len(part)] == part and found["tokens"] == len(ids)


def full_text(corpus: Path, found: Mapping[str, Any]) -> str:
    commit = Corpus(corpus).final(found["source"]).latest(found["unit"])
    assert commit is not None
    documents = commit.open("documents").read_all()
    return str(documents["text"][documents["doc_id"].to_pylist().index(found["doc_id"])])


def test_the_command_holds_out_a_little_by_default(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix = ["mix", str(real), "--weights", "books=2,c4=1", "--length", "64"]
    assert main([*mix, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out"] == 0.005
    assert main([*mix, "--held-out", "0"]) == 0
    assert "held out" not in capsys.readouterr().out and load_plan(real)["held_out"] == 0
    assert main([*mix, "--held-out", "0.5"]) == 2
    assert "held out must be a share from 0 to below 0.5, not 0.5" in capsys.readouterr().err
