"""The page at the end of a training: what it says, what it withstands, and what it costs."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from curate.errors import StoreError
from model.loss_page import (
    MARKS,
    POINTS,
    SOURCES,
    Log,
    Track,
    clean,
    duration,
    labels_of,
    log_ticks,
    number,
    read_log,
    si,
    smoothed,
    spread,
    text_summary,
    ticks,
    write_page,
    y_range,
)

RUN = {"model": "debug", "parameters": 5500000, "steps": 1000, "batch_tokens": 8192, "device": "a card"}
BRAILLE = re.compile("[\u2801-\u28ff]")


def step(n: int, loss: Any = 3.0, sources: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    entries = {s: {"loss": v, "bits_per_byte": v / 3, "tokens": 4096} for s, v in (sources or {}).items()}
    return {"kind": "step", "step": n, "loss": loss, "lr": 3e-4, "grad_norm": 0.8, "tokens": 8192 * n,
            "seconds": 0.5 * n, "tok_s": 16384.0, "mfu_a": 0.41, "mfu_b": 0.38, "skipped": False,
            "sources": entries, **more}  # fmt: skip


def held_out(n: int, loss: float, sources: dict[str, float]) -> dict[str, Any]:
    entries = {s: {"loss": v, "bits_per_byte": v / 2, "tokens": 999} for s, v in sources.items()}
    return {"kind": "held_out", "step": n, "tokens": 8192 * n, "loss": loss, "bits_per_byte": 1.125, "sources": entries}


def write(run: Path, records: Iterable[Any], tail: bytes = b"", about: Any = RUN) -> Path:
    run.mkdir(exist_ok=True)
    with open(run / "log.jsonl", "wb") as f:
        f.writelines(json.dumps(record).encode() + b"\n" for record in records)
        f.write(tail)
    (run / "run.json").write_text(json.dumps(about))
    return run


def training(n: int = 400) -> Iterator[dict[str, Any]]:
    for i in range(1, n + 1):
        loss = 2 + 6 * math.exp(-i / 50)
        yield step(i, loss, {"wikipedia": loss - 0.5, "c4": loss + 0.5})
        if i % 100 == 0:
            yield held_out(i, loss + 0.1, {"wikipedia": loss - 0.4, "c4": loss + 0.6})


def parsed(path: Path) -> ElementTree.Element:
    """The page as XML: every tag closed, every attribute quoted, every character allowed."""
    page = path.read_text()
    assert page.startswith("<!doctype html>\n")
    return ElementTree.fromstring(page.removeprefix("<!doctype html>\n"))


def tags(page: ElementTree.Element) -> set[str]:
    return {element.tag.rpartition("}")[2] for element in page.iter()}


def texts(page: ElementTree.Element, tag: str) -> list[str]:
    return ["".join(e.itertext()) for e in page.iter() if e.tag.rpartition("}")[2] == tag]


def cards(page: ElementTree.Element) -> dict[str, str]:
    """Headline numbers by what is said of them."""
    found = [e for e in page.iter("div") if e.get("class") == "card"]
    return {"".join(e.itertext())[len(e[0].text or "") :]: e[0].text or "" for e in found}


# -- what the page says ----------------------------------------------------------------------------------------------


def test_page_says_what_the_log_says(tmp_path: Path) -> None:
    path = write_page(write(tmp_path / "run", training()))
    assert path == tmp_path / "run/loss.html"
    page = parsed(path)
    last = 2 + 6 * sum(math.exp(-i / 50) for i in range(381, 401)) / 20  # a twentieth of 400 steps
    shown = cards(page)
    assert shown["training loss, mean of the last 20 steps"] == f"{last:.3f}"
    assert shown["held-out loss, last measured"] == f"{2.1 + 6 * math.exp(-8):.3f}"
    assert shown["held-out bits per byte"] == "1.125"
    assert shown["tokens seen"] == "3.28 M" and shown["parameters"] == "5.50 M"
    assert shown["steps of 1,000"] == "400" and shown["skipped steps"] == "0"
    assert shown["tok/s in steps; 16.4 k over the whole time"] == "16,384"
    assert shown["MFU by counts A / B, mean of the steps"] == "41.0 / 38.0 %"
    assert shown["time"] == "3 min 20 s"
    rows = [[("".join(c.itertext())) for c in row] for row in page.iter("tr")]
    wikipedia = next(row for row in rows if row[0] == "wikipedia")
    end = 2 + 6 * math.exp(-8)
    assert wikipedia[1:5] == [f"{v:.3f}" for v in (last - 0.5, (last - 0.5) / 3, end - 0.4, (end - 0.4) / 2)]
    assert wikipedia[5:] == ["1.64 M", "50.0 %"]
    labels = texts(page, "text")
    assert f"{(end - 0.4) / 2:.3f}wikipedia" in labels and f"{last:.3f}training" in labels
    titles = texts(page, "title")
    assert any("loss" in t and "learning rate 0.0003" in t and "gradient norm 0.8" in t for t in titles)
    assert any(t.startswith("c4: held-out") for t in titles)
    assert {"tokens seen", "loss (nats per token)", "bits per byte", "learning rate", "tok/s"} <= set(labels)


def test_steps_count_from_zero_or_one(tmp_path: Path) -> None:
    for first in (0, 1):
        run = write(tmp_path / "run", [step(i) for i in range(first, first + 30)])
        assert cards(parsed(write_page(run)))["steps of 1,000"] == "30" and "debug: 30 steps" in text_summary(run)


def test_held_out_stands_at_its_step(tmp_path: Path) -> None:
    """Also before the first step, and where `tokens` are those that it was measured on."""
    records = [held_out(0, 9.0, {}), *(step(i, tokens=8192 * (i + 1)) for i in range(20)), held_out(20, 3.0, {})]
    records[-1]["tokens"] = records[0]["tokens"] = 4352
    log = read_log(write(tmp_path / "run", records))
    assert log.held_loss.points() == [(0, 9.0), (20 * 8192, 3.0)]


def test_source_is_weighted_by_tokens(tmp_path: Path) -> None:
    records = [step(i, 3.0, {"c4": 2.0 if i == 40 else 4.0}) for i in range(1, 41)]
    records[-1]["sources"]["c4"]["tokens"] = 3 * 4096
    log = read_log(write(tmp_path / "run", records))
    assert log.window == 2 and log.sources["c4"].final(0, 2) == 2.5
    assert log.sources["c4"].final(1, 2) == pytest.approx(2.5 / 3)


def test_what_is_above_a_chart_has_an_arrow(tmp_path: Path) -> None:
    records = [*training(), held_out(1, 500.0, {"c4": 3.0}), held_out(400, 2.1, {"c4": 3.0})]
    page = parsed(write_page(write(tmp_path / "run", records)))
    titles = texts(page, "title")
    assert any(t.startswith("500.000, above the chart, at 8,192") for t in titles)
    assert not any(t.startswith("held-out loss 500") for t in titles)


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    path = write_page(write(tmp_path / "run", training()))
    page = parsed(path)
    assert not tags(page) & {"script", "img", "link", "iframe", "object", "image", "use", "foreignObject"}
    assert not {a for e in page.iter() for a in e.attrib} & {"href", "src", "onload", "onerror", "onclick"}
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    assert "prefers-color-scheme:dark" in path.read_text()


def test_loss_stands_in_where_bits_are_missing(tmp_path: Path) -> None:
    records = [step(i, 3.0, {"c4": 3.0}) for i in range(1, 30)]
    for record in records:
        del record["sources"]["c4"]["bits_per_byte"]
    page = parsed(write_page(write(tmp_path / "run", records)))
    assert "bits per byte" not in texts(page, "text") and "3.000c4" in texts(page, "text")


def test_events_are_marked_where_they_were(tmp_path: Path) -> None:
    records = [*training(), {"kind": "skip", "step": 100, "reason": "gradient"},
               {"kind": "spike", "step": 200, "loss": 9.0, "mean": 3.0, "sigma": 0.1, "rows": [1]},
               {"kind": "resume", "step": 300}]  # fmt: skip
    records[300]["loss"] = None  # of step 299
    page = parsed(write_page(write(tmp_path / "run", records)))
    places = {}
    for group in page.iter("{http://www.w3.org/2000/svg}g"):
        if (group.get("class") or "").startswith("event") and len(group) == 4:  # the loss chart's, with signs
            said = "".join(group[3].itertext())
            places[said] = float((group[0].get("d") or "M0 ")[1:].split()[0])
    assert list(places) == ["skipped step, step 100: reason gradient", "spike, step 200: loss 9, mean 3, sigma 0.1",
                            "resume, step 300", "loss not finite, step 299: null"]  # fmt: skip
    assert list(places.values()) == pytest.approx([76 + 814 * n / 400 for n in (100, 200, 300, 299)], abs=0.1)
    assert cards(page)["skipped steps"] == "1"


def test_a_skip_said_twice_is_one(tmp_path: Path) -> None:
    records = [step(1), {"kind": "skip", "step": 2, "reason": "loss"}, step(2, 99.0, skipped=True), step(3)]
    log = read_log(write(tmp_path / "run", records))
    assert log.count("skip") == 1 and log.marks["skip"][0].text == "reason loss"
    assert log.loss == 3.0  # what was skipped is no training loss


def test_many_events_are_drawn_together_and_counted(tmp_path: Path) -> None:
    events = ({"kind": "skip", "step": n, "reason": "loss"} for n in range(1, 5000))
    log = read_log(write(tmp_path / "run", [step(5000), *events]))
    marks = log.marks["skip"]
    assert len(marks) <= MARKS and log.count("skip") == 4999
    assert max(m.count for m in marks) <= 3 * min(m.count for m in marks[:-1])  # as even late as early
    assert [m.first for m in marks[1:]] == [m.last + 1 for m in marks[:-1]]


# -- what it withstands ----------------------------------------------------------------------------------------------

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</title><script>alert(1)</script>",
    "a'\"&<b",
    "\u202ekcab\x00\x1b[31m\ud800",
)


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    sources = {name: 3.0 for name in HOSTILE}
    records = [*(step(i, 3.0, sources) for i in range(1, 40)), held_out(40, 3.0, sources)]
    records += [{"kind": "skip", "step": 3, "reason": HOSTILE[0]}, {"kind": "warning", "text": HOSTILE[1]}]
    records += [{"kind": "spike", "step": 5, "loss": HOSTILE[0], "mean": HOSTILE[1], "sigma": {}}]
    about = dict.fromkeys((*RUN, "length", "vocabulary"), HOSTILE[1])
    run = write(tmp_path / "run", records, about=about)
    page = parsed(write_page(run))
    assert not tags(page) & {"script", "img", "b1"}
    assert not [a for e in page.iter() for a in e.attrib if a.startswith("on") or a == "src"]
    assert HOSTILE[0] in texts(page, "td") and HOSTILE[1] in texts(page, "li")
    raw = (run / "loss.html").read_text()
    assert "<img" not in raw and "<script" not in raw
    assert not set("\x00\x1b\u202e") & set(raw + text_summary(run))


BAD = (b'{"kind":"step","st', b"\xff\xfe\n", b"[1]\n", b"null\n", b'{"kind":7}\n', b'{"kind":"step","step":"x"}\n',
       b'{"kind":"step"}\n', b"[" * 99999, b'{"a":"' + b"x" * (1 << 21))  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_bad_lines_are_left_out_and_counted(tmp_path: Path, bad: bytes) -> None:
    run = write(tmp_path / "run", training(20), tail=bad)
    log = read_log(run)
    assert (log.steps, log.bad) == (20, 1)
    assert "1 line of the log could not be read and is left out." in texts(parsed(write_page(run)), "p")
    assert "1 line of the log could not be read" in text_summary(run)


def test_a_long_bad_line_costs_only_itself(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [step(1)], tail=b"x" * 3_000_000 + b"\n" + json.dumps(step(2)).encode() + b"\n\n")
    log = read_log(run)
    assert (log.steps, log.bad) == (2, 1)


def test_a_damaged_line_undoes_nothing(tmp_path: Path) -> None:
    run = write(tmp_path / "run", training(20), tail=b'{"kind":"step","step":1,"loss":\n{"kind":"step","step":2')
    log = read_log(run)
    assert (log.steps, log.bad, log.undone["step"]) == (20, 2, 0)


@pytest.mark.parametrize("bad", [None, "nan", "inf", "-inf", math.nan, math.inf, 10**400, 1e301, [], {}, "x", True])
def test_losses_that_are_not_finite(tmp_path: Path, bad: Any) -> None:
    sources = {"c4": 3.0}
    records = [step(i, 3.0, sources) for i in range(1, 20)]
    records[9] = step(10, bad, {"c4": bad} if isinstance(bad, float) else sources, grad_norm=bad, tok_s=bad, lr=bad)
    records[9]["sources"]["c4"]["loss"] = bad
    run = write(tmp_path / "run", records)
    log = read_log(run)
    assert log.count("broken") == 1 and log.loss == 3.0
    page = parsed(write_page(run))
    assert "nan" not in "".join(e.get("d") or "" for e in page.iter()) and cards(page)["held-out bits per byte"] == "–"
    write(run, [*records, step(20, bad)])
    assert cards(parsed(write_page(run)))["training loss, mean of the last 1 step"] == "not finite"
    assert "this training has diverged" in text_summary(run)


def test_only_losses_that_are_not_finite(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [step(i, None, {"c4": math.nan}, grad_norm=0.0) for i in range(1, 9)])
    parsed(write_page(run))
    assert "not finite" in text_summary(run)


def test_log_that_is_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"log\.jsonl: there is no such log; is .* the folder of a training run\?"):
        write_page(tmp_path)
    for records, tail in (([], b""), ([], b"\n\n"), ([{"kind": "warning", "text": "x"}], b"")):
        with pytest.raises(StoreError, match="no training step in it; nothing to draw"):
            text_summary(write(tmp_path / "run", records, tail))
    with pytest.raises(StoreError, match=r"no training step in it \(1 damaged line\)"):
        write_page(write(tmp_path / "run", [], b"{"))
    assert not (tmp_path / "run/loss.html").exists()


@pytest.mark.parametrize("about", [b"", b"{", b"[]", b"{}", b'{"steps":null,"parameters":"x","batch_tokens":-1}', None])
def test_run_that_says_little(tmp_path: Path, about: bytes | None) -> None:
    run = write(tmp_path / "a run", training(20))
    (run / "run.json").unlink() if about is None else (run / "run.json").write_bytes(about)
    page = parsed(write_page(run))
    assert texts(page, "h1") == ["Training of a run"] and cards(page)["parameters"] == "unknown"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_short_logs(tmp_path: Path, n: int) -> None:
    run = write(tmp_path / "run", [{"kind": "step", "step": i} for i in range(n)], about={})
    parsed(write_page(run))
    parsed(write_page(write(run, [step(i, 3.0, {"c4": 3.0}) for i in range(n)])))
    assert "training loss 3.000 (mean of 1 step)" in text_summary(run)


def test_steps_stand_in_for_tokens(tmp_path: Path) -> None:
    records = [step(i) for i in range(1, 30)]
    for record in records:
        del record["tokens"]
    run = write(tmp_path / "run", records)
    assert read_log(run).x == 29 * 8192  # known from the batch
    (run / "run.json").write_text("{}")
    page = parsed(write_page(run))
    assert "step" in texts(page, "text") and cards(page)["tokens seen"] == "unknown"


def test_more_sources_than_are_followed(tmp_path: Path) -> None:
    names = {f"source {i}": 3.0 for i in range(SOURCES + 5)}
    page = parsed(write_page(write(tmp_path / "run", [step(i, 3.0, names) for i in range(1, 9)])))
    assert f"There are more than {SOURCES} sources; only the first {SOURCES} are followed." in texts(page, "p")
    assert len(texts(page, "tr")) == SOURCES + 2


# -- steps that were done again --------------------------------------------------------------------------------------


def test_steps_done_again_count_once(tmp_path: Path) -> None:
    first = [step(i, 3.0, {"c4": 3.0}) for i in range(1, 101)]
    first.insert(95, {"kind": "spike", "step": 95, "loss": 50.0})
    first[98]["loss"] = 77.0
    undone = [held_out(81, 3.5, {"c4": 3.5}), held_out(90, 99.0, {"c4": 99.0})]
    again = [{"kind": "resume", "step": 80}, *(step(i, 4.0, {"c4": 4.0}) for i in range(81, 121))]
    run = write(tmp_path / "run", [*first, *undone, *again])
    log = read_log(run)
    assert (log.steps, log.undone["step"], log.undone["held_out"]) == (120, 20, 1)
    assert log.count("spike") == 0 and log.count("resume") == 1 and log.held_loss.last == 3.5
    assert log.sources["c4"].tokens == 120 * 4096
    assert max(y for _, y in log.tracks["loss"].extremes()) == 4.0
    said = "20 steps were done again after a resume; the last time counts. The first had 1 spike, not shown."
    assert said in texts(parsed(write_page(run)), "p")


def test_resumes_within_resumes(tmp_path: Path) -> None:
    parts = [range(1, 101), range(51, 91), range(71, 81), range(31, 61)]
    run = write(tmp_path / "run", [step(i, float(k)) for k, part in enumerate(parts) for i in part])
    log = read_log(run)
    assert log.steps == 60 and log.step == 60
    assert [y for _, y in log.tracks["loss"].points()] == [0.0] * 30 + [3.0] * 30


# -- what it costs ---------------------------------------------------------------------------------------------------


# By how many kB the peak of a process of its own grows: tracing allocations would take a minute.
GROWTH = """
import sys
from pathlib import Path
from model.loss_page import write_page
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
write_page(Path(sys.argv[1]))
print(peak() - before)
"""


def test_long_log_is_bounded(tmp_path: Path) -> None:
    """200,000 steps: a page under 1 MB and little memory, and a spike of one step is there, at its place."""
    names = ("commoncrawl", "c4", "github", "wikipedia", "books", "arxiv", "stackexchange")
    run = write(tmp_path / "run", [])
    with open(run / "log.jsonl", "w") as f:
        for i in range(1, 200_001):
            loss = 99.5 if i == 123_457 else 3 + i % 7 / 10
            few = {name: 3 + i % 5 / 10 for name in names} if i % 40 == 0 else {}
            f.write(json.dumps(step(i, loss, few)) + "\n")
            if i % 100 == 0:
                f.write(json.dumps(held_out(i, 3.1, dict.fromkeys(names, 3.0))) + "\n")
    done = subprocess.run([sys.executable, "-c", GROWTH, str(run)], capture_output=True, text=True, check=True)
    path = run / "loss.html"
    assert int(done.stdout) < 24_000 and path.stat().st_size < 0.8e6  # the log has 50 MB
    assert any(t.startswith("99.500, above the chart, at 1.01 B") for t in texts(parsed(path), "title"))


def test_buckets_keep_spikes_and_means() -> None:
    track = Track()
    values = [math.sin(i) for i in range(37_123)]
    values[20_001], values[30_000] = 50.0, -50.0
    for i, y in enumerate(values):
        track.add(i, y)
    track.add(37_123, math.nan)
    assert POINTS / 2 <= len(track.buckets) <= POINTS and sum(b.n for b in track.buckets) == 37_123
    extremes = track.extremes()
    assert (20_001, 50.0) in extremes and (30_000, -50.0) in extremes and len(extremes) <= 2 * POINTS
    assert extremes == sorted(extremes)
    assert {b.n for b in track.buckets[:-1]} == {track.width}  # each as wide as the next
    n, (x, y) = track.width, track.points()[7]
    assert (x, y) == pytest.approx((7 * n + (n - 1) / 2, sum(values[7 * n : 8 * n]) / n))
    assert track.mean == pytest.approx(sum(values) / len(values)) and math.isnan(track.last)
    assert track.at(7.4 * n) == pytest.approx(y)


def test_smoothed_is_an_exponential_mean() -> None:
    line = smoothed([(i, 5.0) for i in range(1000)])
    assert [y for _, y in line] == pytest.approx([5.0] * 1000)  # no pull from zero at the beginning
    jump = [y for _, y in smoothed([(i, float(i >= 500)) for i in range(1000)])]
    assert jump[499] == 0.0 and jump[500] == pytest.approx(1 / 20, rel=0.01)
    assert jump[519] == pytest.approx(1 - (1 - 1 / 20) ** 20, rel=0.01)
    assert max(y for _, y in smoothed([(0, 1.0), (1, 1e9), (2, 1.0)], 2.0)) <= 2.0


# -- parts -----------------------------------------------------------------------------------------------------------


def test_labels_stand_apart_and_in_order() -> None:
    places = [100.0, 101.0, 99.0, 300.0, 399.0, 400.0, 20.0]
    found = spread(places, 16, 20, 400)
    assert sorted(range(7), key=lambda i: found[i]) == sorted(range(7), key=lambda i: places[i])
    ordered = sorted(found)
    assert all(b - a >= 15.99 for a, b in pairwise(ordered))
    assert min(found) >= 20 and max(found) <= 400 and found[3] == 300.0
    assert spread([21.0, 20.0, 22.0], 16, 20, 400) == [36.0, 20.0, 52.0]


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0, 24.6e6, ["0", "5 M", "10 M", "15 M", "20 M"]),
        (2.6, 3.1, ["2.6", "2.7", "2.8", "2.9", "3.0", "3.1"]),
        (0, 3e-4, ["0", "5e-5", "1e-4", "1.5e-4", "2e-4", "2.5e-4", "3e-4"]),
        (0, 8192, ["0", "2,000", "4,000", "6,000", "8,000"]),
        (0, 4.19e12, ["0", "1 T", "2 T", "3 T", "4 T"]),
    ],
)
def test_ticks_are_round(low: float, high: float, shown: list[str]) -> None:
    assert labels_of(ticks(low, high)) == shown


def test_ticks_of_a_logarithmic_axis() -> None:
    assert log_ticks(0.15, 6) == pytest.approx([0.2, 0.5, 1, 2, 5])
    assert log_ticks(1e-4, 1e4) == pytest.approx([10.0**d for d in range(-4, 5)])
    assert len(log_ticks(0.81, 0.89)) >= 2


def test_y_range_shows_nearly_all() -> None:
    values = [3.0 + i % 10 / 10 for i in range(1000)]
    assert y_range([*values, 1000.0])[1] < 5 < 1000 <= y_range([*values, 1000.0], always=(1000.0,))[1]
    assert y_range(values) == pytest.approx((3 - 0.036, 3.9 + 0.036))
    for few in ([], [2.0], [0.0, 0.0], [math.nan]):
        low, high = y_range(few)
        assert low < high


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(3.25, "3.2 s"), (59.99, "60.0 s"), (200, "3 min 20 s"), (3599.9, "1 h 0 min"), (7260, "2 h 1 min"),
     (90 * 3600, "3 d 18 h"), (math.nan, "unknown")],
)  # fmt: skip
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_counts_and_text() -> None:
    assert [si(v) for v in (0, 999, 9999, 12345, 5.5e6, 6.7e9, 1.4e12)] == [
        "0", "999", "9,999", "12.3 k", "5.50 M", "6.70 B", "1.40 T"]  # fmt: skip
    assert clean("a\nb" * 200, 9) == "a\ufffdba\ufffdba\ufffd…" and clean(None) == "None"
    assert math.isnan(number("x")) and number("-Infinity") == -math.inf and number("3e-4") == 3e-4


# -- the terminal ----------------------------------------------------------------------------------------------------


def test_summary(tmp_path: Path) -> None:
    lines = text_summary(write(tmp_path / "run", [*training(), {"kind": "skip", "step": 9}])).splitlines()
    assert lines[0] == "debug: 400 steps, 3.28 M tokens, 3 min 20 s, 16,384 tok/s, MFU 41.0 / 38.0 %"
    assert lines[1] == "training loss 2.002 (mean of 20 steps), held-out loss 2.102, 1.125 bits per byte"
    assert lines[-1] == "1 skipped step" and lines[-2].endswith("3.28 M tokens")
    chart = [line.partition("│")[2] for line in lines if "│" in line]
    assert len(chart) == 8 and {len(line) for line in chart} == {60}
    assert BRAILLE.search(chart[0]) and chart[0].rstrip("\u2800") and not BRAILLE.search(chart[0][20:])
    assert not BRAILLE.search(chart[-1][:10]) and BRAILLE.search(chart[-1][-1])  # falls from top left to bottom right
    bits = ((1 | 8), (2 | 16), (4 | 32), (64 | 128))  # of the four rows of dots in a character
    rows = [any((ord(c) - 0x2800) & b for c in line) for line in chart for b in bits]
    assert all(rows[rows.index(True) : 32 - rows[::-1].index(True)]) and sum(rows) > 28  # the line has no holes
    filled = [any(BRAILLE.match(line[i]) for line in chart) for i in range(60)]
    assert all(filled)


def test_summary_of_few_steps_is_a_line(tmp_path: Path) -> None:
    lines = text_summary(write(tmp_path / "run", [step(1, 4.0), step(2, 3.0), step(4, 1.0)])).splitlines()
    chart = [line.partition("│")[2] for line in lines if "│" in line]
    ends = [max(i for i in range(60) if BRAILLE.match(line[i])) for line in chart]
    assert ends == sorted(ends) and all(3 <= b - a <= 9 for a, b in pairwise(ends))  # as steep everywhere


def test_log_holds_no_shared_state() -> None:
    a, b = Log({}), Log({})
    a.tracks["loss"].add(1, 2)
    assert not b.tracks["loss"].n and a.marks is not b.marks
