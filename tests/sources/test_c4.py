"""C4: published shards and WET pages as documents; bad inputs of robustness.md 3.3; the embedded sample; the hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from curate.errors import RecipeError, SourceError
from curate.schema import DOCUMENT, doc_id
from curate.stage import Split, Tally
from sources import c4 as source
from sources.c4 import C4, C4Wet
from sources.samples import build_c4

ROW = {"text": "One line.\nAnd “two”.", "timestamp": "2019-04-25T12:57:54Z", "url": "https://a.example/x"}
RATIO_FREE = bytes(range(97, 123)) * 4


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write(folder: Path, data: bytes, name: str = "x.json.gz") -> Split:
    path = folder / name
    path.write_bytes(data)
    return Split(name, str(path), len(data))


def read(split: Split, **settings: Any) -> tuple[list[dict[str, Any]], Tally]:
    tally = Tally()
    tables = list(C4(**settings).read(split, tally))
    assert all(t.schema.equals(DOCUMENT) for t in tables)
    return [row for t in tables for row in t.to_pylist()], tally


def read_bytes(folder: Path, data: bytes, name: str = "x.json", **settings: Any) -> tuple[list[dict[str, Any]], Tally]:
    return read(write(folder, data, name), **settings)


def reasons(tally: Tally) -> list[str]:
    return [reason for _, _, reason, _ in tally.failed]


def clean(text: str) -> str:
    """What becomes of control characters and lone surrogates."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = re.sub("\r\n?", "\n", text)
    text = re.sub("[\x0b\x0c\x1c-\x1f\x85]", " ", text)
    return re.sub("[\x00-\x08\x0e-\x1b\x7f-\x9f]", "", text)


def test_a_row_becomes_a_document_with_all_that_it_has(tmp_path: Path) -> None:
    name = "c4-train.00007-of-01024.json.gz"
    data = packed(lines(ROW, {**ROW, "timestamp": "2019-04-25 12:57:54"}))
    rows, tally = read(write(tmp_path, data, name))
    assert rows[0] == {
        "doc_id": doc_id("c4", name, 0),
        "source": "c4",
        "url": ROW["url"],
        "title": None,
        "text": ROW["text"],
        "date": rows[1]["date"],
        "lang": "en",
        "license": "ODC-By-1.0",
        "meta": '{"line": 0, "split": "train"}',
    }
    assert rows[0]["date"].isoformat() == "2019-04-25T12:57:54+00:00"
    assert rows[1]["doc_id"] == doc_id("c4", name, 1)
    assert (tally.bytes_in, tally.damage, tally.failed, tally.flags) == (len(gzip.decompress(data)), [], [], {})
    assert tally.input_digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["c4_sample.dev.jsonl.gz", "olmo/c4-sample.01.json.gz", "olmo/c4-sample.02.json.gz"])
def test_real_shards_give_every_row_as_json_reads_it(shared_data: Path, name: str) -> None:
    path = shared_data / "c4" / name
    expected = [json.loads(x) for x in gzip.open(path)]
    rows, tally = read(Split(name, str(path), path.stat().st_size))
    assert [r["text"] for r in rows] == [clean(x["text"]) for x in expected]
    assert [r["url"] for r in rows] == [x["url"] for x in expected]
    assert [r["date"] and r["date"].strftime("%Y-%m-%d %H:%M:%S") for r in rows] == [
        x.get("timestamp") for x in expected
    ]
    assert not tally.failed and not tally.damage


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_tables_are_bounded_and_their_bounds_change_nothing(shared_data: Path, batch: int) -> None:
    path = str(shared_data / "c4" / "olmo" / "c4-sample.01.json.gz")
    whole, _ = read(Split("x", path))
    assert read(Split("x", path), batch_rows=batch)[0] == whole
    tables = list(C4(batch_bytes=3000).read(Split("x", path), Tally()))
    assert len(tables) > 2 and pa.concat_tables(tables).to_pylist() == whole


