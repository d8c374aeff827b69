"""`curate bench train`: what it measures on which device, and what it does where memory is not enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from model import bench
from model.bench import Asked, Contender, Setting, _kept, _one_by_one, _policies, _setting
from model.head_loss import _parts
from model.optimiser import Hyper
from model.parallel import World
from model.shapes import Shape, find_shape
from model.stepper import How, Stepper, activation_bytes, choose, fitting_rows

H200 = World(torch.device("cuda", 0))
CPU = World(torch.device("cpu"))
GIB = 2**30


@pytest.fixture()
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device of so many GiB that nothing is on."""

    def of(gib: float) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gib * GIB), int(gib * GIB)))

    return of


def rows(name: str, policy: str, several: bool = False) -> int:
    return fitting_rows(find_shape(name, 32_000, 2048), 2048, H200, several, torch.bfloat16, policy)


def test_rows_on_an_h200(memory: Any) -> None:
    memory(138.6)
    assert rows("1b", "none") == 24  # products are no faster with more
    assert 4 <= rows("7b", "none") <= 5 and rows("7b", "paper") == 8  # 8 rows of the bare loop: 122.7 GiB (trainer.md)
    assert rows("7b", "paper", several=True) < 8  # sums in fp32 are there, too
    assert rows("13b", "full") == 0  # 182 GB of weights and state alone
    for name, tokens in (("1b", 24 * 2048), ("7b", 8 * 2048)):  # measured on an H200 with everything else: trainer.md
        shape = find_shape(name, 32_000, 2048)
        policy, measured = ("none", 102 * GIB) if name == "1b" else ("paper", 122.7 * GIB)
        predicted = 14 * shape.parameters + tokens * activation_bytes(shape, policy)
        assert 0.9 < predicted / measured < 1.12, name


def test_what_is_measured(memory: Any) -> None:
    def policies(name: str, asked: Asked = Asked()) -> list[str]:  # noqa: B008
        return list(_policies(asked, find_shape(name, 32_000, 2048), 2048, H200))

    memory(138.6)
    assert policies("1b") == ["none"]  # to keep less would not give more rows
    assert policies("7b") == ["none", "paper"]
    assert policies("7b", Asked(recompute="all")) == ["none", "paper", "full"]
    assert policies("1b", Asked(recompute="full")) == ["full"]
    memory(79)
    assert policies("7b") == ["full"]  # it is tried, and says what is missing
    memory(24)
    assert policies("1b")[0] in ("none", "paper") and rows("1b", "full") > rows("1b", "none")


def test_a_training_chooses_by_memory(memory: Any) -> None:
    def chosen(name: str, gib: float) -> tuple[int, str]:
        memory(gib)
        how = choose(find_shape(name, 32_000, 2048), 2048, 2048, H200, True, How(torch.bfloat16, 1), (None, None))
        return how.micro_batch, how.recompute

    assert chosen("1b", 138.6) == (16, "none")  # a divisor of the batch
    assert chosen("7b", 138.6) == (4, "paper")
    assert chosen("1b", 32)[1] == "paper" and chosen("1b", 24)[1] == "full"
    assert chosen("7b", 80) == (1, "full")


def contender(name: str, rows: int, recompute: str = "none") -> Contender:
    how = How(torch.bfloat16, rows, recompute)
    setting = Setting(find_shape("1b", 32_000, 2048), 2048, how, 1, 1, H200)
    return Contender(name, setting, lambda setting: lambda tokens: None, rows)


def tries(first: Contender) -> list[tuple[int, str]]:
    found, now = [], first.smaller()
    while now is not None:
        found.append((now.setting.how.micro_batch, now.setting.how.recompute))
        now = now.smaller()
    return found


def test_what_is_tried_where_memory_is_not_enough() -> None:
    assert tries(contender("ours, recompute paper", 3, "paper")) == [(2, "paper"), (1, "paper")]
    full = [(24, "full"), (12, "full"), (6, "full"), (3, "full"), (1, "full")]
    assert tries(contender("liger", 24)) == [(12, "none"), (6, "none"), *full]
    assert tries(contender("liger", 3)) == [(3, "full"), (1, "full")]  # never more rows than it was given
    assert tries(contender("compile", 8)) == [(4, "none"), (8, "full"), (4, "full"), (2, "full"), (1, "full")]


