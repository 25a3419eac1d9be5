"""hftk's models in CTranslate2 compute what they compute in torch, and generate the same."""

import json
import sys
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hftk
from hftk.cli import main
from hftk.convert import ctranslate2_model
from hftk.convert.conversion import convert
from hftk.data.tokenizer import TokenizerArguments, train_tokenizer
from hftk.errors import UsageError

ATOL = 1e-4  # of log-likelihoods
NEW_TOKENS = 12
SIZES: dict[str, Any] = {"vocab_size": 380, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3}
SIZES |= {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 36}
SIZES |= {"max_position_embeddings": 160}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("vanilla", {}),
    "bart": ("bart", {"lm_head_bias": True}),
    "t5": ("t5", {}),
    "t5_1_1": (
        "t5",
        {"activation_function": "gelu_new", "gated_feed_forward": True, "tie_lm_head": False, "scale_lm_head": False}
        | {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 60},
    ),
    "marian": ("vanilla", {"position_embedding_type": "sinusoidal_halves", "final_norm": False, "lm_head_bias": True}),
    "modern": ("modern", {}),
    # the axes that no preset turns this way
    "wide_heads": ("modern", {"head_dim": 12, "tie_lm_head": False, "lm_head_bias": True, "use_bias": True}),
    "without_positions": ("vanilla", {"position_embedding_type": "none", "norm_position": "pre", "use_bias": False}),
    "post_rms": ("modern", {"norm_position": "post", "embedding_norm": True, "activation_function": "gelu_new"}),
    "far_turns": (
        "modern",
        {"rope_theta": 100.0, "norm_type": "layer_norm", "norm_eps": 1e-2, "scale_embedding": True},
    ),
}


def save_random_model(folder: Path, preset: str, **changes: Any) -> hftk.HftkForConditionalGeneration:
    """All is random, also biases, norms and tables, whose first values would hide mistakes; a tokenizer lies beside."""
    generator = torch.Generator().manual_seed(11)
    model = hftk.HftkForConditionalGeneration(hftk.HftkConfig.from_preset(preset, **{**SIZES, **changes})).eval()
    for name, parameter in model.named_parameters():
        middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        width = 0.1 if parameter.dim() == 1 or "position" in name else 0.2
        parameter.data = middle + width * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    # it has fewer tokens than the model has rows
    train_tokenizer(["one two three"], TokenizerArguments(vocab_size=370)).save_pretrained(folder)
    return model


