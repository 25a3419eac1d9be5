"""What each way of transfer promises: what stays as it was to the bit, and what moves, when."""

import json
import math
import subprocess
import sys

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, TrainerCallback

from hftk import HftkForSequenceClassification
from hftk.errors import UsageError
from hftk.evaluate import evaluate
from hftk.predict import load_task_model
from hftk.recipe_files import find_recipe
from hftk.training.finetuning import TaskTrainer
from hftk.training.layers import stages

from .conftest import backbone

DROPOUT = "config_overrides: {dropout: 0.3}"


@pytest.mark.parametrize("shape", ["n21", "n2n", "n2path"])
def test_last_layer_leaves_the_backbone_as_it_was_to_the_bit_and_forgets_nothing(shape, run, pretrained, tmp_path):
    metrics = run("method: last_layer", shape, top=DROPOUT)
    assert metrics["retention_after"] == metrics["retention_before"]
    before, after = backbone(pretrained), backbone(tmp_path / "run")
    if shape == "n2path":  # an encoder by itself has no name around it
        before = {name.removeprefix("encoder."): tensor for name, tensor in before.items()}
        before["embed_tokens.weight"] = before["shared.weight"]
    common = before.keys() & after.keys()
    assert len(common) >= 20 and all(torch.equal(before[name], after[name]) for name in common)


def test_frozen_layers_drop_nothing_out(run):
    dropped, kept = (run("method: last_layer", top=top, output=str(i)) for i, top in enumerate((DROPOUT, "")))
    assert dropped["train_loss"] == kept["train_loss"]


def test_last_layers_and_the_final_norm_train_when_they_are_named(run, pretrained, tmp_path):
    run("method: last_layer, last_layers: 1")
    before, after = backbone(pretrained), backbone(tmp_path / "run")
    moved = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("encoder.layers.1.", "encoder.layer_norm.")) for name in moved)
    run("method: last_layer, final_norm: true", output="norm")
    after = backbone(tmp_path / "norm")
    assert [name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])] == [
        "encoder.layer_norm.weight"
    ]


