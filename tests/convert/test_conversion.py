"""
What TensorFlow saved becomes torch's and hftk's, computes the same there (the real TensorFlow wrote the outputs), and
goes back bit for bit.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hftk.cli import main
from hftk.convert.conversion import Report, convert
from hftk.convert.readers import open_weights
from hftk.errors import UsageError


@dataclass(frozen=True)
class Artifact:
    """`atol`: by how much logits may differ from what TensorFlow computed: twice what was measured on one processor."""

    source: str
    reference: str
    atol: float
    torch: str
    hftk: str
    config: str | None = None


ARTIFACTS = {
    "bert": Artifact("bert", "bert", 1e-5, "BertForMaskedLM", "HftkForMaskedLM"),
    "bert_safetensors": Artifact("bert_tf_safetensors", "bert", 1e-5, "BertForMaskedLM", "HftkForMaskedLM"),
    "bert_pretraining": Artifact("bert_pretraining", "bert_pretraining", 1e-5, "BertForPreTraining", "HftkForMaskedLM"),
    "bert_saved_model": Artifact("bert_saved_model", "bert_saved_model", 1e-5, "BertModel", "HftkEncoderModel"),
    "tf1_bert": Artifact("tf1_bert/bert_model.ckpt", "tf1_bert", 1e-5, "BertForPreTraining", "HftkForMaskedLM"),
    "tf1_bert_partitioned": Artifact(
        "tf1_bert_partitioned/bert_model.ckpt",
        "tf1_bert",
        1e-5,
        "BertForPreTraining",
        "HftkForMaskedLM",
        "tf1_bert/bert_config.json",
    ),
    "bart": Artifact("bart", "bart", 8e-6, "BartForConditionalGeneration", "HftkForConditionalGeneration"),
    "tf2_bart": Artifact(
        "tf2_bart", "bart", 8e-6, "BartForConditionalGeneration", "HftkForConditionalGeneration", "bart/config.json"
    ),
    "keras": Artifact(
        "keras_bart/model_full.keras",
        "keras_bart",
        1e-5,
        "BartForConditionalGeneration",
        "HftkForConditionalGeneration",
    ),
    "keras_checkpoint": Artifact(
        "keras_bart/bart.ckpt", "keras_bart", 1e-5, "BartForConditionalGeneration", "HftkForConditionalGeneration"
    ),
    "t5": Artifact("t5", "t5", 2e-5, "T5ForConditionalGeneration", "HftkForConditionalGeneration"),
    "t5_1_1": Artifact(
        "t5_1_1_shards", "t5_1_1_shards", 2e-5, "T5ForConditionalGeneration", "HftkForConditionalGeneration"
    ),
    "marian": Artifact("marian", "marian", 8e-6, "MarianMTModel", "HftkForConditionalGeneration"),
}
H5 = ["bert", "bert_pretraining", "bart", "t5", "t5_1_1", "marian"]
Converted = Callable[[str, str], tuple[Path, Report]]


@pytest.fixture(scope="session")
def converted(artifacts, tmp_path_factory) -> Converted:
    """An artifact in another form, and the report; made once."""
    made: dict[tuple[str, str], tuple[Path, Report]] = {}

    def make(name: str, to: str) -> tuple[Path, Report]:
        if (name, to) not in made:
            artifact = ARTIFACTS[name]
            folder = tmp_path_factory.mktemp(name) / to
            report = convert(
                artifacts / artifact.source,
                folder,
                to=to,
                config=artifact.config and artifacts / artifact.config,
                reference=artifacts / artifact.reference / "io.npz",
            )
            made[name, to] = folder, report
        return made[name, to]

    return make


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in open_weights(path).tensors.items()}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name


@pytest.mark.parametrize("to", ["torch", "hftk"])
@pytest.mark.parametrize("name", ARTIFACTS)
def test_computes_what_tensorflow_computed(converted, name, to):
    folder, report = converted(name, to)
    assert report.ok and report.class_name == getattr(ARTIFACTS[name], to)
    assert report.unused == report.missing == []
    logits = [row["max_difference"] for row in report.outputs if row["output"] == "logits"]
    assert all(difference is None or difference <= ARTIFACTS[name].atol for difference in logits)
    compared = {row["output"] for row in report.outputs if row["equal"]}
    # Every layer, what stands before the first, and what comes out.
    encoder = (
        "encoder_hidden_states"
        if "Conditional" in report.class_name or "Marian" in report.class_name
        else "hidden_states"
    )
    if name.startswith("keras"):
        assert compared == {"encoder_last_hidden_state", "decoder_hidden_states_-1", "logits"}
    else:
        assert {f"{encoder}_{i}" for i in range(3)} <= compared
    if encoder == "encoder_hidden_states" and not name.startswith("keras"):
        assert {"decoder_hidden_states_0", "decoder_hidden_states_1", "logits", "generate_greedy"} <= compared
    assert json.loads((folder / "conversion.json").read_text())["ok"]


@pytest.mark.parametrize("to", ["torch", "hftk"])
@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_tensor_goes_back_bit_for_bit(converted, name, to):
    _, report = converted(name, to)
    lost = "bit-equal but for the first 2 rows, which no token reaches"
    for row in report.tensors:
        through_bart = to == "hftk" and name in ("bart", "tf2_bart") and "positions" in row["target"]
        assert row["round_trip"] == (lost if through_bart else "bit-equal"), row


def test_variables_in_parts_are_put_together(converted, artifacts):
    """TensorFlow cut three of them, in rows and in columns, and wrote two data files."""
    index = (artifacts / "tf1_bert_partitioned/bert_model.ckpt.index").read_bytes()
    assert index.count(b"\0\1\1\2") >= 3  # the first slice of each
    assert_same(arrays(converted("tf1_bert_partitioned", "torch")[0]), arrays(converted("tf1_bert", "torch")[0]))


@pytest.mark.parametrize("name", H5)
def test_back_to_tensorflow(converted, artifacts, tmp_path, name):
    """The file that TensorFlow wrote, but for the name of the model in its paths and for copies of what is tied."""
    report = convert(converted(name, "torch")[0], tmp_path / "tf", to="tf")
    assert report.ok and {row["round_trip"] for row in report.tensors} == {"bit-equal"} | (
        {"computed"} if name == "marian" else set()
    )

    def bare(path: Path) -> dict[str, np.ndarray]:
        from hftk.convert.rules import TF_AROUND, Naming

        naming = Naming((), TF_AROUND)
        return {naming.bare(name): array for name, array in arrays(path).items()}

    assert_same(bare(tmp_path / "tf"), bare(artifacts / ARTIFACTS[name].source))


@pytest.mark.parametrize("name", [*H5, "keras", "bert_saved_model"])
def test_through_hftk_and_back_to_torch(converted, tmp_path, name):
    arch = ARTIFACTS[name].torch.replace("PreTraining", "MaskedLM")
    report = convert(converted(name, "hftk")[0], tmp_path / "torch", to="torch", arch=arch, allow=["pooler.*"])
    assert report.ok
    found, wanted = arrays(tmp_path / "torch"), arrays(converted(name, "torch")[0])
    for array in (name for name in wanted if name.endswith("embed_positions.weight")):
        wanted[array][:2] = 0  # no token reaches them, and hftk has none
    gone = ("bert.pooler", "pooler", "cls.seq") if name.startswith("bert_") else ()
    assert_same(found, {name: array for name, array in wanted.items() if not name.startswith(gone)})
    config = json.loads((tmp_path / "torch/config.json").read_text())
    original = json.loads((converted(name, "torch")[0] / "config.json").read_text())
    for key in ("layer_norm_eps", "hidden_act", "activation_function", "feed_forward_proj", "tie_word_embeddings"):
        assert config.get(key, original.get(key)) == original.get(key, config.get(key))


def test_weights_of_hftk_into_tensorflow(converted, tmp_path):
    """Through torch's names, though no torch model is written."""
    report = convert(converted("t5_1_1", "hftk")[0], tmp_path / "tf", to="tf")
    assert report.ok and report.class_name == "T5ForConditionalGeneration"
    convert(converted("t5_1_1", "torch")[0], tmp_path / "other", to="tf")
    assert_same(arrays(tmp_path / "tf"), arrays(tmp_path / "other"))


