"""Training on Ray: real workers over gloo, their errors and deaths, and the wish to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")  # without it ray.train cannot be imported

from curate.engine import Place, _as_ours, _Broken, _judge, launch
from curate.errors import RecipeError, RefusalError, SourceError, StageError, StoreError
from tests.conftest import ROOT

HEAD = """
import sys
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
print(nodes.address, flush=True)
sys.stdin.read()
nodes.shutdown()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a running Ray cluster with two cores."""
    process = subprocess.Popen([sys.executable, "-c", HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("", timeout=60)


def spawn(code: str, cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


MEETING = """
    import json, os, sys, time
    from pathlib import Path
    from curate.engine import launch

    def meet(folder, place):
        import torch
        import torch.distributed as dist
        import model

        total, ranks = torch.tensor([10.0 ** place.rank]), [torch.zeros(1) for _ in range(place.world)]
        dist.all_reduce(total)
        dist.all_gather(ranks, torch.tensor([float(place.rank)]))
        place.report({"rank": place.rank})
        waited = 0.0
        while not Path(folder, "heard").exists() and waited < 30:
            time.sleep(0.05)
            waited += 0.05
        place.checkpoint(f"/somewhere/{place.rank}", {"rank": place.rank})
        return {
            "total": total.item(), "ranks": [r.item() for r in ranks], "backend": dist.get_backend(),
            "environment": [os.environ[k] for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] + [os.environ["MASTER_ADDR"]],
            "model": model.__file__, "heard_in_time": waited < 30,
        }

    heard = []
    def on_report(metrics):
        heard.append(dict(metrics))
        Path(sys.argv[1], "heard").touch()

    launched = launch(meet, sys.argv[1], workers=2, out="out", on_report=on_report)
    print(json.dumps([launched.value, launched.checkpoints, launched.restarts, heard]))
"""


@pytest.mark.slow
def test_workers_meet_and_report_with_our_packages(tmp_path: Path) -> None:
    import json

    for name in ("model", "sources", "tokenizer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the {name} of the user was imported')\n")
    process = spawn(MEETING, tmp_path, str(tmp_path))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    value, checkpoints, restarts, heard = json.loads(out.splitlines()[-1])
    assert value["total"] == 11.0 and value["ranks"] == [0.0, 1.0] and value["backend"] == "gloo"
    assert value["environment"][:3] == ["0", "2", "0"] and value["environment"][3]
    assert value["model"] == str(ROOT / "model/__init__.py")
    assert value["heard_in_time"], "the report of a worker came only when the worker had ended"
    assert (checkpoints, restarts, heard) == (["/somewhere/0"], 0, [{"rank": 0}])
    assert err == "" and len(out.splitlines()) == 1, "Ray is not quiet"
    pointer = next((tmp_path / "out/ray").glob("*/checkpoint_*/pointer.json"))
    assert json.loads(pointer.read_text()) == {"path": "/somewhere/0"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ray"]


def note_call(folder: str, rank: int) -> int:
    """How often this rank was called before."""
    file = Path(folder, f"calls-{rank}")
    before = file.stat().st_size if file.exists() else 0
    file.write_bytes(b"x" * (before + 1))
    return before


def refuses(folder: str, place: Place) -> None:
    import torch.distributed as dist

    note_call(folder, place.rank)
    if place.rank == 1:
        raise RefusalError("would lose too much", "a_stage", "a_unit")
    dist.barrier()  # where the others wait for ever


@pytest.mark.slow
def test_an_error_of_ours_arrives_as_it_is_and_is_not_tried_again(tmp_path: Path, address: str) -> None:
    with pytest.raises(RefusalError) as raised:
        launch(refuses, str(tmp_path), workers=2, out=tmp_path / "out", address=address)
    assert str(raised.value) == "a_stage a_unit: would lose too much" and raised.value.exit_code == 2
    assert [(tmp_path / f"calls-{rank}").stat().st_size for rank in (0, 1)] == [1, 1]


def dies_once(folder: str, place: Place) -> list[int]:
    import torch
    import torch.distributed as dist

    before = note_call(folder, place.rank)
    done = int(Path(folder, "step").read_text()) if Path(folder, "step").exists() else 0
    for step in range(done + 1, 6):
        if (before, place.rank, step) == (0, 1, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.ones(1))
        if place.rank == 0:
            Path(folder, "step").write_text(str(step))  # its checkpoint
        place.report({"step": step, "call": before})
    return [done, before]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_function_called_again(tmp_path: Path, address: str) -> None:
    heard: list[Mapping[str, float]] = []
    notes: list[str] = []
    launched = launch(
        dies_once,
        str(tmp_path),
        workers=2,
        out=tmp_path / "out",
        address=address,
        on_report=heard.append,
        note=notes.append,
    )
    assert launched.restarts == 1 and launched.value == [2, 1]
    assert [(m["step"], m["call"]) for m in heard] == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
    assert len(notes) == 1 and notes[0].endswith("all workers were started again (1 of 3)")


STOPPED = """
    import sys, time
    from pathlib import Path
    from curate.engine import launch
    from curate.errors import CurateError

    def train(folder, place):
        import torch
        import torch.distributed as dist

        for step in range(600):
            stop = torch.tensor([float(place.stopping())])
            dist.all_reduce(stop)
            if stop.item():
                time.sleep(0.5)  # saving takes its time
                Path(folder, f"saved-{place.rank}").write_text(str(step))
                return
            place.report({"step": step})
            time.sleep(0.05)

    try:
        launch(train, sys.argv[1], workers=2, out=Path(sys.argv[1], "out"), address=sys.argv[2],
               on_report=lambda m: print("step", m["step"], flush=True))
    except CurateError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
