"""Two processes are one process that accumulates twice as many batches: pretraining and each shape of a task."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hftk.recipe_files import find_recipe
from hftk.tasks.rows import write_rows

LINES = (Path(__file__).parents[1] / "korean.txt").read_text(encoding="utf-8").split("\n")[:-1]
SENTENCES = [line.split() for line in LINES]
ROWS: dict[str, list[dict[str, Any]]] = {
    "n21": [{"text": line, "label": str(len(line) % 3)} for line in LINES],
    "n2n": [{"tokens": words, "labels": [str(len(word) % 3) for word in words]} for words in SENTENCES],
    "entities": [{"tokens": words, "labels": ["B-PS", *["I-PS", "O"] * 20][: len(words)]} for words in SENTENCES],
    "n2path": [{"tokens": words, "head": [*range(len(words))], "deprel": ["x"] * len(words)} for words in SENTENCES],
    "subjects": [
        {"tokens": words, "predicates": [len(words)], "subjects": [len(words) // 2], "persons": ["123"[len(words) % 3]]}
        for words in SENTENCES
    ],
    "n2m": [{"source": line, "target": " ".join(reversed(line.split()))} for line in LINES],
}
# what processes draw for a dropout differs with the rows that they have; hftk's parser has one that no recipe turns off
WITHOUT_DROPOUT = """
import json, sys, torch
from hftk.cli import main
torch.set_default_dtype(getattr(torch, sys.argv[1]))
torch.nn.functional.dropout = lambda states, **kwargs: states
for command in json.loads(sys.argv[2]):
    assert main(command) == 0
"""
STEPS = 50  # through several epochs of each
TRAINING = {
    "max_steps": STEPS,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 3,  # of 39 rows an epoch's last step has 3: all in one batch
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
}
BACKBONE: dict[str, Any] = {
    "model": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "ngram_order": 2,
        "ngram_vocab_size": 64,
        "ngram_dim": 8,
        "init_std": 0.18,  # AdamW makes much of the rounding of gradients as small as those of smaller weights
    },
    "tokenizer": {"vocab_size": 500},
    "data": {"max_source_length": 64, "max_target_length": 64, "validation_share": 0.2},
    "runtime": {"dtype": "float32", "attn_implementation": "sdpa", "seconds_per_step": 1.0},
}


@pytest.fixture
def recipes(tmp_path) -> Path:
    """A recipe for each run, `pretrain` the first, on real sentences."""
    folder = tmp_path
    (folder / "raw.txt").write_text("\n".join(LINES), encoding="utf-8")
    data = {**BACKBONE["data"], "train_files": [f"{folder}/raw.txt"]}
    backbone = {**BACKBONE, "output": "", "data": data, "training": TRAINING}
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(backbone))
    for name, rows in ROWS.items():
        write_rows(rows[:-1], folder / f"{name}.jsonl")
        recipe: dict[str, Any] = {
            "output": "",
            "model": f"{folder}/one/pretrain",
            "task": {"name": "n2n" if name == "entities" else name},
            "data": {key: [f"{folder}/{name}.jsonl"] for key in ("train_files", "test_files")},
            "transfer": {"replay": 0.3} if name == "n21" else {},
            "runtime": {"dtype": "float32"},
            "training": TRAINING,
        }
        recipe["data"] |= {"validation_files": recipe["data"]["test_files"]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def runs(recipes: Path, folder: str, dtype: str, launch: list[str], accumulation: int) -> None:
    """All runs, one after another, in `launch`ed processes."""
    keys = ["--training.gradient_accumulation_steps", str(accumulation)]
    commands = [
        ["finetune" if name in ROWS else "pretrain", f"{recipes}/{name}.yaml", "--output", f"{recipes}/{folder}/{name}"]
        + keys
        for name in ("pretrain", *ROWS)
    ]
    (recipes / "run.py").write_text(WITHOUT_DROPOUT)
    done = subprocess.run(
        [sys.executable, *launch, str(recipes / "run.py"), dtype, json.dumps(commands)],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def told(run: Path) -> tuple[list[float], dict[str, float], dict[str, str]]:
    """The loss of each step, the scores, and how these were computed."""
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    metrics = {
        name: value
        for name, value in json.loads((run / "metrics.json").read_text()).items()
        if name.startswith(("eval", "test", "retention")) and "second" not in name
    }
    signatures = {name: value for name, value in metrics.items() if isinstance(value, str)}
    scores = {name: value for name, value in metrics.items() if name not in signatures}
    return [line["loss"] for line in log if "loss" in line], scores, signatures


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_two_processes_are_one_that_accumulates_twice_as_much(recipes, dtype, tolerance):
    launch = ["-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", str(find_recipe("accelerate/cpu"))]
    runs(recipes, "one", dtype, [], 2)
    runs(recipes, "two", dtype, launch, 1)
    for name in ("pretrain", *ROWS):
        (losses, scores, signatures), (others, other_scores, other_signatures) = (
            told(recipes / folder / name) for folder in ("one", "two")
        )
        assert len(losses) == STEPS and losses[-1] < losses[0]
        assert others == pytest.approx(losses, rel=tolerance, abs=0), name
        assert other_signatures == signatures
        if dtype == "float32":  # where scores are close, rounding decides which label or word comes first
            scores, other_scores = (
                {score: value for score, value in some.items() if "loss" in score or "retention" in score}
                for some in (scores, other_scores)
            )
        assert other_scores == pytest.approx(scores, rel=tolerance), name
