import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hftk.convert.readers import open_weights
from hftk.errors import UsageError

TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64),
]


def test_every_type_of_torch(tmp_path):
    torch.manual_seed(0)
    tensors = {str(dtype): (100 * torch.randn(2, 3)).to(dtype) for dtype in TYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    weights = open_weights(tmp_path)
    assert (weights.container, weights.family) == ("safetensors", "torch")
    assert set(weights.tensors) == set(tensors)
    for name, tensor in tensors.items():
        expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        found = weights.tensors[name]
        assert found.dtype == str(tensor.dtype).removeprefix("torch.")
        assert np.array_equal(found.read(), expected) and found.read().dtype == expected.dtype
        assert found.read().shape == found.shape == expected.shape


def test_those_of_the_tensorflow_classes_are_told_from_those_of_torch(artifacts):
    weights = open_weights(artifacts / "bert_tf_safetensors")
    assert weights.family == "TensorFlow classes of transformers"
    assert weights.tensors["bert/embeddings/word_embeddings/weight:0"].shape == (120, 32)


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HUGE = 1 << 60


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 8, [2])}, r"has \d+ bytes, but the last tensor ends at"),
        ({"a": entry(0, 4 * HUGE, [HUGE])}, "a: no tensor has the shape"),
        ({"a": entry(0, 1 << 40, [1 << 38])}, "but the last tensor ends at"),
        ({"a": entry(0, 0, [0, HUGE])}, "a: no tensor has the shape"),
        ({"a": entry(0, 16, [4]), "b": entry(8, 16, [2])}, "b does not follow"),
        ({"a": entry(0, 4, [1]), "b": entry(8, 16, [2])}, "b does not follow"),
        ({"a": entry(0, 16, [3])}, "a: it has 16 bytes"),
        ({"a": entry(16, 0, [4])}, "a: it has -16 bytes"),
        ({"a": entry(-16, 0, [4])}, "a: .* has other things than numbers"),
        ({"a": entry(0, 16, [4.0])}, "a: .* has other things than numbers"),
        ({"a": entry(0, 16, [True, 4])}, "a: .* has other things than numbers"),
        ({"a": entry(0, 16, 4)}, "a: 4 is not a list"),
        ({"a": entry(0, 16, [16], "F8_E4M3")}, "a: hftk does not read numbers of type 'F8_E4M3'"),
        ({"a": [1]}, "a: it is not described by an object"),
        ({"a\nb": entry(0, 16, [4])}, "is not printable text"),
        (b'{"a": 1, "a": 2}', "a key stands there twice"),
        (b"[" * 100_000, "its JSON cannot be read"),
        (b"[]", "its JSON is not an object"),
    ],
)
def test_a_header_that_lies_is_refused_in_a_line(tmp_path, header, message):
    with pytest.raises(UsageError, match=message) as error:
        open_weights(write(tmp_path / "x.safetensors", header, bytes(16)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, HUGE.to_bytes(8, "little") + b"{}", b"version https://git-lfs"])
def test_a_size_that_the_file_does_not_have(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(UsageError, match="x.safetensors: not in safetensors, or cut off"):
        open_weights(tmp_path)


@settings(deadline=None)
@given(data=st.data())
def test_damage_raises_nothing_else(data, contents_or_none, damages, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    header = {"__metadata__": {"format": "pt"}, "a": entry(0, 16, [4]), "b": entry(16, 22, [3], "BF16")}
    whole = write(file, header, bytes(range(22))).read_bytes()
    damaged = data.draw(damages(whole))
    file.write_bytes(damaged)
    found = contents_or_none(file)
    assert found is None or len(damaged) == len(whole)
