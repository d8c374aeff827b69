"""The page and the terminal lines that end a training: what RUN/log.jsonl and RUN/run.json say, drawn.

    write_page(run)      RUN/loss.html: one self-contained page, without script, for light and dark screens
    text_summary(run)    a few lines with a braille plot of the loss

The log is read line by line into `Track`s of at most `POINTS` buckets, each with its mean, least and greatest value and
where they were, so that memory and page stay bounded and a spike of one step stays visible. Steps that were done again
after a resume are drawn once, as they were done last. Everything that comes from the log is escaped.
"""

from __future__ import annotations

import html
import json
import math
import re
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from curate.errors import StoreError
from curate.store import disk_errors, replace_file

POINTS = 1000  # buckets of a line, at most: about one for each pixel of a chart
HELD_POINTS = 100  # of a held-out line, each drawn with a marker
STRIPS = 200  # tooltips of a chart, side by side
MARKS = 60  # events of one kind that are drawn; of more, neighbours are drawn as one
SOURCES = 32  # sources that are followed; of more, the count is given
DRAWN = 12  # sources in the chart, those with the most tokens
RECENT = 100  # steps whose mean is the final training loss, at most; a twentieth of a short run
LONGEST = 1 << 20  # bytes of a line of the log; a longer one counts as damaged
WARNINGS = 20  # texts shown
HUGE = 1e300  # what is larger counts as infinite, so that sums stay finite
SCALARS = ("loss", "lr", "grad_norm", "tok_s", "mfu_a", "mfu_b")  # of a step
EVENTS = {"skip": "skipped step", "spike": "spike", "resume": "resume", "broken": "loss not finite"}

_IS_STEP = re.compile(rb'"kind"\s*:\s*"step"')
_STEP = re.compile(rb'"step"\s*:\s*(\d{1,15})\s*[,}]')
Point = tuple[float, float]


# -- what is kept of a log -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bucket:
    """Neighbouring points of a line: sums, and the extremes with their places."""

    n: int
    x: float
    y: float
    low: float
    low_x: float
    high: float
    high_x: float

    def add(self, other: Bucket) -> None:
        """Take in a bucket that comes after."""
        self.n, self.x, self.y = self.n + other.n, self.x + other.x, self.y + other.y
        if other.low < self.low:
            self.low, self.low_x = other.low, other.low_x
        if other.high > self.high:
            self.high, self.high_x = other.high, other.high_x


class Track:
    """A line of any length in at most `limit` buckets, each of as many points as the next. Points come in order."""

    def __init__(self, limit: int = POINTS) -> None:
        self.limit, self.width, self.n, self.total = limit, 1, 0, 0.0
        self.last = math.nan  # the last value, finite or not
        self.buckets: list[Bucket] = []

    def add(self, x: float, y: float) -> None:
        """Add a point; one that is not finite leaves a gap."""
        self.last = y
        if not math.isfinite(y):
            return
        self.n, self.total = self.n + 1, self.total + y
        if self.buckets and (b := self.buckets[-1]).n < self.width:
            b.n, b.x, b.y = b.n + 1, b.x + x, b.y + y
            if y < b.low:
                b.low, b.low_x = y, x
            if y > b.high:
                b.high, b.high_x = y, x
            return
        self.buckets.append(Bucket(1, x, y, y, x, y, x))
        if len(self.buckets) > self.limit:
            self._halve()

    def _halve(self) -> None:
        for a, b in zip(self.buckets[::2], self.buckets[1::2], strict=False):
            a.add(b)
        self.buckets, self.width = self.buckets[::2], 2 * self.width

    @property
    def mean(self) -> float:
        """Of all values; NaN of none."""
        return self.total / self.n if self.n else math.nan

    def points(self) -> list[Point]:
        """The mean of each bucket."""
        return [(b.x / b.n, b.y / b.n) for b in self.buckets]

    def extremes(self) -> list[Point]:
        """The least and the greatest point of each bucket, in order: the line as it looks, with every spike."""
        found: list[Point] = []
        for b in self.buckets:
            pair = sorted([(b.low_x, b.low), (b.high_x, b.high)])
            found += pair if pair[0] != pair[1] else pair[:1]
        return found

    def at(self, x: float) -> float:
        """The mean of the bucket nearest to x; NaN without any."""
        place = bisect_left(self.buckets, x, key=lambda b: b.x / b.n)
        near = self.buckets[max(0, place - 1) : place + 1]
        return min(((abs(b.x / b.n - x), b.y / b.n) for b in near), default=(0.0, math.nan))[1]


def smoothed(points: Sequence[Point], most: float = math.inf) -> list[Point]:
    """The exponential mean over about a fiftieth of the line, at the steep beginning over a tenth of what there is.

    Values above `most` count as that: one of 1,000 would keep the mean out of the chart for long.
    """
    total = weight = 0.0
    found = []
    for i, (x, y) in enumerate(points):
        keep = 1 - 1 / max(1.0, min(len(points) / 50, i / 10))
        total, weight = keep * total + min(y, most), keep * weight + 1
        found.append((x, total / weight))
    return found


@dataclass(slots=True)
class Mark:
    """Events of one kind that lie together."""

    first: int
    last: int
    count: int
    text: str


@dataclass
class Source:
    """What a log says of one source. `recent`: loss, bits per byte and tokens of its last steps."""

    loss: Track = field(default_factory=Track)
    bits: Track = field(default_factory=Track)
    held_loss: Track = field(default_factory=lambda: Track(HELD_POINTS))
    held_bits: Track = field(default_factory=lambda: Track(HELD_POINTS))
    tokens: float = 0
    recent: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def final(self, place: int, steps: int) -> float:
        """Mean loss (place 0) or bits per byte (1) of the last steps that had the source, weighted by tokens."""
        known = [(r[place], r[2]) for r in list(self.recent)[-steps:] if math.isfinite(r[place]) and r[2] > 0]
        return sum(v * n for v, n in known) / sum(n for _, n in known) if known else math.nan


