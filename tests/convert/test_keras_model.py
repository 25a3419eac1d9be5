"""
hftk's models in Keras and in a SavedModel compute what they compute in torch, generate the same, and come back bit for
bit. The SavedModel is run by a process that has TensorFlow and nothing else.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import hftk
from hftk.cli import main
from hftk.convert.conversion import convert
from hftk.convert.readers import open_weights
from hftk.errors import UsageError

ATOL = 2e-5  # of logits
VOCAB, NEW_TOKENS = 40, 12
SIZES: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3}
SIZES |= {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 36}
SIZES |= {"max_position_embeddings": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("vanilla", {"decoder_layers": 1}),
    "bart": ("bart", {"lm_head_bias": True, "decoder_layers": 1}),
    "modern": ("modern", {}),
    # the axes that no preset turns this way
    "wide_heads": ("modern", {"head_dim": 12, "tie_lm_head": False, "lm_head_bias": True, "use_bias": True}),
    "without_positions": ("vanilla", {"position_embedding_type": "none", "norm_position": "pre", "use_bias": False}),
    "post_rms": ("modern", {"norm_position": "post", "embedding_norm": True, "activation_function": "gelu_new"}),
}

# With TensorFlow alone: whatever else it could import is made to fail.
RUN = """
import sys
for package in ("hftk", "keras", "tf_keras", "torch", "transformers"):
    sys.modules[package] = None
import numpy as np
import tensorflow as tf

for folder in sys.argv[1:]:
    given = {name: tf.constant(array) for name, array in np.load(f"{folder}/in.npz").items()}
    source = {name: given[name] for name in ("input_ids", "attention_mask")}
    run = tf.saved_model.load(folder).signatures
    found = {**run["serving_default"](**given), **run["encode"](**source), **run["generate"](**source)}
    np.savez(f"{folder}/out.npz", **{name: value.numpy() for name, value in found.items()})
assert not [name for name in sys.modules if name.startswith(("hftk.", "keras.", "torch.", "transformers."))]
"""


@dataclass(frozen=True)
class Case:
    """A model in torch's folder, and what it computes there."""

    folder: Path
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def random_model(preset: str, **changes: Any) -> hftk.HftkForConditionalGeneration:
    """
    All is random, also biases, norms and tables, whose first values would hide mistakes. Embeddings and vectors are
    small beside kernels, since otherwise a model says its own last token for ever. Larger kernels would make attention
    so sharp that torch itself is off by more than `ATOL` from what it computes in float64.
    """
    generator = torch.Generator().manual_seed(11)
    model = hftk.HftkForConditionalGeneration(hftk.HftkConfig.from_preset(preset, **{**SIZES, **changes})).eval()
    for name, parameter in model.named_parameters():
        middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        width = 0.03 if parameter.dim() == 1 else 0.05 if name in ("shared.weight", "lm_head.weight") else 0.25
        parameter.data = middle + width * torch.randn(parameter.shape, generator=generator)
    return model


def random_inputs() -> dict[str, np.ndarray]:
    """Rows of several lengths, padded on the right and on the left."""
    random = np.random.default_rng(5)
    inputs = {
        "input_ids": random.integers(3, VOCAB, (8, 11), dtype=np.int32),
        "attention_mask": np.ones((8, 11), np.int32),
        "decoder_input_ids": random.integers(3, VOCAB, (8, 7), dtype=np.int32),
    }
    for row in range(1, 8):
        inputs["attention_mask"][row, slice(-row, None) if row % 2 else slice(0, row)] = 0
    inputs["input_ids"][inputs["attention_mask"] == 0] = 0
    return inputs


