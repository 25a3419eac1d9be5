"""What each way of transfer promises: what stays as it was to the bit, what moves and when, and what is forgotten."""

import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, TrainerCallback

from hftk import HftkForSequenceClassification
from hftk.errors import UsageError
from hftk.evaluate import evaluate
from hftk.finetune import finetune
from hftk.finetune_recipe import load_finetune_recipe
from hftk.model.modeling_hftk import HftkEncoder
from hftk.predict import load_task_model, predict
from hftk.pretrain import pretrain
from hftk.recipe import PretrainRecipe, load_recipe
from hftk.recipe_files import find_recipe
from hftk.tasks.rows import write_rows
from hftk.training.finetuning import TaskTrainer
from hftk.training.transfer import stages

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


@pytest.fixture(scope="module")
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
training: {{per_device_train_batch_size: 4, learning_rate: 5.0e-3, use_cpu: true, disable_tqdm: true}}
"""
    )
    pretrain(load_recipe(folder / "recipe.yaml", [], PretrainRecipe))
    return folder / "run"


@pytest.fixture
def run(pretrained, tmp_path):
    """run(transfer, shape, …): the metrics of a fine-tuning into `tmp_path`/run."""

    def make(transfer: str = "", shape: str = "n21", model: Path = pretrained, output: str = "run", top="", **training):
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
training: {json.dumps(TRAINING | {"use_cpu": True, "disable_tqdm": True} | training)}
{top}
"""
        )
        return finetune(load_finetune_recipe(recipe, []))

    return make


def backbone(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("backbone."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if not name.startswith(("classifier", "lm_head"))
    }


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


@pytest.mark.parametrize("thaw", ["thaw_every: 2", "thaw_patience: 1"])
def test_a_slow_start_that_is_resumed_on_the_way_ends_as_one_that_was_not(thaw, run, tmp_path):
    training = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 1}
    training |= {"learning_rate": 0.3 if "patience" in thaw else 1e-2, "logging_steps": 1}  # so steep that it stalls
    run(f"method: slow_start, {thaw}", output="whole", top=DROPOUT, **training)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    run(
        f"method: slow_start, {thaw}", output="resumed", top=DROPOUT,
        resume_from_checkpoint=f"{tmp_path}/resumed/checkpoint-3", **training,
    )  # fmt: skip
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    state = json.loads((tmp_path / "whole" / "checkpoint-8" / "trainer_state.json").read_text())
    if "patience" in thaw:
        assert state["stateful_callbacks"]["SlowStart"]["attributes"]["stalls"] >= 1


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


def test_retention_before_is_what_pretraining_measured(run, pretrained):
    measured = json.loads((pretrained / "metrics.json").read_text())
    metrics = run("retention_rows: 1000", max_steps=1)
    assert metrics["retention_before"] == pytest.approx(measured["eval_bits_per_byte"], abs=1e-6)
    assert metrics["retention_after"] != metrics["retention_before"]


def test_the_heads_of_earlier_tasks_are_asked_before_and_after(run, tmp_path):
    first = run("method: last_layer", "n2n", output="words", max_steps=40)
    still = run(f"method: last_layer, earlier_tasks: [{tmp_path}/words]", output="still")
    assert still["earlier_words_accuracy_before"] == still["earlier_words_accuracy_after"] == first["eval_accuracy"]
    for number, transfer in enumerate(("method: full", "method: lora")):
        moved = run(f"{transfer}, earlier_tasks: [{tmp_path}/words]", output=f"moved-{number}")
        assert moved["earlier_words_loss_before"] == pytest.approx(first["eval_loss"])
        assert moved["earlier_words_loss_after"] != moved["earlier_words_loss_before"]


