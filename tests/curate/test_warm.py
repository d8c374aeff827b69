"""Kernels compiled ahead of time: in processes side by side, once, whatever stands where the user is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

CODE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
os.sched_getaffinity = lambda pid: {0, 1}
from curate.kernels import warm, keys
started = []
real = warm.subprocess.Popen
def popen(command, **options):
    started.append(command[-1])
    if sys.argv[2] == "dies":
        command = [sys.executable, "-c", "raise SystemExit(1)"]
    return real(command, **options)
warm.subprocess.Popen = popen
names = ["curate.kernels.keys", "curate.kernels.partition", "curate.engine"]
before = warm.is_warm(names)
warm.compile_modules(names)
hits = [sum(k.stats.cache_hits.values()) for k in vars(keys).values() if type(k).__name__ == "CPUDispatcher"]
print(json.dumps({"before": before, "after": warm.is_warm(names), "started": started, "hits": sum(hits)}))
"""


def warm(cache: Path, cwd: Path, how: str = "as it is") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT), how],
        cwd=cwd,
        env={**os.environ, "CURATE_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_modules_are_compiled_side_by_side_and_once(tmp_path: Path) -> None:
    (tmp_path / "curate").mkdir()  # not ours
    (tmp_path / "curate" / "__init__.py").write_text("raise SystemExit(3)")
    first = warm(tmp_path / "cache", tmp_path)
    assert first == {"before": False, "after": True, "started": ["keys", "partition"], "hits": first["hits"]}
    assert first["hits"] > 0, "the caller compiled again"
    assert warm(tmp_path / "cache", tmp_path)["started"] == []


def test_the_caller_compiles_what_no_process_could(tmp_path: Path) -> None:
    found = warm(tmp_path / "cache", tmp_path, "dies")
    assert (found["after"], found["hits"]) == (True, 0)
