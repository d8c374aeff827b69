"""The whole mission on the embedded samples, in the order of the paper (arXiv 2302.13971): `curate run all`.

Each step calls what the command of its name calls, and goes on where it was stopped. A step that leaves nothing fails.
Of the trained models the card says what they were made from (`made_from`): the same is not trained on twice.

Wikipedia comes first: the language model that tells good pages of the crawl from bad ones learns from its English
articles (CCNet, arXiv 1911.00359), the classifier from pages of the crawl that its articles cite (section 2.1).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from curate.dedup.exact import exact
from curate.dedup.near import near
from curate.deduplicate import dedup
from curate.engine import cluster, kernels_of, plan, run, stopping, warm_kernels
from curate.errors import CurateError, StageError, StoreError
from curate.kernels.warm import is_warm
from curate.ngram.train import train as train_lm
from curate.progress import Progress
from curate.recipe import Recipe, code_digest, digest
from curate.reference.train import train as train_classifier
from curate.report import account, alarms
from curate.store import Corpus, file_digest, locked, probe, read_json, replace_file, to_json
from curate.texts import texts
from curate.token_shards import tokenize
from curate.training import require_torch
from curate.training import train as train_model
from model.plan import PAPER, audit, load_plan, make_plan
from model.run_folder import Settings, losses
from pipelines.llama import ARXIV, BOOKS, C4_PUBLISHED, COMMONCRAWL, GITHUB, STACKEXCHANGE, WIKIPEDIA
from pipelines.sample import MIN_CHARACTERS
from sources.wikipedia import cited_urls
from tokenizer.report import report as report_on
from tokenizer.train import train as train_tokenizer

PIECES = 4000  # of the language model; CCNet's have 65,536 from millions of articles
VOCABULARY = 4096  # of the tokenizer; LLaMA's 32,000 need more text than the samples have
LENGTH, BATCH = 256, 8  # tokens of a row, rows of a step
TOKENS = 300_000  # to train on: more, and the held-out loss of the crawl, read ten times, rises again
HELD_OUT = 0.1  # of the documents; the sources have between 4 and 150 of them
EVALUATIONS = 4
MODEL = "debug"
PROMPT, WRITTEN = "The river", 80  # tokens

SEVEN = (WIKIPEDIA, COMMONCRAWL, C4_PUBLISHED, GITHUB, BOOKS, ARXIV, STACKEXCHANGE)
# The crawl as the classifier learns it: before any model has chosen among its pages.
PAGES = replace(
    COMMONCRAWL,
    steps=COMMONCRAWL.steps[: [s.name for s in COMMONCRAWL.steps].index("perplexity")],
    sample_models=None,
    choices=(),
)
PARTS = ("curate.worker", "pipelines.llama", "pipelines.sample", "curate.token_shards", "curate.passes",
         "curate.dedup.exact", "curate.dedup.near", "tokenizer.train")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What all steps share."""

    corpus: Corpus
    tokens: int
    where: dict[str, Any]  # workers, address, engine
    note: Callable[[str], None]

    @property
    def out(self) -> Path:
        """Folder of the corpus."""
        return self.corpus.root

    @property
    def pages(self) -> Corpus:
        """The crawl before any model has chosen among its pages, a corpus of its own."""
        return Corpus(self.out / "runs" / "pages")


@dataclass(frozen=True)
class Made:
    """What came of a step: a line for people, and whether anything was done that was not there."""

    line: str
    new: bool = True


