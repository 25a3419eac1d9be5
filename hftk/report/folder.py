"""What a run's folder holds: what is known of a run beside its recipe and its scores, and what of it is for others."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

CARD = "README.md"
RECIPE = "recipe.yaml"
RUN = "run.json"
METRICS = "metrics.json"
FINGERPRINT = "fingerprint.json"

# What [`hftk push`] takes to the Hub. All else stays: checkpoints with their optimizer states, the prepared corpus,
# predictions with the rows that they are for, and whatever else lies there.
WEIGHTS = ["model*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "last_layer.safetensors"]
CONFIGS = ["config.json", "generation_config.json", "adapter_config.json"]
TOKENIZER = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
]
CODE = ["configuration_hftk*.py", "modeling_hftk*.py", "pipeline_hftk.py", "spanning_tree.py"]
ABOUT = ["candidates.jsonl", RECIPE, RUN, FINGERPRINT, METRICS, "log.jsonl", "plots/*.png", CARD]

PACKAGES = ("hftk", "torch", "transformers", "tokenizers", "peft", "accelerate", "datasets")


def write_run(folder: Path, data: dict[str, Any], parameters: int) -> None:
    """
    Writes `run.json`: how much data a run had, the size of its model, and where and with what it ran.

    Args:
        folder (`Path`): the run's.
        data (`dict[str, Any]`):
            For each split what it held (`rows`; or `documents`, `tokens`, `bytes`), and the documents `dropped` in
            cleaning, by reason.
        parameters (`int`): of the model.
    """
    known = {
        "data": data,
        "parameters": parameters,
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git_revision": git_revision(),
    }
    unfinished = folder / f"{RUN}.unfinished"
    unfinished.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(folder / RUN)


def write_metrics(metrics: dict[str, Any], file: Path) -> None:
    """Writes flat numbers to a file that appears only once it is whole."""
    unfinished = Path(f"{file}.unfinished")
    unfinished.write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(file)


def hardware() -> str:
    """The processors that torch uses here, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores ({torch.backends.cpu.get_cpu_capability()})"


def git_revision() -> str | None:
    """Of the checkout that this code runs from, with `+changes` where files differ from it; None for a wheel."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None