# What is wrong with a line: (line, reason, the beginning of the value).
BAD = [
    (b'{"text":"a","text":"b"}', "bad_json", "one key occurs twice"),
    (b'{"text":"a","x":NaN}', "bad_json", "a bad value"),
    (b'{"text":"a","x":Infinity}', "bad_json", "a bad value"),
    (b'{"text":"a","x":' + b"1" * 5000 + b"}", "bad_json", "a bad number"),
    (b'{"text":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_json", "nested more than 200"),
    (b'{"text":"a","x":[1,]}', "bad_json", "a bad value"),
    (b'{"text":"a","x":{"a":1,}}', "bad_json", "something is missing"),
    (b'{"text":"a","x":[1}}', "bad_json", "something is missing"),
    (b'{"text":"a","x":01}', "bad_json", "a bad number"),
    (b'{"text":"a","x":1.}', "bad_json", "a bad number"),
    (b'{"text":"a","x":1e}', "bad_json", "a bad number"),
    (b'{"text":"a","x":tru}', "bad_json", "a bad value"),
    (b'{"text":"a"', "bad_json", "the line ends"),
    (b'{"text":"a', "bad_json", "a string does not end"),
    (b'{"text":"a\\', "bad_json", "a string does not end"),
    (b'{"text":"a\\x"}', "bad_json", "a bad escape"),
    (b'{"text":"a\\u12g4"}', "bad_json", "a bad escape"),
    (b'{"text":"a\tb"}', "bad_json", "a control character"),
    (b'{"text":"a"}{', "bad_json", "something stands behind"),
    (b'{"text" "a"}', "bad_json", "something is missing"),
    (b'{"text\\u0007":"a"}', "schema", "no text"),
    (b'{"te\x7fxt":"a"}', "schema", "no text"),
    (b'{"text":"a","te\\u0078t":"b"}', "bad_json", "one key occurs twice"),
    (b"[1]", "bad_json", "not an object"),
    (b'"text"', "bad_json", "not an object"),
    (b"{}", "schema", "no text"),
    (b'{"url":"http://a.b/"}', "schema", "no text"),
    (b'{"text":null}', "schema", "text is not a string"),
    (b'{"text":3}', "schema", "text is not a string"),
    (b'{"text":["a"]}', "schema", "text is not a string"),
    (b"{" + b",".join(b'"k%d":0' % i for i in range(65)) + b"}", "schema", "more than 64 keys"),
    (b'{"text":"a\\u0000b"}', "nul", "a NUL character"),
    (b'{"text":"a\x00b"}', "nul", "a NUL character"),
    (b'{"text":"a\xffb"}', "encoding", "not UTF-8"),
    (b'{"text":"a\xed\xa0\x80"}', "encoding", "not UTF-8"),
    (b'{"text":"\xe2\x80"}', "encoding", "not UTF-8"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_bad_line_costs_itself_and_says_why(tmp_path: Path, number: int) -> None:
    bad, reason, value = BAD[number]
    rows, tally = read_bytes(tmp_path, lines(ROW) + bad + b"\n" + lines(ROW))
    assert [r["text"] for r in rows] == [ROW["text"]] * 2
    assert [r["meta"] for r in rows] == ['{"line": 0}', '{"line": 2}']
    ((key, url, found, shown),) = tally.failed
    assert (key, url, found) == (doc_id("c4", "x.json", 1), None, reason)
    assert shown.startswith(f"line 1: {value}")
    assert not tally.damage


# What is odd and kept: (line, text, flags).
ODD = [
    (b'{"text":"a\\ud83db","url":"http://a.b/"}', "a\ufffdb", {"lone_surrogate": 1, "bad_date": 1}),
    (b'{"text":"\\ude00","url":"http://a.b/"}', "\ufffd", {"lone_surrogate": 1, "bad_date": 1}),
    (b'{"text":"\\ud83d\\ude00","url":"http://a.b/"}', "\U0001f600", {"bad_date": 1}),
    (b'{"text":"a\\r\\nb\\rc\\u0007\\f","url":"http://a.b/"}', "a\nb\nc ", {"control_characters": 1, "bad_date": 1}),
    (b'{"text":"a\x7fb\xc2\x85c\xc2\x9fd","url":"http://a.b/"}', "ab cd", {"control_characters": 1, "bad_date": 1}),
    (b'{"text":"a\xe2\x80\xa8b","url":"http://a.b/"}', "a\u2028b", {"bad_date": 1}),
    (b'{"text":"a","url":"nowhere","timestamp":"2019-04-25T12:57:54Z"}', "a", {"bad_url": 1}),
    (b'{"text":"a","url":null,"timestamp":"2019-04-25T12:57:54Z"}', "a", {"bad_url": 1}),
    (b'{"text":"a","url":"http://a.b/","timestamp":"spring"}', "a", {"bad_date": 1}),
    (b'{"text":"a","url":"http://a.b/","timestamp":"2019-02-30T12:57:54Z"}', "a", {"bad_date": 1}),
    (b'{"text":"a","url":"http://a.b/","timestamp":"2019-04-25T12:57:54+02:00"}', "a", {}),
    (b'{"x":{"text":[1,{"y":-0.5e+3}]},"text":"a","url":"http://a.b/"}', "a", {"other_fields": 1, "bad_date": 1}),
    (b' { "timestamp" : "2019-04-25" , "url" : "http://a.b/" , "te\\u0078t" : "" } \r', "", {}),
]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_an_odd_line_is_kept_and_counted(tmp_path: Path, number: int) -> None:
    odd, text, flags = ODD[number]
    rows, tally = read_bytes(tmp_path, odd + b"\n" + lines(ROW))
    assert [r["text"] for r in rows] == [text, ROW["text"]]
    assert dict(tally.flags) == flags and not tally.failed
    assert (rows[0]["url"] is None) == ("bad_url" in flags)
    assert (rows[0]["date"] is None) == ("bad_date" in flags)


def test_dates_with_a_zone_are_moved_to_utc(tmp_path: Path) -> None:
    rows, _ = read_bytes(tmp_path, lines({**ROW, "timestamp": "2019-04-25T12:57:54+02:00"}))
    assert rows[0]["date"].isoformat() == "2019-04-25T10:57:54+00:00"


def test_line_ends_blank_lines_bom_and_a_last_line_without_its_end(tmp_path: Path) -> None:
    row = lines(ROW).strip()
    rows, tally = read_bytes(tmp_path, b"\xef\xbb\xbf" + row + b"\r\n\n  \r\n" + row)
    assert [r["meta"] for r in rows] == ['{"line": 0}', '{"line": 3}']
    assert tally.skipped == {"blank_line": 2} and tally.flags == {"bom": 1}
    _, cut = read_bytes(tmp_path, row + b"\n" + row[:-9])
    assert reasons(cut) == ["bad_json"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_characters="\0")), st.dictionaries(st.text(), VALUES, max_size=3)),
        max_size=5,
    ),
    st.booleans(),
    st.integers(1, 40),
)
def test_rows_are_read_as_json_reads_them(tmp_path_factory: Any, rows: Any, ascii_only: bool, piece: int) -> None:
    made = [{**extra, "text": text, "url": "http://a.b/c"} for text, extra in rows]
    made = [m for m in made if "\0" not in json.dumps(m).replace("\\u0000", "\0")]
    assume(ascii_only or not re.search("[\ud800-\udfff]", "".join(m["text"] for m in made)))  # raw ones are no UTF-8
    data = "".join(json.dumps(m, ensure_ascii=ascii_only) + "\n" for m in made).encode("utf-8", "surrogatepass")
    tally = Tally()
    split = Split("x", "x")
    held = source._Rows(C4(), split)
    tables = [t for i in range(0, len(data), piece) for t in held.add(data[i : i + piece], tally)]
    tables += held.finish(tally)
    assert not tally.failed
    expected = [clean(m["text"]) for m in made]
    assert [t for table in tables for t in table["text"].to_pylist()] == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ntu0e.-1 \n\x00é').map(str.encode))
