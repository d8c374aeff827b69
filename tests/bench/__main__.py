"""`make bench`: MB/s per core of each stage beside peers, then the figures of the whole machine, as a table and JSON.

    python -m tests.bench [--wet DIR] [--repeat 3] [--only TEXT] [--machine] [--json FILE]

The set is `make_wet.py --files 4 --mb 40 --seed 1` over 13 languages where shared/bench lies beside the checkout, else
the embedded sample repeated. Each stage runs in a process of its own on one core; figures are medians of CPU time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.stages import STAGES, installed

MODULES = ("minhash", "dedup", "c4", "github", "wikipedia", "books", "arxiv", "stackexchange", "tokenizer", "data")
for _name in MODULES:  # each adds its stages
    importlib.import_module(f"tests.bench.{_name}")

ROOT = Path(__file__).resolve().parent.parent.parent
SET = ROOT / ".venv" / "bench"


def one(name: str, wet: Path, repeat: int) -> dict[str, Any]:
    """Run one stage in this process."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    mb, function = STAGES[name][1](wet)
    seconds = []
    function()  # what is compiled or read once is not the stage's speed
    for _ in range(repeat):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    middle = statistics.median(seconds)
    return {
        "mb": round(mb, 2),
        "mb_s": round(mb / middle, 2),
        "spread": round((max(seconds) - min(seconds)) / middle, 2),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def make_set() -> Path:
    """The crawl that is read: made once, below .venv."""
    wet, maker = SET / "wet", ROOT.parent / "shared" / "bench" / "make_wet.py"
    if (wet / "truth.tsv").exists():
        return wet
    wet.mkdir(parents=True, exist_ok=True)
    if maker.exists():
        texts = sorted((ROOT.parent / "shared" / "data" / "lm_text").glob("*.txt.gz"))
        command = [sys.executable, str(maker), "--out", str(wet), "--files", "4", "--mb", "40", "--seed", "1"]
        subprocess.run([*command, *map(str, texts)], check=True)
    else:
        from sources.samples import commoncrawl_files

        for number, sample in enumerate(commoncrawl_files()):
            (wet / f"repeated-{number}.warc.wet.gz").write_bytes(sample.read_bytes() * 50)
        (wet / "truth.tsv").touch()
    return wet


def stages(wet: Path, only: str, repeat: int) -> list[dict[str, Any]]:
    """All stages that can run here, each in a child."""
    rows: list[dict[str, Any]] = []
    ours: dict[str, float] = {}
    print("| stage | tool | MB | MB/s per core | ours is | spread | peak RSS MB |\n|---|---|---|---|---|---|---|")
    for name, (group, _, needs) in STAGES.items():
        if only not in name or not installed(needs):
            continue
        command = [sys.executable, "-m", "tests.bench", "--wet", str(wet), "--one", name, "--repeat", str(repeat)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(f"| {group} | {name} | failed: {done.stderr.strip().splitlines()[-1][:100]} |")
            continue
        row = json.loads(done.stdout.splitlines()[-1]) | {"stage": group, "tool": name.removeprefix(f"{group}: ")}
        ratio = "" if group not in ours else f"{ours[group] / row['mb_s']:.1f} x"
        ours.setdefault(group, row["mb_s"])
        rows.append(row)
        print(
            f"| {group} | {row['tool']} | {row['mb']:.1f} | {row['mb_s']:.1f} | {ratio} | {row['spread']:.0%} | "
            f"{row['rss_mb']} |",
            flush=True,
        )
    return rows


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--wet", type=Path)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--only", default="")
    p.add_argument("--machine", action="store_true", help="only the figures of the whole machine")
    p.add_argument("--no-machine", action="store_true")
    p.add_argument("--json", type=Path)
    p.add_argument("--one", help=argparse.SUPPRESS)
    a = p.parse_args()
    wet = a.wet or make_set()
    if a.one:
        print(json.dumps(one(a.one, wet, a.repeat)))
        return
    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "")
    print(f"{cpu.partition(': ')[2]}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    found: dict[str, Any] = {"stages": [] if a.machine else stages(wet, a.only, a.repeat)}
    if not a.no_machine and not a.only:
        from tests.bench.machine import measure

        found["machine"] = measure(wet)
    if a.json:
        a.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
