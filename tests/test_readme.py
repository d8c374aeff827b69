"""Every command of the README is run: as it stands, on the embedded sample in place of a crawl."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from sources.samples import COMMONCRAWL as SAMPLE
from sources.samples import commoncrawl_files, reference_urls
from tests.conftest import ROOT
from tests.test_dump_run import Crawl, crawl

__all__ = ["crawl"]  # a fixture

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M)
COMMANDS = [
    line.partition("   #")[0].strip()
    for kind, block in BLOCKS
    if kind == "sh"
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
INPUTS = {  # what the README calls a folder of files of a source
    "c4": "shards",
    "github": "repositories",
    "wikipedia": "dumps",
    "books": "library",
    "arxiv": "papers",
    "stackexchange": "sites",
}
ON_THE_CORPUS = (
    *("why", "verify", "report", "models", "gc", "classifier"),
    *("tokenizer", "tokenize", "mix", "trace", "export"),
    *("train", "generate", "bench", "--nproc-per-node"),
)
SMALL = {"dim": 32, "n_layers": 2, "n_heads": 4, "multiple_of": 32}  # in place of models that need a GPU
HEAD = """
    import sys
    from ray.cluster_utils import Cluster
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    print(nodes.address, flush=True)
    sys.stdin.read()
    nodes.shutdown()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a crawl in it, and a finished corpus."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "crawl").mkdir()
    pages = [p for f in sorted((SAMPLE / "texts").glob("*.txt")) for p in f.read_text().splitlines() if len(p) > 60]
    with gzip.open(folder / "wiki.en.txt.gz", "wt", encoding="utf-8") as f:
        f.write("\n".join(pages[::3]))
    for file in commoncrawl_files():
        shutil.copy(file, folder / "crawl")
    for source, name in INPUTS.items():
        shutil.copytree(SAMPLE.parent / source, folder / name)
    (folder / "urls").write_text("\n".join(reference_urls()))
    assert shell("gzip -c urls > cited-urls.txt.gz && rm urls", folder).returncode == 0
    keep = "--set perplexity.keep=head,middle,tail --set reference.min_score=0"  # pages enough to train with
    assert shell(f"curate run commoncrawl --out corpus --engine inline {keep}", folder).returncode == 0
    assert shell("curate run wikipedia --out corpus --engine inline", folder).returncode == 0
    (folder / "small.json").write_text(json.dumps(SMALL))
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a running Ray cluster."""
    code = textwrap.dedent(HEAD)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("", timeout=60)


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the README with our `curate` on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )


def smaller(line: str) -> str:
    """A training of the README, with a model and a number of steps and processes for a laptop."""
    line = re.sub(r"--model \S+", "--model small.json --steps 3 --device cpu", re.sub(r" --steps \d+", "", line))
    line = re.sub(r"^curate train corpus$", "curate train corpus --steps 3 --device cpu", line)
    line = re.sub(r"--nproc-per-node \d+", "--standalone --nproc-per-node 2", line)
    line = re.sub(r"--workers \d+ --tp \d+", "--workers 2 --tp 2", line)
    return line + (" --warmup 1 --length 64 --micro-batch 2" if "bench train" in line else "")


def test_the_readme_has_its_commands() -> None:
    assert len(COMMANDS) >= 12
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    made = [shlex.split(c)[1] for c in COMMANDS if c.startswith("make ")]
    assert {"run", "demo", "test"} <= set(made) <= targets


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make ") and "--address" not in c])
def test_a_command_of_the_readme(command: str, folder: Path, crawl: Crawl) -> None:
    verb, out = command.split()[1], f"out-{abs(hash(command))}"
    line = command.replace(".venv/bin/curate", "curate")
    if verb in ("run", "plan", "lm"):
        line = re.sub(r"--out (corpus|c4-again)", f"--out {out}", line)
        plain = "run commoncrawl" in line and "--set" not in line  # Ray takes seconds to start, and all would use it
        line = re.sub(r"^(curate run \S+)", r"\1 " + ("--workers 2" if plain else "--engine inline"), line)
    elif verb not in ON_THE_CORPUS:
        shutil.copytree(folder / "corpus", folder / out)
        line = line.replace(" corpus", f" {out}")
    if "bench train" in line or re.search(r"\btrain corpus", line):
        line = smaller(line)
    if "classifier train" in line:
        line += " --min-characters 300"
    if "--dump" in line:
        crawl.asked.update(dict.fromkeys(crawl.files, 2))  # how it lets one down is another test's matter
        line += f" --base http://127.0.0.1:{crawl.server_address[1]} --allow-private-addresses"
    done = shell(line, folder)
    assert done.returncode == 0, f"{line}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    assert done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if "--address" in c])
def test_a_cluster_command_of_the_readme(command: str, folder: Path, cluster: str) -> None:
    inner = command.partition(" -- ")[2] or command  # what `ray job submit` runs on the head node
    line = inner.replace("/shared/crawl", "crawl")
    if " train " in line:
        line = smaller(line.replace("/shared/corpus", "corpus").replace("/shared/", ""))
    line = line.replace("/shared/corpus", f"out-{abs(hash(command))}")
    line = line.replace("--address auto", f"--address {cluster}")
    done = shell(line, folder)
    assert done.returncode == 0, f"{line}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.parametrize("block", [b for kind, b in BLOCKS if kind == "python"])
def test_python_of_the_readme(block: str, folder: Path) -> None:
    (folder / "readme_block.py").write_text(block)
    done = shell(f"{shlex.quote(sys.executable)} readme_block.py", folder)
    assert done.returncode == 0, done.stderr[-2000:]


def test_paths_of_the_readme_exist(folder: Path) -> None:
    for name in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / name).exists(), name
    for pattern in ("corpus.json", "commoncrawl/documents/*.arrow", "commoncrawl/commits/*.json", "report.html"):
        assert list((folder / "corpus").glob(pattern)), pattern
