"""The model: against transformers, against the definition of its parts, against its own other ways to compute."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from curate.errors import RecipeError
from model.export_hf import config, hf_weights
from model.flat import Flat
from model.head_loss import _fused_parts, _parts, head_loss
from model.llama import Transformer, initial, initialise, rope_tables, rotate
from model.recompute import recomputed
from model.run_folder import POLICIES
from model.shapes import SHAPES, Shape, find_shape, shape_of

SMALL = Shape("small", 64, 3, 4, vocabulary=211, length=48)
GROUPED = Shape("grouped", 64, 2, 8, 2, 1.3, 64, vocabulary=211, length=48, norm_eps=1e-5, rope_theta=5e5)


def made(shape: Shape, seed: int = 0) -> Transformer:
    model = Transformer(shape)
    initialise(model, seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:  # ones would hide a norm without weight
                p.copy_(torch.rand(p.shape, generator=torch.Generator().manual_seed(len(name))) + 0.5)
    return model


def ids(shape: Shape, rows: int = 2, length: int = 48, seed: int = 1) -> Tensor:
    return torch.randint(0, shape.vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "count", "ffn"),
    [
        ("7b", 6_738_415_616, 11_008),
        ("13b", 13_015_864_320, 13_824),
        ("33b", 32_528_943_616, 17_920),
        ("65b", 65_285_660_672, 22_016),
        ("llama2-7b", 6_738_415_616, 11_008),
        ("llama2-70b", 68_976_648_192, 28_672),
    ],
)
def test_published_counts(name: str, count: int, ffn: int) -> None:
    shape = SHAPES[name]
    assert (shape.parameters, shape.ffn_dim) == (count, ffn)
    with torch.device("meta"):
        model = Transformer(shape)
    assert sum(p.numel() for p in model.parameters()) == count


def test_names_and_layout_are_metas() -> None:
    names = {n: tuple(p.shape) for n, p in Transformer(replace(GROUPED, n_layers=1)).state_dict().items()}
    assert names == {
        "tok_embeddings.weight": (211, 64),
        "layers.0.attention.wq.weight": (64, 64),
        "layers.0.attention.wk.weight": (16, 64),
        "layers.0.attention.wv.weight": (16, 64),
        "layers.0.attention.wo.weight": (64, 64),
        "layers.0.feed_forward.w1.weight": (256, 64),
        "layers.0.feed_forward.w2.weight": (64, 256),
        "layers.0.feed_forward.w3.weight": (256, 64),
        "layers.0.attention_norm.weight": (64,),
        "layers.0.ffn_norm.weight": (64,),
        "norm.weight": (64,),
        "output.weight": (211, 64),
    }


@pytest.mark.parametrize("shape", [SMALL, GROUPED, find_shape("debug", 211, 48)], ids=lambda s: s.name)
def test_logits_and_gradients_are_transformers(shape: Shape) -> None:
    transformers = pytest.importorskip("transformers")
    model = made(shape)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config(shape, 1, 2, torch.float32)))
    missing = theirs.load_state_dict(dict(hf_weights(shape, model.state_dict(), torch.float32)))
    assert not missing.missing_keys and not missing.unexpected_keys
    rows = ids(shape)
    logits = model(rows)
    assert (logits - theirs(rows).logits).abs().max() < 1e-5
    loss, losses = model(rows[:, :-1], rows[:, 1:])
    (loss / losses.numel()).backward()
    their_logits = theirs(rows[:, :-1]).logits
    F.cross_entropy(their_logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
    grads = dict(hf_weights(shape, {n: p.grad for n, p in model.named_parameters()}, torch.float32))
    for name, parameter in theirs.named_parameters():
        assert torch.allclose(grads[name], parameter.grad, rtol=1e-3, atol=1e-7), name


def test_rotation_is_the_complex_product() -> None:
    cos, sin = rope_tables(16, 40, 10_000.0)
    x = torch.randn(2, 40, 3, 16)
    angle = torch.outer(torch.arange(40.0), 10_000.0 ** -(torch.arange(0, 16, 2) / 16))
    turned = torch.view_as_complex(x.view(2, 40, 3, 8, 2)) * torch.polar(torch.ones_like(angle), angle)[:, None]
    assert torch.allclose(rotate(x, cos, sin), torch.view_as_real(turned).flatten(-2), atol=1e-5)


def test_what_comes_later_changes_nothing_before() -> None:
    model, rows = made(SMALL), ids(SMALL)
    changed = rows.clone()
    changed[:, 30:] = 5
    assert torch.equal(model(rows)[:, :30], model(changed)[:, :30])
    assert not torch.allclose(model(rows)[:, 30:], model(changed)[:, 30:])


def test_cache_gives_the_same_logits() -> None:
    for shape in (SMALL, GROUPED):
        model, rows = made(shape), ids(shape)
        with torch.no_grad():
            whole, cache = model(rows), model.new_cache(2, 48)
            parts = [model(rows[:, a:b], cache=cache) for a, b in ((0, 7), (7, 8), (8, 20), (20, 48))]
        assert (torch.cat(parts, 1) - whole).abs().max() < 1e-5


def test_first_values_depend_on_name_and_seed_alone() -> None:
    a, b, c = made(SMALL), made(replace(SMALL, n_layers=1)), made(SMALL, seed=1)
    assert torch.equal(a.layers[0].attention.wq.weight, b.layers[0].attention.wq.weight)
    assert not torch.equal(a.layers[0].attention.wq.weight, c.layers[0].attention.wq.weight)
    assert not torch.equal(a.layers[0].attention.wq.weight, a.layers[1].attention.wq.weight)
    wide = torch.empty(400, 500)
    assert abs(initial(SMALL, "layers.0.attention.wq.weight", wide, 0).std() - 0.02) < 1e-3
    assert abs(initial(SMALL, "layers.0.attention.wo.weight", wide, 0).std() - 0.02 / math.sqrt(6)) < 1e-3


# ---- the last layer and its loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [_parts, _fused_parts])
def test_head_loss_against_float64(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.head_loss._chosen", form)
    monkeypatch.setattr("model.head_loss.CHUNK_BYTES", {"cpu": 4 * 211 * 20})  # chunks of 20 tokens, the last of 3
    h, w = torch.randn(7, 9, 64), torch.randn(211, 64)
    targets = torch.randint(0, 211, (7, 9))
    targets[2, 3:6] = -1
    given = [x.clone().requires_grad_() for x in (h, w)]
    loss, losses = head_loss(*given, targets)
    (loss * 0.37).backward()
    exact = [x.double().requires_grad_() for x in (h, w)]
    each = F.cross_entropy(
        (exact[0] @ exact[1].t()).flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none"
    )
    (each.sum() * 0.37).backward()
    assert torch.allclose(losses.double(), each.view(7, 9), atol=1e-5) and losses[2, 3] == 0
    for ours, reference in zip(given, exact, strict=True):
        assert (ours.grad - reference.grad).abs().max() < 2e-5


@pytest.mark.parametrize("size", [1.0, 60.0])
def test_both_forms_of_the_loss_in_bf16(size: float) -> None:
    """Against fp64 on the same logits; far ones must not overflow."""
    logits = (size * torch.randn(50, 333)).bfloat16()
    targets, wanted = torch.randint(0, 333, (50,)), (torch.rand(50) > 0.2).float()
    exact = logits.double().requires_grad_()
    each = F.cross_entropy(exact, targets, reduction="none") * wanted
    each.sum().backward()
    for form in (_parts, _fused_parts):
        losses, gradient = form(logits.clone(), targets, wanted, None, 0)
        assert losses.dtype == torch.float32 and torch.allclose(losses.double(), each, rtol=1e-6, atol=1e-5)
        assert gradient.dtype == torch.bfloat16 and exact.grad is not None
        assert (gradient.double() - exact.grad).abs().max() < 2**-8


def test_the_scale_of_the_loss_is_not_rounded_to_bf16() -> None:
    """1 / 3 has no bf16: it would be off by 0.1 % for all layers below."""
    h, w, targets = torch.randn(1, 9, 64).bfloat16(), torch.randn(211, 64).bfloat16(), torch.randint(0, 211, (1, 9))
    found = {}
    for scale in (1.0, 1 / 3):
        x = h.clone().requires_grad_()
        (head_loss(x, w, targets)[0] * scale).backward()
        assert x.grad is not None
        found[scale] = x.grad.float()
    assert torch.equal(found[1 / 3], (found[1.0] * torch.tensor(1 / 3)).bfloat16().float())


def test_evaluation_makes_no_gradient_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr("model.head_loss._add_product", lambda *given: made.append(1))
    h, w = torch.randn(1, 9, 64), torch.randn(211, 64, requires_grad=True)
    with torch.no_grad():
        head_loss(h, w, torch.randint(0, 211, (1, 9)))
    assert not made
    head_loss(h, w, torch.randint(0, 211, (1, 9)))
    assert made


def test_head_loss_holds_no_logits_of_all() -> None:
    n, v = 4096, 2000
    h, w = torch.randn(1, n, 16, requires_grad=True), torch.randn(v, 16, requires_grad=True)
    kept = saved_bytes(lambda: head_loss(h, w, torch.zeros(1, n, dtype=torch.long))[0])
    assert kept < n * v * 4 / 10


def saved_bytes(forward: object) -> int:
    """Bytes of the tensors that a forward pass leaves for the backward pass, each storage once."""
    seen: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        made = forward()  # type: ignore[operator]
    assert made is not None
    return sum(seen.values())


# ---- memory for time -------------------------------------------------------------------------------------------------


def test_policies_give_the_same_gradients() -> None:
    grads = {}
    for policy in POLICIES:
        model, rows = made(GROUPED), ids(GROUPED)
        for layer in model.layers:
            layer.recompute = policy
        model(rows[:, :-1], rows[:, 1:])[0].backward()
        grads[policy] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.equal(grads["none"], grads["paper"]) and torch.equal(grads["none"], grads["full"])


def test_policies_recompute_what_they_say() -> None:
    """Products and attention once under "paper", again under "full"; cheap operators twice under both."""
    layer = 7 + 1  # products of a layer, and its attention
    assert calls("none") == (layer, 1)
    assert calls("paper") == (layer, 2)
    assert calls("full") == (2 * layer - 1, 2)  # the last product is of no use to the backward pass


def calls(policy: str) -> tuple[int, int]:
    """(products and attentions, SiLUs) of a layer's forward and backward pass, products of gradients left out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names: list[str] = []

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(f.name())
            return f(*args, **(kwargs or {}))

    block = made(SMALL).layers[0]
    x, (cos, sin) = torch.randn(2, 16, 64, requires_grad=True), rope_tables(16, 16, 1e4)
    with Note():
        out = block(x, cos, sin) if policy == "none" else recomputed(policy, block._forward, x, cos, sin)
        out.sum().backward()
    forward = [n for n in names if "backward" not in n]
    products = sum(n.startswith("aten::mm") for n in forward) - 2 * 7  # each has two of gradients
    attentions = sum(n.startswith("aten::_scaled_dot_product") for n in forward)
    return products + attentions, sum(n.startswith("aten::silu") for n in forward)