"""


@pytest.mark.slow
def test_a_stop_waits_until_the_workers_have_saved(tmp_path: Path, address: str) -> None:
    process = spawn(STOPPED, tmp_path, str(tmp_path), address)
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("step 5"):
        assert line, process.communicate()[1][-3000:]
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err[-3000:]
    assert out.splitlines()[-1] == "stopped by SIGTERM; run the same command again to go on"
    saved = [int((tmp_path / f"saved-{rank}").read_text()) for rank in (0, 1)]
    assert saved[0] == saved[1] > 5 and time.monotonic() - started < 30


@pytest.mark.slow
def test_more_workers_than_the_cluster_has_room_for(tmp_path: Path, address: str) -> None:
    with pytest.raises(RecipeError, match="--workers 3: needs 3 CPUs, the cluster has 2"):
        launch(refuses, "", workers=3, out=tmp_path, address=address)
    with pytest.raises(RecipeError, match="--workers 1: needs 1 GPUs, the cluster has 0"):
        launch(refuses, "", workers=1, gpus=True, out=tmp_path, address=address)
    with pytest.raises(RecipeError, match="--workers is 0"):
        launch(refuses, "", workers=0, out=tmp_path)


def test_what_ends_a_run_is_told_as_an_error_of_ours() -> None:
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    ours = SourceError("truncated")
    assert _as_ours(ControllerError(ours), 3) is ours
    broken, dead = _Broken("rank 1: RuntimeError: x"), WorkerHealthCheckFailedError("gone", OSError("killed"))
    told = _as_ours(WorkerGroupError("", {0: broken}), 3)
    assert type(told) is StageError and str(told) == "rank 1: RuntimeError: x"
    told = _as_ours(WorkerGroupError("", {0: broken, 1: dead}), 3)
    assert type(told) is StoreError and str(told) == "workers died or broke 4 times, the last one: killed"
    mine = ValueError("of the caller's own function")
    assert _as_ours(mine, 3) is mine


def test_only_an_error_of_ours_ends_a_run_at_once() -> None:
    failures: dict[int, Any] = {0: _Broken("a peer was lost"), 1: SourceError("truncated")}
    with pytest.raises(SourceError, match="truncated"):
        _judge(None, None, failures)
    _judge(None, None, {0: failures[0], 1: RuntimeError("a health check")})
