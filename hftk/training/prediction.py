"""One loop predicts, for the scores of a training and for `hftk predict`."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
    examples: Sequence[Example],
    names: list[str],
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> tuple[list[Any], float]:
    """
    Predicts for every row, in batches of like lengths.

    Args:
        task ([`Task`]), model ([`PreTrainedModel`]), tokenizer, names (`list[str]`): as fine-tuning left them.
        examples (`Sequence[Example]`): the rows, encoded.
        batch_size (`int`): windows a batch.
        process_index (`int`, defaults to 0), num_processes (`int`, defaults to 1):
            each process takes every n-th batch, and all get all predictions.

    Returns:
        A prediction for each row, in order, and the mean loss of all batches weighed by their rows, nan without labels.
    """
    model.eval()
    windows = [(row, place) for row, example in enumerate(examples) for place in range(len(example.features))]
    windows.sort(key=lambda window: -len(examples[window[0]].features[window[1]]["input_ids"]))

    def predict(places: list[tuple[int, int]]) -> tuple[list[Any], float]:
        batch = task.collate([examples[row].features[place] for row, place in places], tokenizer, model)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        loss, outputs = task.forward(model, batch)
        return task.predict(model, batch, outputs, tokenizer), float("nan") if loss is None else loss.item()

    firsts = range(batch_size * process_index, len(windows), batch_size * num_processes)
    batches = [windows[first : first + batch_size] for first in firsts]
    found: list[tuple[tuple[int, int], Any]] = []
    losses: list[tuple[float, int]] = []
    with threads_that_predict(min(AT_ONCE, len(batches)), model.device) as map_batches:
        for places, (predictions, loss) in zip(batches, map_batches(predict, batches), strict=True):
            found += zip(places, predictions, strict=True)
            losses.append((loss, len(places)))
    if num_processes > 1:
        found, losses = gather_object(found), gather_object(losses)

    raw = dict(found)
    predictions = [
        task.join(example, [raw[row, place] for place in range(len(example.features))], names)
        for row, example in enumerate(examples)
    ]
    return predictions, sum(loss * rows for loss, rows in losses) / max(1, len(windows))


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
