"""The whole mission in one command: run on fewer tokens, stopped and continued, looked through again, made to fail."""

from __future__ import annotations

import bz2
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from curate.cli import main
from curate.engine import run
from curate.errors import DONE, INTERRUPTED, USER, StoreError
from curate.store import Corpus
from model import generate
from model.data import audit_reading, open_data
from model.plan import PAPER, audit, load_plan
from model.run_folder import losses
from pipelines import everything as all_of_it
from pipelines.everything import STEPS, Everything, Job, StepError, everything, summary
from sources import wikipedia
from sources.samples import build_wikipedia
from tests.conftest import ROOT
from tests.sources.test_wikipedia import dump

TOKENS = 40_000  # 20 steps
HERE: dict[str, Any] = {"engine": "inline", "workers": None, "address": None}
SCRIPT = f"""
    import sys
    from curate.errors import CurateError
    from curate.progress import Progress
    from pipelines.everything import everything
    try:
        everything(sys.argv[1], engine="inline", tokens={TOKENS}, progress=Progress.stderr())
    except CurateError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came as far as its models: fastText's threads race, so another one would have another classifier."""
    out = tmp_path_factory.mktemp("half") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_of_it, "STEPS", STEPS[:5])
        patch.setattr(all_of_it, "_remember", lambda *_, **__: None)
        patch.setattr(all_of_it, "_written", lambda _: out / "corpus.json")
        everything(out, engine="inline", tokens=TOKENS)
    return out