def ends_some_rows_early(model: Any, source: dict[str, torch.Tensor]) -> None:
    """Makes the id an end with which some rows end before others."""
    free = model.generate(**source, max_new_tokens=NEW_TOKENS, eos_token_id=None, num_beams=1, do_sample=False)

    def ended(token: int) -> list[bool]:
        return [token in row[1:-2] for row in free.tolist()]

    ends = [token for token in range(3, VOCAB) if any(ended(token)) and not all(ended(token))]
    assert ends, "no id that some rows have and others have not: choose another seed"
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=0, bos_token_id=1, decoder_start_token_id=1, eos_token_id=ends[:2], max_new_tokens=NEW_TOKENS
    )


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    return {name: make_case(tmp_path_factory.mktemp(name) / "torch", *CASES[name]) for name in CASES}


def make_case(folder: Path, preset: str, changes: dict[str, Any]) -> Case:
    model, inputs = random_model(preset, **changes), random_inputs()
    tensors = {name: torch.from_numpy(array).long() for name, array in inputs.items()}
    source = {name: tensors[name] for name in ("input_ids", "attention_mask")}
    ends_some_rows_early(model, source)
    with torch.no_grad():
        outputs = model(**tensors)
    ids = model.generate(**source, num_beams=1, do_sample=False)
    model.save_pretrained(folder)
    found = {"logits": outputs.logits, "last_hidden_state": outputs.encoder_last_hidden_state, "ids": ids}
    return Case(folder, inputs, {name: value.numpy() for name, value in found.items()})


def assert_same_weights(found: Path, wanted: Path) -> None:
    ours, theirs = open_weights(found).tensors, open_weights(wanted).tensors
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].read().tobytes() == tensor.read().tobytes(), name


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_keras_computes_the_same_and_comes_back(cases, tmp_path, name):
    import keras

    import hftk.convert.keras_model  # noqa: F401, registers the class

    case = cases[name]
    report = convert(case.folder, tmp_path / "keras", to="keras")
    assert report.ok and {row["round_trip"] for row in report.tensors} == {"bit-equal"}
    model = keras.saving.load_model(tmp_path / "keras/model.keras")
    assert np.abs(np.asarray(model(case.inputs)) - case.outputs["logits"]).max() <= ATOL
    back = convert(tmp_path / "keras", tmp_path / "back", to="hftk")
    assert back.ok and {row["round_trip"] for row in back.tensors} == {"bit-equal"}
    assert_same_weights(tmp_path / "back", case.folder)
    config, again = (transformers.AutoConfig.from_pretrained(path) for path in (case.folder, tmp_path / "back"))
    assert again.to_json_string() == config.to_json_string()


@pytest.fixture(scope="module")
def saved(cases, tmp_path_factory) -> dict[str, Path]:
    """Each as a SavedModel, with what a process without hftk, Keras and torch makes of its inputs."""
    folders = {name: tmp_path_factory.mktemp("saved") / name for name in cases}
    for name, case in cases.items():
        report = convert(case.folder, folders[name], to="savedmodel")
        assert report.ok and {row["round_trip"] for row in report.tensors} == {"bit-equal"}
        np.savez(folders[name] / "in.npz", **case.inputs)
    subprocess.run([sys.executable, "-c", RUN, *folders.values()], check=True, cwd=tmp_path_factory.mktemp("away"))
    return folders


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_tensorflow_alone_runs_the_savedmodel(cases, saved, tmp_path, name):
    case = cases[name]
    with np.load(saved[name] / "out.npz") as found:
        assert np.abs(found["logits"] - case.outputs["logits"]).max() <= ATOL
        real = case.inputs["attention_mask"].astype(bool)
        assert np.abs(found["last_hidden_state"] - case.outputs["last_hidden_state"])[real].max() <= ATOL
        assert found["ids"].tolist() == case.outputs["ids"].tolist()
    assert convert(saved[name], tmp_path / "back", to="hftk").ok
    assert_same_weights(tmp_path / "back", case.folder)


