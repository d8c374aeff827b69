"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate.download import configure

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real inputs that are not in the repository: `$CURATE_SHARED_DATA`, or `shared/data` beside the checkout."""
    given = os.environ.get("CURATE_SHARED_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real inputs at {folder} (set CURATE_SHARED_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _requests_of_the_environment() -> Iterator[None]:
    """What a run inside this process set for requests on the web is not the next test's."""
    yield
    configure(None)