def test_attention_keeps_no_weights() -> None:
    """What autograd keeps of attention grows with T, not with its square."""
    shape = Shape("attention", 64, 1, 2, vocabulary=16, length=1024)
    block = Transformer(shape).layers[0]
    kept = {}
    for t in (256, 1024):
        x, (cos, sin) = torch.randn(1, t, 64, requires_grad=True), rope_tables(32, t, 1e4)
        kept[t] = saved_bytes(lambda x=x, cos=cos, sin=sin: block.attention(x, cos, sin))
    assert kept[1024] < 4.5 * kept[256]
    assert kept[1024] < 1024 * 1024 * 2 * 4  # one matrix of weights of both heads


# ---- one buffer ------------------------------------------------------------------------------------------------------


def test_flat_is_the_same_model() -> None:
    model, plain, rows = made(GROUPED), made(GROUPED), ids(GROUPED)
    flat = Flat(model, torch.float32, False)
    assert model.layers[0].attention.wqkv is not None and model.layers[1].feed_forward.w13 is not None
    assert list(model.state_dict()) == list(plain.state_dict())
    for (_, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    for m in (model, plain):
        m(rows[:, :-1], rows[:, 1:])[0].backward()
    for name, parameter in plain.named_parameters():
        assert torch.allclose(flat.part(flat.gradients, name), parameter.grad, rtol=1e-4, atol=1e-5), name
        assert model.get_parameter(name).grad.data_ptr() == flat.part(flat.gradients, name).data_ptr()
    assert sum(leaf.numel() for leaf, _ in flat.leaves()) == len(flat.weights)


def test_flat_bf16_sums_in_fp32() -> None:
    """Many micro-batches of small gradients: a sum in bf16 would lose them."""
    found = {}
    for several in (True, False):
        model, rows = made(SMALL), ids(SMALL)
        flat = Flat(model, torch.bfloat16, several)
        for _ in range(64 if several else 1):
            (model(rows[:, :-1], rows[:, 1:])[0] / 64).backward()
        found[several] = flat.gradients
        assert all(p.grad is None for p in model.parameters())  # the buffer is the only place
    assert found[True].dtype == torch.float32 and found[False].dtype == torch.bfloat16
    lossy = torch.zeros_like(found[False])
    for _ in range(64):
        lossy += found[False]
    reference = Flat(made(SMALL), torch.float32, False)
    reference.model(rows[:, :-1], rows[:, 1:])[0].backward()
    error = [float((x.float() - reference.gradients).norm() / reference.gradients.norm()) for x in (found[True], lossy)]
    assert error[0] < 0.02 < error[1]


def test_flat_bf16_has_the_last_micro_batch_alone() -> None:
    """One micro-batch a step: what is there is overwritten, not added to, so it need not be cleared."""
    model, rows = made(SMALL), ids(SMALL)
    flat = Flat(model, torch.bfloat16, False)
    model(rows[:, :-1], rows[:, 1:])[0].backward()
    once = flat.gradients.clone()
    flat.clear()
    model(rows[:, :-1], rows[:, 1:])[0].backward()
    assert torch.equal(flat.gradients, once) and once.any()


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"dim": 60, "n_heads": 8}, {"n_kv_heads": 3}, {"vocabulary": 0}, {"dim": 12, "n_heads": 4}]
)
def test_impossible_shapes(changes: dict[str, int]) -> None:
    with pytest.raises(RecipeError):
        replace(SMALL, **changes)


def test_shapes_by_name_and_file(tmp_path: object) -> None:
    with pytest.raises(RecipeError, match="did you mean '13b'"):
        find_shape("13bb", 100, 128)
    assert shape_of(GROUPED.record()) == replace(GROUPED, released="")
    with pytest.raises(RecipeError, match="not a model's shape"):
        shape_of({"dim": 4})
