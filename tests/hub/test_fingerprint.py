"""`hftk verify`: a checkpoint that is what it was passes, and what has changed in another is named."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hftk.cli import main
from hftk.errors import UsageError
from hftk.hub.fingerprint import save_fingerprint, verify


@pytest.fixture
def copy(runs, tmp_path):
    """The run `n21`, to be spoiled."""
    shutil.copytree(runs / "n21", tmp_path / "n21")
    return tmp_path / "n21"


def test_what_was_just_saved_passes(runs, capsys):
    for name in ("pretrained", "n21", "n2n", "n2path", "n2m", "adapters", "last_layer"):
        assert verify(runs / name) == []
    assert main(["verify", str(runs / "n21")]) == 0
    assert capsys.readouterr().out.endswith("as it was saved\n")


def test_a_changed_weight_is_named(copy, capsys):
    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"][0] += 0.5
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    said = verify(copy)
    assert "weights: classifier.bias has changed" in said and len(said) == 2
    assert said[1].startswith("outputs: up to 0.5 away")
    assert main(["verify", str(copy)]) == 1


def test_a_changed_tokenizer_file_is_named(copy):
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = tokenizer["normalizer"] = None
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    said = verify(copy)
    assert said[0] == "tokenizer.json: has changed"
    assert any(line.startswith("tokenizer: 'The cat sat on the mat, twice!' was [") for line in said)


def test_a_changed_field_of_the_config_is_named(copy):
    config = json.loads((copy / "config.json").read_text())
    config["classifier_pooling"] = "first"
    (copy / "config.json").write_text(json.dumps(config))
    said = verify(copy)
    assert said[0] == "config.json: classifier_pooling was 'mean', is 'first'"
    assert said[1].startswith("outputs: ")
    del config["head_dim"]
    (copy / "config.json").write_text(json.dumps(config))
    assert "config.json: head_dim was None, is 'not there'" in verify(copy)


def test_another_dtype_is_named(copy):
    with safe_open(copy / "model.safetensors", "pt") as weights:
        halved = {name: weights.get_tensor(name).to(torch.bfloat16) for name in weights.keys()}
    save_file(halved, copy / "model.safetensors", metadata={"format": "pt"})
    assert verify(copy)[0] == "weights: were float32, are bfloat16"


def test_another_version_of_the_code_is_named_where_something_differs(copy):
    fingerprint = json.loads((copy / "fingerprint.json").read_text(encoding="utf-8"))
    fingerprint["versions"]["transformers"] = "4.0.0"
    (copy / "fingerprint.json").write_text(json.dumps(fingerprint), encoding="utf-8")
    assert verify(copy) == []
    fingerprint["outputs"][0] += 1
    (copy / "fingerprint.json").write_text(json.dumps(fingerprint), encoding="utf-8")
    assert [line.partition(" was")[0] for line in verify(copy)] == [
        "outputs: up to 1 away from those that were saved",
        "versions: transformers",
    ]


def test_a_part_that_is_gone_or_was_never_kept(copy):
    (copy / "model.safetensors").unlink()
    assert verify(copy)[-1].startswith("it no longer loads: ")
    (copy / "fingerprint.json").unlink()
    with pytest.raises(UsageError, match=r"no fingerprint.json in it"):
        verify(copy)


def test_a_fingerprint_is_the_same_each_time(copy):
    before = (copy / "fingerprint.json").read_text()
    save_fingerprint(copy)
    assert (copy / "fingerprint.json").read_text() == before
