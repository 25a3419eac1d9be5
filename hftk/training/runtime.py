"""How to run on this machine: what is fastest is measured once, on the run's own batches, and kept in its recipe."""

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from transformers import PreTrainedModel


@dataclass
class RuntimeArguments:
    """
    What a run chooses at its first start, by measuring; a resume or a rerun takes it from `recipe.yaml`.

    Args:
        dtype (`"bfloat16"` or `"float32"`, *optional*): of matrix products (autocast); the weights stay float32.
        attn_implementation (`"sdpa"` or `"eager"`, *optional*): the attention kernel.
        seconds_per_step (`float`, *optional*): of one forward, backward and update of one batch on one process.
    """

    dtype: Literal["bfloat16", "float32"] | None = None
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] | None = None
    seconds_per_step: float | None = None


def choose_runtime(
    model: PreTrainedModel, batches: list[dict[str, torch.Tensor]], given: RuntimeArguments, device: torch.device
) -> RuntimeArguments:
    """
    Time training steps on a copy of the model, for every choice that the recipe leaves open, and take the fastest.

    Args:
        model ([`PreTrainedModel`]): is left as it is, and so are torch's random numbers.
        batches (`list[dict[str, torch.Tensor]]`): the run's own first batches.
        given ([`RuntimeArguments`]): what is not None is kept.
        device (`torch.device`): where the run trains.

    Returns:
        [`RuntimeArguments`] without a None.
    """
    dtypes = [given.dtype] if given.dtype else ["bfloat16", "float32"]
    kernels = [given.attn_implementation] if given.attn_implementation else ["sdpa", "eager"]
    random_state = torch.get_rng_state()
    fastest = RuntimeArguments(seconds_per_step=float("inf"))
    for dtype, kernel in product(dtypes, kernels):
        probe = copy.deepcopy(model).to(device).train()
        probe.set_attn_implementation(kernel)
        seconds = seconds_per_step(probe, batches, getattr(torch, dtype), device)
        if seconds < fastest.seconds_per_step:
            fastest = RuntimeArguments(dtype, kernel, seconds)
    torch.set_rng_state(random_state)
    return fastest


def seconds_per_step(
    model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]], dtype: torch.dtype, device: torch.device
) -> float:
    """
    Mean seconds of forward, backward and AdamW's update over `batches`, the first of which also serves to warm up.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step(batch: dict[str, torch.Tensor]) -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    batches = list(batches)
    step(batches[0])
    start = _now(device)
    for batch in batches:
        step(batch)
    return (_now(device) - start) / len(batches)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
