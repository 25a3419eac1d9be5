"""What must not ruin a training: a step that is no number or far off, and a machine that lacks what it needs."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from safetensors import SafetensorError
from torch import nn
from torch.distributed import DistError
from transformers import TrainingArguments

from hftk.errors import UsageError

REMEMBERED = 100  # losses of steps before
FEWEST = 20  # of them, before a loss can be far off
DISK_FULL = ("No space left on device", "file write failed", "unexpected pos")  # what safetensors and torch say of it
OUT_OF_REACH = ("gloo/transport", "caused pair closure", "closed by peer", "reset by peer")  # what gloo says of others
WORKER_ENDS = 2.0  # seconds, and is cut short by what torch raises
WORKER_DIED = "training.dataloader_num_workers: a worker died, often for lack of memory; give fewer, and add --resume"


@dataclass
class GuardArguments:
    """
    Which steps change nothing: those whose loss or gradient is not finite, and those far off. `log.jsonl` tells each,
    with its rows.

    Args:
        spike (`float`, *optional*):
            A loss of more than so many times the median of the hundred before it is far off. By default none is: of
            few labelled rows a hard batch may well be.
        patience (`int`, defaults to 10):
            The training ends when so many steps one after another had to be left out.
    """

    spike: float | None = None
    patience: int = 10

    def __post_init__(self) -> None:
        if self.spike is not None and self.spike <= 1:
            raise UsageError(f"guard.spike: {self.spike} would leave out ordinary steps; give more than 1, as 3")
        if self.patience < 1:
            raise UsageError(f"guard.patience: {self.patience} ends before the first step; give 1 or more")


@dataclass
class PretrainingGuardArguments(GuardArguments):
    """
    [`GuardArguments`] for batches that are large and alike.

    Args:
        spike (`float`, *optional*, defaults to 3.0):
            A loss of more than so many times the median of the hundred before it is far off.
        patience (`int`, defaults to 10):
            The training ends when so many steps one after another had to be left out.
    """

    spike: float | None = 3.0


class Guard:
    """
    Tells which steps to leave out. All processes must ask it with the same numbers.

    Args:
        arguments ([`GuardArguments`])
    """

    def __init__(self, arguments: GuardArguments):
        self.arguments = arguments
        self.losses: deque[float] = deque(maxlen=REMEMBERED)
        self.in_a_row = 0

    def fault(self, loss: float, grad_norm: float) -> str | None:
        """Why the step with this loss and this gradient norm is to be left out; None if it is not."""
        found = None
        if not math.isfinite(loss):
            found = f"the loss is {loss}"
        elif not math.isfinite(grad_norm):
            found = f"the gradient norm is {grad_norm}"
        elif self.arguments.spike and len(self.losses) >= FEWEST and loss > self.arguments.spike * median(self.losses):
            found = f"the loss is {loss:.4g}, and was {median(self.losses):.4g}"
        if found is None:
            self.losses.append(loss)
        self.in_a_row = 0 if found is None else self.in_a_row + 1
        return found

    def check_patience(self, step: int, fault: str) -> None:
        """Raises `UsageError` after too many faults one after another."""
        if self.in_a_row >= self.arguments.patience:
            raise UsageError(
                f"training: {fault} at step {step}, and {self.in_a_row} steps one after another had to be left out "
                "(guard.patience); lower training.learning_rate, or see in log.jsonl which rows they read"
            )


def forget_gradients(model: nn.Module) -> None:
    """An optimizer passes over parameters that have no gradient."""
    for parameter in model.parameters():
        parameter.grad = None


@contextmanager
def in_one_line(training: TrainingArguments) -> Iterator[None]:
    """
    Within, memory and disk that are full, data loader workers and other processes that died, and numbers that an
    optimizer cannot use are told in one line.

    Args:
        training ([`TrainingArguments`]): for a batch and an accumulation of half the memory.

    Raises:
        UsageError: instead of what torch and safetensors raise.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError) as error:
            if not training.dataloader_num_workers:
                raise
            time.sleep(WORKER_ENDS)  # a killed process closes its files first: torch raises its end a little later
            raise UsageError(WORKER_DIED) from error
    except ValueError as error:
        if not str(error).startswith("Invalid "):  # how all of torch's optimizers begin
            raise
        raise UsageError(f"training: {error}; correct what the recipe gives") from error
    except (RuntimeError, MemoryError, SafetensorError) as error:
        said = str(error)
        if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
            raise UsageError(out_of_memory(training)) from error
        if any(words in said for words in DISK_FULL):
            raise UsageError(
                f"training.output_dir: the disk of {training.output_dir} is full; make room, or keep fewer checkpoints "
                "(training.save_total_limit), and add --resume"
            ) from error
        if "DataLoader worker" in said:
            raise UsageError(WORKER_DIED) from error
        if isinstance(error, DistError) or any(words in said for words in OUT_OF_REACH):
            raise UsageError(
                "training.ddp_timeout: another process has died, or was out of reach for "
                f"{training.ddp_timeout} seconds; see what it printed, and launch all of them again with --resume"
            ) from error
        raise


def out_of_memory(training: TrainingArguments) -> str:
    """What fits and learns the same."""
    batch, accumulated = training.per_device_train_batch_size, training.gradient_accumulation_steps
    if batch == 1:
        return (
            "training.per_device_train_batch_size: not even one row fits into memory; shorten the rows, or give "
            "--training.gradient_checkpointing true"
        )
    parts = next(number for number in range(2, batch + 1) if batch % number == 0)
    return (
        f"training.per_device_train_batch_size: {batch} rows do not fit into memory; the same steps in parts: "
        f"--training.per_device_train_batch_size {batch // parts} "
        f"--training.gradient_accumulation_steps {accumulated * parts}"
    )
