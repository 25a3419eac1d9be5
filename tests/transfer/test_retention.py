"""What a fine-tuning forgets is measured, and what makes it forget less does."""

import json
import math
import shutil

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from hftk.errors import UsageError

from .conftest import backbone


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