@dataclass
class Log:
    """What is kept of RUN/log.jsonl. x is tokens seen, or the step where tokens are not known (`by_tokens`)."""

    run: dict[str, Any]
    by_tokens: bool = True
    steps: int = 0  # logged
    first: int = 0  # number of the first one; a log may count from 0 or from 1
    step: int = 0  # of the last one
    x: float = 0.0
    seconds: float = math.nan
    finite: bool = True  # the last loss that counts
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    tracks: dict[str, Track] = field(default_factory=lambda: {key: Track() for key in SCALARS})
    clock: Track = field(default_factory=Track)  # x by step
    held_loss: Track = field(default_factory=lambda: Track(HELD_POINTS))
    held_bits: Track = field(default_factory=lambda: Track(HELD_POINTS))
    sources: dict[str, Source] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)  # steps that a mark may span, by kind
    marks: dict[str, list[Mark]] = field(default_factory=lambda: {kind: [] for kind in EVENTS})
    warnings: list[str] = field(default_factory=list)
    n_warnings: int = 0
    bad: int = 0
    undone: Counter[str] = field(default_factory=Counter)  # records that a resume left behind, by kind
    unfollowed: bool = False  # more sources than SOURCES

    def count(self, kind: str) -> int:
        """Events of a kind."""
        return sum(mark.count for mark in self.marks[kind])

    @property
    def done(self) -> int:
        """Steps of the training, whether or not each was logged."""
        return self.step + (self.first == 0)

    @property
    def window(self) -> int:
        """Steps whose mean is the final training loss."""
        return max(1, min(RECENT, self.steps // 20))

    @property
    def loss(self) -> float:
        """The final training loss: mean of the last steps; NaN if the last one was not finite."""
        last = list(self.recent)[-self.window :]
        return sum(last) / len(last) if last and self.finite else math.nan


# -- reading ---------------------------------------------------------------------------------------------------------


def read_log(run: Path) -> Log:
    """Read a run's log once for resumes and once for what it says, in bounded memory."""
    path = run / "log.jsonl"
    if not path.is_file():
        raise StoreError(f"{path}: there is no such log; is {run} the folder of a training run?")
    log = Log(_run_json(run / "run.json"))
    with disk_errors(path):
        jumps = _jumps(path)
        for number, line in enumerate(_lines(path)):
            while jumps and jumps[0][0] <= number:
                jumps.popleft()
            _take(log, line, jumps[0][1] if jumps else math.inf)
    if not log.steps:
        damaged = f" ({_counted('damaged line', log.bad)})" if log.bad else ""
        raise StoreError(f"{path}: no training step in it{damaged}; nothing to draw")
    return log


def _run_json(path: Path) -> dict[str, Any]:
    """What is known of the run; a page without it is better than none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a file, of one that is too long its beginning."""
    with open(path, "rb") as f:
        while line := f.readline(LONGEST):
            rest = line
            while len(rest) == LONGEST and not rest.endswith(b"\n"):
                rest = f.readline(LONGEST)
            yield line


def _jumps(path: Path) -> deque[tuple[int, int]]:
    """(line, step) where the steps go back, both ascending: a record before the line, from that step on, is undone."""
    found: deque[tuple[int, int]] = deque()
    last = -1
    for number, line in enumerate(_lines(path)):
        if not _IS_STEP.search(line) or not (match := _STEP.search(line)):
            continue
        step = int(match[1])
        if step <= last:
            record = _parse(line)  # a damaged line must not undo anything
            if record is None or _step(record) != step:
                continue
            while found and found[-1][1] >= step:
                found.pop()
            found.append((number, step))
        last = step
    return found


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def number(value: Any) -> float:
    """A float of what JSON gave: NaN of null, of text that is no number and of what is no scalar."""
    if type(value) is float and -HUGE < value < HUGE:  # nearly always
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        found = float(value)
    except ValueError:
        return math.nan
    except OverflowError:
        return math.inf
    return found if abs(found) < HUGE or math.isnan(found) else math.copysign(math.inf, found)


def _step(record: dict[str, Any]) -> int | None:
    value = number(record.get("step"))
    return int(value) if 0 <= value < 1e15 else None


def _take(log: Log, line: bytes, undone_from: float) -> None:
    """One line of the log; `undone_from`: the step at which a later resume begins again."""
    if not line.strip():
        return
    record = _parse(line)
    kind = record.get("kind") if record else None
    if record is None or not isinstance(kind, str):
        log.bad += 1
        return
    if kind == "warning":
        _take_warning(log, record)
    elif kind in ("step", "held_out", "skip", "spike", "resume"):
        step = _step(record)
        if step is None:
            log.bad += 1
        elif step >= undone_from + (kind == "held_out") and kind != "resume":  # held out: before that step is done
            log.undone[kind] += 1
        else:
            _TAKE[kind](log, record, step)


def _take_warning(log: Log, record: dict[str, Any]) -> None:
    log.n_warnings += 1
    if len(log.warnings) < WARNINGS:
        log.warnings.append(str(record.get("text", ""))[:500])


def _take_step(log: Log, record: dict[str, Any], step: int) -> None:
    if not log.steps:
        log.first = step
        log.by_tokens = math.isfinite(_x(log, record, step, math.nan))
    x = _x(log, record, step, log.x) if log.by_tokens else float(step)
    log.steps, log.step, log.x = log.steps + 1, step, x
    log.clock.add(step, x)
    seconds = number(record.get("seconds"))
    log.seconds = seconds if math.isfinite(seconds) else log.seconds
    for key in SCALARS:
        if key in record:
            log.tracks[key].add(x, number(record[key]))
    skipped = record.get("skipped") is True
    if skipped:
        _mark(log, "skip", step, "")
    elif "loss" in record:
        loss = number(record["loss"])
        log.finite = math.isfinite(loss)
        if log.finite:
            log.recent.append(loss)
        else:
            _mark(log, "broken", step, json.dumps(record["loss"])[:40])
    for source, value in _sources(log, record):
        _take_source(source, value, x)


def _x(log: Log, record: dict[str, Any], step: int, otherwise: float) -> float:
    """Tokens seen at a record."""
    tokens = number(record.get("tokens"))
    if math.isfinite(tokens) and tokens >= 0:
        return tokens
    counted = step * number(log.run.get("batch_tokens"))
    return counted if math.isfinite(counted) else otherwise


def _sources(log: Log, record: dict[str, Any]) -> Iterator[tuple[Source, dict[str, Any]]]:
    values = record.get("sources")
    for name, value in values.items() if isinstance(values, dict) else ():
        if not isinstance(value, dict):
            continue
        if name not in log.sources and len(log.sources) == SOURCES:
            log.unfollowed = True
            continue
        if name not in log.sources:
            log.sources[name] = Source()
        yield log.sources[name], value


def _take_source(source: Source, value: dict[str, Any], x: float) -> None:
    loss, bits, tokens = number(value.get("loss")), number(value.get("bits_per_byte")), number(value.get("tokens"))
    source.loss.add(x, loss)
    source.bits.add(x, bits)
    source.tokens += tokens if math.isfinite(tokens) else 0
    source.recent.append((loss, bits, tokens if math.isfinite(tokens) else 1.0))


def _take_held_out(log: Log, record: dict[str, Any], step: int) -> None:
    """A held-out record, measured when `step` steps are done; what it calls tokens may be those it was measured on."""
    x = log.x * step / log.done if log.done else _x(log, {}, step, 0.0)
    log.held_loss.add(x, number(record.get("loss")))
    log.held_bits.add(x, number(record.get("bits_per_byte")))
    for source, value in _sources(log, record):
        source.held_loss.add(x, number(value.get("loss")))
        source.held_bits.add(x, number(value.get("bits_per_byte")))


def _take_event(log: Log, record: dict[str, Any], step: int) -> None:
    shown = {"skip": ("reason",), "spike": ("loss", "mean", "sigma")}.get(record["kind"], ())
    _mark(log, record["kind"], step, ", ".join(f"{key} {_brief(record[key])}" for key in shown if key in record))


_TAKE: dict[str, Callable[[Log, dict[str, Any], int], None]] = {
    "step": _take_step,
    "held_out": _take_held_out,
    "skip": _take_event,
    "spike": _take_event,
    "resume": _take_event,
}


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:80]


def _mark(log: Log, kind: str, step: int, text: str) -> None:
    """Note an event; a step that is said to be skipped twice, as step and as event, is one."""
    marks = log.marks[kind]
    if kind == "skip" and marks and marks[-1].last == step:
        marks[-1].text = marks[-1].text or text
        return
    gap = log.gaps.get(kind, 0)
    if marks and 0 <= step - marks[-1].first < gap:
        marks[-1].last, marks[-1].count = step, marks[-1].count + 1
        return
    marks.append(Mark(step, step, 1, text))
    while len(marks) > MARKS:
        gap = log.gaps[kind] = max(1, 2 * gap)
        log.marks[kind] = marks = _merged(marks, gap)


def _merged(marks: Iterable[Mark], gap: float) -> list[Mark]:
    """Marks with those together that begin fewer than `gap` steps after the first of them."""
    found: list[Mark] = []
    for mark in marks:
        if found and abs(mark.first - found[-1].first) < gap:
            found[-1].last, found[-1].count = mark.last, found[-1].count + mark.count
        else:
            found.append(replace(mark))
    return found


# -- numbers and text ------------------------------------------------------------------------------------------------


def clean(text: Any, longest: int = 200) -> str:
    """Text from data for one line of a terminal or page: no control characters, no turned direction."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _esc(text: Any, longest: int = 200) -> str:
    return html.escape(clean(text, longest))


def si(value: float, digits: int = 3) -> str:
    """A count with k, M, B (1e9) or T."""
    if not math.isfinite(value):
        return "unknown"
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= scale:
            scale = 1e3 if unit == "k" else scale
            return f"{_digits(value / scale, digits)} {unit}"
    return f"{value:,.0f}"


def _digits(value: float, digits: int) -> str:
    whole = len(str(int(abs(value))))
    return f"{value:,.{max(0, digits - whole)}f}"


def fixed(value: float, places: int = 3) -> str:
    """A loss; in words where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.{places}f}" if abs(value) < 1e4 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds for people, in the two largest units."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About n round numbers (1, 2 or 5 times a power of ten apart) from low to high."""
    if not low < high:
        return [low]
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: decades, with 2 and 5 between them where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if low * 0.999 <= f * 10.0**d <= high * 1.001]
        if len(found) <= 7:
            break
    return found[:: max(1, len(found) // 6)] if len(found) >= 2 else ticks(low, high, 3)


def labels_of(values: Sequence[float]) -> list[str]:
    """Tick labels with as many places as the ticks differ in."""
    gap = min((b - a for a, b in pairwise(values)), default=abs(values[0]) or 1.0)
    top = max(abs(v) for v in values)
    if top >= 1e4:
        unit, scale = next(u for u in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)) if top >= u[1])
        if top >= 1e16:
            return [f"{v:.1e}" for v in values]
        places = max(0, math.ceil(-math.log10(gap / scale) - 1e-6))
        return [f"{v / scale:.{places}f} {unit}" if v else "0" for v in values]
    if top < 0.01:
        return [re.sub(r"\.?0*e-0*", "e-", f"{v:.2e}") if v else "0" for v in values]
    if top / gap > 1e6:
        return [f"{v:g}" for v in values]
    return [f"{v:,.{max(0, math.ceil(-math.log10(gap) - 1e-6))}f}" for v in values]


def y_range(values: Iterable[float], share: float = 0.97, always: Iterable[float] = ()) -> Point:
    """The range that shows nearly all: a few far values (the first steps, a spike of 1,000) must not flatten the rest.

    The top is what a share of the values stays below and a quarter more, if the greatest value is beyond that. What
    must be seen `always`, the last values, may raise it; of fewer than 50 values all are shown.
    """
    known = sorted(v for v in values if math.isfinite(v))
    if not known:
        return 0.0, 1.0
    low, high = known[0], known[-1]
    most = known[int(share * (len(known) - 1))]
    high = min(high, most + 0.25 * (most - low)) if most > low and len(known) >= 50 else high
    high = max(high, *(v for v in always if math.isfinite(v)), high)
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


# -- charts ----------------------------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, BOTTOM = 1080, 76, 190, 44  # of a chart; units of the drawing, about pixels
RAW = 'style="stroke:var(--train);opacity:.32;stroke-width:1;pointer-events:none"'
MEAN = 'style="stroke:var(--train);stroke-width:2.2;pointer-events:none"'
HELD = 'style="stroke:var(--held);stroke-width:1.6;pointer-events:none"'


@dataclass(frozen=True)
class Frame:
    """The plot of a chart: what of the data it shows, and where."""

    x1: float  # x begins at 0
    y0: float
    y1: float
    height: float = 320
    log: bool = False
    top: float = 14

    @property
    def base(self) -> float:
        """y of the horizontal axis."""
        return self.top + self.height

    def px(self, x: float) -> float:
        """Place of x."""
        return LEFT + (WIDTH - LEFT - RIGHT) * x / (self.x1 or 1.0)

    def py(self, y: float, room: float = 0.0) -> float:
        """Place of y; where it is beyond, at the edge, or at most `room` heights outside."""
        y0, y1 = (math.log10(self.y0), math.log10(self.y1)) if self.log else (self.y0, self.y1)
        y = math.log10(max(y, self.y0)) if self.log else y
        return self.base - self.height * min(1.0 + room, max(-room, (y - y0) / ((y1 - y0) or 1.0)))


def _line(frame: Frame, points: Sequence[Point], style: str, title: str = "") -> str:
    points = points if len(points) != 1 else [*points, *points]  # a dot
    path = "".join(f"{'L' if i else 'M'}{frame.px(x):.1f} {frame.py(y, 2):.1f}" for i, (x, y) in enumerate(points))
    inner = f"<title>{title}</title>" if title else ""
    return f'<path d="{path}" class="line" {style}>{inner}</path>' if path else ""


def _plot(frame: Frame, lines: Iterable[str]) -> str:
    """Lines, cut at the edges of the plot."""
    place = f'x="{LEFT}" y="{frame.top - 1}" width="{WIDTH - LEFT - RIGHT + 2}" height="{frame.height + 2}"'
    box = f'viewBox="{LEFT} {frame.top - 1} {WIDTH - LEFT - RIGHT + 2} {frame.height + 2}"'
    return f"<svg {place} {box}>{''.join(lines)}</svg>"


def _axes(frame: Frame, title: str, x_title: str) -> str:
    """Grid, ticks and titles."""
    ys = log_ticks(frame.y0, frame.y1) if frame.log else ticks(frame.y0, frame.y1, max(3, round(frame.height / 60)))
    xs = ticks(0, frame.x1, 8)
    right = WIDTH - RIGHT
    parts = []
    for y, label in zip(ys, labels_of(ys), strict=True):
        parts.append(f'<path d="M{LEFT} {frame.py(y):.1f}H{right}" class="grid"/>')
        parts.append(_text(LEFT - 8, frame.py(y) + 4, label, "end"))
    for x, label in zip(xs, labels_of(xs), strict=True):
        parts.append(f'<path d="M{frame.px(x):.1f} {frame.base}v5" class="axis"/>')
        parts.append(_text(frame.px(x), frame.base + 19, label))
    parts.append(f'<path d="M{LEFT} {frame.base}H{right}" class="axis"/>')
    parts.append(_text((LEFT + right) / 2, frame.base + 38, x_title))
    turned = f'transform="translate(12 {frame.top + frame.height / 2:.1f}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{html.escape(title)}</text>')
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {style}>{html.escape(text)}</text>'


def _svg(frame: Frame, label: str, parts: Iterable[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {frame.base + BOTTOM}" role="img" aria-label="{html.escape(label)}"'
    return f'<div class="chart"><svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg></div>'


def _beyond(frame: Frame, points: Iterable[Point]) -> str:
    """Arrows at the edge for values above the chart."""
    shown: dict[int, Point] = {}  # the greatest of each place
    for x, y in points:
        place = round(frame.px(x) / 10)
        if y > frame.y1 and y > shown.get(place, (0.0, -math.inf))[1]:
            shown[place] = (x, y)
    return "".join(
        f'<path d="M{frame.px(x):.1f} {frame.top - 1}l4 7h-8z" class="beyond"><title>{fixed(y)}, above the chart, '
        f"at {si(x)}</title></path>"
        for x, y in shown.values()
    )


def _place(log: Log, step: int) -> float:
    """x of a step, between the buckets that are known."""
    known = log.clock.buckets
    i = bisect_left(known, float(step), key=lambda b: b.high_x)
    if i == len(known):
        return known[-1].high
    (a, xa), b = (known[i - 1].high_x, known[i - 1].high) if i else (0.0, 0.0), known[i]
    return xa + (b.high - xa) * (step - a) / ((b.high_x - a) or 1)


def _events(log: Log, frame: Frame) -> str:
    """Lines where something happened; in the chart with room above, a row of signs for each kind, with its count."""
    parts, row = [], 10.0
    for kind, exact in log.marks.items():
        marks = _merged(exact, log.step / 120)  # about 7 pixels: nearer ones could not be pointed at
        signs = bool(marks) and row + 10 < frame.top
        begin = row if signs else frame.top
        faint = "" if len(marks) < 20 else " many"
        for mark in marks:
            x = frame.px(min(frame.x1, _place(log, (mark.first + mark.last) // 2)))
            line = f"M{x:.1f} {begin}V{frame.base}"
            parts.append(
                f'<g class="event {kind}{faint}"><path class="hit" d="{line}"/><path d="{line}"/>'
                f"{_flag(kind, x, row) if signs else ''}<title>{_say_mark(kind, mark)}</title></g>"
            )
        if signs:
            text = f"{_counted(EVENTS[kind], log.count(kind))}"
            parts.append(f'<g class="event {kind}">{_flag(kind, WIDTH - RIGHT + 30, row)}</g>')
            parts.append(_text(WIDTH - RIGHT + 40, row + 4, text, "start"))
            row += 15
    return "".join(parts)


def _say_mark(kind: str, mark: Mark) -> str:
    where = f"step {mark.first:,}" if mark.first == mark.last else f"steps {mark.first:,} to {mark.last:,}"
    said = f"{mark.count:,} times, the first: " if mark.count > 1 else ""
    return f"{EVENTS[kind]}, {where}" + (f": {said}{_esc(mark.text)}" if mark.text or said else "")


def _flag(kind: str, x: float, y: float) -> str:
    """The sign of an event, another shape for each kind."""
    shape = {"skip": "m-4 -4l8 8m0 -8l-8 8", "spike": "m-4 4l4 -9l4 9z", "resume": "m-3 -5l7 5l-7 5z",
             "broken": "m-4 -4h8v8h-8z"}[kind]  # fmt: skip
    return f'<path class="flag" d="M{x:.1f} {y:.1f}{shape}"/>'


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 or noun.endswith("finite") else noun + "s"


def _counted(noun: str, n: int) -> str:
    return f"{n:,} {_plural(noun, n)}"


def _strips(log: Log, frame: Frame, say: Callable[[Sequence[Bucket]], str]) -> str:
    """Tooltips for every place of a chart: what `say` says of the steps there."""
    buckets = log.tracks["loss"].buckets or log.clock.buckets
    each = max(1, math.ceil(len(buckets) / STRIPS))
    groups = [buckets[i : i + each] for i in range(0, len(buckets), each)]
    parts, left = [], frame.px(0)
    for i, group in enumerate(groups):
        ends = (group[-1].x / group[-1].n, groups[i + 1][0].x / groups[i + 1][0].n) if i + 1 < len(groups) else ()
        right = frame.px(sum(ends) / 2) if ends else frame.px(frame.x1)
        parts.append(
            f'<rect class="strip" x="{left:.1f}" y="{frame.top}" width="{max(0.0, right - left):.1f}"'
            f' height="{frame.height}">'
            f"<title>{say(group)}</title></rect>"
        )
        left = right
    return "".join(parts)


def _middle(group: Sequence[Bucket]) -> float:
    return sum(b.x for b in group) / sum(b.n for b in group)


def _unit(log: Log) -> str:
    return "tokens" if log.by_tokens else "steps"


def _x_title(log: Log) -> str:
    return "tokens seen" if log.by_tokens else "step"


def _markers(frame: Frame, track: Track, shape: int, style: str, say: Callable[[float, float], str]) -> str:
    return "".join(
        f'<path d="M{frame.px(x):.1f} {frame.py(y):.1f}{_SHAPES[shape % len(_SHAPES)]}" {style}>'
        f"<title>{say(x, y)}</title></path>"
        for x, y in track.points()
        if y <= frame.y1
    )


_SHAPES = ("m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "m-3.5 -3.5h7v7h-7z", "m0 -5l4.5 8h-9z", "m0 -5l5 5l-5 5l-5 -5z",
           "m0 5l4.5 -8h-9z", "m-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z", "m-5 -3l10 0l0 6l-10 0z")  # fmt: skip


def spread(places: Sequence[float], gap: float, top: float, base: float) -> list[float]:
    """Places for labels that want to stand at `places`: `gap` apart, in the same order, between top and base."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found, last = list(places), top - gap
    for i in order:
        last = found[i] = max(places[i], last + gap)
    last = base + gap
    for i in reversed(order):
        last = found[i] = min(found[i], last - gap)
    return found


