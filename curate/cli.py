"""The command line. Each command imports what it needs when it runs: `curate --help` loads no pyarrow, ray or numba."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from curate import __version__, cli_training
from curate.cli_training import count, open_corpus
from curate.errors import BUG, DAMAGE, DONE, INTERRUPTED, USER, CurateError

Handler = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Errors are one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """All commands, each with an example in its help."""
    top = _Parser(
        prog="curate",
        description="Curate text corpora for pre-training the way LLaMA (2023) did.",
        epilog="start here:  curate run commoncrawl --out corpus     (the embedded sample, a minute)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"curate {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    plan = _command(
        commands,
        "plan",
        _plan,
        "what a run would read, take and write, before anything starts",
        "curate plan commoncrawl --dump CC-MAIN-2019-18",
    )
    plan.add_argument("recipe", metavar="RECIPE")
    plan.add_argument("inputs", metavar="INPUT", nargs="*")
    _add_dump(plan)
    plan.add_argument("--limit", type=int, metavar="N", help="only the first N files, by name")
    plan.add_argument("--pipelines", default="pipelines.llama", metavar="MODULE", help="module that holds RECIPES")
    plan.add_argument("--json", action="store_true", help="as JSON")
    _add_lm(commands)
    _add_classifier(commands)
    _add_tokenizer(commands)
    _add_mixture(commands)
    _add_training(commands)
    _add_dedup(commands)
    report = _command(commands, "report", _report, "the account of a corpus", "curate report corpus --json")
    report.add_argument("dir", metavar="DIR")
    report.add_argument("--json", action="store_true", help="as JSON, a stable contract")
    verify = _command(commands, "verify", _verify, "re-read a corpus, trusting nothing", "curate verify corpus")
    verify.add_argument("dir", metavar="DIR")
    why = _command(commands, "why", _why, "what became of a page", "curate why corpus https://example.org/page.html")
    why.add_argument("dir", metavar="DIR")
    why.add_argument("what", metavar="URL_OR_ID")
    why.add_argument("--json", action="store_true", help="as JSON")
    gc = _command(commands, "gc", _gc, "remove superseded files", "curate gc corpus")
    gc.add_argument("dir", metavar="DIR")
    models = _command(commands, "models", _models, "fetch a model into the cache", "curate models get lid")
    models.add_argument("action", choices=["get"])
    models.add_argument("name", metavar="NAME", help="lid: fastText's language identification")
    return top


def _command(commands: Any, name: str, handler: Handler, help_text: str, example: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(handler=handler)
    return made


def _add_run(commands: Any) -> None:
    run = _command(
        commands,
        "run",
        _run,
        "run a recipe and commit a corpus; run again to go on where it was stopped",
        "curate run commoncrawl 'crawl/*.warc.wet.gz' --out corpus --languages en,de --set language.min_score=0.65",
    )
    run.add_argument("recipe", metavar="RECIPE", help="commoncrawl, c4 and so on; one of your own (--pipelines); "
                     "or all: the seven samples and what is made of them, up to a trained model")  # fmt: skip
    run.add_argument("inputs", metavar="INPUT", nargs="*", help="files, folders, globs, http(s):// or s3:// addresses; "
                     "none: the embedded sample")  # fmt: skip
    run.add_argument("--out", default="corpus", metavar="DIR", help="where the corpus is written (default: corpus)")
    run.add_argument("--languages", metavar="en,de", help="languages to keep, or all (default: en)")
    _add_dump(run)
    run.add_argument("--limit", type=int, metavar="N", help="only the first N files, by name")
    run.add_argument("--workers", type=int, metavar="N", help="processes of one core each (default: all cores)")
    run.add_argument("--address", metavar="ADDR", help="join a running Ray cluster, such as auto or ray://head:10001")
    run.add_argument("--engine", choices=["ray", "inline"], default="ray", help="inline: this process alone")
    run.add_argument("--set", action="append", default=[], metavar="STAGE.SETTING=VALUE", dest="settings",
                     help="change a setting of a stage or of the source; may be given again")  # fmt: skip
    run.add_argument("--pipelines", default="pipelines.llama", metavar="MODULE", help="module that holds RECIPES")
    run.add_argument("--strict", action="store_true", help="refuse to run where a stage lacks its model")
    run.add_argument("--quiet", action="store_true", help="no progress")


def _add_dump(command: argparse.ArgumentParser) -> None:
    command.add_argument("--from", choices=["wet", "warc"], default="wet", dest="kind", help="text or pages of a crawl")
    command.add_argument("--dump", metavar="CC-MAIN-2019-18", help="a whole crawl of Common Crawl in place of inputs")
    command.add_argument("--base", metavar="URL", help="where crawls lie (default: Common Crawl's public address)")
    command.add_argument("--allow-private-addresses", action="store_true", help="ask hosts of private networks, too")


def _recipe_name(args: argparse.Namespace) -> str:
    return str(args.recipe) if args.kind == "wet" else f"{args.recipe}:{args.kind}"


def _settings(args: argparse.Namespace) -> dict[str, str]:
    settings = _given(args)
    if args.languages:
        settings["language.keep"] = args.languages
    return settings


def _given(args: argparse.Namespace) -> dict[str, str]:
    """--set NAME.SETTING=VALUE, each."""
    settings: dict[str, str] = {}
    for item in args.settings:
        name, equals, value = item.partition("=")
        if not equals:
            from curate.errors import RecipeError

            raise RecipeError(f"--set {item}: give it as STAGE.SETTING=VALUE, such as language.min_score=0.65")
        settings[name.strip()] = value.strip()
    return settings


def _run(args: argparse.Namespace) -> int:
    if args.recipe == "all":
        return _run_all(args)
    from curate.engine import run
    from curate.progress import Progress
    from curate.report import alarms, summary

    outcome = run(
        _recipe_name(args),
        args.inputs,
        out=args.out,
        settings=_settings(args),
        limit=args.limit,
        workers=args.workers,
        address=args.address,
        engine=args.engine,
        pipelines=args.pipelines,
        strict=args.strict,
        dump=args.dump,
        allow_private=args.allow_private_addresses,
        **({"base": args.base} if args.base else {}),
        progress=Progress.silent() if args.quiet else Progress.stderr(),
    )
    print(summary(outcome.report))
    print(f"  {outcome.units_done} files done, {outcome.units_reused} reused, in {outcome.seconds:.1f} s")
    print(f"written to {args.out}: documents in {args.out}/*/documents/*.arrow; look at {args.out}/report.html")
    print(f"then:  curate report {args.out} | curate verify {args.out} | curate why {args.out} URL")
    return _verdict(outcome.report, alarms(outcome.report))


def _run_all(args: argparse.Namespace) -> int:
    from curate.errors import RecipeError
    from curate.progress import Progress
    from curate.training import require_torch

    options = {"an input": args.inputs, "--languages": args.languages, "--from": args.kind != "wet",
               "--dump": args.dump, "--base": args.base, "--limit": args.limit, "--set": args.settings,
               "--allow-private-addresses": args.allow_private_addresses, "--strict": args.strict,
               "--pipelines": args.pipelines != "pipelines.llama"}  # fmt: skip
    for name, given in options.items():
        if given not in (None, False, []):
            raise RecipeError(f"run all takes the samples and the paper's settings: {name} is of a single recipe")
    require_torch()
    from pipelines.everything import everything, summary

    progress = Progress.silent() if args.quiet else Progress.stderr()
    done = everything(args.out, workers=args.workers, address=args.address, engine=args.engine, progress=progress)
    print(summary(done))
    print(f"then:  curate verify {args.out} | curate mix {args.out} --audit | curate trace {args.out} --step 0 --row 0")
    if done.alarms:
        print("\n".join(f"curate: {line}" for line in done.alarms), file=sys.stderr)
    return DAMAGE if done.alarms else DONE


def _plan(args: argparse.Namespace) -> int:
    from curate.engine import find_recipe, plan, request_settings
    from sources.dumps import BASE, estimate, plan_text

    request_settings(args.allow_private_addresses)
    splits = plan(
        find_recipe(_recipe_name(args), args.pipelines), args.inputs, args.dump, args.base or BASE, args.limit
    )
    found = estimate(splits)
    title = args.dump or ", ".join(args.inputs) or "the embedded sample"
    print(json.dumps(found, indent=1) if args.json else plan_text(title, found))
    return DONE


def _add_dedup(commands: Any) -> None:
    dedup = _command(
        commands,
        "dedup",
        _dedup,
        "remove duplicate documents from a finished corpus, within and across sources",
        "curate dedup corpus --by exact,near --set near.threshold=0.8 --dry-run",
    )
    dedup.add_argument("dir", metavar="DIR")
    dedup.add_argument("--by", default="exact,near", metavar="exact,near",
                       help="exact, url, near, containment, line (default: exact,near)")  # fmt: skip
    dedup.add_argument("--sources", metavar="A,B", help="only these sources (default: all, across sources)")
    dedup.add_argument("--set", action="append", default=[], metavar="BARRIER.SETTING=VALUE", dest="settings",
                       help="change a setting, such as near.score=reference_score; may be given again")  # fmt: skip
    dedup.add_argument("--dry-run", action="store_true", help="only the trial on a sample with planted copies")
    dedup.add_argument("--accept", action="store_true", help="go on where a trial or the result is out of range")
    dedup.add_argument("--workers", type=int, metavar="N", help="processes of one core each (default: all cores)")
    dedup.add_argument("--address", metavar="ADDR", help="join a running Ray cluster")
    dedup.add_argument("--engine", choices=["ray", "inline"], default="ray", help="inline: this process alone")
    dedup.add_argument("--quiet", action="store_true", help="no progress")


def _dedup(args: argparse.Namespace) -> int:
    from curate.dedup.named import barriers
    from curate.deduplicate import dedup
    from curate.progress import Progress
    from curate.report import summary

    done = dedup(
        args.dir,
        barriers(args.by, _given(args)),
        sources=_names("--sources", args.sources),
        accept=args.accept,
        dry_run=args.dry_run,
        workers=args.workers,
        address=args.address,
        engine=args.engine,
        progress=Progress.silent() if args.quiet else Progress.stderr(),
    )
    if done.report is None:
        print("\n".join(trial.text() for trial in done.trials) or "nothing to try: lines are not tried on a sample")
        return DONE
    for one in done.found:
        print(f"{one['barrier']}: {one['removed']:,} of {one['documents']:,} documents removed")
    print(summary(done.report))
    print(f"  {done.units} files committed again, in {done.seconds:.1f} s; curate why {args.dir} ID names the survivor")
    return DONE


def _names(option: str, given: str | None) -> list[str]:
    """Names of a list such as "a,b"; what names nothing, an unset variable perhaps, does not mean all."""
    from curate.errors import RecipeError

    names = [x.strip() for x in (given or "").split(",") if x.strip()]
    if given is not None and not names:
        raise RecipeError(f"{option} {given!r}: names nothing")
    return names


def _add_lm(commands: Any) -> None:
    lm = _command(
        commands, "lm", _lm, "train an n-gram language model for perplexity", "curate lm train --lang en wiki.txt.gz"
    )
    lm.add_argument("action", choices=["train"])
    lm.add_argument("inputs", metavar="TEXT_OR_DOCUMENTS", nargs="+",
                    help=".txt or .txt.gz (a text a line), .arrow documents, a corpus, a folder of them")  # fmt: skip
    lm.add_argument("--lang", required=True, metavar="en")
    lm.add_argument("--out", metavar="DIR", help="folder of models (default: the cache, where every run looks)")
    lm.add_argument("--order", type=int, default=5, metavar="N")
    lm.add_argument("--vocabulary", type=int, default=65536, metavar="N", help="pieces (default: CCNet's 65536)")
    lm.add_argument("--memory", type=int, default=1024, metavar="MB", help="for sorting n-grams (default: 1024)")
    lm.add_argument("--arpa", action="store_true", help="write lm.arpa.gz, too")


def _add_classifier(commands: Any) -> None:
    cited = _command(
        commands, "cited", _cited, "write the addresses that Wikipedia articles cite", "curate cited corpus cited.arrow"
    )
    cited.add_argument("dir", metavar="DIR")
    cited.add_argument("out", metavar="FILE", help="an Arrow table: url, cited_by, lang")
    classifier = _command(
        commands,
        "classifier",
        _classifier,
        "train the classifier of pages that Wikipedia cites",
        "curate classifier train --cited urls.txt --pages corpus",
    )
    classifier.add_argument("action", choices=["train"])
    classifier.add_argument(
        "--cited", required=True, metavar="URLS", help="addresses: .txt(.gz), or a table with `url`"
    )
    classifier.add_argument("--pages", required=True, metavar="CORPUS", help="a corpus, whose pages are joined by URL")
    classifier.add_argument("--out", metavar="DIR", help="default: the cache, where every run looks")
    classifier.add_argument("--lang", metavar="en", help="only pages in this language")
    classifier.add_argument("--min-characters", type=int, default=1000, metavar="N")
    classifier.add_argument("--seed", type=int, default=0)


def _add_tokenizer(commands: Any) -> None:
    made = _command(
        commands,
        "tokenizer",
        _tokenizer,
        "train a SentencePiece BPE tokenizer with LLaMA's flags on all sources",
        "curate tokenizer train corpus --vocab-size 32000",
    )
    made.add_argument("action", choices=["train"])
    made.add_argument("dir", metavar="DIR")
    made.add_argument("--vocab-size", type=int, default=32000, metavar="N", help="pieces (default: LLaMA's 32000)")
    made.add_argument("--sample-mb", type=int, default=100, metavar="MB", help="text to learn from (default: 100)")
    made.add_argument("--weights", metavar="A=N,B=N", help="shares of the sources (default: the paper's)")
    made.add_argument("--no-dummy-prefix", action="store_true", help="set no space before a text, unlike LLaMA")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", metavar="FOLDER", help="default: DIR/models/tokenizer, where curate tokenize looks")
    tokenize = _command(
        commands, "tokenize", _tokenize, "encode all documents into token shards", "curate tokenize corpus"
    )
    tokenize.add_argument("dir", metavar="DIR")
    tokenize.add_argument("--model", metavar="FILE", help="default: DIR/models/tokenizer/tokenizer.model")
    tokenize.add_argument("--sources", metavar="A,B", help="only these sources (default: all)")
    tokenize.add_argument("--workers", type=int, metavar="N", help="processes of one core each (default: all cores)")
    tokenize.add_argument("--address", metavar="ADDR", help="join a running Ray cluster")
    tokenize.add_argument("--engine", choices=["ray", "inline"], default="ray", help="inline: this process alone")
    tokenize.add_argument("--quiet", action="store_true", help="no progress")


def _add_mixture(commands: Any) -> None:
    mix = _command(
        commands, "mix", _mix, "plan the mixture and the order that a training reads", "curate mix corpus --tokens 1.4T"
    )
    mix.add_argument("dir", metavar="DIR")
    mix.add_argument("--tokens", metavar="N", help="to draw in all, such as 300M (default: as many as there are)")
    mix.add_argument("--weights", metavar="A=N,B=N", help="shares of the sources (default: the paper's seven)")
    mix.add_argument("--length", type=int, default=2048, metavar="N", help="tokens of a sequence (default: 2048)")
    mix.add_argument("--batch", type=int, metavar="N", help="sequences of a step (default: 4 M tokens, less for few)")
    mix.add_argument("--seed", type=int, default=0)
    mix.add_argument("--no-bos", action="store_true", help="no BOS before a document")
    mix.add_argument("--no-eos", action="store_true", help="no EOS after a document")
    mix.add_argument(
        "--held-out",
        type=float,
        default=0.005,
        metavar="SHARE",
        help="of the documents, by hash of their text, is kept from training for evaluation (default: 0.005; 0: none)",
    )
    mix.add_argument("--audit", action="store_true", help="replay the plan that is there and prove what it says")
    mix.add_argument("--json", action="store_true", help="the plan as JSON")
    trace = _command(
        commands,
        "trace",
        _trace,
        "which document a position of the training comes from",
        "curate trace corpus --step 3 --row 1 --pos 100",
    )
    trace.add_argument("dir", metavar="DIR")
    trace.add_argument("--step", type=int, required=True, metavar="S")
    trace.add_argument("--row", type=int, required=True, metavar="R", help="of the global batch")
    trace.add_argument("--pos", type=int, metavar="P", help="of the sequence (default: all documents of the row)")
    trace.add_argument("--json", action="store_true", help="as JSON")
    export = _command(
        commands,
        "export",
        _export,
        "write documents as JSON lines or Parquet, or a trained model for transformers",
        "curate export jsonl corpus out",
    )
    export.add_argument("kind", choices=["jsonl", "parquet", "hf"])
    export.add_argument("dir", metavar="DIR", help="a corpus; for hf a run or a checkpoint")
    export.add_argument("out", metavar="OUT", help="a new or empty folder")
    export.add_argument("--sources", metavar="A,B", help="only these sources (default: all)")
    export.add_argument(
        "--dtype", default="float32", metavar="T", help="hf: float32, bfloat16, float16 (default: float32)"
    )
    export.add_argument(
        "--corpus", metavar="DIR", help="hf: whose documents are encoded to compare (default: the trained one)"
    )


def _add_training(commands: Any) -> None:
    train = _command(
        commands,
        "train",
        cli_training.train,
        "train a LLaMA on the mixture; run again to go on where it was stopped",
        "curate train corpus --model 160m --steps 1000",
    )
    cli_training.add_train(train)
    generate = _command(
        commands,
        "generate",
        cli_training.generate,
        "write text with a trained model",
        "curate generate corpus/runs/train-debug --prompt 'Once upon a time'",
    )
    cli_training.add_generate(generate)
    bench = _command(
        commands,
        "bench",
        cli_training.bench,
        "measure the speed of training beside transformers, in one run",
        "curate bench train --model 1b",
    )
    cli_training.add_bench(bench)


def _mix(args: argparse.Namespace) -> int:
    from model.data import audit_reading, open_data
    from model.plan import audit, audit_text, load_plan, make_plan, table

    corpus = open_corpus(args.dir)
    if args.audit:
        plan = load_plan(corpus)
        found, wrong = audit(plan), audit_reading(open_data(corpus, plan, deep=True))
        print("\n".join([*wrong, audit_text(found)]))
        return DONE if found.ok and not wrong else BUG
    plan = make_plan(
        corpus,
        None if args.tokens is None else count(args.tokens),
        _weights(args.weights),
        seed=args.seed,
        length=args.length,
        batch=args.batch,
        bos=not args.no_bos,
        eos=not args.no_eos,
        held_out=args.held_out,
    )
    print(json.dumps(plan, indent=1) if args.json else table(plan))
    if not args.json:
        print(f"written to {args.dir}/mixture.json; then:  curate mix {args.dir} --audit")
    return DONE


def _trace(args: argparse.Namespace) -> int:
    from curate.trace import text, trace
    from model.plan import load_plan

    corpus = open_corpus(args.dir)
    found = trace(corpus, load_plan(corpus), args.step, args.row, args.pos)
    print(json.dumps(found, indent=1, ensure_ascii=False, default=str) if args.json else text(found))
    return DONE


def _export(args: argparse.Namespace) -> int:
    from pathlib import Path

    if args.kind == "hf":
        return cli_training.export_hf(args)
    from curate.export import export

    made = export(open_corpus(args.dir), Path(args.out), args.kind, [x for x in (args.sources or "").split(",") if x])
    for source, one in made.items():
        print(f"{source}: {one['documents']:,} documents in {one['files']:,} files")
    print(f"written to {args.out}")
    return DONE


def _tokenizer(args: argparse.Namespace) -> int:
    from pathlib import Path

    from curate.store import replace_file, to_json
    from tokenizer.report import report, text
    from tokenizer.train import train

    corpus = open_corpus(args.dir)
    out = Path(args.out) if args.out else corpus.root / "models" / "tokenizer"
    card = train(
        corpus,
        out,
        vocab_size=args.vocab_size,
        weights=_weights(args.weights),
        sample_bytes=args.sample_mb * 1_000_000,
        seed=args.seed,
        dummy_prefix=not args.no_dummy_prefix,
    )
    found = report(corpus, out / "tokenizer.model")
    replace_file(out / "report.json", to_json(found))
    print(text(found))
    print(f"{card['pieces']:,} pieces{'; ' + card['note'] if card['note'] else ''}")
    print(f"written to {out}: tokenizer.model, tokenizer.json, card.json, report.json; README.md says how to load it")
    return DONE if found["exact"] else BUG


def _weights(given: str | None) -> dict[str, float] | None:
    """A=67,B=15 as numbers."""
    from curate.errors import RecipeError

    if given is None:
        return None
    try:
        return {name.strip(): float(value) for name, _, value in (x.partition("=") for x in given.split(",") if x)}
    except ValueError:
        raise RecipeError(f"--weights {given}: give them as SOURCE=NUMBER,SOURCE=NUMBER") from None


def _tokenize(args: argparse.Namespace) -> int:
    from curate.progress import Progress
    from curate.token_shards import text, tokenize

    done = tokenize(
        args.dir,
        args.model,
        sources=[x for x in (args.sources or "").split(",") if x],
        workers=args.workers,
        address=args.address,
        engine=args.engine,
        progress=Progress.silent() if args.quiet else Progress.stderr(),
    )
    print(text(done))
    print(f"written to {args.dir}/tokens; then:  curate mix {args.dir}")
    return DONE


def _classifier(args: argparse.Namespace) -> int:
    from pathlib import Path

    from curate.cache import cache_root
    from curate.reference.train import summary, train

    out = Path(args.out) if args.out else cache_root() / "models" / "reference"
    pages = open_corpus(args.pages).root if Path(args.pages).is_dir() else [Path(args.pages)]
    card = train(Path(args.cited), pages, out, seed=args.seed, min_characters=args.min_characters, lang=args.lang)
    print(summary(card))
    print(f"written to {out}: model.bin, card.json, calibration.svg")
    return DONE


def _cited(args: argparse.Namespace) -> int:
    from pathlib import Path

    from sources.wikipedia import cited_urls

    count = cited_urls(open_corpus(args.dir).root, Path(args.out))
    print(f"written to {args.out}: {count:,} cited addresses")
    print(f"then:  curate classifier train --cited {args.out} --pages CORPUS")
    return DONE


def _lm(args: argparse.Namespace) -> int:
    from pathlib import Path

    from curate.cache import cache_root
    from curate.ngram.train import train
    from curate.texts import texts

    out = Path(args.out) if args.out else cache_root() / "models" / "lm"
    made = train(
        texts(args.inputs, args.lang), out, lang=args.lang, order=args.order, vocabulary=args.vocabulary,
        memory=args.memory << 20, arpa=args.arpa,
    )  # fmt: skip
    print(f"{out / args.lang}: {made['pieces']:,} pieces, n-grams {', '.join(f'{n:,}' for n in made['ngrams'])}")
    return DONE


def _verdict(report: dict[str, Any], alarm_lines: list[str]) -> int:
    if alarm_lines:
        print("\n".join(f"curate: {line}" for line in alarm_lines), file=sys.stderr)
        return DAMAGE
    if not any(s["kept"] for s in report["sources"].values()):
        reasons = [f"{k} {v:,}" for s in report["sources"].values() for k, v in list(s["dropped"].items())[:3]]
        print(f"curate: nothing was kept ({', '.join(reasons) or 'no document in the input'})", file=sys.stderr)
        return USER
    return DONE


def _report(args: argparse.Namespace) -> int:
    from curate.report import account, summary, write_html

    corpus = open_corpus(args.dir)
    report = account(corpus)
    if args.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        print(summary(report))
        print(f"as a page: {write_html(corpus, report)}")
    return DONE if report["balances"] else BUG


def _verify(args: argparse.Namespace) -> int:
    from curate.report import verify
    from curate.token_shards import verify_tokens
    from model.plan import load_plan
    from model.plan import problems as plan_problems

    corpus = open_corpus(args.dir)
    problems = verify(corpus)
    problems += [line for source in corpus.sources() for line in verify_tokens(corpus, source)]
    if (corpus.root / "mixture.json").exists():
        problems += plan_problems(corpus, load_plan(corpus))
    for line in problems:
        print(line)
    units = sum(1 for source in corpus.sources() for _ in corpus.final(source).generations())
    print(f"{units} units read again, {len(problems)} problems" if problems else f"{units} units read again: all good")
    return DAMAGE if problems else DONE


def _why(args: argparse.Namespace) -> int:
    from curate.report import why, why_text

    found = why(open_corpus(args.dir), args.what)
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False, default=str))
    else:
        print("\n".join(why_text(entry) for entry in found) if found else f"{args.what}: no record of that URL or id")
    return DONE if found else USER


def _gc(args: argparse.Namespace) -> int:
    from curate.store import gc, locked

    corpus = open_corpus(args.dir)
    with locked(corpus.root, "gc"):
        for source in corpus.sources():
            files, size = gc(corpus, source)
            print(f"{source}: {files} files removed, {size / 1e6:.1f} MB")
    return DONE


def _models(args: argparse.Namespace) -> int:
    from curate.models import get

    found = get(args.name)
    print(f"{found.path}\n  from {found.origin}, sha256 {found.digest}")
    return DONE


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parsed arguments; inputs may stand behind options, which argparse alone would not take."""
    top = parser()
    args, rest = top.parse_known_args(arguments)
    if rest and (not hasattr(args, "inputs") or any(x.startswith("-") for x in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.inputs = [*args.inputs, *rest]
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    args = parse(arguments)
    try:
        handler: Handler = args.handler
        return handler(args)
    except CurateError as error:
        print(f"curate: {_one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("curate: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _one_line(text: str) -> str:
    """Text of data or of the system must not forge lines or steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def entry() -> NoReturn:
    """The console script: refuses other Pythons in one line, then runs `main`."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        print(
            f"curate: needs Python 3.11 or 3.12, this is {sys.version_info[0]}.{sys.version_info[1]}", file=sys.stderr
        )
        sys.exit(USER)
    sys.exit(main())


if __name__ == "__main__":
    entry()
