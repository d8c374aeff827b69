"""A whole crawl over HTTP: listed, planned, streamed once a file, curated; from a loopback server that lets us down."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from curate import download
from curate.engine import run
from curate.report import verify
from curate.store import Corpus
from sources.samples import commoncrawl_files

DUMP = "CC-MAIN-2019-18"
NAMES = [f"CC-MAIN-20190418101243-20190418122311-{n:05d}.warc.wet.gz" for n in range(4)]
FOLDER = f"crawl-data/{DUMP}/segments/1555578517558.8/wet"


class Crawl(ThreadingHTTPServer):
    """Serves the sample as a dump; answers 503 first, and cuts the first body of every file in the middle."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {f"/{FOLDER}/{n}": f.read_bytes() for n, f in zip(NAMES, commoncrawl_files(), strict=True)}
        listing = "".join(f"{FOLDER}/{n}\n" for n in NAMES).encode()
        self.files[f"/crawl-data/{DUMP}/wet.paths.gz"] = gzip.compress(listing)
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Crawl

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body = self.server.files.get(self.path)
        if body is None:
            return self.answer(404, b"")
        if self.command == "GET":
            self.server.asked[self.path] += 1
        if self.command == "GET" and self.server.asked[self.path] == 1:
            return self.answer(503, b"SlowDown", **{"Retry-After": "0"})
        start = int((self.headers.get("Range") or "bytes=0-").partition("=")[2].rstrip("-"))
        extra = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        cut = self.command == "GET" and self.server.asked[self.path] == 2
        self.answer(206 if start else 200, body[start:], cut, **extra)
        return None

    def answer(self, status: int, body: bytes, cut: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "ETag": '"one"', **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            part = body[: len(body) // 2] if cut else body
            self.server.sent[self.path] += len(part)
            self.wfile.write(part)
        if cut:
            self.close_connection = True


@pytest.fixture()
def crawl() -> Iterator[Crawl]:
    server = Crawl()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_dump_is_curated_as_its_files_would_be(
    crawl: Crawl, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"http://127.0.0.1:{crawl.server_address[1]}"
    folder = tmp_path / "files"
    folder.mkdir()
    for name, file in zip(NAMES, commoncrawl_files(), strict=True):
        (folder / name).write_bytes(file.read_bytes())
    settings = {"perplexity.keep": "head,middle,tail"}
    if engine == "inline":  # with pauses as on the web in the other one
        usual = download._from_environment()
        monkeypatch.setattr(download, "_from_environment", lambda: replace(usual, draw=lambda: 0.02))
    near = run("commoncrawl", [str(folder)], out=tmp_path / "near", engine="inline", settings=settings)
    far = run(
        "commoncrawl", dump=DUMP, base=base, allow_private=True, out=tmp_path / "far", engine=engine, settings=settings
    )
    one, two = (dict(o.report["sources"]["commoncrawl"]) for o in (near, far))
    for report in (one, two):
        for moving in ("core_seconds", "mb_per_core_second"):
            report.pop(moving)
    assert one == two and verify(Corpus(tmp_path / "far")) == []
    for path, body in crawl.files.items():
        if path.endswith(".warc.wet.gz"):
            assert crawl.asked[path] == 3  # refused, cut, and the rest of it
            assert crawl.sent[path] - len("SlowDown") == len(body), "bytes were fetched twice"
    again = run(
        "commoncrawl", dump=DUMP, base=base, allow_private=True, out=tmp_path / "far", engine=engine, settings=settings
    )
    assert again.units_reused == 4


def test_a_private_address_needs_the_flag_and_a_plan_is_printed(crawl: Crawl, tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{crawl.server_address[1]}"
    crawl.asked.update(dict.fromkeys(crawl.files, 2))  # its failures are another test's matter
    command = [sys.executable, "-m", "curate.cli", "plan", "commoncrawl", "--dump", DUMP, "--base", base]
    environment = {**os.environ, "CURATE_ALLOW_PRIVATE_ADDRESSES": "0"}
    refused = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert refused.returncode == 2 and "public internet" in refused.stderr and "Traceback" not in refused.stderr
    plan = subprocess.run(
        [*command, "--allow-private-addresses", "--json"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert plan.returncode == 0, plan.stderr
    found = json.loads(plan.stdout)
    stored = sum(len(b) for p, b in crawl.files.items() if p.endswith(".wet.gz"))
    assert found["files"] == 4 and found["bytes"] == stored
    assert not list(tmp_path.iterdir())
