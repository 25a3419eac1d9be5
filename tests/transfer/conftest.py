"""A small backbone, pretrained for a moment, and fine-tunings from it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hftk.finetune import finetune
from hftk.finetune_recipe import load_finetune_recipe
from hftk.pretrain import pretrain
from hftk.recipe import PretrainRecipe, load_recipe
from hftk.tasks.rows import write_rows

order = random.Random(0)
ANIMALS, VERBS = ["고양이가", "개가", "새가", "소가"], ["잔다", "먹는다", "운다"]
PAIRS = [(order.choice(ANIMALS), order.choice(VERBS)) for _ in range(64)]
ROWS: dict[str, list[dict]] = {
    "n21": [{"text": f"{animal} {verb}", "label": verb} for animal, verb in PAIRS],
    "n2n": [{"tokens": [animal, verb], "labels": ["N", "V"]} for animal, verb in PAIRS],
    "n2path": [{"tokens": [animal, verb], "head": [2, 0], "deprel": ["nsubj", "root"]} for animal, verb in PAIRS],
    "n2m": [{"source": animal, "target": verb} for animal, verb in PAIRS],
}
SHARED = ["n21", "n2n", "n2path"]
TRAINING = {"max_steps": 6, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "save_strategy": "no"}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """A backbone of two layers and its raw text, pretrained for a moment."""
    folder = tmp_path_factory.mktemp("pretrained")
    lines = [f"{order.choice(ANIMALS)} {order.choice(VERBS)} {number % 7}" for number in range(400)]
    (folder / "raw.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        f"""
output: {folder}/run
model: {{d_model: 32, encoder_layers: 2, decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2,
  encoder_ffn_dim: 48, decoder_ffn_dim: 48, ngram_order: 2, ngram_vocab_size: 64, ngram_dim: 8}}
tokenizer: {{vocab_size: 400}}
data: {{train_files: [{folder}/raw.txt], validation_share: 0.2, max_source_length: 64, max_target_length: 64}}
budget: {{steps: 30}}
runtime: {{dtype: float32, attn_implementation: sdpa}}
training: {{per_device_train_batch_size: 4, learning_rate: 5.0e-3, use_cpu: true, disable_tqdm: true}}
"""
    )
    pretrain(load_recipe(folder / "recipe.yaml", [], PretrainRecipe))
    return folder / "run"


@pytest.fixture
def run(pretrained, tmp_path):
    """run(transfer, shape, …): the metrics of a fine-tuning into `tmp_path`/run."""

    def make(
        transfer: str = "",
        shape: str = "n21",
        model: Path = pretrained,
        output: str = "run",
        top: str = "",
        resume: bool = False,
        dtype: str = "float32",
        **training: Any,
    ):
        data = tmp_path / f"{shape}.jsonl"
        write_rows(ROWS[shape], data)
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            f"""
output: {tmp_path}/{output}
model: {model}
task: {{name: {shape}}}
data: {{train_files: [{data}], validation_files: [{data}]}}
transfer: {{{transfer}}}
runtime: {{dtype: {dtype}, attn_implementation: sdpa}}
training: {json.dumps(TRAINING | {"use_cpu": True, "disable_tqdm": True} | training)}
{top}
"""
        )
        return finetune(load_finetune_recipe(recipe, []), resume)

    return make


def backbone(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder without its head's."""
    return {
        name.removeprefix("backbone."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if not name.startswith(("classifier", "lm_head"))
    }
