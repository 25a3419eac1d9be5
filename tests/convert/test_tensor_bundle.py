import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftk.convert.crc32c import crc32c
from hftk.convert.readers import open_weights
from hftk.errors import UsageError

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def test_tensorflow_1_by_names(artifacts):
    weights = open_weights(artifacts / "tf1_bert" / "bert_model.ckpt")
    shapes = json.loads((artifacts / "tf1_bert" / "names.json").read_text())
    assert {*weights.tensors, *weights.skipped} == set(shapes)
    assert all(list(tensor.shape) == shapes[name] for name, tensor in weights.tensors.items())
    assert sorted(weights.skipped) == [
        "bert/embeddings/token_type_embeddings/adam_m",
        "bert/embeddings/token_type_embeddings/adam_v",
        "bert/embeddings/word_embeddings/adam_m",
        "bert/embeddings/word_embeddings/adam_v",
        "global_step",
    ]
    assert weights.family == "TensorFlow 1, by names"
    data = (artifacts / "tf1_bert" / "bert_model.ckpt.data-00000-of-00001").read_bytes()
    for tensor in weights.tensors.values():
        assert tensor.dtype == "float32" and data.count(tensor.read().tobytes()) == 1


def test_every_type(artifacts):
    weights = open_weights(artifacts / "tf2_dtypes")
    expected = np.load(artifacts / "tf2_dtypes" / "values.npz")
    assert {name.removesuffix(VALUE) for name in weights.tensors} == set(expected)
    for name, array in expected.items():
        found = weights.tensors[name + VALUE].read()
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert weights.tensors["bf16" + VALUE].dtype == "bfloat16"
    assert weights.skipped == {"s" + VALUE: "text", "_CHECKPOINTABLE_OBJECT_GRAPH": "object graph"}


def test_tensorflow_2_by_objects_has_the_numbers_and_names_of_the_same_model_in_hdf5(artifacts):
    objects = open_weights(artifacts / "tf2_bart")
    layers = open_weights(artifacts / "bart")
    assert objects.family == "TensorFlow 2, by objects"
    by_name = {tensor.full_name: tensor for tensor in objects.tensors.values()}
    assert len(by_name) == len(layers.tensors) == 92
    for path, tensor in layers.tensors.items():
        # A path is layer, name; keras numbers the models that a program makes.
        name = path.split("/", 1)[1].removesuffix(":0").replace("generation_1/", "generation/")
        assert np.array_equal(by_name[name].read(), tensor.read()), path


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a/kernel": rng.random((5, 3), np.float32),
        "a/half": rng.random(7).astype(np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "rows": rng.random((7, 3), np.float32),
        "columns": rng.integers(0, 99, (2, 9, 2)),
        "scalar": np.array(2.5),
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, bundle_writer, arrays):
    """Two data files, two partitioned variables, bfloat16, slots, several blocks."""
    writer = bundle_writer()
    for place, name in enumerate(["a/kernel", "a/half", "empty", "scalar"]):
        writer.add(name, arrays[name], place % 2)
    writer.add_parts("rows", [arrays["rows"][:3], arrays["rows"][3:4], arrays["rows"][4:]], 0)
    writer.add_parts("columns", [arrays["columns"][:, :4], arrays["columns"][:, 4:]], 1)
    writer.add("a/brain", np.array([0x3F80, 0xC000, 0x7F80, 0x0001], "<u2"), 1, "bfloat16")
    for slot in ("a/kernel/Adam", "a/kernel/Adam_1", "rows/Momentum", "beta1_power", "global_step"):
        writer.add(slot, np.array(1.0))
    writer.add("alone/Momentum", np.array([3.0]))  # no slot: there is no variable `alone`
    return writer.write(tmp_path_factory.mktemp("bundle") / "model.ckpt-7")


def test_several_files_partitions_and_bfloat16(bundle, arrays):
    weights = open_weights(bundle)
    for name, array in arrays.items():
        found = weights.tensors[name]
        assert (found.shape, found.dtype, found.count, found.size) == (
            array.shape,
            array.dtype.name,
            array.size,
            array.nbytes,
        )
        assert np.array_equal(found.read(), array) and found.read().dtype == array.dtype
    brain = weights.tensors["a/brain"]
    assert (brain.dtype, brain.size, brain.read().dtype) == ("bfloat16", 8, np.float32)
    assert brain.read().tolist() == [1.0, -2.0, np.inf, 2.0**-133]
    assert set(weights.tensors) == {*arrays, "a/brain", "alone/Momentum"}
    assert sorted(weights.skipped.values()) == ["optimizer slot"] * 3 + ["optimizer state", "step counter"]


def test_numbers_of_the_other_byte_order(tmp_path, bundle_writer):
    writer = bundle_writer()
    writer.header += b"\x10\x01"
    writer.add("x", np.arange(3, dtype=">i4"))
    writer.add("b", np.array([0x3F80], ">u2"), dtype="bfloat16")
    tensors = open_weights(writer.write(tmp_path / "big")).tensors
    assert tensors["x"].read().tolist() == [0, 1, 2] and tensors["x"].read().dtype == np.dtype("i4")
    assert tensors["b"].read().tolist() == [1.0]


def test_a_saved_model_is_its_variables(tmp_path, bundle_writer):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"a graph, which nobody reads")
    with pytest.raises(UsageError, match=r"variables.index: no such file"):
        open_weights(tmp_path)
    writer = bundle_writer()
    writer.add("w", np.ones(3))
    writer.write(tmp_path / "variables" / "variables")
    weights = open_weights(tmp_path)
    assert weights.container == "SavedModel" and weights.tensors["w"].read().tolist() == [1, 1, 1]