@pytest.mark.parametrize("shape", ["n21", "n2path", "n2m"])
def test_replay_wise_and_l2_forget_less(shape, run):
    forgotten = {}
    for name, transfer in {"none": "", "replay": "replay: 0.5", "wise": "wise: 0.3", "l2": "l2: 10.0"}.items():
        metrics = run(transfer, shape, output=name, max_steps=20)
        forgotten[name] = metrics["retention_after"] - metrics["retention_before"]
    assert forgotten["none"] > 0.05
    assert all(forgotten[name] < 0.8 * forgotten["none"] for name in ("replay", "wise", "l2")), forgotten


def test_wise_at_nought_is_the_pretrained_backbone_under_the_new_head(run, pretrained, tmp_path):
    metrics = run("wise: 0.0")
    before, after = backbone(pretrained), backbone(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before.keys() & after.keys())
    assert metrics["retention_after"] == metrics["retention_before"]


def test_a_model_that_is_not_ours_is_asked_what_it_was_trained_on(run, pretrained, tmp_path):
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    for file in pretrained.glob("tokenizer*.json"):
        shutil.copy(file, tmp_path / "bert")
    metrics = run(f"raw_files: [{pretrained.parent}/raw.txt]", model=tmp_path / "bert")
    # untrained, it spreads its guess evenly over 400 tokens
    assert math.log2(400) / 12 < metrics["retention_before"] < math.log2(400)
    assert metrics["retention_after"] != metrics["retention_before"]


def test_of_a_model_that_was_fine_tuned_before_it_is_said_that_nothing_is_measured(run, tmp_path, capsys):
    run(output="first", max_steps=1)
    assert "retention_before" not in run(model=tmp_path / "first", max_steps=1)
    assert "was fine-tuned, and no longer has all parts" in capsys.readouterr().out


def test_without_raw_text_it_is_said_that_nothing_is_measured(run, pretrained, tmp_path, capsys):
    shutil.copytree(pretrained, tmp_path / "bare", ignore=shutil.ignore_patterns("data"))
    metrics = run(model=tmp_path / "bare", max_steps=1)
    assert "retention_before" not in metrics
    assert "what is forgotten is not measured" in capsys.readouterr().out
    with pytest.raises(UsageError, match="raw_files"):
        run("replay: 0.1", model=tmp_path / "bare")


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


def test_heads_over_one_backbone_read_it_once_and_predict_what_each_predicts_alone(run, tmp_path, monkeypatch):
    rows = [{**one, **two, **three} for one, two, three in zip(*(ROWS[shape] for shape in SHARED), strict=True)]
    data, alone = tmp_path / "all.jsonl", []
    write_rows(rows, data)
    for shape in SHARED:
        run("method: last_layer, save_alone: true", shape, output=shape)
        assert not (tmp_path / shape / "model.safetensors").exists()
        predict(str(tmp_path / shape), str(data), str(tmp_path / "alone.jsonl"))
        alone.append([json.loads(line) for line in (tmp_path / "alone.jsonl").read_text().splitlines()])
    batches: list[object] = []
    monkeypatch.setattr(HftkEncoder, "enter", count_calls(HftkEncoder.enter, batches))
    predict([str(tmp_path / shape) for shape in SHARED], str(data), str(tmp_path / "together.jsonl"))
    assert len(batches) == len(rows) / 32
    together = [json.loads(line) for line in (tmp_path / "together.jsonl").read_text().splitlines()]
    for shape, predicted in zip(SHARED, alone, strict=True):
        for column in set(predicted[0]) & {"label", "labels", "head", "deprel"} & set(ROWS[shape][0]):
            assert [row[column] for row in together] == [row[column] for row in predicted]


def count_calls(function, calls):
    def counted(*args, **kwargs):
        calls.append(function)
        return function(*args, **kwargs)

    return counted


def test_heads_over_another_backbone_are_refused(run, tmp_path):
    run("method: last_layer", output="one")
    run(output="other")
    with pytest.raises(UsageError, match="other: its backbone is not that of"):
        predict([str(tmp_path / "one"), str(tmp_path / "other")], str(tmp_path / "n21.jsonl"), str(tmp_path / "out"))


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