@dataclass(frozen=True)
class Label:
    """What stands at the end of a line."""

    end: Point
    text: str
    value: str
    colour: str  # a class
    shape: int = -1
    title: str = ""


def _labels(frame: Frame, labels: Sequence[Label]) -> str:
    """Names and last values beside the ends of their lines."""
    places = spread([frame.py(label.end[1]) for label in labels], 16, frame.top + 4, frame.base - 2)
    parts, right = [], WIDTH - RIGHT
    for label, y in zip(labels, places, strict=True):
        x, own = frame.px(label.end[0]), frame.py(label.end[1])
        sign = f'<path d="M{right + 30} {y:.1f}{_SHAPES[label.shape % len(_SHAPES)]}"/>' if label.shape >= 0 else ""
        parts.append(
            f'<g class="{label.colour}"><path class="lead" d="M{x + 6:.1f} {own:.1f}L{right + 22} {y:.1f}"/>{sign}'
            f"<title>{label.title}</title>"
            f'<text x="{right + (40 if sign else 26)}" y="{y + 4:.1f}"><tspan class="value">{label.value}'
            f'</tspan><tspan dx="6">{html.escape(label.text)}</tspan></text></g>'
        )
    return "".join(parts)


def _loss_chart(log: Log) -> str:
    loss = log.tracks["loss"]
    held = log.held_loss.points()
    raw = loss.extremes()
    low, high = y_range([y for _, y in raw] + [y for _, y in held], always=(log.loss, log.held_loss.last))
    line = smoothed(loss.points(), 2 * high - low)
    frame = Frame(log.x, low, high, 360, top=14 + 15 * sum(map(bool, log.marks.values())))

    def say(x: float, y: float) -> str:
        return f"held-out loss {fixed(y, 4)} at {si(x, 4)} {_unit(log)}, {fixed(log.held_bits.at(x), 4)} bits per byte"

    labels = []
    if line:
        labels.append(
            Label(
                line[-1],
                "training",
                fixed(log.loss) if log.finite else "not finite",
                "train",
                title="the training loss",
            )
        )
    if held:
        labels.append(Label(held[-1], "held-out", fixed(log.held_loss.last), "held", title="the held-out loss"))
    parts = [
        _axes(frame, "loss (nats per token)", _x_title(log)),
        _strips(log, frame, lambda group: _say_steps(log, group)),
        _plot(frame, [_line(frame, raw, RAW), _line(frame, line, MEAN), _line(frame, held, HELD)]),
        _events(log, frame),
        _markers(frame, log.held_loss, 0, 'class="held point"', say),
        _beyond(frame, [*raw, *held]),
        _labels(frame, labels),
    ]
    return _svg(frame, "Training and held-out loss", parts)