class StepError(CurateError):
    """An error of a step, with its name; the exit code is the error's own."""

    def __init__(self, step: str, message: str, exit_code: int) -> None:
        super().__init__(step, message, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


@dataclass(frozen=True)
class Everything:
    """What a run did. `seconds` by step; `new`: steps that did something; `alarms`: where damage took too much."""

    out: Path
    seconds: dict[str, float]
    new: tuple[str, ...]
    alarms: tuple[str, ...]
    text: str  # what the model wrote, the prompt included


def everything(
    out: str | Path = "corpus",
    *,
    workers: int | None = None,
    address: str | None = None,
    engine: str = "ray",
    tokens: int = TOKENS,
    progress: Progress | None = None,
) -> Everything:
    """Do all STEPS in the folder `out`; running it again goes on where it was stopped. `tokens`: to train on.

    RecipeError: torch is missing, or `out` holds other files than the samples'. StepError: a step failed, or left
    nothing. On Ray, all steps share one cluster of `workers` processes (default: all cores), or the one at `address`.
    """
    require_torch()
    started, note = time.monotonic(), (progress or Progress.silent()).note
    job = Job(Corpus(Path(out).absolute()), tokens, {"workers": workers, "address": address, "engine": engine}, note)
    probe(job.out)
    _refuse_other_data(job.corpus)
    own = job.out / "runs" / "all"
    own.mkdir(parents=True, exist_ok=True)
    with locked(own, "all"), _one_cluster(job):
        seconds, new = _all_steps(job)
    _remember(job, finished=True)
    done = Everything(job.out, seconds, new, tuple(alarms(account(job.corpus))), _written(job.corpus).read_text())
    note(f"all done in {time.monotonic() - started:.0f} s" if new else "all of it was there: nothing was done again")
    return done


def _all_steps(job: Job) -> tuple[dict[str, float], tuple[str, ...]]:
    seconds, new = {}, []
    for number, (name, step) in enumerate(STEPS, 1):
        begun = time.monotonic()
        job.note(f"[{number}/{len(STEPS)}] {name} ...")
        with _named(name):
            made = step(job)
        seconds[name] = time.monotonic() - begun
        new += [name] if made.new else []
        job.note(f"        {made.line}; {seconds[name]:.1f} s" + ("" if made.new else " (was there)"))
    return seconds, tuple(new)


@contextmanager
def _named(step: str) -> Iterator[None]:
    try:
        yield
    except CurateError as error:
        raise StepError(step, str(error), error.exit_code) from error


@contextmanager
def _one_cluster(job: Job) -> Iterator[None]:
    """Ray for all steps. Where a finished run is looked through again, a step that needs it after all starts one."""
    with ExitStack() as stack:
        stack.enter_context(stopping())
        if job.where["engine"] == "ray" and not _memory(job).get("finished"):
            stack.enter_context(cluster(job.where["workers"], job.where["address"]))
            stack.enter_context(stopping())  # again: Ray puts a handler of its own in place of ours when it starts
        yield


def _refuse_other_data(corpus: Corpus) -> None:
    """The models here are trained on samples, and duplicates removed: not in a corpus of somebody's own files."""
    samples = {r.source.name: r for r in SEVEN}
    for source in corpus.sources():
        units = {s.unit for s in plan(samples[source], (), None)} if source in samples else set()
        for commit in corpus.commits(source):
            if commit.unit not in units:
                name = commit.record["name"]
                raise StoreError(f"{corpus.root}: holds {source} {name}, not of the samples; give another --out")


# -- the steps --------------------------------------------------------------------------------------------------------


def compile_kernels(job: Job) -> Made:
    """Compile what all later steps call, once on this machine."""
    modules = kernels_of(PARTS)
    cold = not is_warm(modules)
    warm_kernels(modules)
    return Made("compiled" if cold else "loaded from the cache", cold)


def curate(recipe: Recipe, job: Job) -> Made:
    """Run the recipe of a source on its sample; every stage must have its model."""
    name = recipe.source.name
    done = run(replace(recipe, sample_models=None), out=job.out, strict=True, **job.where)
    kept = _some(done.report["sources"][name]["kept"], "no document was kept")
    return Made(
        f"{kept:,} documents kept of {done.report['sources'][name]['records_in']:,} records", done.units_done > 0
    )


def language_model(job: Job) -> Made:
    """5-grams of the English articles that the Wikipedia stage kept."""
    card = job.out / "models" / "lm" / "en" / "card.json"
    made_from = digest([_made(job.corpus, "wikipedia"), PIECES, code_digest("curate.ngram.train")])
    new = not _is_made_from(card, made_from)
    if new:
        files = [str(c.path("documents")) for c in job.corpus.commits("wikipedia")]
        train_lm(texts(files, "en"), card.parent.parent, lang="en", vocabulary=PIECES)
        _note_made_from(card, made_from)
    facts = read_json(card)
    return Made(f"{facts['texts']:,} texts, {_some(facts['ngrams'][-1], 'no n-gram was counted'):,} 5-grams", new)


def crawl_pages(job: Job) -> Made:
    """The crawl up to its language stage: the pages that the classifier is trained on."""
    done = run(PAGES, out=job.pages.root, **job.where)
    kept = _some(done.report["sources"]["commoncrawl"]["kept"], "no page was kept")
    return Made(f"{kept:,} English pages", done.units_done > 0)


def classifier(job: Job) -> Made:
    """Pages that Wikipedia's articles cite against other ones of the crawl."""
    folder = job.out / "models" / "reference"
    inputs = [_made(job.corpus, "wikipedia"), _made(job.pages, "commoncrawl")]
    made_from = digest([*inputs, MIN_CHARACTERS, code_digest("curate.reference.train")])
    new = not _is_made_from(folder / "card.json", made_from)
    if new:
        folder.mkdir(parents=True, exist_ok=True)
        cited_urls(job.out, folder / "cited.arrow")
        train_classifier(folder / "cited.arrow", job.pages.root, folder, lang="en", min_characters=MIN_CHARACTERS)
        _note_made_from(folder / "card.json", made_from)
    card = read_json(folder / "card.json")
    auc, cited, found = card["held_out"]["auc"], card["counts"]["cited_urls"], card["counts"]["cited_urls_found"]
    good = "unknown" if auc is None else f"{auc:.2f}"
    return Made(f"{cited:,} addresses cited, {found:,} found in the crawl; AUC on sites kept back {good}", new)


def deduplicate(job: Job) -> Made:
    """Copies, exact and near, across all sources. Of copies the one that the classifier likes best stays."""
    before = _documents(job.corpus)
    new = _memory(job).get("dedup") != before
    removed = 0
    if new:
        by = [barrier(score="reference_score", scope="run") for barrier in (exact, near)]
        done = dedup(job.out, by, **job.where)
        removed = sum(one["removed"] for one in done.found)
        _remember(job, dedup=_documents(job.corpus))
    left = {r.source.name: sum(c.record["counts"]["kept"] for c in job.corpus.commits(r.source.name)) for r in SEVEN}
    for source, documents in left.items():
        _some(documents, f"no document of {source} is left")
    return Made(f"{removed:,} documents removed, {sum(left.values()):,} left" if new else
                f"{sum(left.values()):,} documents", new)  # fmt: skip


def tokenizer(job: Job) -> Made:
    """SentencePiece BPE with LLaMA's flags, on all sources by the paper's weights."""
    folder = job.out / "models" / "tokenizer"
    made_from = digest([_documents(job.corpus), VOCABULARY, code_digest("tokenizer.train")])
    new = not _is_made_from(folder / "card.json", made_from)
    if new:
        train_tokenizer(job.corpus, folder, vocab_size=VOCABULARY)
        found = report_on(job.corpus, folder / "tokenizer.model")
        replace_file(folder / "report.json", to_json(found))
        if not found["exact"]:
            raise StageError("documents do not come back byte for byte from their tokens")
        _note_made_from(folder / "card.json", made_from)
    return Made(f"{_some(read_json(folder / 'card.json')['pieces'], 'it has no piece'):,} pieces", new)


def token_shards(job: Job) -> Made:
    """All documents as tokens."""
    done = tokenize(job.out, **job.where)
    for source, counts in done.sources.items():
        _some(counts["tokens"], f"{source} has no token")
    size, tokens = (sum(c[k] for c in done.sources.values()) for k in ("bytes", "tokens"))
    return Made(f"{tokens:,} tokens of {size / tokens:.2f} bytes", done.done > 0)


def mixture(job: Job) -> Made:
    """What is read in which order, by the weights of Table 1, and the proof of it."""
    from model.data import audit_reading, open_data

    path = job.out / "mixture.json"
    before = path.read_bytes() if path.exists() else b""
    made = make_plan(job.corpus, job.tokens, length=LENGTH, batch=BATCH, held_out=HELD_OUT)
    _some(made["steps"], "the plan is empty")
    held = sum(entry["held_out"]["documents"] for entry in made["sources"].values())
    _some(held, "no document is held out")
    wrong = [*audit(made).problems, *audit_reading(open_data(job.corpus, made, deep=True))]
    if wrong:
        raise StageError(f"the plan does not hold: {wrong[0]}")
    return Made(f"{made['steps']:,} steps of {made['batch']} x {made['length']} tokens; {held:,} documents held out; "
                "audited", path.read_bytes() != before)  # fmt: skip


def training(job: Job) -> Made:
    """The model on the mixture, with held-out losses on the way."""
    from model.loss_page import write_page

    folder = _run_folder(job.corpus)
    steps = load_plan(job.corpus)["steps"]
    before = len(losses(folder)) if (folder / "log.jsonl").exists() else 0
    every = -(-steps // EVALUATIONS)
    train_model(
        Settings(str(job.out), str(folder), MODEL, eval_every=every, save_every=every, log_every=max(1, steps // 8)),
        note=lambda line: job.note(f"        {line}"),
    )
    write_page(folder)
    first, last = _first_and_last(folder)
    if not (math.isfinite(first) and math.isfinite(last) and last < first):
        raise CurateError(f"the loss was {first:.4f} at the first step and is {last:.4f} at the last")
    _some(len(_held_out(folder)["sources"]), "no held-out loss was measured")
    return Made(f"loss {first:.3f} at the first step, {last:.3f} at the last of {steps:,}", before < steps)


def text(job: Job) -> Made:
    """What the model writes after a few words."""
    from model.generate import load
    from model.generate import text as generate

    made = "".join(generate(load(_run_folder(job.corpus)), PROMPT, WRITTEN))
    _some(len(made.strip()), "the model wrote nothing")
    new = not _written(job.corpus).exists() or _written(job.corpus).read_text() != PROMPT + made
    replace_file(_written(job.corpus), (PROMPT + made).encode())
    return Made(f"{len(made):,} characters", new)


STEPS: tuple[tuple[str, Callable[[Job], Made]], ...] = (
    ("kernels", compile_kernels),
    ("wikipedia", partial(curate, WIKIPEDIA)),
    ("language model", language_model),
    ("crawl pages", crawl_pages),
    ("classifier", classifier),
    ("commoncrawl", partial(curate, COMMONCRAWL)),
    ("c4", partial(curate, C4_PUBLISHED)),
    ("github", partial(curate, GITHUB)),
    ("books", partial(curate, BOOKS)),
    ("arxiv", partial(curate, ARXIV)),
    ("stackexchange", partial(curate, STACKEXCHANGE)),
    ("dedup", deduplicate),
    ("tokenizer", tokenizer),
    ("token shards", token_shards),
    ("mixture", mixture),
    ("training", training),
    ("text", text),
)


def _some(count: int, nothing: str) -> int:
    """The count; CurateError where it is 0."""
    if not count:
        raise CurateError(nothing)
    return count


# -- what is there already --------------------------------------------------------------------------------------------


def _made(corpus: Corpus, source: str) -> list[list[str]]:
    """What the units of a source were made from: stays as it is when duplicates are removed later."""
    return [[c.unit, c.fingerprint, str(c.record["input"])] for c in corpus.commits(source)]


def _documents(corpus: Corpus) -> str:
    """Digest of all documents as they are now."""
    return digest([[s, c.unit, c.record["files"]["documents"]["sha256"]] for s in corpus.sources()
                   for c in corpus.commits(s)])  # fmt: skip


def _is_made_from(card: Path, made_from: str) -> bool:
    """Whether a model is there, whole, and was made from this."""
    try:
        found = read_json(card)
        files = found["sha256"].items()
        return found.get("made_from") == made_from and all(file_digest(card.parent / n)[1] == d for n, d in files)
    except (OSError, StoreError, KeyError, AttributeError):
        return False


def _note_made_from(card: Path, made_from: str) -> None:
    replace_file(card, to_json({**read_json(card), "made_from": made_from}))


def _memory(job: Job) -> dict[str, Any]:
    """What a run remembers of earlier ones; nothing is lost without it but time."""
    with suppress(OSError, StoreError):
        found = read_json(job.out / "runs" / "all" / "memory.json")
        return found if isinstance(found, dict) else {}
    return {}


def _remember(job: Job, **facts: Any) -> None:
    replace_file(job.out / "runs" / "all" / "memory.json", to_json({**_memory(job), **facts}))


# -- what came of it --------------------------------------------------------------------------------------------------


def _run_folder(corpus: Corpus) -> Path:
    """A plan has a folder of its own: of another plan, no checkpoint fits."""
    return corpus.root / "runs" / f"train-{MODEL}-{load_plan(corpus)['hash'][:8]}"


def _written(corpus: Corpus) -> Path:
    return _run_folder(corpus) / "text.txt"


def _log(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    for line in (folder / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == kind:
            yield record


def _first_and_last(folder: Path) -> tuple[float, float]:
    found = losses(folder)
    return found[0], found[-1]


def _held_out(folder: Path) -> dict[str, Any]:
    """The last held-out losses."""
    return ([{"sources": {}}, *_log(folder, "held_out")])[-1]


def summary(done: Everything) -> str:
    """What there is now: a line a source, the losses, what the model wrote, where to look."""
    corpus = Corpus(done.out)
    folder, drawn = _run_folder(corpus), load_plan(corpus)
    held, (first, last) = _held_out(folder), _first_and_last(folder)
    lines = [f"{'source':<15}{'documents':>10}{'tokens':>10}{'epochs':>8}{'held out':>10}{'loss':>8}{'bits/byte':>11}"]
    lines += [_row(corpus, source, drawn["sources"][source], held["sources"].get(source)) for source in PAPER]
    shown = done.text.replace("\n", "\n    ")
    return "\n".join([
        *lines,
        f"held-out loss of all {held['loss']:.3f}, {held['bits_per_byte']:.3f} bits per byte; training loss "
        f"{first:.3f} at the first step, {last:.3f} at the last of {drawn['steps']:,}",
        f"the model wrote, after {PROMPT!r}:\n    {shown}",
        f"look at {done.out}/report.html and {folder}/loss.html",
    ])  # fmt: skip


def _row(corpus: Corpus, source: str, entry: dict[str, Any], held: dict[str, Any] | None) -> str:
    documents = sum(c.record["counts"]["kept"] for c in corpus.commits(source))
    tokens = entry["tokens"] + entry["held_out"]["tokens"]
    loss, bits = (f"{held['loss']:.3f}", f"{held['bits_per_byte'] or 0:.3f}") if held else ("-", "-")
    return (f"{source:<15}{documents:>10,}{tokens:>10,}{entry['epochs']:>8.1f}{entry['held_out']['documents']:>10,}"
            f"{loss:>8}{bits:>11}")  # fmt: skip
