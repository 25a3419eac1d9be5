"""
`hftk quickstart --output DIR`: the whole story on real text, in minutes on two CPU cores, without a network.

Raw text and an easy task make a pretrained model; a few labelled sentences turn it into a tagger. What would the same
sentences have come to without pretraining?
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from hftk.data.packaged import turkish_web_treebank
from hftk.finetune import write_metrics
from hftk.tasks.n2n import N2N
from hftk.tasks.rows import Row, write_rows

TEST, VALIDATION, LABELLED = 485, 485, 300  # sentences
PRETRAINING_MINUTES = 2.5

RELOAD = """
import sys, hftk
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
print(f"{type(model).__name__} with {model.num_parameters():,} parameters")
"""


def quickstart(output: str) -> dict[str, float]:
    """
    Pretrains on Turkish text, then fine-tunes a tagger of parts of speech on 300 labelled sentences, once from the
    pretrained weights and once from random ones, and prints how often each is right about sentences it never saw.

    Args:
        output (`str`):
            Folder for text, recipes, models and logs.

    Returns:
        `dict[str, float]`: the accuracies, as `metrics.json` in the folder holds them.

    Raises:
        UsageError: the package that brings the text is not installed.
    """
    start = time.perf_counter()
    folder = Path(output)
    labelled, test = write_data(folder / "data")
    write_recipes(folder)
    print(f"Turkish sentences in {folder}/data: raw text, {len(labelled)} with labels, {len(test)} others to test on")

    pretrain, finetune, from_scratch = (
        f"{folder}/recipes/{name}.yaml" for name in ("pretrain", "finetune", "from_scratch")
    )
    print(f"{PRETRAINING_MINUTES} minutes of filling gaps in the raw text: hftk pretrain {pretrain}")
    run(folder, "pretrain", "-m", "hftk", "pretrain", pretrain)

    print(f"A fresh process loads it: AutoModel.from_pretrained('{folder}/pretrained')")
    print("  " + run(folder, "reload", "-c", RELOAD, f"{folder}/pretrained"))

    print(f"It learns parts of speech from the labels: hftk finetune {finetune}")
    run(folder, "finetune", "-m", "hftk", "finetune", finetune)

    print(f"So does the same model with random weights: hftk finetune {from_scratch}")
    run(folder, "from_scratch", "-m", "hftk", "finetune", from_scratch)

    files = ["--input", f"{folder}/data/test.jsonl", "--output", f"{folder}/predicted.jsonl"]
    print(f"The first tags the unseen sentences: hftk predict {folder}/finetuned {' '.join(files)}")
    run(folder, "predict", "-m", "hftk", "predict", f"{folder}/finetuned", *files)

    metrics = {
        "with_pretraining": accuracy(folder / "finetuned"),
        "without_pretraining": accuracy(folder / "from_scratch"),
        **guessing_accuracy(labelled, test),
        "minutes": (time.perf_counter() - start) / 60,
    }
    write_metrics(metrics, folder / "metrics.json")
    print(
        f"""
Words of {len(test)} unseen sentences that get the right part of speech:
  {metrics["with_pretraining"]:6.1%}  with pretraining
  {metrics["without_pretraining"]:6.1%}  without pretraining
  {metrics["guess_by_word"]:6.1%}  by guessing each word's most frequent tag, unknown words by the most frequent of all
  {metrics["guess_most_frequent"]:6.1%}  by guessing the most frequent tag of all

