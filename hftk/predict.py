"""`hftk predict DIR`: rows of JSON in, the same rows with the task model's predictions out."""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch

from hftk.errors import UsageError
from hftk.finetune import FinetuneRecipe, load_model
from hftk.recipe import load_recipe
from hftk.tasks import n2n
from hftk.tasks.jsonl import Row, parse_rows, read_rows, write_rows

BATCH_SIZE = 32


def predict(directory: str, input: str = "-", output: str = "-") -> None:
    """
    Predicts for every row, in order, as they come.

    Args:
        directory (`str`):
            What `hftk finetune` wrote.
        input (`str`, defaults to `"-"`):
            File of JSON lines with the columns that the model was trained on but for the labels; `-` is standard input.
        output (`str`, defaults to `"-"`):
            File for the rows with their predicted labels, `null` for a word beyond the model's longest input; `-` is
            standard output.

    Raises:
        UsageError: no model there, or a row that lacks its words.
    """
    recipe_file = Path(directory) / "recipe.yaml"
    if not recipe_file.is_file():
        raise UsageError(f"{directory}: no recipe.yaml in it; name a folder that `hftk finetune` wrote")
    recipe = load_recipe(recipe_file, [], FinetuneRecipe)
    rows = parse_rows(sys.stdin, "standard input") if input == "-" else read_rows(input)
    predictions = predict_rows(rows, directory, recipe)
    if output != "-":
        write_rows(predictions, Path(output))
        return
    for row in predictions:
        print(json.dumps(row, ensure_ascii=False), flush=True)


@torch.inference_mode()
def predict_rows(rows: Iterable[tuple[str, Row]], directory: str, recipe: FinetuneRecipe) -> Iterator[Row]:
    """Fills each row's labels with the model's."""
    task = recipe.task
    tokenizer, model = load_model(directory, task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    max_length = min(recipe.data.max_length, tokenizer.model_max_length)

    rows = iter(rows)
    while places := list(islice(rows, BATCH_SIZE)):
        for where, row in places:
            n2n.check_words(row, task, where)
        batch = [row for _, row in places]
        encoded = [n2n.encode(row, task, tokenizer, max_length) for row in batch]
        inputs = tokenizer.pad({"input_ids": [words.input_ids for words in encoded]}, return_tensors="pt").to(device)
        label_ids = model(**inputs).logits.argmax(dim=-1).cpu().numpy()  # [rows, tokens]
        for row, labels in zip(batch, n2n.readable(label_ids, encoded, names), strict=True):
            yield {**row, task.labels_column: labels}