@pytest.mark.tf
@pytest.mark.slow
def test_generation_takes_its_settings_along(tmp_path):
    """The most new tokens, and ids that are forced at the first and the last place."""
    model = random_model("modern")
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=0, decoder_start_token_id=1, eos_token_id=2, forced_bos_token_id=7, forced_eos_token_id=2
    )
    model.save_pretrained(tmp_path / "torch")
    source = {name: array for name, array in random_inputs().items() if name != "decoder_input_ids"}
    ids = model.generate(**{name: torch.from_numpy(array).long() for name, array in source.items()}, max_new_tokens=5)
    convert(tmp_path / "torch", tmp_path / "saved", to="savedmodel", max_new_tokens=5)
    import tensorflow as tf

    generate = tf.saved_model.load(str(tmp_path / "saved")).signatures["generate"]
    found = generate(**{name: tf.constant(array) for name, array in source.items()})["ids"].numpy().tolist()
    assert found == ids.tolist()
    assert {(row[1], row[5]) for row in found} <= {(7, 2), (7, 0)}


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("modern", {"position_embedding_type": "alibi"}, "no position_embedding_type='alibi', only 'sinusoidal' or"),
        ("modern", {"norm_type": "batch_norm"}, "no norm_type='batch_norm', only 'layer_norm' or 'rms_norm'"),
        ("modern", {"ngram_order": 2}, "no ngram_order=2, only 1"),
        ("modern", {"attention_window": 3}, "no attention_window=3, only None"),
        ("modern", {"residual": False}, "no residual=False, only True"),
        ("modern", {"activation_function": "tanh"}, "no activation_function='tanh'"),
        ("bart", {"lm_head_transform": True}, "no lm_head_transform=True"),
        ("bart", {"type_vocab_size": 2}, "no type_vocab_size=2"),
        ("t5", {}, "no position_embedding_type='relative'"),
    ],
)
@pytest.mark.parametrize("to", ["keras", "savedmodel"])
def test_what_keras_does_not_compute_is_refused(tmp_path, capsys, preset, changes, message, to):
    random_model(preset, **changes).save_pretrained(tmp_path / "torch")
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "torch"), str(tmp_path / "new"), "--to", to]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "keras", "dtype": "bfloat16"}, "add --dtype float32"),
        ({"to": "keras", "max_new_tokens": 4}, "only a SavedModel has it inside"),
        ({"to": "savedmodel", "max_new_tokens": 0}, "must be at least 1 and at most max_position_embeddings=64"),
        ({"to": "savedmodel", "max_new_tokens": 65}, "must be at least 1 and at most max_position_embeddings=64"),
        ({"to": "savedmodel", "reference": "io.npz"}, "runs in TensorFlow only"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, options, message):
    random_model("bart").save_pretrained(tmp_path / "torch")
    with pytest.raises(UsageError, match=message) as caught:
        convert(tmp_path / "torch", tmp_path / "new", **options)
    assert "\n" not in str(caught.value)


def test_settings_that_the_graph_has_not_are_refused(tmp_path):
    model = random_model("modern")
    model.generation_config.no_repeat_ngram_size = 3
    model.save_pretrained(tmp_path / "torch")
    with pytest.raises(UsageError, match="generates without no_repeat_ngram_size=3; take it out"):
        convert(tmp_path / "torch", tmp_path / "new", to="savedmodel")


def test_other_families_go_through_hftk(artifacts, tmp_path):
    with pytest.raises(UsageError, match="takes hftk's weights; first `hftk convert .* NEW --to hftk`"):
        convert(artifacts / "bart", tmp_path / "new", to="keras")


def test_without_tensorflow_one_line_says_what_to_install(tmp_path, monkeypatch):
    random_model("modern").save_pretrained(tmp_path / "torch")
    for name in [name for name in sys.modules if name.startswith("hftk.convert.savedmodel")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UsageError, match=r"model\.keras: TensorFlow writes it.*pip install 'hftk\[tf\]'"):
        convert(tmp_path / "torch", tmp_path / "new", to="keras")
