"""AdamW and its schedule: against torch's, and steps that must change nothing."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint import Saver, fill, folder_of, verified
from model.flat import Flat
from model.llama import Transformer, initialise
from model.optimiser import FlatAdamW, Hyper, adamw_, adamw_split_, norm_of
from model.parallel import World
from model.shapes import Shape
from model.split import join, split

SMALL = Shape("small", 32, 2, 4, multiple_of=32, vocabulary=101, length=32)
HYPER = Hyper(lr=1e-2, warmup=3, steps=12)


def start(dtype: torch.dtype = torch.float32, hyper: Hyper = HYPER) -> tuple[Transformer, FlatAdamW]:
    model = Transformer(SMALL)
    initialise(model, 0)
    return model, FlatAdamW(Flat(model, dtype, False), hyper)


def backward(model: Transformer, step: int) -> Tensor:
    rows = torch.randint(0, 101, (4, 33), generator=torch.Generator().manual_seed(step))
    loss, losses = model(rows[:, :-1], rows[:, 1:])
    loss = loss / losses.numel()
    loss.backward()
    return loss.detach()


def test_against_torch() -> None:
    model, ours = start()
    theirs = Transformer(SMALL)
    initialise(theirs, 0)
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    torch_adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for step in range(8):
        took = ours.step(HYPER.lr_at(step), backward(model, step))
        backward(theirs, step)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in torch_adamw.param_groups:
            group["lr"] = HYPER.lr_at(step)
        torch_adamw.step()
        torch_adamw.zero_grad()
        assert took.norm.item() == pytest.approx(norm.item(), rel=1e-4) and took.ok
    for (name, a), b in zip(model.named_parameters(), theirs.parameters(), strict=True):
        assert (a - b).abs().max() < 2e-4, name  # of up to 8 steps of 0.01


def test_the_pass_for_cuda_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, library), (two, own) = start(), start()
    own.on_cpu = False
    for step in range(6):
        for model, optimiser in ((one, library), (two, own)):
            optimiser.step(HYPER.lr_at(step), backward(model, step))
    assert (library.flat.weights - own.flat.weights).abs().max() < 2e-5


def exact(optimiser: FlatAdamW) -> Tensor:
    return torch.cat([optimiser.flat.exact(name).flatten() for name in optimiser.flat.places])


def test_bf16_has_weights_in_fp32() -> None:
    model, optimiser = start(torch.bfloat16)
    assert model.output.weight.dtype == torch.bfloat16 and exact(optimiser).dtype == torch.float32
    for (name, a), b in zip(start()[0].named_parameters(), optimiser.flat.places, strict=True):
        assert torch.equal(a, optimiser.flat.exact(name)), b  # to the last bit
    small = Hyper(lr=1e-7, warmup=1, steps=10_000)
    before = exact(optimiser)
    optimiser.hyper = small
    for step in range(5):
        optimiser.step(small.lr_at(step), backward(model, step))
    moved = (exact(optimiser) != before).float().mean()
    assert moved > 0.99  # a bf16 weight would not have moved by a relative 1e-5
    off = (optimiser.flat.weights.float() - exact(optimiser)).abs() - (exact(optimiser).abs() * 2**-8)
    assert (off <= 0).all()  # the nearest bf16


def test_two_halves_step_like_whole_weights() -> None:
    """What a step does to the halves is, bit for bit, what it does to fp32 weights."""
    random = torch.Generator().manual_seed(0)
    weights, m, v, g = (torch.randn(4096, generator=random) for _ in range(4))
    halves, moments, others = split(weights.clone()), (m.clone(), v.abs()), (m.clone(), v.abs())
    for t in range(1, 6):
        scalars = torch.tensor([1e-2, 0.5, 1 - 0.9**t, 1 - 0.95**t, float(t != 3)])
        adamw_(weights, *moments, g * t, scalars, 0.1, 0.9, 0.95, 1e-8)
        adamw_split_(*halves, *others, g * t, scalars, 0.1, 0.9, 0.95, 1e-8)
        assert torch.equal(join(*halves), weights)
    assert all(torch.equal(a, b) for a, b in zip(moments, others, strict=True))


def test_halves_of_every_kind_of_number() -> None:
    """Against torch's bf16: the nearest one, except that a tie goes away from zero; and every bit comes back."""
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    low = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    edges = (torch.tensor([0, 1, 0x3F80, 0x3F81, 0x7F00, 0x7F7E])[:, None] << 16 | low).flatten()
    x = torch.cat([bits, edges.to(torch.int32), (edges - 2**31).to(torch.int32)]).view(torch.float32)
    x = x[x.abs() < 3.38e38]  # finite as a bf16
    upper, rest = split(x)
    assert torch.equal(join(upper, rest).view(torch.int32), x.view(torch.int32))
    tie = x.view(torch.int32) & 0xFFFF == 0x8000
    assert tie.any() and torch.equal(upper.view(torch.bfloat16)[~tie], x[~tie].bfloat16())
    assert (upper.view(torch.bfloat16)[tie].float().abs() > x[tie].abs()).all()
    assert len(split(torch.zeros(0))[0]) == 0