@pytest.fixture(scope="module")
def full(half: Path, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """The whole of it, on Ray."""
    out = tmp_path_factory.mktemp("full") / "corpus"
    shutil.copytree(half, out)
    return everything(out, workers=2, tokens=TOKENS)


@pytest.fixture
def copy(full: Everything, tmp_path: Path) -> Job:
    """A finished run to spoil."""
    shutil.copytree(full.out, tmp_path / "copy")
    return job(tmp_path / "copy")


def job(out: Path) -> Job:
    return Job(Corpus(out), TOKENS, HERE, lambda line: None)


def run_folder(corpus: Corpus) -> Path:
    return all_of_it._run_folder(corpus)


def contents(out: Path) -> dict[Path, bytes]:
    """All but the lock and what runs note."""
    return {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and not {"runs", ".lock"} & {*p.parts}}


def held_out(corpus: Corpus) -> dict[str, Any]:
    lines = [json.loads(x) for x in (run_folder(corpus) / "log.jsonl").read_text().splitlines()]
    return [x for x in lines if x["kind"] == "held_out"][-1]


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_is_there(full: Everything, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus(full.out)
    assert list(full.seconds) == [name for name, _ in STEPS] and {"training", "text", "dedup", "c4"} <= {*full.new}
    plan = load_plan(corpus)
    assert set(plan["sources"]) == set(PAPER) == {*corpus.sources()} and not full.alarms
    assert all(entry["tokens"] and entry["drawn"] for entry in plan["sources"].values())
    assert audit(plan).ok and not audit_reading(open_data(corpus, plan, deep=True))
    assert main(["verify", str(full.out)]) == DONE
    found = losses(run_folder(corpus))
    assert len(found) == plan["steps"] == 20 and found[0] > 8 and found[-1] < found[0] - 1
    held = {source for source, entry in plan["sources"].items() if entry["held_out"]["documents"]}
    assert {"commoncrawl", "c4", "wikipedia"} <= held == set(held_out(corpus)["sources"])
    assert all(math.isfinite(x["loss"]) and x["bits_per_byte"] > 0 for x in held_out(corpus)["sources"].values())
    assert full.text.startswith(all_of_it.PROMPT) and full.text.removeprefix(all_of_it.PROMPT).strip()
    said = summary(full)
    assert all(source in said for source in PAPER) and full.text.splitlines()[0] in said
    for path in ("report.html", f"{run_folder(corpus).relative_to(full.out)}/loss.html"):
        assert path in said and (full.out / path).is_file()


@pytest.mark.slow
def test_the_crawl_is_chosen_by_models_of_the_wikipedia_stage(full: Everything) -> None:
    folder = full.out / "models"
    lm, reference = (json.loads((folder / x / "card.json").read_text()) for x in ("lm/en", "reference"))
    assert lm["texts"] == 2 + len(build_wikipedia.articles())
    assert reference["counts"]["cited_urls_found"] >= 40 and Path(reference["inputs"]["cited"]).name == "cited.arrow"
    counts = [c.record["counts"] for c in Corpus(full.out).commits("commoncrawl")]
    for rule in ("perplexity:tail", "reference:low_score"):
        assert sum(c["dropped"].get(rule, 0) for c in counts) > 10, rule


@pytest.mark.slow
def test_again_it_does_nothing_and_says_so(full: Everything, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(all_of_it, "cluster")  # not even Ray is started
    lines: list[str] = []
    progress = all_of_it.Progress.silent()
    progress.note = lines.append  # type: ignore[method-assign]
    before = contents(full.out)
    weights = sorted(run_folder(Corpus(full.out)).glob("checkpoints/*/*"))
    started = time.monotonic()
    done = everything(full.out, workers=2, tokens=TOKENS, progress=progress)
    assert done.new == () and time.monotonic() - started < 60 and "nothing was done again" in lines[-1]
    assert len([x for x in lines if x.startswith("[")]) == len(STEPS) and done.text == full.text
    assert before == contents(full.out) and weights == sorted(run_folder(Corpus(full.out)).glob("checkpoints/*/*"))


# -- stopped and continued ---------------------------------------------------------------------------------------------


def stopped_when(out: Path, reached: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
    """Start a run, send it a signal as soon as it is that far; (exit code, what it said)."""
    code = textwrap.dedent(SCRIPT)
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 300
        while not reached():
            assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(120), process.communicate()[1]
    finally:
        process.kill()


@pytest.mark.slow
def test_stopped_in_a_source_and_in_training_it_ends_in_the_same(half: Path, full: Everything, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    shutil.copytree(half, out)
    code, said = stopped_when(out, (out / "commoncrawl/spool/segment-0/commits").exists, signal.SIGTERM)
    assert code == INTERRUPTED and "run the same command again" in said.splitlines()[-1], said
    assert not list(out.glob("c4/commits/*"))
    half_trained = "runs/train-*/checkpoints/step-00000010"
    code, said = stopped_when(out, lambda: bool(list(out.glob(half_trained))), signal.SIGKILL)
    assert code == -signal.SIGKILL and "[16/17] training" in said
    corpus, other = Corpus(out), Corpus(full.out)
    assert len(losses(run_folder(corpus))) < 20
    done = everything(out, engine="inline", tokens=TOKENS)
    assert set(done.new) <= {"training", "text", "kernels"} and "training" in done.new
    assert all_of_it._documents(corpus) == all_of_it._documents(other)
    assert (out / "mixture.json").read_bytes() == (full.out / "mixture.json").read_bytes()
    assert losses(run_folder(corpus)) == losses(run_folder(other)) and done.text == full.text
    assert held_out(corpus)["sources"] == held_out(other)["sources"]
    assert main(["verify", str(out)]) == DONE


@pytest.mark.slow
def test_models_are_trained_again_when_their_input_has_changed(copy: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.out / "models/lm/en/lm.bin"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1])
    assert all_of_it.language_model(copy).new and model.read_bytes() == whole
    folder = copy.out.parent / "wikipedia"
    shutil.copytree(wikipedia.SAMPLE, folder)
    articles = dict(list(build_wikipedia.articles().items())[:-1])
    monkeypatch.setattr(build_wikipedia, "articles", lambda: articles)
    for name, data in build_wikipedia.build().items():
        (folder / name).write_bytes(data)
    monkeypatch.setattr(wikipedia, "SAMPLE", folder)
    step = dict(STEPS)
    for name in ("wikipedia", "language model", "classifier", "commoncrawl", "dedup", "tokenizer", "mixture"):
        if name == "mixture":
            step["token shards"](copy)
        assert step[name](copy).new, name
        assert not step[name](copy).new, name
    assert not step["crawl pages"](copy).new and not step["books"](copy).new
    assert not run_folder(copy.corpus).exists()  # another plan: another training


# -- what must not pass ------------------------------------------------------------------------------------------------


def fails(job: Job, step: str, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """The step alone is run, and refused by name in one line."""
    monkeypatch.setattr(all_of_it, "STEPS", tuple(x for x in STEPS if x[0] == step))
    with pytest.raises(StepError, match=f"^{step}: {message}") as caught:
        everything(job.out, engine="inline", tokens=TOKENS)
    assert caught.value.exit_code == USER and "\n" not in str(caught.value)


def test_a_source_without_its_sample_or_without_an_article(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    monkeypatch.setattr(wikipedia, "SAMPLE", folder)
    fails(job(tmp_path / "out"), "wikipedia", monkeypatch, "the embedded sample is missing")
    (folder / "enwiki-20220801-pages-articles.xml.bz2").write_bytes(bz2.compress(dump()))
    fails(job(tmp_path / "out"), "wikipedia", monkeypatch, "no document was kept")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "what", "instead", "message"),
    [
        ("language model", "texts", lambda *_: iter(()), "too little text"),
        ("classifier", "cited_urls", lambda _, out: out.write_bytes(b""), ".*cited"),
        ("tokenizer", "read_json", lambda path: {"pieces": 0}, "it has no piece"),
        ("mixture", "HELD_OUT", 0.0, "no document is held out"),
        ("training", "losses", lambda folder: [3.0, 3.0], "the loss was 3.0000 at the first step and is 3.0000"),
        ("training", "losses", lambda folder: [3.0, math.nan], "the loss was 3.0000 at the first step and is nan"),
        ("training", "_held_out", lambda folder: {"sources": {}}, "no held-out loss was measured"),
    ],
)
def test_a_step_that_leaves_nothing(
    copy: Job, step: str, what: str, instead: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if step in ("language model", "classifier"):
        card = copy.out / "models" / {"language model": "lm/en", "classifier": "reference"}[step] / "card.json"
        card.unlink()
    monkeypatch.setattr(all_of_it, what, instead)
    fails(copy, step, monkeypatch, message)


@pytest.mark.slow
def test_a_source_that_has_lost_all_it_had(copy: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """By dedup, or on the way to tokens."""
    plain = Corpus.commits
    gone = staticmethod(lambda corpus, source: iter(()) if source == "arxiv" else plain(corpus, source))
    monkeypatch.setattr(Corpus, "commits", lambda corpus, source: gone(corpus, source))
    fails(copy, "dedup", monkeypatch, "no document of arxiv is left")
    fails(copy, "token shards", monkeypatch, "arxiv has no token")


@pytest.mark.slow
def test_a_model_that_writes_nothing(copy: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "text", lambda *_: iter([" ", "\n"]))
    fails(copy, "text", monkeypatch, "the model wrote nothing")


def test_without_torch_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "torch" else found(name, *more))
    assert main(["run", "all", "--out", str(tmp_path / "out")]) == USER
    said = capsys.readouterr().err
    assert "needs torch" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more",
    ["crawl", "--dump CC-MAIN-2019-18", "--set length.min_characters=1", "--languages de", "--limit 1", "--from warc",
     "--strict", "--base http://x.example", "--pipelines pipelines.llama2", "--allow-private-addresses"],
)  # fmt: skip
def test_what_is_of_a_single_recipe_is_refused(more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "all", "--out", str(tmp_path / "out"), *more.split()]) == USER
    said = capsys.readouterr().err
    assert "run all takes" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_corpus_of_somebody_is_left_alone(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sources/samples/c4/c4-train.00000-of-00002.json.gz", tmp_path / "c4-train.mine.json.gz")
    run("c4", [str(tmp_path / "c4-train.mine.json.gz")], out=tmp_path / "out", engine="inline")
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match=r"holds c4 c4-train.mine.json.gz, not of the samples; give another --out"):
        everything(tmp_path / "out", engine="inline")
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_make_demo_is_the_command() -> None:
    for given, out in (({}, "corpus-all"), ({"OUT": "elsewhere"}, "elsewhere")):
        inherited = ("OUT", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # of the `make test` that runs this
        env = {k: v for k, v in os.environ.items() if k not in inherited} | given
        done = subprocess.run(["make", "-n", "demo"], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f".venv/bin/curate run all --out {out}"
