"""Batches beside a reading of the same plan in plain Python."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import RecipeError, StoreError
from curate.store import Corpus
from model.data import Batch, Data, audit_reading, batches, cu_seqlens, open_data, tensors
from model.plan import Order, make_plan
from tests.model import MODEL, make_corpus, stream_of
from tests.tokenizer import trained

DOCUMENTS = st.lists(st.lists(st.integers(3, 60_000), max_size=12), min_size=1, max_size=8)
SOURCES = st.lists(st.dictionaries(st.sampled_from(["u1", "u2", "u3"]), DOCUMENTS, min_size=1), min_size=1, max_size=2)
BOOKS = {"two": [[10, 11], [12], [], [13, 14, 15]], "one": [list(range(100, 140)), [21], *[[i] for i in range(50)]]}
CORPUS = {"books": BOOKS, "c4": {"x": [[30, 31, 32], [33] * 70]}}


def planned(root: Path, sources: Any, length: int = 5, batch: int = 8, tokens: int = 600, **more: Any) -> Data:
    corpus = make_corpus(root, sources)
    plan = make_plan(corpus, tokens, {s: i + 1 for i, s in enumerate(sources)}, length=length, batch=batch,
                     tokenizer=trained() / MODEL, **more)  # fmt: skip
    return open_data(corpus, plan)


@given(SOURCES, st.booleans(), st.booleans(), st.integers(1, 40), st.integers(0, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_rows_are_windows_of_the_stream(units: Any, bos: bool, eos: bool, length: int, seed: int, wide: bool) -> None:
    """`wide`: ids that take 32 bits."""
    units = [{k: [[i + (wide << 16) for i in d] for d in docs] for k, docs in unit.items()} for unit in units]
    sources = {f"s{i}": u for i, u in enumerate(units) if stream_of(u, None, None)}
    if not sources:
        return
    with tempfile.TemporaryDirectory() as folder:
        data = planned(Path(folder), sources, length, 4, 20 * length, bos=bos, eos=eos, seed=seed)
        laps = [stream_of(sources[s], data.plan["bos"], data.plan["eos"]) for s in data.order.sources]
        for step in range(data.order.steps):
            batch, places = data.batch(step, masks=True), data.order.batch_places(step)
            for row, (source, window) in enumerate(zip(places.source.tolist(), places.window.tolist(), strict=True)):
                lap = laps[source]
                wanted = [lap[(window * length + i) % len(lap)] for i in range(length + 1)]
                assert batch.tokens[row].tolist() == wanted and batch.source[row] == source
                if bos:
                    begins = np.array(wanted[:-1]) == 1
                    begins[0] = False
                    assert batch.document[row].tolist() == np.cumsum(begins).tolist()
                    last = np.maximum.accumulate(np.where(begins, np.arange(length), 0))
                    assert batch.position[row].tolist() == (np.arange(length) - last).tolist()
        assert np.array_equal(batch.targets[:, :-1], batch.inputs[:, 1:])


def test_masks(tmp_path: Path) -> None:
    data = planned(tmp_path, {"books": {"u": [[10, 11, 12], [13], [], [14, 15]]}}, length=14, batch=1, tokens=14)
    batch = data.batch(0, masks=True)
    assert batch.tokens.tolist() == [[1, 10, 11, 12, 2, 1, 13, 2, 1, 2, 1, 14, 15, 2, 1]]
    assert batch.document.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3]]
    assert batch.position.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert cu_seqlens(batch).tolist() == [0, 5, 8, 10, 14]
    assert np.array_equal(batch.tokens, data.batch(0).tokens)  # what is read, and so the loss, is the same


def test_resume_at_every_step_world_and_worker_count(tmp_path: Path) -> None:
    data = planned(tmp_path, CORPUS)
    whole = [data.batch(step, masks=True) for step in range(data.order.steps)]
    assert len(whole) == 15
    for start in range(data.order.steps):
        fresh = Data(data.plan, Order(data.plan), open_data(Corpus(tmp_path), data.plan).streams)
        for workers in (1, 3):
            steps = list(batches(fresh, start, masks=True, workers=workers))
            assert [s for s, _ in steps] == list(range(start, data.order.steps))
            for step, batch in steps:
                assert np.array_equal(batch.tokens, whole[step].tokens)
                assert np.array_equal(batch.document, whole[step].document)
    for world in (1, 2, 4, 8):
        for step, one in enumerate(whole):
            parts = [data.batch(step, rank, world) for rank in range(world)]
            assert np.array_equal(np.concatenate([p.tokens for p in parts]), one.tokens)
    with pytest.raises(RecipeError, match="a world that divides it"):
        data.batch(0, 0, 3)
    with pytest.raises(RecipeError, match="steps 0 to 14"):
        data.batch(15)


def test_audit_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = planned(tmp_path, CORPUS)
    assert audit_reading(data) == []
    true_batch, calls = Data.batch, [0]

    def batch(self: Data, step: int, rank: int = 0, world: int = 1, masks: bool = False) -> Batch:
        calls[0] += 1
        made = true_batch(self, step, rank, world, masks)
        made.tokens[0, 0] += calls[0] > 15 and world in (1, 8)  # the first 15 are what the others are compared with
        return made

    monkeypatch.setattr(Data, "batch", batch)
    found = audit_reading(data)
    assert "step 0: 1 workers read other tokens" in found and "step 14: a world of 8 reads other tokens" in found
    assert not any("world of 4" in line for line in found)


def test_nothing_is_copied_inside_a_batch(tmp_path: Path) -> None:
    data = planned(tmp_path, CORPUS)
    stream = data.streams[data.order.sources.index("books")]
    view = stream.read(3, 20)  # inside the first document of "one"
    assert view.base is not None and not view.flags.writeable and view.tolist() == list(range(102, 122))
    assert stream.read(0, 20).base is None and stream.read(0, 3).tolist() == [1, 100, 101]
    bare = planned(tmp_path, CORPUS, bos=False, eos=False)
    assert not bare.streams[data.order.sources.index("books")].read(30, 11).flags.writeable


def test_few_open_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [b.tokens.tolist() for _, b in batches(planned(tmp_path, CORPUS))]
    monkeypatch.setattr("model.data.OPEN_SHARDS", 1)
    assert [b.tokens.tolist() for _, b in batches(planned(tmp_path, CORPUS))] == wanted


def test_an_error_of_the_thread_is_raised(tmp_path: Path) -> None:
    data = planned(tmp_path, CORPUS)
    path = tmp_path / "tokens" / "c4" / data.plan["sources"]["c4"]["units"][0]["file"]
    path.write_bytes(b"no tokens")
    with pytest.raises(StoreError, match=path.name):
        list(batches(data))
    with pytest.raises(StoreError, match=path.name):
        open_data(Corpus(tmp_path), data.plan)


def test_a_reader_that_stops_early_leaves_no_thread(tmp_path: Path) -> None:
    import threading

    before = threading.active_count()
    reader = batches(planned(tmp_path, CORPUS), workers=2)
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    data = planned(tmp_path, CORPUS)
    found = list(tensors(data, 3, 1, 2, masks=True))
    assert [s for s, _ in found] == list(range(3, 15))
    for step, batch in found:
        wanted = data.batch(step, 1, 2, masks=True)
        assert batch.inputs.dtype == torch.int64 and batch.inputs.shape == (4, 5) == batch.targets.shape
        assert np.array_equal(batch.tokens.numpy(), wanted.tokens)
        assert np.array_equal(batch.position.numpy(), wanted.position)
        assert batch.tokens.is_pinned() == torch.cuda.is_available()


def test_shards_of_curate_tokenize(tmp_path: Path) -> None:
    from curate.token_shards import tokenize
    from tests.model import commit_documents
    from tokenizer.encode import Encoder

    texts = ["A short one.", "", "Words and words, " * 60, "1234 東京 \n\n\t end"]
    for name in ("one", "two"):
        commit_documents(Corpus(tmp_path), "books", name, [name + t for t in texts])
    tokenize(tmp_path, trained() / MODEL, engine="inline")
    plan = make_plan(tmp_path, weights={"books": 1}, length=16, tokenizer=trained() / MODEL)
    encoder, data = Encoder(trained() / MODEL), open_data(tmp_path, plan)
    ids = {name: [encoder.processor.encode(name + t) for t in texts] for name in ("one", "two")}
    assert data.streams[0].read(0, data.streams[0].lap).tolist() == stream_of(ids)
