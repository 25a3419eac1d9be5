"""How to run on this machine: what is fastest is measured once, on the run's own batches, and kept in its recipe."""

import ctypes
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from transformers import PreTrainedModel

from hftk.training.optimizer import HftkOptimizer, PlainGradients

Dtype = Literal["float32", "bfloat16"]
Kernel = Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]
KERNELS: tuple[Kernel, ...] = ("sdpa", "eager")  # that every machine has and that can do all a recipe may ask for
PROBED_BATCHES = 3  # enough to tell kernels apart, and for the speed of rows that are all alike
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


@dataclass
class RuntimeArguments:
    """
    What a run chooses at its first start, by measuring; a resume or a rerun takes it from `recipe.yaml`.

    Args:
        dtype (`"bfloat16"` or `"float32"`, *optional*): of matrix products (autocast); the weights stay float32.
        attn_implementation (`str`, *optional*): `"sdpa"` or `"eager"`, unless the recipe names another one.
        seconds_per_step (`float`, *optional*): of one forward, backward and update of one batch on one process.
    """

    dtype: Dtype | None = None
    attn_implementation: Kernel | None = None
    seconds_per_step: float | None = None


def keep_pages() -> None:
    """
    Tells glibc to keep the memory that is freed. By default it gives large tensors back to the kernel as soon as they
    are freed, and a training step on a CPU spends a quarter of its time on faulting the same pages in again.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_pages() -> None:
    """Gives the kernel all memory that is free; after [`keep_pages`] glibc gives back none by itself."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def choose_runtime(
    model: PreTrainedModel,
    batches: list[dict[str, torch.Tensor]],
    given: RuntimeArguments,
    device: torch.device,
    muon: bool = False,
    weights: Sequence[float] | None = None,
) -> RuntimeArguments:
    """
    Measure what the recipe leaves open: the dtype by a matrix product, then the attention kernel by training steps of
    some of the rows, then a step.

    Args:
        model ([`PreTrainedModel`]): moves to `device`; else it is left as it is, and so are torch's random numbers.
        batches (`list[dict[str, torch.Tensor]]`): of the run's own.
        given ([`RuntimeArguments`]): what is not None is kept.
        device (`torch.device`): where the run trains.
        muon (`bool`, defaults to `False`): whether matrices learn by Muon.
        weights (`Sequence[float]`, *optional*): how often the run sees the like of each batch; all alike by default.

    Returns:
        [`RuntimeArguments`] without a None.
    """
    dtype = given.dtype or faster_dtype(device)
    model.to(device)
    measure = partial(seconds_per_step, model, dtype=getattr(torch, dtype), device=device, muon=muon, weights=weights)
    kernel = given.attn_implementation or fastest_kernel(model, batches, measure)
    with left_as_it_is(model):
        model.train().set_attn_implementation(kernel)
        return RuntimeArguments(dtype, kernel, measure(batches))


def fastest_kernel(
    model: PreTrainedModel, batches: list[dict[str, torch.Tensor]], measure: Callable[..., float]
) -> Kernel:
    """
    By a quarter of the rows, since one kernel needs more memory than another, and the run only what it chooses.

    Args:
        model ([`PreTrainedModel`]): is left as it is, and so are torch's random numbers.
        batches (`list[dict[str, torch.Tensor]]`): the run's own.
        measure (`Callable`): batches → the seconds of a step, as [`seconds_per_step`] tells them.
    """
    some_rows = [{name: tensor[: math.ceil(len(tensor) / 4)] for name, tensor in batch.items()} for batch in batches]
    seconds: dict[Kernel, float] = {}
    with left_as_it_is(model):
        model.train()
        for kernel in KERNELS * 2:  # in turns, since the machine may do something else during one of them
            model.set_attn_implementation(kernel)
            seconds[kernel] = min(measure(some_rows), seconds.get(kernel, math.inf))
    return min(seconds, key=lambda kernel: seconds[kernel])


@contextmanager
def left_as_it_is(model: PreTrainedModel) -> Iterator[None]:
    """Whatever is measured within, the model's buffers, mode and kernel and torch's random numbers are as before."""
    random_state = torch.get_rng_state()
    training, kernel = model.training, model.config._attn_implementation
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        model.train(training).set_attn_implementation(kernel)
        torch.set_rng_state(random_state)


@torch.enable_grad()
def faster_dtype(device: torch.device) -> Dtype:
    """
    The faster one for a matrix product, forward and backward. A processor without bfloat16 units can be 40 times slower
    with it, so that no whole step is spent on finding out.
    """
    size = 256 if device.type == "cpu" else 4096  # a small one on a GPU is over before the next is launched
    left, right = (torch.ones(size, size, device=device, requires_grad=True) for _ in range(2))
    seconds: dict[Dtype, float] = dict.fromkeys(get_args(Dtype), math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside other work several wait for each other longer than they compute
    for dtype in get_args(Dtype) * 5:
        start = _now(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            (left @ right).sum().backward()
        seconds[dtype] = min(_now(device) - start, seconds[dtype])  # the others waited for what else the machine does
    torch.set_num_threads(threads)
    return min(seconds, key=lambda dtype: seconds[dtype])


def seconds_per_step(
    model: PreTrainedModel,
    batches: Iterable[dict[str, torch.Tensor]],
    dtype: torch.dtype,
    device: torch.device,
    loss_of: Callable[[PreTrainedModel, dict[str, torch.Tensor]], torch.Tensor] = lambda model, batch: (
        model(**batch).loss
    ),
    muon: bool = False,
    weights: Sequence[float] | None = None,
) -> float:
    """
    Mean seconds of forward, backward and the update (by [`HftkOptimizer`]) over `batches`, by their `weights` if there
    are any. The first also serves to warm up. The learning rate is 0: the parameters stay what they are.
    """
    optimizer = HftkOptimizer(model, lr=0.0, muon=muon)

    def step(batch: dict[str, torch.Tensor]) -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = loss_of(model, {name: tensor.to(device) for name, tensor in batch.items()})
        loss.backward()
        for parameter in PlainGradients(model).parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_()  # even 0 times what is no number would change the parameters
        optimizer.step()
        optimizer.zero_grad()

    batches = list(batches)
    step(batches[0])
    times = [_now(device)]
    for batch in batches:
        step(batch)
        times.append(_now(device))
    return float(np.average(np.diff(times), weights=weights))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