@pytest.mark.parametrize("shape", ["n21", "n2n", "n2path"])
def test_outputs_computed_once_give_the_losses_of_outputs_computed_each_time(shape, run, tmp_path):
    losses = []
    for keep in ("true", "false"):
        run(f"method: last_layer, cache_outputs: {keep}", shape, output=keep, logging_steps=1)
        lines = [json.loads(line) for line in (tmp_path / keep / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert len(set(losses[0])) == 6


def test_a_layer_moves_first_at_the_step_at_which_it_thaws(run, monkeypatch):
    first_moved: dict[str, int] = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            for name, parameter in model.named_parameters():
                if name in self.start and not torch.equal(self.start[name], parameter):
                    first_moved.setdefault(name, state.global_step)

        def on_train_begin(self, args, state, control, model, **kwargs):
            self.start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
            self.stages = stages(model)

    watch, original = Watch(), TaskTrainer.__init__

    def watched(self, *args, callbacks, **kwargs):
        original(self, *args, callbacks=[*callbacks, watch], **kwargs)

    monkeypatch.setattr(TaskTrainer, "__init__", watched)
    run("method: slow_start, thaw_every: 2", max_steps=8, lr_scheduler_type="constant")
    assert len(watch.stages) == 4  # the head, two layers, what is below them
    for place, stage in enumerate(watch.stages):
        assert {first_moved[name] for name in stage if name in first_moved} == {2 * place + 1}
    assert len(first_moved) >= len(watch.start) - 1  # all but a row that no text holds


def test_slow_start_learns_under_gradient_checkpointing_what_it_learns_without(run):
    plain, checkpointed = (
        run("method: slow_start, thaw_every: 2", output=str(checkpointing), gradient_checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    assert checkpointed["train_loss"] == pytest.approx(plain["train_loss"], abs=1e-6)


def test_slow_start_learns_compiled_what_it_learns_as_it_is(run):
    as_it_is = run("method: slow_start, thaw_every: 2", output="as_it_is")
    compiled = run(
        "method: slow_start, thaw_every: 2", output="compiled", torch_compile=True, torch_compile_backend="aot_eager"
    )
    for name in ("train_loss", "eval_loss"):
        assert compiled[name] == pytest.approx(as_it_is[name], rel=1e-5)


def test_each_layer_learns_more_slowly_than_the_one_above(run, monkeypatch):
    rates: dict[int, set[float]] = {}

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model, optimizer, **kwargs):
            place = {
                id(p): i for i, names in enumerate(stages(model)) for n, p in model.named_parameters() if n in names
            }
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    rates.setdefault(place[id(parameter)], set()).add(group["initial_lr"])

    original = TaskTrainer.__init__
    monkeypatch.setattr(
        TaskTrainer,
        "__init__",
        lambda self, *args, callbacks, **kwargs: original(self, *args, callbacks=[*callbacks, Watch()], **kwargs),
    )
    run("layer_lr_decay: 0.5", max_steps=1)
    assert rates == {place: {1e-2 * 0.5**place} for place in range(4)}


@pytest.mark.parametrize("shape", ["n21", "n2n", "n2path", "n2m"])
def test_adapters_are_saved_alone_and_predict_what_they_scored(shape, run, pretrained, tmp_path):
    metrics = run("method: lora, peft: {r: 2}", shape)
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert metrics["trainable_parameters"] == sum(tensor.numel() for tensor in saved.values())
    scores = evaluate(str(tmp_path / "run"), [str(tmp_path / f"{shape}.jsonl")])
    assert {f"eval_{name}": value for name, value in scores.items()} == pytest.approx(
        {name: value for name, value in metrics.items() if name.startswith("eval_")}
    )
    assert metrics["retention_after"] != metrics["retention_before"]


def test_merged_adapters_equal_those_apart_and_peft_loads_them_by_itself(run, pretrained, tmp_path):
    run("method: lora, peft: {r: 2, use_dora: true}")
    run("method: lora, peft: {r: 2, use_dora: true}, merge: true", output="merged")
    ids = torch.tensor([[1, 270, 280, 290, 2]])
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    base = HftkForSequenceClassification.from_pretrained(pretrained, num_labels=3)
    alone = [
        PeftModel.from_pretrained(base, tmp_path / "run"),
        AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "run", num_labels=3),
        load_task_model(str(tmp_path / "run")).model,
    ]
    with torch.no_grad():
        for model in alone:
            torch.testing.assert_close(model.eval()(ids).logits, merged(ids).logits, rtol=0, atol=1e-5)
    assert merged.config.id2label == {0: "먹는다", 1: "운다", 2: "잔다"}


def test_another_method_of_peft_is_taken_by_its_config(run):
    metrics = run(
        "method: lora, peft: {peft_type: IA3, target_modules: [k_proj, v_proj, fc2], feedforward_modules: [fc2]}"
    )
    assert metrics["trainable_parameters"] == 3 * 33 + 2 * (32 + 32 + 48)


@pytest.mark.parametrize(
    ("transfer", "words"),
    [
        ("method: full, last_layers: 1", "transfer.last_layers: only transfer.method last_layer reads it, not full"),
        ("method: last_layer, last_layers: 3", "transfer.last_layers: 3 of 2 layers"),
        ("method: last_layer, last_layers: 1, cache_outputs: true", "transfer.cache_outputs"),
        ("replay: 1.0", "transfer.replay: 1.0 is not a share"),
        ("method: lora, peft: {rank: 4}", "transfer.peft: .*rank"),
        ("method: lora, wise: 0.5", "leaves the pretrained weights alone"),
    ],
)
def test_what_cannot_be_is_one_line(transfer, words, run):
    with pytest.raises(UsageError, match=words) as error:
        run(transfer)
    assert "\n" not in str(error.value)


def test_a_head_that_is_the_embeddings_has_no_last_layer(run):
    with pytest.raises(UsageError, match="give transfer.last_layers 1 or more"):
        run("method: last_layer", "n2m")
    assert run("method: last_layer, last_layers: 1", "n2m")["trainable_parameters"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "last_layer", "slow_start", "lora", "replay"])
def test_every_method_trains_on_two_processes(method, run, pretrained, tmp_path):
    transfer = "replay: 0.3" if method == "replay" else f"method: {method}"
    run(transfer, max_steps=1)
    recipe = tmp_path / "recipe.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(find_recipe("accelerate/cpu"))]
    command = [*launch, "-m", "hftk", "finetune"]
    done = subprocess.run(
        [*command, str(recipe), "--output", f"{tmp_path}/two", "--training.max_steps", "6"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert math.isfinite(metrics["train_loss"]) and math.isfinite(metrics["retention_after"])