def test_out_of_memory_ends_nobody_elses_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error and what it holds are gone before the next try; who finds no room at all is left out, and said."""
    alive, said = 0, []

    class Held:
        def __init__(self) -> None:
            nonlocal alive
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def make(setting: Setting) -> Any:
        held, most = Held(), {"ours": 5, "compile": 2, "liger": 0}
        assert alive == 1, "what the last try held is still there"

        def step(tokens: Any) -> None:
            if setting.how.micro_batch > most[name]:
                raise torch.OutOfMemoryError(f"no room {held}")

        return step

    monkeypatch.setattr(bench, "_feed", lambda setting, data: (x for x in [torch.zeros(1)] * 9))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(bench, "_gpu_state", lambda device: "busy")
    monkeypatch.setattr(bench, "wait", lambda device: None)
    monkeypatch.setattr(bench, "peak_memory", lambda device: 0)
    monkeypatch.setattr(bench, "peak", lambda device: (1e15, "given"))
    found = []
    for name in ("ours", "compile", "liger"):
        found += _one_by_one(None, [replace(contender(name, 8), make=make)], said.append)  # type: ignore[arg-type]
    assert {r["gpu_state"] for r in found} == {"busy"}
    assert [(r["name"], r["micro_batch"]) for r in found] == [("ours", 5), ("compile, recompute full", 2)]
    assert "liger: not done with 1 rows, recompute full" in said and said[0].startswith("ours: no room")


def test_kept_activations_are_of_all_layers_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers and rows are measured in place of all: the same figure."""
    shape = find_shape("debug", 500, 64)
    settings = {p: _setting(Asked(micro_batch=4), shape, 64, CPU, p) for p in ("none", "paper", "full")}
    assert settings["none"].how.micro_batch == 4
    some = _kept(settings)
    monkeypatch.setattr(bench, "KEPT_LAYERS", 99)
    monkeypatch.setattr(bench, "KEPT_ROWS", 99)
    whole = _kept(settings)
    assert some["none"] > some["paper"] > some["full"] > 0
    for policy, size in whole.items():
        assert some[policy] == pytest.approx(size, rel=0.15), policy


def test_a_rivals_own_error_loses_nothing_and_ours_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def broken(setting: Setting) -> Any:
        raise AttributeError("this version of it\nfits no other")

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    assert _one_by_one(None, [replace(contender("liger", 1), make=broken)], said.append) == []  # type: ignore[arg-type]
    assert said[0] == "liger: this version of it"
    with pytest.raises(AttributeError):
        _one_by_one(None, [replace(contender("ours", 1), make=broken)], said.append)  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch", "rows"), [(3, 7), (7, 3), (4, 4), (1, 5)])
def test_the_feed_gives_rows_of_any_plan(batch: int, rows: int, tmp_path: Any) -> None:
    """All of them in order, whatever the plan's batch; then from the start."""
    data = bench.random_data(tmp_path, 16, batch, 400, steps=20)
    how = How(torch.float32, rows)
    feed = bench._feed(Setting(find_shape("debug", 400, 16), 16, how, 1, 1, CPU), data)
    plan = [row.tolist() for step in range(20) for row in data.batch(step).tokens]
    found = [row.tolist() for _ in range(2 * len(plan) // rows) for row in next(feed)]
    assert found == (2 * plan)[: len(found)] and len(found) > len(plan)


def test_layers_of_a_flat_model_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More layers than Dynamo recompiles for: one graph for training, one for evaluation, one for the loss."""
    counted = torch._dynamo.utils.counters
    real = torch.compile
    monkeypatch.setattr("model.head_loss._chosen", _parts)  # so that it is again what it was
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, **{**options, "backend": "aot_eager"}))
    for several in (1, 2):
        torch._dynamo.reset()
        counted.clear()
        how = How(torch.bfloat16, 2, "none", compile=True)
        shape = Shape("deep", 64, 12, 4, vocabulary=211, length=32)
        stepper = Stepper(shape, Hyper(), how, CPU, 0, 2 * several)
        rows = torch.randint(0, 211, (2 * several, 33))
        for _ in range(2):
            stepper.step(rows, 1e-3, torch.ones(211, dtype=torch.int32))
        with torch.no_grad():
            stepper.losses(rows[:2])
        assert counted["stats"]["unique_graphs"] == 3 and not counted["recompile_limit"]
