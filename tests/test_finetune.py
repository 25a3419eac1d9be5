import io
import json
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForTokenClassification, BartConfig, BertConfig, BertModel, PreTrainedTokenizerFast

from hftk import HftkConfig, HftkModel
from hftk.errors import UsageError
from hftk.evaluate import evaluate
from hftk.finetune import finetune
from hftk.finetune_recipe import FinetuneRecipe, load_finetune_recipe
from hftk.predict import load_task_model, predict
from hftk.recipe_files import find_recipe
from hftk.tasks.rows import write_rows
from hftk.training.runtime import KERNELS

LABELS = {"the": "DET", "cat": "NOUN", "dogs": "NOUN", "bird": "NOUN", "sees": "VERB", "eat": "VERB", ".": "PUNCT"}
order = random.Random(0)
SENTENCES = [order.choices(list(LABELS), k=order.randint(1, 8)) for _ in range(40)]
ROWS = [{"tokens": words, "labels": [LABELS[word] for word in words]} for words in SENTENCES]
TEST = ROWS[36:]


def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "</s>", "<mask>"]
    tokenizer.train_from_iterator(
        [" ".join(row["tokens"]) for row in ROWS],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        model_max_length=64,
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """A tiny model of hftk's and one of another type, both without a head for the task."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    models = {
        "bert": BertModel(
            BertConfig(
                vocab_size=300,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
                hidden_dropout_prob=0,
                attention_probs_dropout_prob=0,
            )
        ),
        "hftk": HftkModel(
            HftkConfig(
                vocab_size=300,
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
            )
        ),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
    return {name: str(folder / name) for name in models}


def recipe_for(folder: Path, model: str, *overrides: str) -> FinetuneRecipe:
    for split, rows in (("train", ROWS[:32]), ("validation", ROWS[32:36]), ("test", TEST)):
        write_rows(rows, folder / f"{split}.jsonl")
    (folder / "recipe.yaml").write_text(f"""
output: {folder}/run
model: {model}
task: {{name: n2n}}
data:
  train_files: [{folder}/train.jsonl]
  validation_files: [{folder}/validation.jsonl]
  test_files: [{folder}/test.jsonl]
runtime: {{attn_implementation: sdpa}}
training:
  max_steps: 60
  learning_rate: 0.005
  per_device_train_batch_size: 4
  save_strategy: "no"
  disable_tqdm: true
  use_cpu: true
""")
    return load_finetune_recipe(folder / "recipe.yaml", list(overrides))


@pytest.mark.parametrize("model", ["bert", "hftk"])
def test_learns_scores_and_leaves_a_folder_that_predicts_the_same(model, checkpoints, tmp_path):
    metrics = finetune(recipe_for(tmp_path, checkpoints[model]))
    run = tmp_path / "run"
    assert metrics["eval_accuracy"] == metrics["test_accuracy"] == metrics["test_f1"] == 1.0
    assert metrics == json.loads((run / "metrics.json").read_text())
    assert not list(run.rglob("*.bin")), "pickles"

    scored = [json.loads(line) for line in (run / "test_predictions.jsonl").read_text().splitlines()]
    assert scored == [{**row, "predicted": {"labels": row["labels"]}} for row in TEST]

    predict(str(run), str(tmp_path / "test.jsonl"), str(tmp_path / "out.jsonl"))
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == TEST


def test_words_are_hidden_in_training_alone(checkpoints, tmp_path):
    still = ("--training.learning_rate", "0", "--training.max_steps", "8")
    seen = finetune(recipe_for(tmp_path, checkpoints["hftk"], *still))
    hidden = finetune(recipe_for(tmp_path, checkpoints["hftk"], *still, "--data.word_dropout", "0.5"))
    assert hidden["train_loss"] != seen["train_loss"] and hidden["eval_loss"] == seen["eval_loss"]


def test_a_key_of_the_trainer_that_would_do_nothing_is_refused(checkpoints, tmp_path):
    with pytest.raises(UsageError, match="training.label_smoothing_factor: the loss is the task's"):
        recipe_for(tmp_path, checkpoints["hftk"], "--training.label_smoothing_factor", "0.1")


def test_words_cannot_be_hidden_where_nothing_could_hide_them(checkpoints, tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.mask_token = None
    HftkModel.from_pretrained(checkpoints["hftk"]).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    hidden = ("--data.word_dropout", "0.2")
    with pytest.raises(UsageError, match="data.word_dropout: the tokenizer of .*model has no mask token"):
        finetune(recipe_for(tmp_path, str(tmp_path / "model"), *hidden))
    kept = ("--transfer.method", "last_layer", "--transfer.cache_outputs", "true")
    with pytest.raises(UsageError, match="data.word_dropout: transfer.cache_outputs reads each row once"):
        recipe_for(tmp_path, checkpoints["hftk"], *hidden, *kept)
    with pytest.raises(UsageError, match="data.word_dropout: 1.5 is no share"):
        recipe_for(tmp_path, checkpoints["hftk"], "--data.word_dropout", "1.5")


def test_predictions_stay_with_their_rows_where_training_groups_rows_by_length(checkpoints, tmp_path):
    recipe = recipe_for(tmp_path, checkpoints["bert"], "--training.train_sampling_strategy", "group_by_length")
    assert sorted(map(len, SENTENCES[36:])) != list(map(len, SENTENCES[36:]))[::-1]
    assert finetune(recipe)["test_accuracy"] == 1.0


def test_from_scratch_starts_from_other_weights_than_the_checkpoint(checkpoints, tmp_path):
    pretrained = load_file(Path(checkpoints["bert"]) / "model.safetensors")["embeddings.word_embeddings.weight"]
    distance = {}
    for from_scratch in (False, True):
        recipe = recipe_for(
            tmp_path,
            checkpoints["bert"],
            "--training.max_steps",
            "1",
            "--training.learning_rate",
            "1e-6",
            "--from_scratch",
            str(from_scratch),
        )
        finetune(recipe)
        model = AutoModelForTokenClassification.from_pretrained(tmp_path / "run")
        distance[from_scratch] = (model.get_input_embeddings().weight - pretrained).abs().mean().item()
    assert distance[False] < 1e-5 < 1e-3 < distance[True]


def test_fields_of_the_config_can_be_others_than_the_checkpoints(checkpoints, tmp_path):
    finetune(
        recipe_for(tmp_path, checkpoints["hftk"], "--config_overrides", "{dropout: 0.25}", "--training.max_steps", "1")
    )
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "run").config.dropout == 0.25
    with pytest.raises(UsageError, match="config_overrides: the config of .*, a bert, has no dropuot"):
        finetune(recipe_for(tmp_path, checkpoints["bert"], "--config_overrides", "{dropuot: 0.25}"))


def test_the_same_seed_gives_the_same_weights(checkpoints, tmp_path):
    chosen = ("--runtime.dtype", "float32", "--runtime.attn_implementation", "eager")  # by clock they may differ
    weights = []
    for _ in range(2):
        finetune(recipe_for(tmp_path, checkpoints["bert"], "--training.max_steps", "3", *chosen))
        weights.append(load_file(tmp_path / "run" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_kernel_of_attention_is_measured_kept_and_predicted_with(checkpoints, tmp_path):
    short = ("--training.max_steps", "1")
    for given, model in (("null", "hftk"), ("null", "bert"), ("eager", "hftk"), ("eager", "bert")):
        recipe = recipe_for(tmp_path, checkpoints[model], *short, "--runtime.attn_implementation", given)
        finetune(recipe)
        chosen = load_finetune_recipe(tmp_path / "run" / "recipe.yaml", []).runtime.attn_implementation
        assert chosen in KERNELS if given == "null" else chosen == given
        assert load_task_model(str(tmp_path / "run")).model.config._attn_implementation == chosen


@pytest.mark.parametrize("model", ["bert", "hftk"])
def test_accumulating_two_small_batches_is_the_step_of_a_large_one(model, checkpoints, tmp_path):
    one_step = ["--training.max_steps", "1", "--training.optim", "sgd", "--training.lr_scheduler_type", "constant"]
    weights = []
    for batch_size, accumulation in ((8, 1), (4, 2)):
        sizes = ["--training.per_device_train_batch_size", f"{batch_size}"]
        sizes += ["--training.gradient_accumulation_steps", f"{accumulation}"]
        recipe = recipe_for(tmp_path, checkpoints[model], *one_step, *sizes)
        finetune(recipe)
        weights.append(load_file(tmp_path / "run" / "model.safetensors")["classifier.weight"])
    torch.testing.assert_close(weights[0], weights[1])


def test_a_text_longer_than_the_model_reads_is_read_in_windows(checkpoints, tmp_path):
    metrics = finetune(recipe_for(tmp_path, checkpoints["bert"], "--data.max_length", "8"))
    assert max(len(row["tokens"]) for row in TEST) > 6 and metrics["test_accuracy"] == 1.0


def test_evaluate_gives_the_scores_of_the_run(checkpoints, tmp_path, capsys):
    metrics = finetune(recipe_for(tmp_path, checkpoints["hftk"]))
    capsys.readouterr()
    scores = evaluate(str(tmp_path / "run"), [str(tmp_path / "test.jsonl")])
    assert json.loads(capsys.readouterr().out) == scores
    assert scores == pytest.approx({name: metrics[f"test_{name}"] for name in scores})


def test_several_seeds_give_means_and_spreads(checkpoints, tmp_path):
    metrics = finetune(recipe_for(tmp_path, checkpoints["bert"], "--seeds", "2", "--training.max_steps", "2"))
    losses = [json.loads((tmp_path / f"run/seed-{s}/metrics.json").read_text())["test_loss"] for s in (42, 43)]
    assert losses[0] != losses[1]
    assert metrics["test_loss"] == pytest.approx(sum(losses) / 2)
    assert metrics["test_loss_std"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)


def test_without_validation_files_a_share_is_split_off_by_text(checkpoints, tmp_path, capsys):
    finetune(recipe_for(tmp_path, checkpoints["bert"], "--data.validation_files", "[]", "--training.max_steps", "1"))
    counts = [int(number) for number in re.findall(r"^(?:train|validation): (\d+) rows", capsys.readouterr().out, re.M)]
    assert sum(counts) == 32 and 0 < counts[1] < 12


def test_predict_reads_and_writes_pipes_and_keeps_other_columns(checkpoints, tmp_path, monkeypatch, capsys):
    finetune(recipe_for(tmp_path, checkpoints["bert"]))
    monkeypatch.setattr("sys.stdin", io.StringIO('{"id": 7, "tokens": ["the", "dogs", "."]}\n{"tokens": ["."]}\n'))
    capsys.readouterr()
    predict(str(tmp_path / "run"))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"id": 7, "tokens": ["the", "dogs", "."], "labels": ["DET", "NOUN", "PUNCT"]},
        {"tokens": ["."], "labels": ["PUNCT"]},
    ]


def test_the_debug_recipe_runs(checkpoints, tmp_path):
    write_rows(ROWS, tmp_path / "rows.jsonl")
    files = ["--data.train_files", f"{tmp_path}/rows.jsonl", "--data.test_files", f"{tmp_path}/rows.jsonl"]
    places = ["--model", checkpoints["hftk"], "--output", f"{tmp_path}/run"]
    metrics = finetune(load_finetune_recipe(find_recipe("n2n/debug"), [*places, *files, "--training.max_steps", "40"]))
    assert metrics["test_accuracy"] > 0.8


def test_the_written_recipe_launches_the_same_run_again(checkpoints, tmp_path):
    first = finetune(recipe_for(tmp_path, checkpoints["hftk"], "--from_scratch", "true"))
    again = finetune(load_finetune_recipe(tmp_path / "run" / "recipe.yaml", []))
    assert first["train_loss"] == again["train_loss"] and first["test_loss"] == again["test_loss"]


def test_mistakes_are_told_in_one_line(checkpoints, tmp_path):
    BartConfig(vocab_size=300, d_model=8).save_pretrained(tmp_path / "no_tokenizer")
    BartConfig(vocab_size=300, d_model=8).save_pretrained(tmp_path / "no_such_head")
    build_tokenizer().save_pretrained(tmp_path / "no_such_head")
    for name in ("nothing_here", "no_tokenizer", "no_such_head"):
        with pytest.raises(UsageError, match=f"^[^\n]*{name} cannot be loaded for n2n: [^\n]*$"):
            finetune(recipe_for(tmp_path, str(tmp_path / name)))
    with pytest.raises(UsageError, match="validation_files"):
        unscored = ["--data.validation_files", "[]", "--data.validation_share", "0"]
        finetune(recipe_for(tmp_path, checkpoints["bert"], *unscored, "--training.eval_strategy", "epoch"))
    with pytest.raises(UsageError, match="data.train_files: no rows"):
        finetune(recipe_for(tmp_path, checkpoints["bert"], "--data.train_files", "[]"))
    with pytest.raises(UsageError, match="seeds: 0 trains nothing"):
        recipe_for(tmp_path, checkpoints["bert"], "--seeds", "0")
    with pytest.raises(UsageError, match="no recipe.yaml"):
        predict(checkpoints["bert"])


@pytest.mark.parametrize("length", [-1, 0, "long"])
def test_a_length_that_holds_no_text_is_refused(length, checkpoints, tmp_path):
    recipe = recipe_for(tmp_path, checkpoints["hftk"])
    recipe.model = str(shutil.copytree(checkpoints["hftk"], tmp_path / "model"))
    config = tmp_path / "model" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": length}))
    with pytest.raises(UsageError, match=r"^[^\n]*has a tokenizer of model_max_length [^\n]*$"):
        finetune(recipe)
    if isinstance(length, int):
        with pytest.raises(UsageError, match=f"data.max_length: {length} tokens hold no text"):
            recipe_for(tmp_path, checkpoints["hftk"], "--data.max_length", str(length))


@pytest.mark.parametrize(("key", "said"), [("learning_rate", "learning rate"), ("adam_epsilon", "epsilon value")])
def test_a_number_that_no_optimizer_can_use_is_told_in_a_line(key, said, checkpoints, tmp_path):
    recipe = recipe_for(tmp_path, checkpoints["hftk"], f"--training.{key}", "-1")
    with pytest.raises(UsageError, match=rf"^training: Invalid {said}: -1.0; correct what the recipe gives$"):
        finetune(recipe)
