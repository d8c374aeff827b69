"""The plan of a training run: how much of each source is read, and in which order (numpy and Arrow, no torch).

    OUT/mixture.json    weights, seed, length, policy, the token shards with their digests, and a hash of all that

**Stream.** A source is one endless stream of tokens: its units in the order of their canonical names, the documents of
a unit in their order, BOS before and EOS after each document as the policy says, and after the last document the first
one again. A stream's lap has A tokens.

**Held out.** A document is in no stream where the hash of its text, as a share of 2**64, is below the plan's share.
Copies of a text are thus on one side, in whatever units and sources they lie, and no later unit changes a side. The
plan's counts of documents and tokens are of what is trained on; `held_out` of a source and of a unit counts the rest.

**Window.** Window w holds the `length` + 1 tokens from w * length on. The first `length` of them are inputs, the last
`length` targets: two windows share one token, and every token is once an input and once a target in each lap. Windows
do not begin anew with a lap. The last one of a lap takes its missing tokens from the next lap.

**Order.** The windows that begin in one lap are read in an order of their own, a keyed permutation, before those of the
next lap. The one that reaches over the end of the lap comes last. So after any number of windows, a source's tokens
have all been used floor(e) or ceil(e) times, e being the laps read so far.

**Sources.** The rows of a run are dealt to the sources by Tijdeman's rule (R. Tijdeman, The chairman assignment
problem, 1980) in a pattern that repeats after the sum of the weights as whole numbers (200 rows for the paper's): after
any number of rows, each source has had its share to within less than one row. All of it is exact in whole numbers.

Row i of the run is thus a pure function of the plan and i, found in constant time. Step s has rows s * batch up to
(s + 1) * batch; rank r of a world has the r-th equal part of them.

Shapes: R rows, B rows of a batch, L = length. Rows, windows and places are int64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import RecipeError, StoreError, near
from curate.store import SHARD, Commit, Corpus, Folder, read_json, replace_file, to_json

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

PAPER: Mapping[str, tuple[float, float, str]] = {  # LLaMA, Table 1: sampling proportion in %, epochs at 1.4 T, disk
    "commoncrawl": (67.0, 1.10, "3.3 TB"), "c4": (15.0, 1.06, "783 GB"), "github": (4.5, 0.64, "328 GB"),
    "wikipedia": (4.5, 2.45, "83 GB"), "books": (4.5, 2.23, "85 GB"), "arxiv": (2.5, 1.06, "92 GB"),
    "stackexchange": (2.0, 1.03, "78 GB"),
}  # fmt: skip
BATCH_TOKENS = 1 << 22  # LLaMA 2.1: batches of 4 M tokens
LONGEST_PATTERN = 100_000  # rows after which the dealing of sources repeats; made in Python, kept in memory
ROUNDS = 7  # of the Feistel network; four suffice in theory, small domains want more
WORLDS = (1, 2, 4, 8)  # that the audit compares
MOST_HELD_OUT = 0.5  # share of the documents; as much or more is a slip of the pen


# ---- making a plan ---------------------------------------------------------------------------------------------------


def make_plan(
    corpus: Corpus | Path,
    tokens: int | None = None,
    weights: Mapping[str, float | str] | None = None,
    seed: int = 0,
    length: int = 2048,
    bos: bool = True,
    eos: bool = True,
    batch: int | None = None,
    tokenizer: Path | None = None,
    held_out: float = 0.0,
) -> dict[str, Any]:
    """Make the plan and write it as OUT/mixture.json. `tokens`: to draw in all (default: as many as there are).

    `batch`: rows of a step; by default the paper's 4 M tokens, less where that would leave fewer than 100 steps. The
    run is made of whole steps, so up to a batch more is drawn than asked for. `held_out`: share of the documents, by
    hash of their text, that is never trained on. RecipeError: a source without weight or without tokens, shards of
    other documents or of several tokenizers. The same arguments give the same bytes.
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus(Path(corpus))
    parts, chosen = pattern(weights), weights
    _check_arguments(tokens, length, batch, held_out)
    shards = {source: _shards(corpus, source) for source in parts}
    _check_present(corpus, shards, chosen)
    ids = _special_ids(corpus, shards, tokenizer)
    policy = {"bos": ids["bos"] if bos else None, "eos": ids["eos"] if eos else None}
    extra = int(bos) + int(eos)
    entries = {s: {"weight": parts[s], **_entry(shards[s], extra, held_out)} for s in sorted(parts)}
    _check_trained(entries, held_out)
    available = sum(e["tokens"] for e in entries.values())
    rows = max(1, -(-(available if tokens is None else tokens) // length))
    batch = batch or _default_batch(rows, length)
    plan = {
        "format": 1, "seed": seed, "length": length, "batch": batch, "steps": -(-rows // batch), **policy,
        "tokenizer": ids["sha256"], "vocabulary": ids["size"], "held_out": float(held_out), "sources": entries,
    }  # fmt: skip
    _note_draws(plan)
    plan["hash"] = plan_hash(plan)
    replace_file(corpus.root / "mixture.json", to_json(plan))
    return plan


def pattern(weights: Mapping[str, float | str] | None) -> dict[str, int]:
    """Weights as the smallest whole numbers of the same proportions; a decimal number means what it says."""
    given = {name: row[0] for name, row in PAPER.items()} if weights is None else weights
    try:
        exact = {name: Fraction(str(w)) for name, w in given.items()}
    except (ValueError, ZeroDivisionError) as error:
        raise RecipeError(f"weights must be numbers: {error}") from error
    if not exact or min(exact.values()) <= 0:
        raise RecipeError("weights must be above zero; leave out a source that is not wanted")
    scale = math.lcm(*(w.denominator for w in exact.values()))
    whole = {name: int(w * scale) for name, w in exact.items()}
    shared = math.gcd(*whole.values())
    whole = {name: w // shared for name, w in whole.items()}
    if sum(whole.values()) > LONGEST_PATTERN:
        raise RecipeError(f"weights repeat after {sum(whole.values()):,} rows only, the limit is {LONGEST_PATTERN:,}; "
                          "give them with fewer digits")  # fmt: skip
    return whole


def _check_arguments(tokens: int | None, length: int, batch: int | None, held_out: float) -> None:
    for name, value in (("tokens", tokens), ("length", length), ("batch", batch)):
        if value is not None and value < 1:
            raise RecipeError(f"{name} must be at least 1, not {value}")
    if not 0 <= held_out < MOST_HELD_OUT:
        raise RecipeError(f"held out must be a share from 0 to below {MOST_HELD_OUT}, not {held_out:g}")


def _default_batch(rows: int, length: int) -> int:
    """A power of two rows: the paper's batch, or a hundredth of the run; at least 8, so that 8 ranks can share it."""
    most = max(8, min(BATCH_TOKENS // length, rows // 100))
    return 1 << (most.bit_length() - 1)


def _shards(corpus: Corpus, source: str) -> list[Commit]:
    """Token shards of a source by canonical name; RecipeError where they are not those of the documents."""
    folder = corpus.tokens(source)
    made = {unit: folder.commit(unit, generation) for unit, generation in folder.generations().items()}
    of = {commit.unit: commit for commit in corpus.commits(source)}
    for unit in sorted(made.keys() | of.keys() if made else ()):
        if unit not in made or unit not in of:
            what = "has no tokens" if unit in of else "is no longer in the corpus"
            raise RecipeError(f"{source}: unit {unit} {what}; run curate tokenize {corpus.root}")
        if made[unit].record["documents_sha256"] != of[unit].record["files"]["documents"]["sha256"]:
            raise RecipeError(f"{source}: tokens of unit {unit} are of other documents than there are now; "
                              f"run curate tokenize {corpus.root}")  # fmt: skip
    return sorted(made.values(), key=lambda commit: (str(commit.record["name"]), commit.unit))


def _check_present(
    corpus: Corpus, shards: Mapping[str, Sequence[Commit]], weights: Mapping[str, float | str] | None
) -> None:
    missing = [s for s, units in shards.items() if not sum(u.record["counts"]["tokens"] for u in units)]
    if not missing:
        return
    there = sorted(p.parent.name for p in (corpus.root / "tokens").glob("*/commits"))
    if not there:
        raise RecipeError(f"{corpus.root}: nothing is tokenized there; run curate tokenize {corpus.root} first")
    if weights is None:
        shares = ",".join(f"{s}={PAPER.get(s, (1,))[0]:g}" for s in there) or "SOURCE=SHARE"
        raise RecipeError(f"{corpus.root}: no tokens of {', '.join(missing)}; the paper's mixture needs all seven "
                          f"sources. Give weights for what is there, such as --weights {shares}")  # fmt: skip
    raise RecipeError(f"{corpus.root}: no tokens of {', '.join(missing)}{near(missing[0], there)}")


def _special_ids(corpus: Corpus, shards: Mapping[str, Sequence[Commit]], path: Path | None) -> dict[str, Any]:
    """Ids of BOS and EOS, vocabulary and digest of the tokenizer that made all shards."""
    from tokenizer.encode import Encoder

    made_by = {str(unit.record["tokenizer"]): source for source, units in shards.items() for unit in units}
    path = path or corpus.root / "models" / "tokenizer" / "tokenizer.model"
    if len(made_by) > 1:
        raise RecipeError(f"{corpus.root}: tokens of {' and '.join(sorted(made_by.values()))} are of different "
                          f"tokenizers; run curate tokenize {corpus.root}")  # fmt: skip
    if not path.is_file():
        raise RecipeError(f"{path}: the tokenizer is not there; name the one that made the tokens")
    encoder = Encoder(path)
    if encoder.sha256 not in made_by:
        raise RecipeError(f"{path}: not the tokenizer that made the tokens; run curate tokenize {corpus.root}")
    return {"bos": encoder.bos, "eos": encoder.eos, "size": encoder.size, "sha256": encoder.sha256}


def _entry(commits: Sequence[Commit], extra: int, share: float) -> dict[str, Any]:
    units = []
    for commit in commits:
        counts, file = commit.record["counts"], commit.record["files"][SHARD]
        held = _count_held(commit.path(SHARD), extra, share)
        documents, tokens = counts["documents"], counts["tokens"] + extra * counts["documents"]
        units.append({"unit": commit.unit, "name": commit.record["name"], "file": file["name"], "bytes": file["bytes"],
                      "sha256": file["sha256"], "documents": documents - held["documents"],
                      "tokens": tokens - held["tokens"], "held_out": held})  # fmt: skip
    held = {key: sum(u["held_out"][key] for u in units) for key in ("documents", "tokens")}
    return {"tokens": sum(u["tokens"] for u in units), "held_out": held, "units": units}


def _count_held(shard: Path, extra: int, share: float) -> dict[str, int]:
    """Documents of a shard that are held out, and their tokens; of the mapped file, hashes and offsets are read."""
    documents = tokens = 0
    for batch, held in shard_batches(shard, share) if share else ():
        documents += (n := int(np.count_nonzero(held)))
        if n:
            tokens += int(np.diff(batch.column(1).offsets.to_numpy())[held].sum(dtype=np.int64)) + n * extra
    return {"documents": documents, "tokens": tokens}


def shard_batches(shard: Path, share: float) -> Iterator[tuple[pa.RecordBatch, Bools]]:
    """Record batches of a token shard, mapped, each with which of its documents a share of this size holds out.

    Without a share the hashes are not read. StoreError: damaged, or made before shards had hashes.
    """
    limit = np.uint64(round(share * 2**64))
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(shard)))
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            hashes = batch.column("text_hash").to_numpy() if share else np.empty(0)
            yield batch, hashes < limit if share else np.zeros(batch.num_rows, np.bool_)
    except KeyError as error:
        raise StoreError(f"{shard}: has no hashes of its texts to hold documents out by; "
                         "run curate tokenize again") from error  # fmt: skip
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{shard}: {error}") from error


def _check_trained(entries: Mapping[str, Mapping[str, Any]], share: float) -> None:
    for source, entry in entries.items():
        if not entry["tokens"]:
            held = entry["held_out"]
            raise RecipeError(f"{source}: nothing is left to train on, as all of its text ({held['documents']:,} "
                              f"documents, {held['tokens']:,} tokens) is held out; hold out less than {share:g}, or "
                              "nothing with 0")  # fmt: skip


def held_out_share(plan: Mapping[str, Any]) -> float:
    """The share of documents that a plan holds out; 0 for a plan made before there was one."""
    return float(plan.get("held_out", 0.0))


def held_out_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A source's entry as if its held-out documents alone were trained on: the same units, other counts."""
    if "held_out" not in entry:
        return {"documents": 0, "tokens": 0, "units": []}
    return {**entry["held_out"], "units": [{**unit, **unit["held_out"]} for unit in entry["units"]]}


def _note_draws(plan: dict[str, Any]) -> None:
    """Windows drawn from each source: what the order gives, not what the weights would like."""
    drawn = Order(plan).counts(plan["steps"] * plan["batch"])
    for entry, windows in zip(plan["sources"].values(), drawn.tolist(), strict=True):
        entry["windows"], entry["drawn"] = windows, windows * plan["length"]
        entry["epochs"] = round(windows * plan["length"] / entry["tokens"], 6)


def plan_hash(plan: Mapping[str, Any]) -> str:
    """SHA-256 of all that the order depends on; with a step, this is the state to resume from."""
    return hashlib.sha256(to_json({k: v for k, v in plan.items() if k != "hash"})).hexdigest()


def load_plan(path: Corpus | Path) -> dict[str, Any]:
    """Read OUT/mixture.json, given the corpus, its folder or the file. StoreError: damaged or edited."""
    path = path.root if isinstance(path, Corpus) else Path(path)
    path = path / "mixture.json" if path.is_dir() else path
    if not path.is_file():
        raise RecipeError(f"{path}: there is no plan; curate mix makes one")
    plan = read_json(path)
    if not isinstance(plan, dict) or plan.get("format") != 1 or plan.get("hash") != plan_hash(plan):
        raise StoreError(f"{path}: damaged or edited, its hash is another; run curate mix again")
    return plan


def problems(corpus: Corpus | Path, plan: Mapping[str, Any], deep: bool = False) -> list[str]:
    """What has changed since the plan was made, a line for each shard. `deep` reads all of them again."""
    corpus, found = corpus if isinstance(corpus, Corpus) else Corpus(Path(corpus)), []
    for source, entry in plan["sources"].items():
        folder = corpus.tokens(source)
        for unit in entry["units"]:
            found += _unit_problems(folder, source, unit, deep, corpus.final(source).latest(unit["unit"]))
    return found


def _unit_problems(
    folder: Folder, source: str, unit: Mapping[str, Any], deep: bool, documents: Commit | None
) -> list[str]:
    commit = folder.latest(unit["unit"])
    if commit is None:
        return [f"{source}: tokens of unit {unit['unit']} ({unit['name']}) are gone"]
    file = commit.record["files"][SHARD]
    if (file["sha256"], file["name"]) != (unit["sha256"], unit["file"]):
        return [f"{commit.path(SHARD)}: tokens of {unit['name']} are not those that the plan was made of"]
    if documents is None or documents.record["files"]["documents"]["sha256"] != commit.record["documents_sha256"]:
        return [f"{source}: documents of {unit['name']} have changed since they were tokenized; run curate tokenize"]
    return commit.problems(deep)


def state_of(plan: Mapping[str, Any], step: int) -> dict[str, Any]:
    """All that a checkpoint has to keep of the data: the next step, and the plan's hash."""
    return {"step": step, "plan": plan["hash"]}


def resume_step(plan: Mapping[str, Any], state: Mapping[str, Any]) -> int:
    """The step to go on with. RecipeError: the state is of another plan."""
    if state.get("plan") != plan["hash"]:
        raise RecipeError(f"the checkpoint was trained with plan {str(state.get('plan'))[:16]}, this one is "
                          f"{plan['hash'][:16]}; keep its mixture.json beside it")  # fmt: skip
    return int(state["step"])


def check(corpus: Corpus | Path, plan: Mapping[str, Any], deep: bool = False) -> None:
    """StoreError where data has changed since the plan was made, by name."""
    found = problems(corpus, plan, deep)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise StoreError(f"the plan is of other data: {found[0]}{more}; restore it, or make a plan with curate mix")


def table(plan: Mapping[str, Any]) -> str:
    """What is there and what is drawn, beside the paper's Table 1."""
    whole, drawn = sum(e["weight"] for e in plan["sources"].values()), plan["steps"] * plan["batch"] * plan["length"]
    lines = [f"{'source':<16}{'weight':>8}{'available':>18}{'drawn':>18}{'share':>9}{'epochs':>10}"
             f"   {'LLaMA: prop.':>12}{'epochs':>8}{'disk':>9}"]  # fmt: skip
    order = [s for s in PAPER if s in plan["sources"]] + [s for s in plan["sources"] if s not in PAPER]
    for source in order:
        e, paper = plan["sources"][source], PAPER.get(source)
        theirs = f"{paper[0]:>11.1f}%{paper[1]:>8.2f}{paper[2]:>9}" if paper else f"{'-':>12}{'-':>8}{'-':>9}"
        lines.append(f"{source:<16}{100 * e['weight'] / whole:>7.2f}%{e['tokens']:>18,}{e['drawn']:>18,}"
                     f"{100 * e['drawn'] / drawn:>8.3f}%{e['drawn'] / e['tokens']:>10.3f}   {theirs}")  # fmt: skip
    available = sum(e["tokens"] for e in plan["sources"].values())
    lines.append(f"{'all':<16}{'':>8}{available:>18,}{drawn:>18,}{'':>9}{drawn / available:>10.3f}")
    lines += _held_out_lines(plan, order)
    added = " and ".join(name.upper() for name in ("bos", "eos") if plan[name] is not None) or "nothing"
    lines.append(f"  {plan['steps']:,} steps of {plan['batch']:,} rows of {plan['length']:,} tokens; {added} added to "
                 f"each document; seed {plan['seed']}; plan {plan['hash'][:16]}")  # fmt: skip
    return "\n".join(lines)


def _held_out_lines(plan: Mapping[str, Any], order: Sequence[str]) -> list[str]:
    if not (share := held_out_share(plan)):
        return []
    held = [(source, held_out_entry(plan["sources"][source])) for source in order]
    lines = [f"  held out, {100 * share:g} % by hash of the text, not among the tokens available:"]
    return lines + [f"    {source:<16}{e['documents']:>12,} documents{e['tokens']:>18,} tokens" for source, e in held]


# ---- the order -------------------------------------------------------------------------------------------------------


def deal(weights: Sequence[int]) -> Ints:
    """Which source each row of one pattern is of. After t rows, |rows of s - t * weight / sum| < 1.

    Tijdeman: of the sources that are owed at least 1 / (2n - 2) of a row, the one whose share will be overdue first.
    """
    whole, n = sum(weights), len(weights)
    if n == 1:
        return np.zeros(whole, np.int64)
    scale, given, dealt = 2 * n - 2, [0] * n, np.zeros(whole, np.int64)
    for t in range(1, whole + 1):
        best, best_due = -1, 0
        for i, weight in enumerate(weights):
            owed = scale * (weight * t - given[i] * whole)  # in 1 / (scale * whole) of a row
            due = (scale - 1) * whole - owed  # over weight: rows from now until it is overdue
            if owed >= whole and (best < 0 or due * weights[best] < best_due * weight):
                best, best_due = i, due
        given[best] += 1
        dealt[t - 1] = best
    return dealt


def _mix(x: Keys) -> Keys:
    """A bijection of 64-bit numbers that looks like chance (the finisher of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(place: Ints, size: Ints, key: Keys) -> Ints:
    """Where each place goes in the permutation of range(size) that its key names; all arrays of one length.

    A Feistel network on the next even number of bits, walked until it is back inside (less than 4 walks on average).
    """
    bits = np.frexp(np.maximum(size - 1, 1).astype(np.float64))[1]  # exact below 2**53
    half = ((bits + 1) // 2).astype(np.uint64)
    mask = (np.uint64(1) << half) - np.uint64(1)
    answer, todo, x = place.copy(), np.arange(len(place)), place.astype(np.uint64)
    while len(todo):
        left, right = x >> half, x & mask
        for r in range(ROUNDS):
            left, right = right, left ^ (_mix(right + key + np.uint64((r * 0x9E3779B97F4A7C15) % 2**64)) & mask)
        x = (left << half) | right
        inside = x < size[todo].astype(np.uint64)
        answer[todo[inside]] = x[inside].astype(np.int64)
        out = ~inside
        todo, x, half, mask, key = todo[out], x[out], half[out], mask[out], key[out]
    return answer


@dataclass(frozen=True)
class Places:
    """What rows hold. Each array has an entry a row."""

    source: Ints  # index into the plan's sources
    nth: Ints  # of the source's windows in the order of training
    window: Ints  # of the source's endless stream: tokens window * L up to and with window * L + L
    epoch: Ints  # lap in which the window begins


class Order:
    """The training order of a plan: pure functions of row numbers."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.sources = list(plan["sources"])
        entries = list(plan["sources"].values())
        self.length, self.batch, self.steps = int(plan["length"]), int(plan["batch"]), int(plan["steps"])
        self.weights = np.array([e["weight"] for e in entries], np.int64)
        self.lap = np.array([e["tokens"] for e in entries], np.int64)
        self.dealt = deal(self.weights.tolist())
        before = np.zeros((len(self.dealt) + 1, len(entries)), np.int64)
        for s in range(len(entries)):
            np.cumsum(self.dealt == s, out=before[1:, s])
        self.before = before  # rows of each source among the first t of the pattern
        self.keys = np.array([_source_key(plan["seed"], s) for s in self.sources], np.uint64)

    def counts(self, rows: int) -> Ints:
        """Rows of each source among the first `rows` rows."""
        laps, rest = divmod(rows, len(self.dealt))
        counts: Ints = self.weights * laps + self.before[rest]
        return counts

    def rows(self, step: int, rank: int = 0, world: int = 1) -> Ints:
        """Row numbers of one rank's part of a step. RecipeError: no such step or rank, or no equal parts."""
        if not 0 <= step < self.steps:
            raise RecipeError(f"step {step}: the plan has steps 0 to {self.steps - 1}")
        if not 0 <= rank < world or self.batch % world:
            raise RecipeError(f"rank {rank} of {world}: a batch of {self.batch} rows needs a world that divides it")
        part = self.batch // world
        return np.arange(part, dtype=np.int64) + (step * self.batch + rank * part)

    def places(self, rows: Ints) -> Places:
        """Source and window of each row."""
        laps, rest = np.divmod(rows, len(self.dealt))
        source = self.dealt[rest]
        nth = laps * self.weights[source] + self.before[rest, source]
        return self.windows(source, nth)

    def windows(self, source: Ints, nth: Ints) -> Places:
        """The `nth` window in the order of its source."""
        lap = self.lap[source]
        epoch = nth * self.length // lap  # ceil(k * lap / L) <= nth exactly where k * lap <= nth * L
        first, end = -(-epoch * lap // self.length), (epoch + 1) * lap
        inside = end // self.length - first  # windows that end in the lap where they begin
        place, window = nth - first, nth.copy()
        chosen = np.flatnonzero(place < inside)  # the one over the end of the lap stays last
        key = _mix(self.keys[source[chosen]] + _mix(epoch[chosen].astype(np.uint64) + np.uint64(1)))
        window[chosen] = first[chosen] + permute(place[chosen], inside[chosen], key)
        return Places(source, nth, window, epoch)

    def batch_places(self, step: int, rank: int = 0, world: int = 1) -> Places:
        """What a rank reads at a step: a pure function of (plan, step, rank, world)."""
        return self.places(self.rows(step, rank, world))


def _source_key(seed: int, source: str) -> int:
    return int.from_bytes(hashlib.sha256(f"order\0{seed}\0{source}".encode()).digest()[:8], "little")


# ---- the proof -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """What a replay of the whole plan found. `problems` is empty where every claim holds."""

    rows: int
    farthest: float  # of a source from its share, in rows, after any row
    uses: dict[str, tuple[int, int, int, int]]  # (fewest uses of a token, most, laps floor, laps ceil) by source
    worlds: tuple[int, ...]
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether the plan does what it says."""
        return not self.problems


def audit(plan: Mapping[str, Any], block: int = 1 << 18) -> Audit:
    """Replay every row of the plan and check each claim by counting, a block of rows in memory at a time.

    Proved: rows and tokens drawn of each source as the plan says; each share within one row after every row; no window
    read twice, every token used floor(e) or ceil(e) times; the same global batches for worlds 1, 2, 4 and 8. Memory:
    a byte a window (0.7 GB for the paper's 1.4 T tokens).
    """
    order, found = Order(plan), []
    total, whole = order.steps * order.batch, int(order.weights.sum())
    seen, farthest = [np.zeros(0, np.uint8) for _ in order.sources], 0
    for start in range(0, total, block):
        places = order.places(np.arange(start, min(start + block, total), dtype=np.int64))
        farthest = max(farthest, _farthest(order, places.source, start))
        for s in range(len(order.sources)):
            seen[s] = _count(seen[s], places.window[places.source == s])
    if farthest >= whole:
        found.append(f"a source is {farthest / whole:.3f} rows from its share")
    uses = {s: _uses(seen[i], order, i) for i, s in enumerate(order.sources)}
    for (source, (least, most, low, high)), windows in zip(uses.items(), seen, strict=True):
        entry = plan["sources"][source]
        if windows.max(initial=0) > 1:
            found.append(f"{source}: a window is read {int(windows.max())} times")
        if int(windows.sum(dtype=np.int64)) != entry["windows"] or entry["drawn"] != entry["windows"] * order.length:
            found.append(f"{source}: {int(windows.sum(dtype=np.int64)):,} windows are read, the plan says otherwise")
        if least < low or most > high:
            found.append(f"{source}: tokens are used {least} to {most} times, {low} to {high} are due")
    found += _world_problems(order)
    worlds = tuple(w for w in WORLDS if order.batch % w == 0)
    return Audit(total, farthest / whole, uses, worlds, found)


def _farthest(order: Order, source: Ints, start: int) -> int:
    """The greatest |rows of s * sum - t * weight| after each row of a block."""
    whole, farthest, t = int(order.weights.sum()), 0, np.arange(1, len(source) + 1, dtype=np.int64) + start
    before = order.counts(start)
    for s, weight in enumerate(order.weights.tolist()):
        given = np.cumsum(source == s, dtype=np.int64) + before[s]
        farthest = max(farthest, int(np.abs(given * whole - t * weight).max(initial=0)))
    return farthest


def _count(seen: npt.NDArray[np.uint8], windows: Ints) -> npt.NDArray[np.uint8]:
    """Count windows (to 255) in an array that grows as it must."""
    if len(windows) and (top := int(windows.max()) + 1) > len(seen):
        seen = np.concatenate([seen, np.zeros(max(top, len(seen) * 3 // 2) - len(seen), np.uint8)])
    if len(np.unique(windows)) == len(windows):
        seen[windows] += seen[windows] < 255
    else:
        np.add.at(seen, windows, 1)
    return seen


def _uses(seen: npt.NDArray[np.uint8], order: Order, s: int) -> tuple[int, int, int, int]:
    """(fewest, most) uses of a token as input, counted from the windows read, and what is due: (floor e, ceil e).

    Windows up to the first unread one cover the stream without a gap: full laps and a part. Each later one adds a use
    to a stretch of the lap that no other one has, so the most is one more than the laps; the gap has no more than them.
    """
    length, lap = order.length, int(order.lap[s])
    drawn = int(seen.sum(dtype=np.int64)) * length
    whole = int(np.argmin(seen)) if len(seen) and not seen.min() else len(seen)
    laps, part = divmod(whole * length, lap)
    rest = seen[whole:] != 0
    scattered = int(np.count_nonzero(rest))
    first = (whole + int(np.argmax(rest))) * length - laps * lap if scattered else part
    end = (len(seen) - int(np.argmax(rest[::-1]))) * length - laps * lap if scattered else part
    if first < part or end > lap:  # into another lap: count it all
        return _uses_by_points(np.flatnonzero(seen), length, lap, drawn)
    used = part + scattered * length  # tokens that have had one use more
    return laps, laps + (used > 0), drawn // lap, -(-drawn // lap)


def _uses_by_points(read: Ints, length: int, lap: int, drawn: int) -> tuple[int, int, int, int]:
    """The same for any set of windows: every begin and end of a window is a point, sorted."""
    begin, rest = read * length % lap, length % lap
    end = begin + rest
    wraps = end > lap
    points = np.concatenate([begin, np.where(wraps, end - lap, end), np.zeros(int(wraps.sum()), np.int64)])
    step = np.concatenate([np.ones(len(read)), -np.ones(len(read)), np.ones(int(wraps.sum()))]).astype(np.int64)
    at, inverse = np.unique(np.append(points, 0), return_inverse=True)
    level = np.cumsum(np.bincount(inverse, np.append(step, 0), len(at)).astype(np.int64)) + len(read) * (length // lap)
    level = level[at < lap]
    return int(level.min()), int(level.max()), drawn // lap, -(-drawn // lap)


def _world_problems(order: Order) -> Iterator[str]:
    """Steps whose ranks' parts, put together, are not the batch of a world of one."""
    kept = range(0, order.steps, max(1, order.steps // 1000))  # these with their windows, the others by row numbers
    for world in (w for w in WORLDS if order.batch % w == 0):
        for step in range(order.steps):
            rows = np.concatenate([order.rows(step, rank, world) for rank in range(world)])
            same = np.array_equal(rows, np.arange(order.batch) + step * order.batch)
            if same and step in kept:
                parts = [order.batch_places(step, rank, world) for rank in range(world)]
                one = order.batch_places(step)
                same = np.array_equal(np.concatenate([p.window for p in parts]), one.window)
                same = same and np.array_equal(np.concatenate([p.source for p in parts]), one.source)
            if not same:
                yield f"step {step}: a world of {world} reads another batch"
                break


def audit_text(found: Audit) -> str:
    """What was proved, for people; the last line is the verdict."""
    lines = [f"{found.rows:,} rows replayed; after any of them, every source is within {found.farthest:.3f} rows of "
             "its share"]  # fmt: skip
    for source, (least, most, low, high) in found.uses.items():
        lines.append(f"  {source:<16} every token is used {least} to {most} times (due: {low} to {high})")
    lines.append(f"  the same global batches for worlds of {', '.join(map(str, found.worlds))}")
    lines += [f"  WRONG: {problem}" for problem in found.problems]
    lines.append("the plan holds" if found.ok else "the plan does NOT hold")
    return "\n".join(lines)