def test_command_line(artifacts, tmp_path, capsys):
    arguments = ["convert", str(artifacts / "tf1_bert/bert_model.ckpt"), str(tmp_path / "new")]
    assert main([*arguments, "--dry-run", "--report", str(tmp_path / "report.json")]) == 0
    assert not (tmp_path / "new").exists() and json.loads((tmp_path / "report.json").read_text())["ok"]
    assert main(arguments) == 0
    assert "there and back: 46 of 46 tensors bit-equal" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err


def strict_json(file: Path) -> dict:
    def refuse(number: str) -> None:
        raise ValueError(f"{number} is not JSON")

    return json.loads(file.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("spoil", ["another_shape", "no_number"])
def test_the_report_is_json_for_strict_readers_too(artifacts, tmp_path, spoil):
    with np.load(artifacts / "bert/io.npz") as arrays:
        logits = arrays["out_logits"]
        wrong = logits[:1] if spoil == "another_shape" else np.full_like(logits, np.nan)
        np.savez(tmp_path / "io.npz", out_logits=wrong, **{n: arrays[n] for n in arrays if n[:3] == "in_"})
    arguments = ["convert", str(artifacts / "bert"), str(tmp_path / "new"), "--reference", str(tmp_path / "io.npz")]
    assert main([*arguments, "--report", str(tmp_path / "report.json")]) == 1
    report = strict_json(tmp_path / "report.json")
    assert not report["ok"] and report["outputs"] == [{"output": "logits", "max_difference": None, "equal": False}]


def test_code_of_the_source_is_not_named(artifacts, tmp_path):
    config = json.loads((artifacts / "bert/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling_theirs.Theirs"}}))
    for to in ("torch", "hftk"):
        convert(artifacts / "bert", tmp_path / to, to=to, config=tmp_path / "config.json")
        assert "modeling_theirs" not in (tmp_path / to / "config.json").read_text()


