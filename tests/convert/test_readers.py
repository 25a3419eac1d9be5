import json

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from hftk.cli import main
from hftk.convert.readers import open_weights
from hftk.errors import UsageError


@pytest.mark.parametrize(
    "path", ["bert_model.ckpt", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", ""]
)
def test_a_checkpoint_is_found_by_any_of_its_names(artifacts, path):
    assert len(open_weights(artifacts / "tf1_bert" / path).tensors) == 46


def test_a_folder_is_searched_in_a_fixed_order(tmp_path):
    with h5py.File(tmp_path / "tf_model.h5", "w") as target:
        target["w"] = np.ones(1)
    assert open_weights(tmp_path).container == "HDF5"
    save_file({"w": np.ones(1)}, tmp_path / "model.safetensors")
    assert open_weights(str(tmp_path)).container == "safetensors"
    assert open_weights(tmp_path / "tf_model.h5").container == "HDF5"


def test_nothing_to_read_says_what_was_looked_for(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"nothing to read; looked for model.safetensors.index.json, .*never unpickles"
    ):
        open_weights(tmp_path)
    with pytest.raises(UsageError, match="no format that hftk reads"):
        open_weights(tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="model: no such file or folder, and model.index is not there either"):
        open_weights(tmp_path / "model")


def test_one_of_several_must_be_named(artifacts, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.index").write_bytes(b"")
    with pytest.raises(UsageError, match="has a.index, b.index and maybe more; name one of them"):
        open_weights(tmp_path)
    with pytest.raises(UsageError, match=r"a.index: not the index of a checkpoint"):
        open_weights(tmp_path / "a.index")


@pytest.fixture
def shards(tmp_path):
    """As transformers writes them: torch's names, and TensorFlow's, where the index puts the model before some."""
    save_file({"a": np.full(2, 1.0), "b": np.full(2, 2.0)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"c": np.full(2, 3.0)}, tmp_path / "model-00002-of-00002.safetensors")
    places = {"a": 1, "b": 1, "c": 2}
    weight_map = {name: f"model-0000{place}-of-00002.safetensors" for name, place in places.items()}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with h5py.File(tmp_path / "tf_model-00001-of-00002.h5", "w") as target:
        target["bert/dense/kernel:0"] = np.full(2, 1.0)
    with h5py.File(tmp_path / "tf_model-00002-of-00002.h5", "w") as target:
        target["model.shared/embeddings:0"] = np.full(2, 2.0)
    tf_map = {
        "tf_bert_1/bert/dense/kernel:0": "tf_model-00001-of-00002.h5",
        "model.shared/embeddings:0": "tf_model-00002-of-00002.h5",
    }
    (tmp_path / "tf_model.h5.index.json").write_text(json.dumps({"weight_map": tf_map}))
    return tmp_path


def test_several_files_are_read_as_one(shards):
    tensors = open_weights(shards).tensors
    assert {name: tensor.read().tolist() for name, tensor in tensors.items()} == {"a": [1, 1], "b": [2, 2], "c": [3, 3]}
    weights = open_weights(shards / "tf_model.h5.index.json")
    assert weights.container == "HDF5, several files"
    assert {name: tensor.read()[0] for name, tensor in weights.tensors.items()} == {
        "bert/dense/kernel:0": 1,
        "model.shared/embeddings:0": 2,
    }


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../model-00001-of-00002.safetensors"}, "that is not in its own folder"),
        ({"a": "/etc/passwd"}, "that is not in its own folder"),
        ({"a": "..\\model.safetensors"}, "that is not in its own folder"),
        ({"a": ".."}, "no such file"),
        ({"a": ""}, "that is not in its own folder"),
        ({"a": ["model-00001-of-00002.safetensors"]}, "no such file"),
        ({"a": "model-00003-of-00002.safetensors"}, "no such file"),
        ({"a": "model-00001-of-00002.safetensors"}, "hold 2 tensors, not 1"),
        ({"a": "model-00001-of-00002.safetensors", "d": "model-00001-of-00002.safetensors"}, "lack 'd'"),
        ({}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_an_index_that_lies(shards, weight_map, message):
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UsageError, match=message) as error:
        open_weights(index)
    assert "\n" not in str(error.value)


def test_a_tensor_in_two_files(shards):
    save_file({"c": np.ones(2), "a": np.ones(2)}, shards / "model-00002-of-00002.safetensors")
    with pytest.raises(UsageError, match="00002-of-00002.safetensors: a stands in another file too"):
        open_weights(shards)


def test_inspect_prints_what_there_is(artifacts, capsys):
    assert main(["inspect", str(artifacts / "tf1_bert")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("bert_model.ckpt.index: TensorFlow checkpoint (TensorFlow 1, by names)")
    assert "[120, 32]  float32   bert/embeddings/word_embeddings" in lines
    assert lines[-3:] == [
        "skipped: 4 (optimizer slot)",
        "skipped: 1 (step counter)",
        "46 tensors, 22,618 parameters, 90,472 bytes",
    ]


def test_inspect_tells_a_variables_own_name_too(artifacts, capsys):
    assert main(["inspect", str(artifacts / "tf2_bart")]) == 0
    assert "/layers.1/fc2/kernel)" in capsys.readouterr().out


def test_inspect_of_nothing_is_a_line(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "no\nsuch")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
