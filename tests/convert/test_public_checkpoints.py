"""torch checkpoints as the Hub has them become hftk's with the same outputs, and go back bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hftk
from hftk.convert.conversion import convert
from hftk.errors import UsageError

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
STACKS = {"vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4}
STACKS |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": 40}
BERT = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("BartForConditionalGeneration", {**STACKS, **IDS, "forced_eos_token_id": 2, "scale_embedding": True}),
    "marian": ("MarianMTModel", {**STACKS, **IDS, "activation_function": "swish", "scale_embedding": True}),
    "bert": ("BertForMaskedLM", {**BERT, "max_position_embeddings": 40, "hidden_act": "gelu_new"}),
    "t5": ("T5ForConditionalGeneration", {**T5, **IDS}),
    "t5_1_1": (
        "T5ForConditionalGeneration",
        {**T5, **IDS, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def original(request, tmp_path_factory):
    """A model of transformers whose every parameter is random, its folder, and a batch for it."""
    class_name, config = MODELS[request.param]
    model_class = getattr(transformers, class_name)
    torch.manual_seed(1)
    model = model_class(model_class.config_class(**config)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if request.param != "marian" or "embed_positions" not in name:
                tensor.normal_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.2)
        if request.param == "t5_1_1":  # which transformers 5 ties when it builds one, and not when it loads one
            model.lm_head.weight = torch.nn.Parameter(torch.randn(97, 32) * 0.2)
            model.all_tied_weights_keys.pop("lm_head.weight")
    folder = tmp_path_factory.mktemp(request.param) / "original"
    model.save_pretrained(folder, max_shard_size="60KB")
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, **config}))  # as the Hub has it
    batch: dict[str, Any] = {"input_ids": torch.randint(5, 97, (3, 11))}
    batch["attention_mask"] = torch.ones(3, 11, dtype=torch.long)
    batch["attention_mask"][0, 8:] = 0
    if model.config.is_encoder_decoder:
        batch |= {"decoder_input_ids": torch.randint(5, 97, (3, 7)), "use_cache": False}
    else:
        batch["token_type_ids"] = torch.randint(0, 2, (3, 11))
    return request.param, model, folder, batch


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_equal_outputs_and_back(original, tmp_path):
    name, theirs, folder, batch = original
    report = convert(folder, tmp_path / "hftk", to="hftk")
    assert report.ok and report.source_names == "torch"
    ours = getattr(hftk, report.class_name).from_pretrained(tmp_path / "hftk")
    with torch.no_grad():
        wanted, found = theirs(**batch, output_hidden_states=True), ours(**batch, output_hidden_states=True)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=5e-5)  # AVX-512: 2.6e-5
    for kind in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
        for mine, other in zip(found.get(kind) or (), wanted.get(kind) or (), strict=True):
            largest = max(1.0, other.abs().max().item())  # T5 normalises no sum of its layers: they grow
            torch.testing.assert_close(mine, other, rtol=0, atol=2e-5 * largest)
    if "decoder_input_ids" in batch:
        source = {key: batch[key] for key in ("input_ids", "attention_mask")}
        for options in ({}, {"num_beams": 3}):
            options = {**options, "max_new_tokens": 12, "do_sample": False}
            assert torch.equal(
                ours.generate(**source, **options), theirs.generate(**source, **options, use_cache=False)
            )

    assert convert(tmp_path / "hftk", tmp_path / "torch", to="torch").ok
    again, before = weights(tmp_path / "torch"), weights(folder)
    assert again.keys() == before.keys()
    for key, tensor in before.items():
        rows = 2 if name == "bart" and "embed_positions" in key else 0  # that no token reaches
        assert torch.equal(again[key][rows:], tensor[rows:]), key
    reloaded, info = type(theirs).from_pretrained(tmp_path / "torch", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(reloaded.eval()(**batch).logits, wanted.logits, rtol=0, atol=2e-5)


def test_auto_classes_load_what_was_converted(artifacts, tmp_path):
    convert(artifacts / "bart", tmp_path / "torch")
    convert(artifacts / "bart", tmp_path / "hftk", to="hftk")
    inputs = {"input_ids": torch.arange(5, 12)[None], "decoder_input_ids": torch.arange(20, 25)[None]}
    logits = []
    for folder in ("torch", "hftk"):
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / folder).eval()
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    torch.testing.assert_close(*logits, rtol=0, atol=2e-5)


def test_names_of_old_files(tmp_path, artifacts):
    """Norms with gamma and beta, what is computed now, heads that the class lacks, no prefix, copies of the tied."""
    convert(artifacts / "bert_pretraining", tmp_path / "torch")
    file = tmp_path / "torch/model.safetensors"
    old = {}
    for name, tensor in load_file(file).items():
        if "LayerNorm" in name:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name] = tensor
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
    save_file(old, file, {"format": "pt"})
    reference = artifacts / "bert_pretraining/io.npz"
    report = convert(tmp_path / "torch", tmp_path / "hftk", to="hftk", reference=reference)
    assert report.ok and report.skipped["bert.embeddings.position_ids"] == "computed"

    convert(artifacts / "bart", tmp_path / "bart")
    file = tmp_path / "bart/model.safetensors"
    bare = {name.removeprefix("model."): tensor for name, tensor in load_file(file).items() if "logits" not in name}
    bare["encoder.embed_tokens.weight"] = bare["shared.weight"].clone()
    save_file(bare, file, {"format": "pt"})
    report = convert(tmp_path / "bart", tmp_path / "bare", to="hftk", arch="BartForConditionalGeneration")
    assert report.ok and report.class_name == "HftkForConditionalGeneration"


def test_a_wrong_copy_of_a_tied_tensor_is_told(tmp_path, artifacts):
    convert(artifacts / "bart", tmp_path / "torch")
    file = tmp_path / "torch/model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.shared.weight"].clone()
    save_file(tensors, file, {"format": "pt"})
    assert convert(tmp_path / "torch", tmp_path / "same", to="hftk").ok
    tensors["lm_head.weight"][3, 5] += 1e-3
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(
        UsageError, match="lm_head.weight and model.shared.weight differ|shared.weight and lm_head.weight differ"
    ):
        convert(tmp_path / "torch", tmp_path / "other", to="hftk")


def test_positions_that_were_trained_do_not_fit_marian(tmp_path, artifacts):
    shutil.copytree(artifacts / "marian", tmp_path / "marian")
    with h5py.File(tmp_path / "marian/tf_model.h5", "r+") as weights:
        names: list[str] = []
        weights.visit(names.append)
        [table] = [name for name in names if "encoder/embed_positions/" in name and name.endswith(":0")]
        weights[table][...] += 0.01
    with pytest.raises(UsageError, match="embed_positions.* is not the table that marian computes"):
        convert(tmp_path / "marian", tmp_path / "hftk", to="hftk")


def test_marian_is_trained_as_hftk_and_goes_back(tmp_path, artifacts):
    """Its positions are computed in hftk too, so that no training moves them."""
    convert(artifacts / "marian", tmp_path / "hftk", to="hftk")
    model = hftk.HftkForConditionalGeneration.from_pretrained(tmp_path / "hftk")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    inputs = {"input_ids": torch.randint(1, 119, (4, 30)), "labels": torch.randint(1, 119, (4, 20))}
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0] - 0.1
    model.eval().save_pretrained(tmp_path / "trained")
    report = convert(tmp_path / "trained", tmp_path / "torch", to="torch")
    assert report.ok and report.class_name == "MarianMTModel"
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path / "torch").eval()
    inputs = {"input_ids": inputs["input_ids"], "decoder_input_ids": inputs["labels"]}
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).logits, model(**inputs).logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize("preset", ["bart", "t5"])
def test_what_hftk_trained_serves_those_who_have_transformers_alone(tmp_path, preset):
    sizes = {key: value for key, value in STACKS.items() if key != "decoder_attention_heads"}
    sizes |= {"decoder_attention_heads": 4, "decoder_ffn_dim": 48}
    model = hftk.HftkForConditionalGeneration(hftk.HftkConfig.from_preset(preset, **sizes)).eval()
    model.save_pretrained(tmp_path / "hftk")
    assert convert(tmp_path / "hftk", tmp_path / "torch", to="torch").ok
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "torch").eval()
    assert theirs.config.model_type == preset
    inputs = {"input_ids": torch.randint(5, 97, (2, 9)), "decoder_input_ids": torch.randint(5, 97, (2, 6))}
    with torch.no_grad():
        found = theirs(**inputs, use_cache=False).logits
        torch.testing.assert_close(found, model(**inputs).logits, rtol=0, atol=2e-5)