def test_a_checkpoint_of_bf16_is_exact(tmp_path: Path) -> None:
    model, optimiser = start(torch.bfloat16)
    for step in range(3):
        optimiser.step(1e-2, backward(model, step))
    saver = Saver(tmp_path, World(torch.device("cpu")), "t", 1, None)
    saver.save(3, optimiser.tensors(), {})
    saver.wait()
    _, other = start(torch.bfloat16)
    fill(verified(folder_of(tmp_path, 3)), other.to_fill())
    for (key, a), (_, b) in zip(optimiser.tensors(), other.tensors(), strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b), key
    assert torch.equal(optimiser.flat.weights, other.flat.weights)
    assert any((w - w.bfloat16().float()).any() for k, w in other.tensors() if k.startswith("weights/"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("where", "value"),
    [("loss", math.nan), ("loss", math.inf), ("gradient", math.nan), ("gradient", math.inf), ("gradient", -math.inf)],
)
def test_what_is_not_finite_changes_nothing(where: str, value: float, dtype: torch.dtype) -> None:
    model, optimiser = start(dtype)
    optimiser.step(1e-2, backward(model, 0))
    before = {name: tensor.clone() for name, tensor in optimiser.tensors()}
    loss = backward(model, 1)
    if where == "loss":
        loss = torch.tensor(value)
    else:
        optimiser.flat.gradients[12_345] = value
    took = optimiser.step(1e-2, loss)
    assert not took.ok
    for name, tensor in optimiser.tensors():
        assert torch.equal(tensor, before[name]), name
    assert dtype == torch.bfloat16 or not optimiser.flat.gradients.any()
    assert optimiser.step(1e-2, backward(model, 2)).ok  # and the next one is made
    assert float(optimiser.count) == 2


def test_norms_do_not_decay_and_matrices_do() -> None:
    _, optimiser = start()
    before = optimiser.flat.weights.clone()
    optimiser.step(1e-2, torch.tensor(0.0))  # no gradient: decay alone
    n = optimiser.flat.n_decayed
    assert torch.allclose(optimiser.flat.weights[:n], before[:n] * (1 - 1e-2 * 0.1))
    assert torch.equal(optimiser.flat.weights[n:], before[n:]) and len(before) - n == 5 * 32


def test_schedule() -> None:
    paper = Hyper(lr=3e-4, warmup=2000, steps=238_000)
    assert paper.lr_at(0) == pytest.approx(3e-4 / 2000) and paper.lr_at(1999) == 3e-4 == paper.lr_at(2000)
    assert paper.lr_at(237_999) == pytest.approx(3e-5)
    assert paper.lr_at((2000 + 237_999) // 2) == pytest.approx(1.65e-4, rel=1e-3)
    lrs = [paper.lr_at(s) for s in range(2000, 238_000, 500)]
    assert all(a > b for a, b in itertools.pairwise(lrs))
    assert Hyper(warmup=1, steps=1).lr_at(0) == 3e-4


def test_clipping() -> None:
    model, optimiser = start()
    backward(model, 0)
    optimiser.flat.gradients.mul_(1e4)
    big = optimiser.flat.gradients.clone()
    took = optimiser.step(1e-2, torch.tensor(1.0))
    assert took.norm == pytest.approx(float(big.double().norm()), rel=1e-5)
    assert torch.allclose(optimiser.m, big / big.norm() * 0.1, rtol=1e-3, atol=1e-9)


def test_norm_of_a_long_vector() -> None:
    x = torch.rand(5_000_001)
    assert float(norm_of(x)) == pytest.approx(float(x.double().norm()), rel=1e-6)
    assert float(norm_of(x[:100])) == pytest.approx(float(x[:100].double().norm()), rel=1e-6)


def test_adamw_by_hand() -> None:
    w, m, v = torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor([0.25])
    scalars = torch.tensor([0.1, 0.5, 1 - 0.9**2, 1 - 0.95**2, 1.0])
    adamw_(w, m, v, torch.tensor([4.0]), scalars, 0.1, 0.9, 0.95, 0.0)
    g = 2.0
    new_m, new_v = 0.9 * 0.5 + 0.1 * g, 0.95 * 0.25 + 0.05 * g * g
    change = (new_m / (1 - 0.81)) / math.sqrt(new_v / (1 - 0.9025)) + 0.1 * 2.0
    assert (m.item(), v.item()) == (pytest.approx(new_m), pytest.approx(new_v))
    assert w.item() == pytest.approx(2.0 - 0.1 * change, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_fused_pass_of_inductor(dtype: torch.dtype) -> None:
    """What CUDA runs, here by Inductor's code for the CPU: the same numbers, and nothing where a step is left out."""
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    random = torch.Generator().manual_seed(0)
    weights, m, v, g = (torch.rand(10_000, generator=random) for _ in range(4))
    update = adamw_ if dtype == torch.float32 else adamw_split_
    fused = torch.compile(update, dynamic=False)
    before = [*((weights,) if dtype == torch.float32 else split(weights)), m, v]
    for made in (1.0, 0.0):
        found = []
        for call in (update, fused):
            given = [x.clone() for x in before]
            gradient = (g if made else g * math.nan).to(dtype)
            call(*given, gradient, torch.tensor([1e-2, 0.5, 0.19, 0.0975, made]), 0.1, 0.9, 0.95, 1e-8)
            found.append([join(*given[:2]) if len(given) == 4 else given[0], *given[-2:]])
            assert made or all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)