{metrics["minutes"]:.1f} minutes. Change a recipe in {folder}/recipes and run its command again."""
    )
    return metrics


def write_data(folder: Path) -> tuple[list[Row], list[Row]]:
    """Writes raw text and labelled sentences; returns the sentences to learn tags from and those to test on."""
    # Texts that differ in spaces, signs and capitals alone would let what is tested into what is learned from.
    by_letters = {"".join(filter(str.isalnum, sentence.text.lower())): sentence for sentence in turkish_web_treebank()}
    # Hashes mix the sentences, in the same way every time.
    sentences = [by_letters[key] for key in sorted(by_letters, key=lambda letters: sha256(letters.encode()).digest())]
    test, validation, train = sentences[:TEST], sentences[TEST : TEST + VALIDATION], sentences[TEST + VALIDATION :]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("raw", train), ("raw_validation", validation)):
        (folder / f"{name}.txt").write_text("".join(f"{sentence.text}\n" for sentence in part), encoding="utf-8")
    rows = {
        name: [{"tokens": sentence.words, "labels": sentence.tags} for sentence in part]
        for name, part in (("labelled", train[:LABELLED]), ("validation", validation), ("test", test))
    }
    for name in rows:
        write_rows(rows[name], folder / f"{name}.jsonl")
    return rows["labelled"], rows["test"]


def write_recipes(folder: Path) -> None:
    """Writes the recipes of the three runs. Their settings were chosen on the validation sentences."""
    folder = folder.resolve()  # so that they run from anywhere
    quiet = {"report_to": "none", "disable_tqdm": True}
    pretrain = {
        "output": f"{folder}/pretrained",
        "model": {
            "d_model": 128,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 384,
            "decoder_ffn_dim": 384,
        },
        "tokenizer": {"vocab_size": 1024},
        "data": {
            "train_files": [f"{folder}/data/raw.txt"],
            "validation_files": [f"{folder}/data/raw_validation.txt"],
            "max_source_length": 128,
            "max_target_length": 64,
        },
        "objective": {"name": "mixture", "weights": {"masked_lm": 1.0, "span_corruption": 1.0}},
        "budget": {"minutes": PRETRAINING_MINUTES},
        "training": {
            "per_device_train_batch_size": 8,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.05,
            "weight_decay": 0.05,
            "logging_steps": 20,
            "save_strategy": "no",
            **quiet,
        },
    }
    finetune = {
        "output": f"{folder}/finetuned",
        "model": f"{folder}/pretrained",
        "task": {"name": "n2n"},
        "data": {
            "train_files": [f"{folder}/data/labelled.jsonl"],
            "validation_files": [f"{folder}/data/validation.jsonl"],
            "test_files": [f"{folder}/data/test.jsonl"],
        },
        "training": {
            "num_train_epochs": 30,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "warmup_steps": 0.1,
            "weight_decay": 0.01,
            "save_strategy": "no",
            **quiet,
        },
    }
    from_scratch = {**finetune, "output": f"{folder}/from_scratch", "from_scratch": True}
    recipes: dict[str, dict[str, Any]] = {"pretrain": pretrain, "finetune": finetune, "from_scratch": from_scratch}
    (folder / "recipes").mkdir(exist_ok=True)
    for name, recipe in recipes.items():
        (folder / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def run(folder: Path, name: str, *arguments: str) -> str:
    """Runs Python without a network and returns the last line that it prints; all of it goes to a log."""
    log = folder / "logs" / f"{name}.txt"
    log.parent.mkdir(exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, *arguments], env=offline, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}; {log} says why")
    return log.read_text(encoding="utf-8").strip().rpartition("\n")[2]


def accuracy(run_folder: Path) -> float:
    """What `hftk finetune` measured on the test sentences."""
    return json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))["test_accuracy"]


def guessing_accuracy(labelled: list[Row], test: list[Row]) -> dict[str, float]:
    """What guessing by counts comes to: the tag that is most frequent, and the one most frequent for each word."""
    pairs = [pair for row in labelled for pair in zip(row["tokens"], row["labels"], strict=True)]
    [(most_frequent, _)] = Counter(tag for _, tag in pairs).most_common(1)
    by_word = {word: tag for (word, tag), _ in reversed(Counter(pairs).most_common())}  # the most frequent comes last
    guesses = {
        "guess_by_word": [[by_word.get(word, most_frequent) for word in row["tokens"]] for row in test],
        "guess_most_frequent": [[most_frequent for _ in row["tokens"]] for row in test],
    }
    return {name: N2N("n2n").score(guess, test)["accuracy"] for name, guess in guesses.items()}
