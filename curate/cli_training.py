"""The commands of training: train, generate, export hf, bench train. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from itertools import chain
from typing import Any

from curate.errors import DONE, RecipeError


def add_train(command: argparse.ArgumentParser) -> None:
    """Options of `curate train`."""
    c = command
    c.add_argument("dir", metavar="DIR", help="a corpus with mixture.json (curate mix)")
    c.add_argument("--model", default="debug", metavar="NAME", help="7b, 13b, 33b, 65b, llama2-7b, llama2-13b, "
                   "llama2-70b, 1b, 160m, debug, or a .json file of a shape (default: debug)")  # fmt: skip
    c.add_argument("--steps", type=int, metavar="N", help="of the whole run (default: all of the plan)")
    c.add_argument("--tokens", metavar="N", help="the same in tokens, such as 300M")
    c.add_argument("--out", metavar="RUN", help="folder of the run (default: DIR/runs/train-MODEL)")
    c.add_argument("--lr", type=float, metavar="X", help="peak learning rate (default: the model's)")
    c.add_argument("--warmup", type=int, metavar="N", help="steps (default: 2,000, or a tenth of a shorter run)")
    c.add_argument("--weight-decay", type=float, default=0.1, metavar="X")
    c.add_argument("--clip", type=float, default=1.0, metavar="X", help="norm of the gradient (default: 1.0)")
    c.add_argument("--eps", type=float, default=1e-8, metavar="X", help="of Adam (default: 1e-8)")
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--dtype", metavar="T", help="of products: bfloat16 or float32 (default: bfloat16 on CUDA)")
    c.add_argument("--device", metavar="D", help="cuda or cpu (default: cuda where there is one)")
    c.add_argument("--micro-batch", type=int, metavar="N", help="rows at a time (default: by the device's memory)")
    c.add_argument(
        "--recompute", metavar="P", help="none, paper (linear outputs are kept) or full (default: by memory)"
    )
    c.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on CUDA)")
    c.add_argument(
        "--tp", type=int, default=1, metavar="N", help="tensor- and sequence-parallel ranks; the others share data"
    )
    c.add_argument(
        "--eval-every", type=int, metavar="N", help="steps between held-out losses (default: a tenth of the run)"
    )
    c.add_argument("--eval-rows", type=int, default=16, metavar="N", help="held-out rows of each source (default: 16)")
    c.add_argument(
        "--save-every", type=int, metavar="N", help="steps between checkpoints (default: a tenth, at most 1,000)"
    )
    c.add_argument("--keep", type=int, default=3, metavar="N", help="checkpoints to keep (default: 3)")
    c.add_argument("--log-every", type=int, default=10, metavar="N", help="steps between lines (default: 10)")
    c.add_argument("--max-hours", type=float, metavar="H", help="save and end after that time, with exit code 4")
    c.add_argument("--resume", type=int, metavar="STEP", help="go on from this checkpoint, not from the newest")
    c.add_argument("--workers", type=int, metavar="N", help="train on Ray with that many processes")
    c.add_argument("--address", metavar="ADDR", help="join a running Ray cluster, such as auto")
    c.add_argument("--quiet", action="store_true", help="no progress")


def train(args: argparse.Namespace) -> int:
    """`curate train`."""
    from dataclasses import fields

    from curate.training import train as run
    from model.loss_page import text_summary, write_page
    from model.plan import load_plan
    from model.run_folder import Settings

    steps, out = args.steps, args.out or os.path.join(args.dir, "runs", f"train-{_stem(args.model)}")
    if args.tokens is not None:
        if steps is not None:
            raise RecipeError("give --steps or --tokens, not both")
        plan = load_plan(open_corpus(args.dir))
        steps = max(1, -(-count(args.tokens) // (plan["batch"] * plan["length"])))
    open_corpus(args.dir)
    given = {field.name: getattr(args, field.name) for field in fields(Settings) if hasattr(args, field.name)}
    settings = Settings(**{**given, "corpus": args.dir, "run": out, "steps": steps})
    done = run(settings, args.workers, args.address, _quiet if args.quiet else _say)
    if int(os.environ.get("RANK", "0")) == 0:
        from pathlib import Path

        page = write_page(Path(done["run"]))
        print(text_summary(Path(done["run"])))
        print(f"written to {out}: checkpoints, log.jsonl, tensorboard; look at {page}")
        print(f"then:  curate generate {out} --prompt 'Once' | curate export hf {out} FOLDER")
    return DONE


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever reads the lines may go, or its disk be full; training does not end
        print(line, file=sys.stderr, flush=True)


def _quiet(line: str) -> None:
    pass


def _stem(model: str) -> str:
    return os.path.basename(model).removesuffix(".json")


def count(given: str) -> int:
    """300M, 1.4T and the like."""
    scale = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}.get(given[-1:].upper(), 1)
    try:
        number = round(float(given.rstrip("KMBGTkmbgt")) * scale)
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise RecipeError(f"--tokens {given}: must be a number of tokens, such as 300M or 1.4T")
    return number


def open_corpus(folder: str) -> Any:
    """A corpus that is there. StoreError: there is none."""
    from pathlib import Path

    from curate.errors import StoreError
    from curate.store import Corpus

    if not (Path(folder) / "corpus.json").is_file():
        raise StoreError(f"{folder}: not a corpus (no corpus.json there)")
    return Corpus(Path(folder).absolute())


def add_generate(command: argparse.ArgumentParser) -> None:
    """Options of `curate generate`."""
    c = command
    c.add_argument("checkpoint", metavar="CKPT", help="a run, or one of its checkpoints")
    c.add_argument("--prompt", default="", metavar="TEXT", help="what the text begins with; - reads standard input")
    c.add_argument("--max-tokens", type=int, default=128, metavar="N", help="(default: 128)")
    c.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0: the most likely token (default: 0.8)"
    )
    c.add_argument("--top-p", type=float, default=0.95, metavar="P", help="(default: 0.95)")
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--device", metavar="D", help="cuda or cpu (default: cuda where there is one)")


def generate(args: argparse.Namespace) -> int:
    """`curate generate`: the prompt and what follows it."""
    from pathlib import Path

    from curate.training import require_torch

    require_torch()
    from model.generate import load, text

    prompt = _prompt(args.prompt)
    loaded = load(Path(args.checkpoint), args.device)
    pieces = text(loaded, prompt, args.max_tokens, args.temperature, args.top_p, args.seed)
    first = next(pieces, "")  # what is wrong with the prompt is said before it is shown
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has not all characters
    print(prompt, end="", flush=True)
    for piece in chain((first,), pieces):
        print(piece, end="", flush=True)
    print()
    return DONE


def _prompt(given: str) -> str:
    """The text, or standard input for -. RecipeError: not UTF-8."""
    try:
        if given != "-":
            return given.encode("utf-8", "surrogateescape").decode()
        return sys.stdin.buffer.read().decode() if sys.stdin else ""
    except UnicodeError as error:
        raise RecipeError(f"--prompt: not UTF-8: {error}") from None


def export_hf(args: argparse.Namespace) -> int:
    """`curate export hf CKPT OUT`."""
    from pathlib import Path

    from curate.training import require_torch

    require_torch()
    from model.checkpoint import find
    from model.export_hf import export, sample_texts

    corpus = Path(args.corpus or str(find(Path(args.dir)).record.get("corpus")))
    if not (corpus / "corpus.json").is_file():
        raise RecipeError(f"{corpus}: the corpus is not there, and the tokenizers are compared on its documents; give "
                          "--corpus DIR")  # fmt: skip
    done = export(Path(args.dir), Path(args.out), sample_texts(corpus), args.dtype)
    print(
        f"transformers gives SentencePiece's ids for {done.texts:,} documents, and logits within "
        f"{done.farthest:.1e} of ours"
    )
    print(f"written to {args.out}: {', '.join(done.files)}")
    return DONE


def add_bench(command: argparse.ArgumentParser) -> None:
    """Options of `curate bench`."""
    c = command
    c.add_argument("what", choices=["train"])
    c.add_argument("--model", default=None, metavar="NAME", help="(default: 1b on CUDA, debug elsewhere)")
    c.add_argument("--length", type=int, default=None, metavar="N", help="(default: 2048 on CUDA, 256 elsewhere)")
    c.add_argument("--micro-batch", type=int, metavar="N", help="rows at a time (default: by the device's memory)")
    c.add_argument("--recompute", metavar="P", help="none, paper, full, or all to compare them (default: by memory)")
    c.add_argument("--steps", type=int, default=None, metavar="N", help="timed (default: 50 on CUDA, 5 elsewhere)")
    c.add_argument("--warmup", type=int, default=None, metavar="N", help="not timed (default: 20 on CUDA, 2 elsewhere)")
    c.add_argument("--device", metavar="D")
    c.add_argument("--dtype", metavar="T")
    c.add_argument("--compile", action=argparse.BooleanOptionalAction)
    c.add_argument(
        "--rivals", default="all", metavar="A,B", help="transformers, compile, liger; all that are installed, or none"
    )
    c.add_argument(
        "--data", metavar="DIR", help="a corpus with mixture.json (default: random tokens through the real loader)"
    )
    c.add_argument("--json", metavar="FILE", help="write the figures there, too")


def bench(args: argparse.Namespace) -> int:
    """`curate bench train`."""
    from curate.training import require_torch

    require_torch()
    from model.bench import Asked, bench_train, table

    asked = Asked(**{k: v for k, v in vars(args).items() if k not in ("what", "json", "handler", "command")})
    found = bench_train(asked, _say)
    print(table(found))
    if args.json:
        with open(args.json, "w") as f:
            f.write(json.dumps(found, indent=1) + "\n")
    return DONE
