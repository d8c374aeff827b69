"""What a layer keeps for its backward pass, and what it computes again (arXiv 2302.13971 section 2.4).

    none     everything that autograd keeps
    paper    the outputs of linear layers and of attention; norms, rotary embeddings, SiLU and products again
    full     the input alone; the whole layer again

The paper saves "the activations that are expensive to compute, such as the outputs of linear layers" by a hand-written
backward. Here torch's selective checkpointing does it: a policy that says, for each operator, keep or compute again.
Results of collectives are kept, too, so that nothing is sent twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_KEPT = (
    *("aten::mm", "aten::addmm", "aten::bmm", "aten::linear"),
    *("aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_flash_attention_for_cpu"),
    *("aten::_scaled_dot_product_efficient_attention", "aten::_scaled_dot_product_cudnn_attention"),
    *("aten::_scaled_dot_product_attention_math", "aten::_scaled_dot_product_fused_attention_overrideable"),
    *("_c10d_functional::reduce_scatter_tensor", "_c10d_functional::all_gather_into_tensor"),
    *("_c10d_functional::all_reduce", "_c10d_functional::wait_tensor"),
)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = operator.name().partition(".")[0]  # without the overload
    return CheckpointPolicy.MUST_SAVE if name in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


_contexts = functools.partial(create_selective_checkpoint_contexts, _policy)


def recomputed(policy: str, layer: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """Call a layer under a policy other than "none". Nothing in it is random, so no state of generators is kept."""
    if policy == "full":
        made: torch.Tensor = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
        return made
    made = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=_contexts)
    return made
