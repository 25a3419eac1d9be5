"""Raw text to a folder that AutoModel loads: what a run leaves, repeats, resumes and refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from hftk.cli import main
from hftk.training.checkpoints import MANIFEST, UNFINISHED, publish
from hftk.training.pretraining import PretrainingTrainer
from hftk.training.trainer import read_log

KOREAN = Path(__file__).with_name("korean.txt")
TINY = """
output: {output}
model: {{d_model: 32, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2,
  encoder_ffn_dim: 64, decoder_ffn_dim: 64}}
tokenizer: {{vocab_size: 500}}
data: {{train_files: [{text}], validation_share: 0.2, max_source_length: 64, max_target_length: 64}}
runtime: {{dtype: float32, attn_implementation: sdpa, seconds_per_step: 1.0}}
training: {{max_steps: 6, per_device_train_batch_size: 2, learning_rate: 0.01, logging_steps: 1, save_steps: 3,
  eval_strategy: steps, eval_steps: 3}}
"""


@pytest.fixture
def recipe(tmp_path):
    """The file of a tiny recipe whose run goes to `tmp_path`/run."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(output=tmp_path / "run", text=KOREAN))
    return path


def pretrain(recipe: Path, *overrides: str) -> Path:
    """Through the command line, as a user does. Returns the run's folder."""
    assert main(["pretrain", str(recipe), *overrides]) == 0
    if "--output" in overrides:
        return Path(overrides[overrides.index("--output") + 1])
    return recipe.parent / "run"


LOAD = """
import sys, torch, hftk
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
inputs = load_file(sys.argv[2])
outputs = {"masked": AutoModelForMaskedLM.from_pretrained(sys.argv[1])(input_ids=inputs["source"]).logits}
both = {"input_ids": inputs["source"], "decoder_input_ids": inputs["target"]}
outputs["denoised"] = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1])(**both).logits
outputs["base"] = AutoModel.from_pretrained(sys.argv[1])(**both).last_hidden_state
save_file({name: tensor.detach() for name, tensor in outputs.items()}, sys.argv[3])
"""


def test_a_fresh_process_loads_what_was_trained_bit_for_bit(recipe, tmp_path, monkeypatch):
    trained = []
    save = PretrainingTrainer.save_model

    def save_and_keep(self, *args, **kwargs):
        trained.append(self.model)
        save(self, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "save_model", save_and_keep)
    run = pretrain(recipe)
    model = trained[-1].eval()
    source, target = torch.randint(110, 300, (2, 9)), torch.randint(110, 300, (2, 5))
    save_file({"source": source, "target": target}, tmp_path / "inputs")
    subprocess.run([sys.executable, "-c", LOAD, run, tmp_path / "inputs", tmp_path / "outputs"], check=True)
    loaded = load_file(tmp_path / "outputs")
    with torch.no_grad():
        denoised = model(input_ids=source, decoder_input_ids=target, output_hidden_states=True)
        assert torch.equal(loaded["masked"], model(input_ids=source).logits)
    assert torch.equal(loaded["denoised"], denoised.logits)
    assert torch.equal(loaded["base"], denoised.decoder_hidden_states[-1])