def _say_steps(log: Log, group: Sequence[Bucket]) -> str:
    """All numbers of the steps of one place."""
    x, n = _middle(group), sum(b.n for b in group)
    mean, low, high = sum(b.y for b in group) / n, min(b.low for b in group), max(b.high for b in group)
    lines = [f"{si(x, 4)} {_unit(log)}, {_counted('step', n)}", f"loss {fixed(mean, 4)}"]
    if n > 1:
        lines[-1] += f" (from {fixed(low, 4)} to {fixed(high, 4)})"
    for key, name, form in (("lr", "learning rate", "{:.3g}"), ("grad_norm", "gradient norm", "{:.3g}"),
                            ("tok_s", "tok/s", "{:,.0f}")):  # fmt: skip
        value = log.tracks[key].at(x)
        lines += [f"{name} {form.format(value)}"] if math.isfinite(value) else []
    return "\n".join(lines)


def _drawn(log: Log) -> list[tuple[str, Source]]:
    """The sources of the chart, by the tokens seen of them."""
    return sorted(log.sources.items(), key=lambda item: -item[1].tokens)[:DRAWN]


def _source_chart(log: Log) -> str:
    """Held-out (thick, marked) and training (thin) lines of each source, in bits per byte where these are known."""
    drawn = _drawn(log)
    by_bits = any(s.bits.n or s.held_bits.n for _, s in drawn)
    lines = [(name, s.bits if by_bits else s.loss, s.held_bits if by_bits else s.held_loss) for name, s in drawn]
    lines = [(name, train, held) for name, train, held in lines if train.n or held.n]
    if not lines:
        return "<p class='soft'>The log says nothing of single sources.</p>"
    shown = [y for _, train, held in lines for track in (train, held) for _, y in track.points()]
    low, high = y_range(shown, 0.95, always=[held.last for _, _, held in lines])
    smooth = [smoothed(train.points(), 2 * high - low) for _, train, _ in lines]
    frame = Frame(log.x, low, high, 400)
    unit = "bits per byte" if by_bits else "loss"
    parts = [
        _axes(frame, unit if by_bits else "loss (nats per token)", _x_title(log)),
        _strips(log, frame, lambda group: _say_sources(log, lines, _middle(group), unit)),
    ]
    labels = []
    for i, (name, train, held) in enumerate(lines):
        parts.append(_source_lines(log, frame, i, name, smooth[i], held, unit))
        end = held.points()[-1] if held.n else smooth[i][-1]
        last = smooth[i][-1][1] if train.n else math.nan
        title = f"{_esc(name)}: held-out {fixed(held.last, 4)}, training {fixed(last, 4)}"
        value = fixed(held.last if held.n else end[1])
        labels.append(Label(end, clean(name, 15), value, f"source s{i % 7}", i, title))
    parts.append(_labels(frame, labels))
    return _svg(frame, f"{unit} of each source", parts)