def test_nothing_is_written_unless_all_has_its_place(artifacts, tmp_path, capsys):
    arguments = ["convert", str(artifacts / "bert_pretraining"), str(tmp_path / "new"), "--arch", "BertForMaskedLM"]
    assert main([*arguments, "--arch", "BertForQuestionAnswering"]) == 1
    assert "missing: 2 (qa_outputs.weight, qa_outputs.bias)" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_what_is_left_over_may_be_allowed_by_name(artifacts, tmp_path):
    source, allowed = artifacts / "bert_pretraining", ["*mlm___cls/predictions*"]
    assert not convert(source, tmp_path / "new", arch="BertModel", dry_run=True).ok
    report = convert(source, tmp_path / "new", arch="BertModel", allow=allowed)
    assert report.ok and report.skipped["mlm___cls/tf_bert_for_pre_training/mlm___cls/predictions/bias:0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onnx"}, "no such target"),
        ({"names": "google"}, "no table knows names like"),
        ({"arch": "BartModel"}, "is no class of bert"),
        ({"arch": "AutoTokenizer"}, "is no class of bert"),
        ({"dtype": "int8"}, "choose one of float32"),
        ({"to": "tf"}, "its names are tf's already"),
        ({"config": "nowhere.json"}, "no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(artifacts, tmp_path, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        convert(artifacts / "bert", tmp_path / "new", **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()


def test_a_reference_must_say_something(artifacts, tmp_path):
    with np.load(artifacts / "bert/io.npz") as arrays:
        np.savez(tmp_path / "io.npz", out_of_another=np.zeros(3), **{n: arrays[n] for n in arrays if n[:3] == "in_"})
    with pytest.raises(UsageError, match="BertForMaskedLM has none of its outputs"):
        convert(artifacts / "bert", tmp_path / "new", reference=tmp_path / "io.npz")
    np.savez(tmp_path / "io.npz", out_logits=np.array([{}], dtype=object), in_input_ids=np.zeros((1, 2), np.int64))
    with pytest.raises(UsageError, match="no .npz that can be read"):  # it would have to be unpickled
        convert(artifacts / "bert", tmp_path / "new", reference=tmp_path / "io.npz")
    assert not (tmp_path / "new").exists()


def test_half_precision_is_told(artifacts, tmp_path):
    report = convert(artifacts / "bert", tmp_path / "half", dtype="bfloat16")
    assert report.ok and {row["round_trip"] for row in report.tensors} == {"rounded from float32"}
    import torch
    from safetensors.torch import load_file

    half, whole = load_file(tmp_path / "half/model.safetensors"), open_weights(artifacts / "bert_tf_safetensors")
    kernel = torch.from_numpy(whole.tensors["bert/encoder/layer_._0/output/dense/kernel:0"].read())
    assert torch.equal(half["bert.encoder.layer.0.output.dense.weight"], kernel.T.to(torch.bfloat16))