@example(b'{"text":"\\ud83d\\u"}')
@example(b'{"text":"a","x":-}')
def test_any_bytes_balance_and_agree_with_json_on_what_is_json(data: bytes) -> None:
    tally = Tally()
    held = source._Rows(C4(), Split("x", "x"))
    rows = [r for t in [*held.add(data, tally), *held.finish(tally)] for r in t.to_pylist()]
    given_lines = data.removeprefix(source.BOM).split(b"\n")
    if not given_lines[-1]:
        given_lines.pop()
    assert len(rows) + len(tally.failed) + tally.skipped["blank_line"] == len(given_lines)
    for row in rows:
        line = given_lines[json.loads(row["meta"])["line"]]
        assert clean(json.loads(line.decode())["text"]) == row["text"]


def test_gzip_of_several_members_and_padding_is_whole(tmp_path: Path) -> None:
    first, second = lines(ROW)[:20], lines(ROW)[20:] + lines(ROW)
    rows, tally = read(write(tmp_path, packed(first) + packed(second) + b"\0" * 100))
    assert len(rows) == 2 and not tally.damage


@pytest.mark.parametrize("kind", ["gzip", "zstd", "plain"])
def test_files_are_sniffed_and_not_believed(tmp_path: Path, kind: str) -> None:
    data = lines(*[ROW] * 50)
    stored = packed(data) if kind == "gzip" else pa.compress(data, "zstd", asbytes=True) if kind == "zstd" else data
    for name in ("x.json.gz", "x.json", "x.jsonl.zst"):
        rows, tally = read(write(tmp_path, stored, name))
        assert len(rows) == 50 and tally.bytes_in == len(data) and not tally.damage
        assert tally.input_digest == hashlib.sha256(stored).hexdigest()