def test_a_run_leaves_a_whole_folder_and_no_pickle(recipe):
    run = pretrain(recipe)
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("masked_lm", "span_corruption"):
        assert metrics[f"eval_{name}_bits_per_byte"] > 0 and metrics[f"eval_{name}_unigram_bits_per_byte"] > 0
    assert metrics["eval_loss"] == pytest.approx(
        (metrics["eval_masked_lm_loss"] + metrics["eval_span_corruption_loss"]) / 2
    )
    assert [line["step"] for line in read_log(run) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert (run / "plots" / "loss.png").stat().st_size > 1000
    assert not list(run.rglob("*.bin"))
    assert AutoTokenizer.from_pretrained(run).mask_token == "<mask>"
    assert (
        AutoModelForSeq2SeqLM.from_pretrained(run).generate(torch.tensor([[1, 200, 2]]), max_new_tokens=3).shape[0] == 1
    )


def test_the_same_seed_gives_the_same_losses_and_another_does_not(recipe, tmp_path):
    losses = [
        [
            line["loss"]
            for line in read_log(pretrain(recipe, "--output", str(tmp_path / name), "--seed", seed))
            if "loss" in line
        ]
        for name, seed in (("first", "1"), ("second", "1"), ("third", "2"))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_with_muon_the_same_weights_go_another_way(recipe, tmp_path):
    runs = [pretrain(recipe, "--output", str(tmp_path / muon), "--muon", muon) for muon in ("true", "false")]
    ours, adamw = ([line["loss"] for line in read_log(run) if "loss" in line] for run in runs)
    assert ours[0] == adamw[0] and ours[-1] != adamw[-1]


def test_the_recipe_that_a_run_leaves_launches_it_again(recipe, tmp_path):
    run = pretrain(recipe, "--budget.minutes", "0.1", "--training.max_steps", "4")
    again = pretrain(run / "recipe.yaml", "--output", str(tmp_path / "again"))
    assert read_log(run)[-1]["step"] == 4
    assert [line.get("loss") for line in read_log(run)] == [line.get("loss") for line in read_log(again)]


@pytest.mark.parametrize("muon", ["false", "true"])
def test_a_resumed_run_makes_the_losses_of_one_that_was_never_cut_off(recipe, tmp_path, muon):
    whole = pretrain(recipe, "--muon", muon)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoint-6")
    (cut / "README.md").unlink()
    with (cut / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')  # cut off within a line
    assert main(["pretrain", str(recipe), "--output", str(cut)]) == 2  # unfinished, and no --resume
    pretrain(recipe, "--output", str(cut), "--muon", muon, "--resume")
    steps = [(line["step"], line["loss"]) for line in read_log(whole) if "loss" in line]
    assert steps == [(line["step"], line["loss"]) for line in read_log(cut) if "loss" in line]
    finished = load_file(whole / "model.safetensors")
    assert all(torch.equal(tensor, finished[name]) for name, tensor in load_file(cut / "model.safetensors").items())
    before = (cut / "model.safetensors").stat()
    pretrain(recipe, "--output", str(cut), "--muon", muon, "--resume")
    assert (cut / "model.safetensors").stat() == before  # a finished run stays as it is


def test_a_run_that_was_cut_off_behind_its_last_step_logs_no_evaluation_twice(recipe):
    run = pretrain(recipe, "--training.eval_strategy", "no")
    log, metrics = read_log(run), json.loads((run / "metrics.json").read_text())
    (run / "README.md").unlink()
    pretrain(recipe, "--training.eval_strategy", "no", "--resume")
    assert read_log(run) == log and "eval_loss" in log[-1]
    assert json.loads((run / "metrics.json").read_text())["eval_loss"] == metrics["eval_loss"]


def test_the_minutes_of_a_resumed_run_are_those_of_all_its_parts(recipe):
    run = pretrain(recipe, "--training.eval_strategy", "no")
    save_again(run / "checkpoint-6", minutes=60)
    (run / "README.md").unlink()
    pretrain(recipe, "--training.eval_strategy", "no", "--resume")
    metrics = json.loads((run / "metrics.json").read_text())
    assert 60 < metrics["minutes"] < 62
    assert metrics["tokens_per_second"] == metrics["tokens_seen"] / (60 * metrics["minutes"])


def save_again(checkpoint: Path, minutes: float = 0) -> None:
    aside = checkpoint.parent / UNFINISHED / checkpoint.name
    aside.parent.mkdir()
    checkpoint.rename(aside)
    (aside / MANIFEST).unlink()
    publish(aside, checkpoint, rows_per_step=2, minutes=minutes)


class Harm:
    """A pickle of it runs code when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_nothing_in_a_checkpoint_is_run(recipe, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    run = pretrain(recipe)
    (run / "README.md").unlink()
    shutil.rmtree(run / "checkpoint-6")
    torch.save(Harm(), run / "checkpoint-3" / name)
    save_again(run / "checkpoint-3")  # who changes a file can change its hash too
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        main(["pretrain", str(recipe), "--resume"])
    assert not Path("harm").exists()


def test_a_checkpoint_of_one_objective_goes_on_with_the_other(recipe, tmp_path):
    masked = pretrain(recipe, "--objective.name", "masked_lm")
    assert not any(name.startswith("decoder") for name in load_file(masked / "model.safetensors"))
    with pytest.raises(ValueError, match="trained on masked_lm alone"):
        AutoModelForSeq2SeqLM.from_pretrained(masked)
    both = pretrain(
        recipe, "--output", str(tmp_path / "both"), "--model", str(masked), "--objective.name", "span_corruption"
    )
    AutoModelForMaskedLM.from_pretrained(both)
    AutoModelForSeq2SeqLM.from_pretrained(both)


def test_embeddings_learn_which_words_stand_near_each_other_and_a_pretraining_goes_on_with_them(recipe, tmp_path):
    words = pretrain(
        recipe, "--objective.name", "skip_gram", "--training.max_steps", "30", "--training.learning_rate", "0.02"
    )
    losses = [line["loss"] for line in read_log(words) if "loss" in line]
    assert losses[-1] < losses[0] - 0.2
    weights = load_file(words / "model.safetensors")
    with pytest.raises(ValueError, match="trained on skip_gram alone"):
        AutoModelForMaskedLM.from_pretrained(words)
    for name in ("masked_lm", "span_corruption", "mixture"):
        run = pretrain(
            recipe, "--output", str(tmp_path / name), "--model", str(words), "--objective.name", name,
            "--training.max_steps", "1", "--training.learning_rate", "0",
        )  # fmt: skip
        assert all(torch.equal(tensor, weights[key]) for key, tensor in load_file(run / "model.safetensors").items())


def test_a_mixture_may_have_skip_grams_whose_loss_stands_apart(recipe):
    weights = "{masked_lm: 3, span_corruption: 1, skip_gram: 4}"
    run = pretrain(recipe, "--objective.weights", weights, "--training.max_steps", "12")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["eval_skip_gram_loss"] > 0
    for score in ("loss", "bits_per_byte"):
        parts = [metrics[f"eval_{name}_{score}"] for name in ("masked_lm", "span_corruption")]
        assert metrics[f"eval_{score}"] == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])
    AutoModelForMaskedLM.from_pretrained(run)
    AutoModelForSeq2SeqLM.from_pretrained(run)


def test_batch_norm_pretrains_on_rows_of_one_document(recipe):
    assert main(["pretrain", str(recipe), "--model.norm_type", "batch_norm"]) == 2
    run = pretrain(recipe, "--model.norm_type", "batch_norm", "--data.packing", "false")
    assert read_log(run)[-1]["step"] == 6


def test_without_positions_shuffled_words_cost_nothing_and_with_them_something(recipe, tmp_path):
    for positions in ("none", "rotary"):
        run = pretrain(
            recipe, "--output", str(tmp_path / positions), "--model.position_embedding_type", positions,
            "--measure.shuffled_words", "true", "--objective.name", "masked_lm",
        )  # fmt: skip
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["eval_shuffled_loss"] == metrics["eval_shuffled_masked_lm_loss"]
        assert (abs(metrics["eval_shuffled_loss"] - metrics["eval_loss"]) < 1e-5) == (positions == "none")


def test_gradient_norms_of_layers_are_those_of_the_whole_step_before_clipping(recipe, tmp_path):
    def first_step(name: str, *overrides: str) -> dict[str, float]:
        run = pretrain(
            recipe, "--output", str(tmp_path / name), "--measure.layer_gradients", "true",
            "--objective.name", "span_corruption", *overrides,
        )  # fmt: skip
        assert (run / "plots" / "gradients.png").stat().st_size > 1000
        return {key: value for key, value in read_log(run)[0].items() if key.startswith("grad_norm")}

    free = first_step("free")
    assert list(free) == ["grad_norm", "grad_norm_encoder.layers.0", "grad_norm_decoder.layers.0"]
    layers = free["grad_norm_encoder.layers.0"] ** 2 + free["grad_norm_decoder.layers.0"] ** 2
    assert 0.1 * free["grad_norm"] ** 2 < layers < free["grad_norm"] ** 2  # the embeddings have the rest
    assert first_step("clipped", "--training.max_grad_norm", "1e-3") == free
    batches = ["--training.per_device_train_batch_size", "1", "--training.gradient_accumulation_steps", "2"]
    assert first_step("accumulated", *batches) == pytest.approx(free, rel=0.2)  # a mean of means is another mean


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--data.train_files", "missing.txt"], ["missing.txt"]),
        (["--model.vocab_size", "50"], ["model.vocab_size", "leave it out"]),
        (
            ["--model.position_embedding_type", "learned", "--model.max_position_embeddings", "32"],
            ["data.max_source_length"],
        ),
        (["--model.norm_type", "batchnorm"], ["norm_type", "layer_norm"]),
        (["--training.max_stepz", "3"], ["max_stepz", "max_steps"]),
        (["--muon", "true", "--training.optim", "adafactor"], ["muon", "adafactor"]),
        (["--data.validation_share", "0.00001"], ["validation"]),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_no_run(recipe, capfd, overrides, words):
    assert main(["pretrain", str(recipe), *overrides]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert all(word in message for word in words)
    assert not (recipe.parent / "run" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "steps"), [("masked_lm", 600), ("span_corruption", 1000), ("infilling", 400)])
def test_each_objective_learns_twenty_sentences_by_heart(recipe, tmp_path, objective, steps):
    text, others = tmp_path / "twenty.txt", tmp_path / "others.txt"
    sentences = KOREAN.read_text().splitlines()
    text.write_text("\n".join(sentences[:20]))
    others.write_text("\n".join(sentences[20:]))
    run = pretrain(
        recipe, "--objective.name", objective, "--data.train_files", str(text), "--data.validation_files", str(others),
        "--model.d_model", "64", "--model.encoder_layers", "2", "--model.decoder_layers", "2",
        "--training.max_steps", str(steps), "--training.learning_rate", "0.003", "--training.adam_beta2", "0.98",
        "--training.lr_scheduler_type", "cosine", "--training.warmup_steps", "20", "--training.eval_strategy", "no",
        "--training.per_device_train_batch_size", "16", "--training.save_strategy", "no",
    )  # fmt: skip
    last = [line["loss"] for line in read_log(run) if "loss" in line][-20:]
    assert sum(last) / len(last) < 0.1