def _source_lines(log: Log, frame: Frame, i: int, name: str, train: Sequence[Point], held: Track, unit: str) -> str:
    shown = _esc(name, 60)

    def say(x: float, y: float) -> str:
        return f"{shown}: held-out {fixed(y, 4)} {unit} at {si(x, 4)} {_unit(log)}"

    dashes = ";stroke-dasharray:7 3" if i >= 7 else ""  # the colours come again
    held_line = _line(frame, held.points(), f'style="stroke-width:2{dashes}"', f"{shown}, held-out")
    train_line = _line(frame, train, f'style="stroke-width:1.1;opacity:.5{dashes}"', f"{shown}, training")
    both = _plot(frame, [train_line, held_line])
    return f'<g class="source s{i % 7}">{both}{_markers(frame, held, i, "", say)}</g>'


def _say_sources(log: Log, lines: Sequence[tuple[str, Track, Track]], x: float, unit: str) -> str:
    said = [
        f"{_esc(name, 40)}: {fixed(train.at(x), 4)}, held-out {fixed(held.at(x), 4)}" for name, train, held in lines
    ]
    return "\n".join([f"{unit} at {si(x, 4)} {_unit(log)}", *said])


def _scalar_chart(log: Log, key: str, title: str, logarithmic: bool = False) -> str:
    """A line of the machine: raw and smoothed."""
    track = log.tracks[key]
    raw = [(x, y) for x, y in track.extremes() if y > 0 or not logarithmic]
    if not raw:
        return ""
    line = [(x, y) for x, y in track.points() if y > 0 or not logarithmic]
    line = line if key == "lr" else smoothed(line)  # a schedule has no noise, and its kinks mean something
    low, high = min(y for _, y in raw), max(y for _, y in raw)
    if logarithmic:
        frame = Frame(log.x, low / 1.2, high * 1.2, 150, log=True)
    else:
        high = high if key == "lr" else y_range(y for _, y in raw)[1]
        frame = Frame(log.x, min(0.0, low), high * 1.05 if high > 0 else 1.0, 130)
    form = "{:,.0f}" if key == "tok_s" else "{:.3g}"
    parts = [
        _axes(frame, title, _x_title(log)),
        _strips(log, frame, lambda group: _say_steps(log, group)),
        _plot(frame, [_line(frame, raw, RAW), _line(frame, line, MEAN)]),
        _events(log, frame),
        _beyond(frame, raw),
        _labels(frame, [Label(line[-1], "last", form.format(track.last), "train", title="the value of the last step")]),
    ]
    return _svg(frame, title, parts)


