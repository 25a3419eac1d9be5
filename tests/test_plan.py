"""What a plan says is what the run then has; its speed is the machine's, and no test's matter."""

import json

import pytest

from hftk.errors import UsageError
from hftk.finetune import finetune
from hftk.finetune_recipe import load_finetune_recipe
from hftk.plan import plan
from hftk.pretrain import pretrain
from hftk.recipe import PretrainRecipe, load_recipe

TRAINING = "{per_device_train_batch_size: 4, gradient_accumulation_steps: 2, num_train_epochs: 2, use_cpu: true}"


@pytest.fixture
def pretraining(tmp_path):
    text = tmp_path / "raw.txt"
    text.write_text("".join(f"the {n % 7} birds saw {n} of the {n % 11} boats\n" for n in range(600)), encoding="utf-8")
    recipe = tmp_path / "pretrain.yaml"
    recipe.write_text(
        f"""
output: {tmp_path}/pretrained
model: {{d_model: 32, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2,
  encoder_ffn_dim: 48, decoder_ffn_dim: 48}}
tokenizer: {{vocab_size: 400}}
data: {{train_files: [{text}], max_source_length: 64, max_target_length: 64, validation_share: 0.05}}
training: {TRAINING}
"""
    )
    return recipe


def test_a_plan_has_the_parameters_and_the_steps_of_the_run(pretraining, tmp_path):
    planned = plan(pretraining, [])
    ran = pretrain(load_recipe(pretraining, [], PretrainRecipe))
    assert planned["parameters"] == ran["trainable_parameters"]
    assert planned["steps"] == pytest.approx(ran["steps"], rel=0.1)  # validation is split off twice
    assert planned["steps"] * planned["tokens_per_step"] == pytest.approx(ran["tokens_seen"], rel=0.1)
    assert planned["tokens_per_second"] > 0 and planned["memory_gb"] > 0 and planned["hours"] > 0
    assert not [*tmp_path.glob("pretrained/*.unfinished")]

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{n} boats" * (1 + n % 3), "label": n % 2}) + "\n" for n in range(50)))
    recipe = tmp_path / "finetune.yaml"
    recipe.write_text(
        f"output: {tmp_path}/run\nmodel: {tmp_path}/pretrained\ntask: {{name: n21}}\n"
        f"data: {{train_files: [{rows}], validation_files: [{rows}]}}\ntraining: {TRAINING}\n"
    )
    planned = plan(recipe, ["--transfer.method", "last_layer"])
    ran = finetune(load_finetune_recipe(recipe, ["--transfer.method", "last_layer"]))
    assert planned["trainable_parameters"] == ran["trainable_parameters"] < planned["parameters"]
    assert planned["steps"] == json.loads((tmp_path / "run" / "run.json").read_text())["data"]["steps"]


def test_gpus_are_estimated_and_cost(pretraining):
    one, four = (plan(pretraining, ["--budget.steps", "1000"], "a100", gpus, price=2.0) for gpus in (1, 4))
    assert one["source"].startswith("an estimate") and (one["steps"], four["steps"]) == (1000, 250)
    assert four["tokens_per_second"] == pytest.approx(4 * one["tokens_per_second"])
    assert four["cost"] == pytest.approx(one["cost"]) == pytest.approx(2.0 * one["hours"])
    with pytest.raises(UsageError, match="--gpu: abacus is not known; there are t4, "):
        plan(pretraining, [], "abacus")
    with pytest.raises(UsageError, match="--gpus: 0 train nothing"):
        plan(pretraining, [], "a100", gpus=0)