def padded(rows: list[list[int]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_and_generates_the_same(tmp_path, name):
    preset, changes = CASES[name]
    model = save_random_model(tmp_path / "torch", preset, **changes)
    report = convert(tmp_path / "torch", tmp_path / "new", to="ctranslate2")
    assert report.ok and [row["equal"] for row in report.outputs] == [True, True]

    translator = ctranslate2.Translator(str(tmp_path / "new"), compute_type="float32")
    names = json.loads((tmp_path / "new/shared_vocabulary.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert names[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    random = np.random.default_rng(5)
    sources = [random.integers(len(names), size=length).tolist() for length in (1, 3, 11, 150)]
    targets = [random.integers(len(names), size=length).tolist() for length in (0, 5, 7, 2)]
    inputs = {"input_ids": padded(sources), "attention_mask": padded([[1] * len(row) for row in sources])}
    tokens = [[names[token] for token in row] for row in sources]

    scored = translator.score_batch(tokens, [[names[token] for token in row] for row in targets])
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=padded([[1, *row] for row in targets])).logits
    for row, ids, one in zip(logits.log_softmax(-1), targets, scored, strict=True):
        wanted = row[range(len(ids) + 1), [*ids, 2]]
        assert np.abs(np.array(one.log_probs) - wanted.numpy()).max() <= ATOL

    written = translator.translate_batch(tokens, beam_size=1, max_decoding_length=NEW_TOKENS, return_end_token=True)
    found = [[names.index(token) for token in one.hypotheses[0]] for one in written]
    ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, num_beams=1, do_sample=False)[:, 1:].tolist()
    assert found == [row[: row.index(2) + 1] if 2 in row else row for row in ids]
    assert len({tuple(row) for row in found}) > 1


@pytest.mark.parametrize("family", ["bart", "t5", "marian"])
def test_other_families_go_through_hftk(artifacts, tmp_path, family):
    convert(artifacts / family, tmp_path / "hftk", to="hftk")
    train_tokenizer(["one"], TokenizerArguments(vocab_size=370)).save_pretrained(tmp_path / "hftk")
    assert convert(tmp_path / "hftk", tmp_path / "new", to="ctranslate2").ok


def test_what_does_not_compute_the_same_is_not_written(tmp_path, monkeypatch, capsys):
    save_random_model(tmp_path / "torch", "modern")
    monkeypatch.setitem(ctranslate2_model.ACTIVATIONS, "silu", ctranslate2.specs.Activation.GELU)
    assert main(["convert", str(tmp_path / "torch"), str(tmp_path / "new"), "--to", "ctranslate2"]) == 1
    out = capsys.readouterr().out
    assert "the first that differs is log_likelihoods" in out and out.endswith("NOT converted\n")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("modern", {"position_embedding_type": "alibi"}, "no position_embedding_type='alibi', only 'sinusoidal' or"),
        ("modern", {"norm_type": "batch_norm"}, "no norm_type='batch_norm', only 'layer_norm' or 'rms_norm'"),
        ("modern", {"norm_type": "none"}, "no norm_type='none'"),
        ("modern", {"ngram_order": 2}, "no ngram_order=2, only 1"),
        ("modern", {"attention_window": 3}, "no attention_window=3, only None"),
        ("modern", {"residual": False}, "no residual=False, only True"),
        ("modern", {"activation_function": "tanh"}, "no activation_function='tanh'"),
        ("bart", {"lm_head_transform": True}, "no lm_head_transform=True"),
        ("bart", {"type_vocab_size": 2}, "no type_vocab_size=2"),
        ("modern", {"eos_token_id": [2, 3]}, "CTranslate2 has one end of a text, not eos_token_id=[2, 3]"),
    ],
)
def test_what_ctranslate2_does_not_compute_is_refused(tmp_path, capsys, preset, changes, message):
    save_random_model(tmp_path / "torch", preset, **changes)
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "torch"), str(tmp_path / "new"), "--to", "ctranslate2"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_it_needs_a_tokenizer(tmp_path):
    save_random_model(tmp_path / "torch", "modern")
    for file in (tmp_path / "torch").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UsageError, match="CTranslate2 takes tokens; put the model's tokenizer there") as caught:
        convert(tmp_path / "torch", tmp_path / "new", to="ctranslate2")
    assert "\n" not in str(caught.value)


def test_no_tensor_may_be_missing(tmp_path):
    save_random_model(tmp_path / "torch", "vanilla")
    tensors = load_file(tmp_path / "torch/model.safetensors")
    del tensors["decoder.layer_norm.bias"]
    save_file(tensors, tmp_path / "torch/model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="lacks decoder.layer_norm.bias, without which CTranslate2 has no model"):
        convert(tmp_path / "torch", tmp_path / "new", to="ctranslate2", allow=["*"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "bfloat16"}, "add --dtype float32"), ({"reference": "io.npz"}, "is compared with its source anyway")],
)
def test_mistakes_are_told_in_one_line(tmp_path, options, message):
    save_random_model(tmp_path / "torch", "modern")
    with pytest.raises(UsageError, match=message) as caught:
        convert(tmp_path / "torch", tmp_path / "new", to="ctranslate2", **options)
    assert "\n" not in str(caught.value)


def test_without_ctranslate2_one_line_says_what_to_install(tmp_path, monkeypatch):
    save_random_model(tmp_path / "torch", "modern")
    monkeypatch.delitem(sys.modules, "hftk.convert.ctranslate2_model")
    monkeypatch.delattr(hftk.convert, "ctranslate2_model")
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UsageError, match=r"model\.bin: CTranslate2 writes it.*pip install 'hftk\[ct2\]'"):
        convert(tmp_path / "torch", tmp_path / "new", to="ctranslate2")