# -- the page --------------------------------------------------------------------------------------------------------

# Okabe and Ito's colours, told apart by colour-blind people, made darker for a white page; the shapes of the markers
# tell them apart a second time.
_STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5d6b7c;--line:#e3e8ee;--axis:#9aa6b4;--page:#fff;--card:#f6f8fa;
--train:#0b65b0;--held:#c2410c;--skip:#7a5c00;--spike:#b4237a;--resume:#2f7d5b;--broken:#c01717;
--s0:#0072b2;--s1:#d55e00;--s2:#00856a;--s3:#b3568d;--s4:#b98000;--s5:#3d9bd1;--s6:#4a5563}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#9aa8b8;--line:#27303b;--axis:#5d6b7c;--page:#12171d;
--card:#1a212a;--train:#5fb0f0;--held:#ff9a5c;--skip:#e0c050;--spike:#f08ac8;--resume:#5fc79a;--broken:#ff7b7b;
--s0:#3f9be0;--s1:#f07f35;--s2:#26b794;--s3:#dc8fbc;--s4:#e6b43c;--s5:#8fd0f5;--s6:#b4bfcc}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:70rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2rem 0 .3rem}
.soft{color:var(--soft);margin:.2rem 0}.bad{color:var(--broken)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));gap:.75rem;margin:1rem 0}
.card{background:var(--card);border-radius:.5rem;padding:.75rem 1rem;font-size:.9rem;color:var(--soft)}
.card b{display:block;font-size:1.35rem;color:var(--ink);overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.name{overflow-wrap:anywhere}
.chart,.scroll{overflow-x:auto}.scroll{margin-top:1rem}.chart{margin-top:.5rem}
.chart>svg{display:block;width:100%;min-width:44rem;font:12.5px system-ui,sans-serif}
td svg{width:14px;height:14px;vertical-align:-2px;margin-right:.4rem}
text{fill:var(--soft)}.value{font-weight:600;fill:var(--ink)}g text{fill:var(--ink)}
.grid{stroke:var(--line)}.axis{stroke:var(--axis)}path.line{fill:none;stroke-linejoin:round;
stroke-linecap:round}
.strip{fill:transparent}.strip:hover{fill:var(--ink);opacity:.08}.lead{fill:none;stroke:var(--axis);stroke-width:.8}
.point{fill:var(--held);stroke:var(--page)}.beyond{fill:var(--train)}
.event path{fill:none;stroke:var(--c);stroke-dasharray:3 3;stroke-width:1.1;opacity:.75}
.event.many path{opacity:.3}
.event path.hit{stroke:transparent;stroke-width:8;stroke-dasharray:none}
.event path.flag{stroke-dasharray:none;stroke-width:1.8;opacity:1}
.event.skip{--c:var(--skip)}.event.spike{--c:var(--spike)}.event.resume{--c:var(--resume)}.event.broken{--c:var(--broken)}
.source path{fill:var(--c);stroke:var(--page);stroke-width:.8}.source path.line{fill:none;stroke:var(--c)}
.source path.lead{fill:none;stroke:var(--c)}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
.s6{--c:var(--s6)}
svg:has(.s0:hover) .source:not(.s0),svg:has(.s1:hover) .source:not(.s1),svg:has(.s2:hover) .source:not(.s2),
svg:has(.s3:hover) .source:not(.s3),svg:has(.s4:hover) .source:not(.s4),svg:has(.s5:hover) .source:not(.s5),
svg:has(.s6:hover) .source:not(.s6){opacity:.15}
"""


def write_page(run: Path) -> Path:
    """Write RUN/loss.html from RUN/log.jsonl and RUN/run.json; a log without a step is a StoreError."""
    log = read_log(run)
    name = _esc(log.run.get("model", run.resolve().name))
    body = [
        f"<h1>Training of {name}</h1><p class='soft'>{_about(log)}</p>",
        _cards(log),
        _notes(log),
        "<h2>Loss</h2><p class='soft'>Training: each step (thin) and the exponential mean over a fiftieth of the run "
        "(thick). Held-out: points. Point at the chart for the numbers.</p>",
        _loss_chart(log),
        "<h2>Sources</h2><p class='soft'>Held-out: thick, with markers and the last value at the end. Training: thin, "
        "smoothed. Point at a line or a name to see it alone.</p>",
        _source_chart(log),
        _table(log),
        "<h2>Machine and optimiser</h2>",
        _scalar_chart(log, "lr", "learning rate"),
        _scalar_chart(log, "grad_norm", "gradient norm (log)", logarithmic=True),
        _scalar_chart(log, "tok_s", "tok/s"),
        _warnings(log),
    ]
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'/>"
        f"<title>Training of {name}</title><meta name='viewport' content='width=device-width'/>"
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    path = run / "loss.html"
    replace_file(path, page.encode())
    return path


def _about(log: Log) -> str:
    keys = (("device", "{}"), ("length", "{} tokens a sequence"), ("batch_tokens", "{} tokens a step"),
            ("vocabulary", "a vocabulary of {}"))  # fmt: skip
    said = []
    for key, form in keys:
        if (value := log.run.get(key)) is not None:
            said.append(form.format(f"{value:,}" if isinstance(value, int) else _esc(value)))
    return ", ".join(said)


def _mfu(log: Log) -> str:
    """Mean MFU over the steps, by both ways of counting where both are logged."""
    known = [f"{100 * log.tracks[k].mean:.1f}" for k in ("mfu_a", "mfu_b") if log.tracks[k].n]
    return f"{' / '.join(known)} %" if known else "unknown"


def _cards(log: Log) -> str:
    asked = number(log.run.get("steps"))
    of = f" of {asked:,.0f}" if math.isfinite(asked) else ""
    overall = log.x / log.seconds if log.by_tokens and log.seconds > 0 else math.nan
    speed = log.tracks["tok_s"].mean
    loss = fixed(log.loss) if log.finite else "not finite"
    both = " by counts A / B" if log.tracks["mfu_a"].n and log.tracks["mfu_b"].n else ""
    cards = [
        (loss, f"training loss, mean of the last {_counted('step', log.window)}"),
        (fixed(log.held_loss.last), "held-out loss, last measured"),
        (fixed(log.held_bits.last), "held-out bits per byte"),
        (si(log.x) if log.by_tokens else "unknown", "tokens seen"),
        (si(number(log.run.get("parameters"))), "parameters"),
        (f"{log.done:,}", f"steps{of}"),
        (f"{log.count('skip'):,}", "skipped steps"),
        (f"{speed:,.0f}" if log.tracks["tok_s"].n else "unknown", f"tok/s in steps; {si(overall)} over the whole time"),
        (_mfu(log), f"MFU{both}, mean of the steps"),
        (duration(log.seconds), "time"),
    ]
    shown = "".join(f"<div class='card'><b>{a}</b>{b}</div>" for a, b in cards)
    return f"<div class='cards'>{shown}</div>"


def _remarks(log: Log) -> list[str]:
    """What a reader must know to read the numbers rightly."""
    found = []
    if not log.finite:
        found.append("The loss of the last step is not finite: this training has diverged.")
    if log.bad:
        found.append(f"{_counted('line', log.bad)} of the log could not be read and "
                     f"{'is' if log.bad == 1 else 'are'} left out.")  # fmt: skip
    if n := log.undone["step"]:
        also = [f"{_counted(EVENTS[k], log.undone[k])}" for k in ("skip", "spike") if log.undone[k]]
        found.append(
            f"{_counted('step', n)} {'was' if n == 1 else 'were'} done again after a resume; the last time counts."
            + (f" The first had {' and '.join(also)}, not shown." if also else "")
        )
    if log.unfollowed:
        found.append(f"There are more than {SOURCES} sources; only the first {SOURCES} are followed.")
    return found


def _notes(log: Log) -> str:
    return "".join(
        f"<p class='soft{'' if log.finite or i else ' bad'}'>{html.escape(text)}</p>"
        for i, text in enumerate(_remarks(log))
    )


def _warnings(log: Log) -> str:
    if not log.n_warnings:
        return ""
    items = "".join(f"<li>{_esc(text, 500)}</li>" for text in log.warnings)
    more = log.n_warnings - len(log.warnings)
    rest = f"<p class='soft'>and {more:,} more</p>" if more else ""
    return f"<h2>Warnings</h2><ul>{items}</ul>{rest}"


def _table(log: Log) -> str:
    """One row for each source, in the order and with the sign of the chart."""
    if not log.sources:
        return ""
    total = sum(s.tokens for s in log.sources.values())
    rows = [
        _row(
            f"{_sign(i)}{_esc(name)}",
            [s.final(0, log.window), s.final(1, log.window), s.held_loss.last, s.held_bits.last],
            s.tokens,
            total,
        )
        for i, (name, s) in enumerate(sorted(log.sources.items(), key=lambda item: -item[1].tokens))
    ]
    rows.append(_row("<b>all</b>", [log.loss, math.nan, log.held_loss.last, log.held_bits.last], total, total))
    names = ("training loss", "training bits per byte", "held-out loss", "held-out bits per byte", "tokens", "share")
    head = "".join(f"<th class='n'>{name}</th>" for name in names)
    note = f"Training: mean of a source's last {_counted('logged step', log.window)}, weighted by tokens."
    if log.by_tokens and log.x and abs(total / log.x - 1) > 0.01:
        note += f" The log has sources for {100 * total / log.x:.1f} % of the tokens seen."
    table = f"<table><tr><th>source</th>{head}</tr>{''.join(rows)}</table>"
    return f"<div class='scroll'>{table}</div><p class='soft'>{note}</p>"


def _sign(i: int) -> str:
    inner = f'<path d="M7 7{_SHAPES[i % len(_SHAPES)]}"/>' if i < DRAWN else ""
    return f'<svg viewBox="0 0 14 14" class="source s{i % 7}" aria-hidden="true">{inner}</svg>'


def _row(name: str, values: Sequence[float], tokens: float, total: float) -> str:
    cells = "".join(f"<td class='n'>{fixed(v)}</td>" for v in values)
    share = f"{100 * tokens / total:.1f} %" if total else "–"
    exact = f"<td class='n' title='{tokens:,.0f}'>{si(tokens)}</td>"
    return f"<tr><td class='name'>{name}</td>{cells}{exact}<td class='n'>{share}</td></tr>"


# -- the terminal ----------------------------------------------------------------------------------------------------


def text_summary(run: Path) -> str:
    """A few lines for the end of a training, with the loss over tokens as a plot of 60 by 8 braille characters."""
    log = read_log(run)
    name = clean(log.run.get("model", run.resolve().name), 60)
    speed = log.tracks["tok_s"]
    seen = f"{si(log.x)} tokens" if log.by_tokens else ""
    said = [_counted("step", log.done), seen, duration(log.seconds) if math.isfinite(log.seconds) else "",
            f"{speed.mean:,.0f} tok/s" if speed.n else "",
            f"MFU {_mfu(log)}" if _mfu(log) != "unknown" else ""]  # fmt: skip
    losses = [
        f"training loss {fixed(log.loss) if log.finite else 'not finite'} (mean of {_counted('step', log.window)})"
    ]
    losses += [f"held-out loss {fixed(log.held_loss.last)}"] if log.held_loss.n else []
    losses += [f"{fixed(log.held_bits.last)} bits per byte"] if log.held_bits.n else []
    events = [f"{_counted(EVENTS[k], log.count(k))}" for k in EVENTS if log.count(k)]
    lines = [f"{name}: {', '.join(s for s in said if s)}", ", ".join(losses), *plot(log), ", ".join(events)]
    return "\n".join(line for line in [*lines, *_remarks(log)] if line)


def plot(log: Log, width: int = 60, height: int = 8) -> list[str]:
    """The training loss in braille: two by four dots a character, y labels at the left."""
    points = log.tracks["loss"].points()
    if len(points) < 2:
        return []
    columns = _columns(points, log.x, 2 * width)
    low, high = y_range(columns)
    rows, dots = 4 * height, [[0] * width for _ in range(height)]
    last = None
    for i, y in enumerate(columns):
        row = round((rows - 1) * min(1.0, max(0.0, (high - y) / (high - low))))
        for r in range(min(row, last if last is not None else row), max(row, last if last is not None else row) + 1):
            dots[r // 4][i // 2] |= _DOTS[r % 4][i % 2]
        last = row
    labels = [fixed(high, 2), *[""] * (height - 2), fixed(low, 2)]
    wide = max(map(len, labels))
    lines = [
        f"{label:>{wide}} │{''.join(chr(0x2800 + d) for d in row)}" for label, row in zip(labels, dots, strict=True)
    ]
    end = f"{si(log.x)} {_unit(log)}"
    return [*lines, f"{'':>{wide}} └0{end:>{width - 1}}"]


_DOTS = ((1, 8), (2, 16), (4, 32), (64, 128))  # bits of a braille character, by row and column


def _columns(points: Sequence[Point], x1: float, n: int) -> list[float]:
    """The mean of each of n columns; one without a point lies on the line between its neighbours."""
    sums, counts = [0.0] * n, [0] * n
    for x, y in points:
        place = min(n - 1, max(0, int(n * x / (x1 or 1.0))))
        sums[place], counts[place] = sums[place] + y, counts[place] + 1
    known = [(i, total / count) for i, (total, count) in enumerate(zip(sums, counts, strict=True)) if count]
    found = [known[0][1]] * known[0][0]
    for (i, y), (j, z) in pairwise(known):
        found += [y + (z - y) * k / (j - i) for k in range(j - i)]
    return found + [known[-1][1]] * (n - len(found))
