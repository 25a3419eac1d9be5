"""One loop predicts, for the scores of a training and for `hftk predict`."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hftk.tasks.task import Example, Task

AT_ONCE = 2  # batches on a CPU


def predict_examples(
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: list[int],
    example_of: Callable[[int], Example],
    names: list[str],
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> tuple[list[Any], float]:
    """
    Predicts for every row, in batches of like lengths.

    Args:
        task ([`Task`]), model ([`PreTrainedModel`]), tokenizer, names (`list[str]`): as fine-tuning left them.
        lengths (`list[int]`): of the rows, in whatever unit: they are sorted by it.
        example_of (`Callable`): the place of a row → the row, encoded; asked beside the arithmetic of other batches.
        batch_size (`int`): rows a batch, and windows that the model reads at once.
        process_index (`int`, defaults to 0), num_processes (`int`, defaults to 1):
            each process takes every n-th batch, and all get all predictions.

    Returns:
        A prediction for each row, in order, and the mean loss of what the model read at once, weighed by its windows;
        nan without labels.
    """
    model.eval()
    one_encodes = Lock()  # a tokenizer's backend has the length to cut at for its state

    def predict(places: list[int]) -> tuple[list[Any], list[tuple[float, int]]]:
        with one_encodes:
            examples = [example_of(place) for place in places]
        windows = [features for example in examples for features in example.features]
        raw: list[Any] = []
        losses: list[tuple[float, int]] = []
        for first in range(0, len(windows), batch_size):
            read = windows[first : first + batch_size]
            batch = {name: tensor.to(model.device) for name, tensor in task.collate(read, tokenizer, model).items()}
            loss, outputs = task.forward(model, batch)
            raw += task.predict(model, batch, outputs, tokenizer)
            losses.append((float("nan") if loss is None else loss.item(), len(read)))
        left = iter(raw)
        joined = [task.join(example, list(islice(left, len(example.features))), names) for example in examples]
        return joined, losses

    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    firsts = range(batch_size * process_index, len(order), batch_size * num_processes)
    batches = [order[first : first + batch_size] for first in firsts]
    predictions: dict[int, Any] = {}
    losses: list[tuple[float, int]] = []
    with threads_that_predict(min(AT_ONCE, len(batches)), model.device) as map_batches:
        for places, (of_batch, losses_of_batch) in zip(batches, map_batches(predict, batches), strict=True):
            predictions |= zip(places, of_batch, strict=True)
            losses += losses_of_batch
    if num_processes > 1:
        predictions, losses = dict(gather_object(list(predictions.items()))), gather_object(losses)
    mean = sum(loss * count for loss, count in losses) / max(1, sum(count for _, count in losses))
    return [predictions[place] for place in range(len(lengths))], mean


@contextmanager
def threads_that_predict(workers: int, device: torch.device) -> Iterator[Callable[..., Iterator[Any]]]:
    """
    Gives a `map` without gradients. On a CPU several threads take part in it and share torch's threads among them: what
    is done in Python for one batch stands beside the arithmetic of another, and a thread that computes alone waits for
    none. They have the autocast of the thread that asks.
    """
    threads, autocast = torch.get_num_threads(), torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type)

    def begin() -> None:
        torch.set_num_threads(threads // workers)
        torch.set_grad_enabled(False)
        torch.set_autocast_enabled(device.type, autocast)
        torch.set_autocast_dtype(device.type, dtype)

    if device.type != "cpu" or min(workers, threads) < 2:
        with torch.no_grad():
            yield map
        return
    try:
        with ThreadPoolExecutor(workers, initializer=begin) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)  # that of threads which begin later, too