@pytest.fixture(scope="module")
def undamaged(bundle, contents):
    return contents(bundle)


@settings(deadline=None)
@given(data=st.data())
def test_damage_is_noticed(data, bundle, undamaged, contents_or_none, damages, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged_bundle"
    folder.mkdir(exist_ok=True)
    files = sorted(bundle.parent.iterdir())
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    file = data.draw(st.sampled_from(files))
    (folder / file.name).write_bytes(data.draw(damages(file.read_bytes())))
    assert contents_or_none(folder) in (None, undamaged)


def test_a_wrong_checksum_names_tensor_and_file(bundle, tmp_path):
    for file in bundle.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "model.ckpt-7.data-00000-of-00002"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    tensors = open_weights(tmp_path).tensors
    with pytest.raises(UsageError, match="data-00000-of-00002: the checksum of a/kernel is wrong"):
        tensors["a/kernel"].read()
    tensors["a/half"].read()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"data-00000-of-00002: 'alone/Momentum' ends at byte \d+ of \d+"):
        open_weights(tmp_path)
    file.unlink()
    with pytest.raises(UsageError, match="no such file, but .*model.ckpt-7.index says that it has"):
        open_weights(tmp_path)


HUGE = 1 << 60


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("float32", (HUGE,), 0, 0, 4 * HUGE, 0), "no tensor has the shape"),
        (("float32", (0, HUGE), 0, 0, 0, 0), "no tensor has the shape"),
        (("float32", (1,) * 40, 0, 0, 4, 0), "no tensor has the shape"),
        (("float32", (1 << 40,), 0, 0, 1 << 42, 0), "ends at byte"),
        (("float32", (2,), 0, HUGE, 8, 0), "ends at byte"),
        (("float32", (3,), 0, 0, 8, 0), "has 8 bytes, which is not what its shape needs"),
        (("float32", (2,), 5, 0, 8, 0), "is in file 5 of 2"),
        (("float32", (2,), 0, 8, 8, 0), "overlaps"),
    ],
)
def test_places_are_checked_before_anything_is_read(tmp_path, bundle_writer, entry, message):
    writer = bundle_writer()
    writer.add("first", np.zeros(3))
    writer.entries[b"second"] = writer.entry(*entry)
    with pytest.raises(UsageError, match=message):
        open_weights(writer.write(tmp_path / "x"))


def two_axes(writer):
    shape = b"\x12\x08" + b"\x12\x02\x08\x02" * 2  # [2, 2]
    writer.entries[b"p"] = b"\x08\x01" + shape + b"\x3a\x08" + b"\x0a\x02\x10\x01" * 2  # a slice [1, 1]


def slice_lost(writer):
    writer.add_parts("p", [np.zeros((1, 2)), np.zeros((1, 2))], 0)
    del writer.entries[max(writer.entries, key=lambda key: (key[:1] == b"\0", key))]


def slice_without_tensor(writer):
    writer.add_parts("p", [np.zeros((1, 2)), np.zeros((1, 2))], 0)
    del writer.entries[b"p"]


def compressed(writer):
    writer.compression = 1


def newer(writer):
    writer.header = b"\x08\x02\x1a\x04\x08\x02\x10\x02"


def no_header(writer):
    writer.header = b""


def unknown_type(writer):
    writer.entries[b"q"] = b"\x08\x15" + writer.entries.pop(b"w")[2:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (two_axes, "'p' is cut in 2 axes"),
        (slice_lost, "'p' lacks a slice"),
        (slice_without_tensor, "a slice belongs to no tensor"),
        (compressed, "is compressed"),
        (newer, "its format is newer"),
        (no_header, "is in file 0 of 0"),
        (unknown_type, "q is of type 21"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, bundle_writer, spoil, message):
    writer = bundle_writer()
    writer.add("w", np.ones(2))
    spoil(writer)
    with pytest.raises(UsageError, match=message):
        open_weights(writer.write(tmp_path / "x"))


def test_keys_that_repeat_each_other_cannot_fill_the_memory(tmp_path, bundle_writer):
    writer = bundle_writer()
    writer.block_size = 1 << 30
    writer.entries = {b"k" * 20_000 + b"%06d" % number: b"" for number in range(400)}
    index = writer.write(tmp_path / "x")
    assert index.stat().st_size < 50_000
    with pytest.raises(UsageError, match="the keys are far longer than the file"):
        open_weights(index)


MEASURE = """
import resource, sys
from hftk.convert.readers import open_weights
tensors = open_weights(sys.argv[1]).tensors
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sum(float(tensor.read()[0, 0]) for tensor in tensors.values()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_one_tensor_at_a_time_is_in_memory(tmp_path, bundle_writer):
    writer = bundle_writer(lambda data: crc32c(np.frombuffer(data, np.uint8)))
    for number in range(20):  # 10 MB each
        writer.add(f"layer_{number}/kernel", np.full((2500, 1000), number, np.float32), number % 2)
    writer.add_parts("cut", [np.ones((50, 50_000), np.float32)] * 2, 0)  # 20 MB
    index = writer.write(tmp_path / "large")
    done = subprocess.run([sys.executable, "-c", MEASURE, str(index)], capture_output=True, text=True, check=True)
    total, kibibytes = done.stdout.split()
    assert float(total) == sum(range(20)) + 1
    unit = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    assert int(kibibytes) * unit < 80_000_000