@pytest.mark.parametrize(
    ("data", "shown"),
    [(b"BZh91AY&SY", "bzip2"), (b"PK\x03\x04....", "zip"), (b"<html>", "HTML or XML"), (b"", "the file is empty")],
    ids=["bzip2", "zip", "html", "empty"],
)
def test_another_format_is_named(tmp_path: Path, data: bytes, shown: str) -> None:
    rows, tally = read(write(tmp_path, data))
    assert not rows and len(tally.damage) == 1
    assert tally.damage[0].startswith("not_json_lines: ") and shown in tally.damage[0]


def test_truncation_is_always_reported_and_no_part_of_a_row_is_given_out(tmp_path: Path) -> None:
    made = [{**ROW, "text": hashlib.sha256(b"%d" % i).hexdigest() * 30} for i in range(60)]
    for stored in (packed(lines(*made)), pa.compress(lines(*made), "zstd", asbytes=True)):
        for end in range(20, len(stored), len(stored) // 40):
            rows, tally = read(write(tmp_path, stored[:end]))
            assert [d.partition(":")[0] for d in tally.damage] == ["truncated_input"], end
            assert [r["text"] for r in rows] == [m["text"] for m in made[: len(rows)]] and len(rows) < 60
            assert reasons(tally) in ([], ["truncated_input"])


def test_a_flipped_bit_that_matters_is_seen_and_garbage_is_named(tmp_path: Path) -> None:
    made = [{**ROW, "text": hashlib.sha256(b"%d" % i).hexdigest() * 30} for i in range(60)]
    stored = packed(lines(*made))
    for place in range(30, len(stored), len(stored) // 40):
        bad = bytearray(stored)
        bad[place] ^= 4
        rows, tally = read(write(tmp_path, bytes(bad)))
        if not tally.damage:  # a bit that says nothing: of a Huffman code that is not used
            assert [r["text"] for r in rows] == [m["text"] for m in made]
            continue
        assert tally.damage[0].startswith(("corrupt_member", "truncated_input", "trailing_garbage"))
    _, tally = read(write(tmp_path, stored + b"garbage"))
    assert tally.damage == [f"trailing_garbage: at byte {len(stored)}"]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_stopped(tmp_path: Path, kind: str) -> None:
    data = lines(ROW) + b'{"text":"' + b"a" * (200 << 20) + b'"}\n'
    stored = gzip.compress(data, 9, mtime=0) if kind == "gzip" else pa.compress(data, "zstd", asbytes=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, tally = read(write(tmp_path, stored))
    assert [d.partition(":")[0] for d in tally.damage] == ["decompression_limit"] and len(rows) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def test_a_line_beyond_the_limit_costs_itself_and_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.write(lines(ROW) + b'{"text":"')
        for _ in range(40):
            file.write(RATIO_FREE * 9000)
        file.write(b'"}\n' + lines(ROW))
    rows, tally = read(Split("x.json", str(path)), max_record_bytes=2 << 20)
    assert [r["meta"] for r in rows] == ['{"line": 0}', '{"line": 2}']
    assert reasons(tally) == ["record_too_large"] and tally.failed[0][3].startswith("line 1: more than")
    assert tally.bytes_in == path.stat().st_size
    rows, tally = read_bytes(tmp_path, lines(ROW) + b"a" * 9_000_000, max_record_bytes=2 << 20)
    assert len(rows) == 1 and reasons(tally) == ["record_too_large"]


def test_shards_are_named_as_they_are_published(tmp_path: Path) -> None:
    for folder in ("a/en", "a/realnewslike"):
        (tmp_path / folder).mkdir(parents=True)
        write(
            tmp_path / folder, packed(lines({**ROW, "url": f"http://{folder}.b/"})), "c4-train.00000-of-00001.json.gz"
        )
    names = [s.name for s in C4().plan([str(tmp_path / "a")])]
    assert names == ["en/c4-train.00000-of-00001.json.gz", "realnewslike/c4-train.00000-of-00001.json.gz"]
    assert [s.name for s in C4().plan([str(tmp_path / "a" / "en")])] == names[:1]


def test_a_missing_shard_is_an_error_unless_it_is_allowed(tmp_path: Path) -> None:
    for n in (0, 1, 3):
        write(tmp_path, packed(lines({**ROW, "url": f"http://a.b/{n}"})), f"c4-train.{n:05}-of-00005.json.gz")
    with pytest.raises(
        RecipeError, match=r"missing_shard: .* lacks 2 of 5 train shards \(00002, 00004\); .*allow_missing"
    ):
        C4().plan([str(tmp_path)])
    with pytest.raises(RecipeError, match="missing_shard"):
        C4().plan([str(tmp_path / "*.gz")])
    assert len(C4(allow_missing=True).plan([str(tmp_path)])) == 3
    assert len(C4().plan([str(p) for p in tmp_path.glob("*.gz")])) == 3  # files that were named one by one


def test_one_shard_under_two_names_and_a_pointer_are_refused(tmp_path: Path) -> None:
    write(tmp_path, packed(lines(ROW)), "a.json.gz")
    write(tmp_path, packed(lines({**ROW, "url": "https://b.example/y"})), "c.json.gz")
    assert len(C4().plan([str(tmp_path)])) == 2
    write(tmp_path, packed(lines(ROW)), "b.json.gz")
    with pytest.raises(RecipeError, match=r"duplicate_input: .*a\.json\.gz and .*b\.json\.gz hold the same bytes"):
        C4().plan([str(tmp_path)])
    (tmp_path / "b.json.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(RecipeError, match=r"lfs_pointer: .*b\.json\.gz is a git-LFS pointer"):
        C4().plan([str(tmp_path)])


def test_settings_are_checked() -> None:
    with pytest.raises(RecipeError, match=r"source\.batch_rows is 0, must be at least 1"):
        C4(batch_rows=0)


@pytest.fixture
def hub(tmp_path: Path) -> str:
    """A data set in a folder as the hub holds it."""
    folder = tmp_path / "hub" / "c4"
    (folder / "en").mkdir(parents=True)
    for path in source.SAMPLE.glob("*.json.gz"):
        (folder / "en" / path.name).write_bytes(path.read_bytes())
    card = "---\nconfigs:\n- config_name: en\n  data_files:\n"
    card += "".join(f"  - split: {x}\n    path: en/c4-{x}.*.json.gz\n" for x in ("train", "validation"))
    (folder / "README.md").write_text(f"{card}---\n")
    return str(folder)


def test_a_data_set_is_found_by_its_name_and_read_shard_by_shard(hub: str) -> None:
    splits = C4().plan([f"{hub}:en"])
    assert [s.name.rpartition("/")[2] for s in splits] == sorted(build_c4.shards())
    assert all(s.name.startswith("en/") for s in splits)
    assert sum(len(read(s)[0]) for s in splits) == sum(t.count("\n") for t in build_c4.shards().values()) - 2
    (only,) = C4().plan([f"{hub}:en:validation"])
    assert only.name == "en/c4-validation.00000-of-00001.json.gz"


def test_a_name_that_leads_nowhere_says_what_there_is(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"no split 'test' \(there is: train, validation\)"):
        C4().plan([f"{hub}:en:test"])
    with pytest.raises(RecipeError, match=r"cannot find .*:de by `datasets`: .*Available: \['en'\]"):
        C4().plan([f"{hub}:de"])
    (Path(hub) / "en" / "c4-train.00001-of-00002.json.gz").unlink()
    with pytest.raises(RecipeError, match="missing_shard"):
        C4().plan([f"{hub}:en"])
    with pytest.raises(RecipeError, match="no file or folder"):
        C4().plan(["no/such.json.gz"])


def test_a_hub_that_cannot_be_reached_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.load

    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'allenai/c4' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets.load, "dataset_module_factory", refuse)
    with pytest.raises(RecipeError) as error:
        C4().plan(["allenai/c4:en"])
    assert str(error.value) == (
        "cannot find allenai/c4:en by `datasets`: Couldn't reach 'allenai/c4' on the Hub (LocalEntryNotFoundError); "
        "give the shards as files instead"
    )


@pytest.fixture
def hub_files() -> Iterator[Any]:
    """Files behind hf:// addresses, in memory."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Hub(MemoryFileSystem):
        protocol = "hf"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix("hf://").strip("/")

    known = fsspec.registry.get("hf") if "hf" in fsspec.registry else None
    fsspec.register_implementation("hf", Hub, clobber=True)
    yield Hub()
    fsspec.registry._registry.pop("hf", None) if hasattr(fsspec.registry, "_registry") else None
    if known is not None:
        fsspec.register_implementation("hf", known, clobber=True)


def test_shards_of_the_hub_are_streamed(hub_files: Any) -> None:
    data = packed(lines(ROW, ROW))
    path = "hf://datasets/allenai/c4@0123456789/en/c4-train.00000-of-01024.json.gz"
    with hub_files.open(path, "wb") as file:
        file.write(data)
    rows, tally = read(Split("en/c4-train.00000-of-01024.json.gz", path))
    assert len(rows) == 2 and tally.input_digest == hashlib.sha256(data).hexdigest()
    with pytest.raises(SourceError, match="cannot read hf://datasets/allenai/c4@0123456789/en/nothing"):
        read(Split("x", "hf://datasets/allenai/c4@0123456789/en/nothing.json.gz"))


def test_the_sample_is_as_built_and_shows_every_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_c4.main(["--check"]) == 0 and capsys.readouterr().out == "as built\n"
    assert build_c4.main(["--folder", str(tmp_path)]) == 0
    (tmp_path / "c4-train.00000-of-00002.json.gz").write_bytes(packed(b""))
    (tmp_path / "more.json.gz").write_bytes(packed(b""))
    assert build_c4.main(["--check", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "c4-train.00000-of-00002.json.gz: differs\nmore.json.gz: not built\n"
    splits = C4().plan([])
    assert [s.name for s in splits] == sorted(build_c4.shards()) and sum(s.bytes or 0 for s in splits) < 300_000
    found = [read(s) for s in splits]
    assert sorted(r for _, t in found for r in reasons(t)) == ["bad_json", "schema"]
    assert sum(len(rows) for rows, _ in found) == len(build_c4.rows()) + 1
    assert {json.loads(r["meta"])["split"] for rows, _ in found for r in rows} == {"train", "validation"}


def test_wet_pages_have_their_first_line_and_no_title() -> None:
    from sources.commoncrawl import CommonCrawl

    split = C4Wet().plan([])[0]
    mine, theirs = Tally(), Tally()
    pages = pa.concat_tables(C4Wet().read(split, mine))
    same = pa.concat_tables(CommonCrawl().read(split, theirs))
    assert pages.schema.equals(DOCUMENT) and set(pages["source"].to_pylist()) == {"c4"}
    assert pages["title"].null_count == len(pages) and not set(pages["doc_id"].to_pylist()) & set(
        same["doc_id"].to_pylist()
    )
    for page, other in zip(pages.to_pylist(), same.to_pylist(), strict=True):
        assert page["text"] == f"{other['title']}\n{other['text']}" and page["url"] == other["url"]
    assert mine.skipped == theirs.skipped and len(mine.failed) == len(theirs.failed)
