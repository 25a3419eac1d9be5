import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftk.convert.readers import open_weights
from hftk.errors import UsageError


def test_keras_2_of_transformers_has_the_numbers_of_the_same_model_in_safetensors(artifacts):
    layers = open_weights(artifacts / "bert")
    flat = open_weights(artifacts / "bert_tf_safetensors").tensors
    assert (layers.container, layers.family, layers.skipped) == ("HDF5", "Keras 2, by names", {})
    assert len(layers.tensors) == 47  # tied ones stand there twice
    # A path is layer, model, name.
    names = {path.split("/", 2)[2] for path in layers.tensors}
    assert names == set(flat)
    for path, tensor in layers.tensors.items():
        assert np.array_equal(tensor.read(), flat[path.split("/", 2)[2]].read())


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "layers/dense/vars/0": rng.random((3, 4)).astype(np.float32),
        "layers/dense/vars/1": rng.random(4).astype(np.float16),
        "layers/dense/vars/2": rng.integers(-9, 9, (2, 2)).astype(">i4"),
        "flags": np.array([True, False]),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4), np.float32),
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory, arrays):
    """In the form that h5py and so Keras write."""
    path = tmp_path_factory.mktemp("hdf5") / "model.weights.h5"
    with h5py.File(path, "w") as target:
        for name, array in arrays.items():
            target[name] = array
        for number in range(200):  # groups of several nodes
            target[f"many/layer_{number:03}"] = np.float32(number)
        target["optimizer/vars/0"] = np.array(7)
        target["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        target["vocabulary"] = ["of", "words"]
        brain = target.create_dataset("brain", data=np.array([0x3F80, 0xC000], "<u2").view("V2"))
        brain.attrs["dtype"] = "bfloat16"
    return path


def test_every_type(file, arrays):
    weights = open_weights(file)
    for name, array in arrays.items():
        tensor = weights.tensors[name]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype.name)
        assert np.array_equal(tensor.read(), array) and tensor.read().dtype.isnative
    many = [f"many/layer_{number:03}" for number in range(200)]
    assert [weights.tensors[name].read() for name in many] == list(range(200))
    assert weights.tensors["brain"].dtype == "bfloat16" and weights.tensors["brain"].read().tolist() == [1, -2]
    assert set(weights.tensors) == {*arrays, *many, "brain"}
    assert weights.family == "Keras 3, by objects"
    assert weights.skipped == {
        "optimizer/vars/0": "optimizer state",
        "layers/dropout/seed_generator/vars/0": "random state",
        "vocabulary": "text",
    }


def round_in_circles(data, node):
    """A tree that is its own branch."""
    return data[: node + 32] + node.to_bytes(8, "little") + data[node + 40 :]


def no_end(data, heap):
    """The first text says that it takes no room, so that the next one is where it is."""
    return data[: heap + 16] + (9).to_bytes(8, "little") + (-16 % (1 << 64)).to_bytes(8, "little") + data[heap + 32 :]


def not_there(data, heap):
    return data[:heap] + b"HOLE" + data[heap + 4 :]


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        (b"TREE", round_in_circles, "lies in others"),
        (b"GCOL", no_end, "a text is damaged|lies in others"),
        (b"GCOL", not_there, "a text is damaged"),
    ],
)
def test_no_circle_keeps_it_busy(tmp_path, file, part, damage, message):
    """HDF5's own library goes round forever in the second."""
    data = file.read_bytes()
    (tmp_path / "model.h5").write_bytes(damage(data, data.index(part)))
    with pytest.raises(UsageError, match=message) as error:
        open_weights(tmp_path)
    assert "\n" not in str(error.value)


@settings(deadline=None)
@given(data=st.data())
def test_damage_raises_nothing_else(data, file, contents_or_none, damages):
    damaged = file.with_name("damaged.h5")
    damaged.write_bytes(data.draw(damages(file.read_bytes())))
    contents_or_none(damaged)


def test_a_file_that_is_cut_off_is_refused(file, contents_or_none):
    cut = file.with_name("cut.h5")
    for size in range(0, file.stat().st_size, 397):
        cut.write_bytes(file.read_bytes()[:size])
        assert contents_or_none(cut) is None


def external_link(target, folder):
    target["out"] = h5py.ExternalLink("secret.h5", "/secret")


def soft_link(target, folder):
    target["out"] = h5py.SoftLink("/w")


def circle(target, folder):
    target["a/b"] = np.ones(1)
    target["a/out"] = target["a"]


def root_again(target, folder):
    target["out"] = target["/"]


def two_names(target, folder):
    target["out"] = target["w"]


def external_storage(target, folder):
    target.create_dataset("out", (4,), "u1", external=[(str(folder / "secret.h5"), 0, 4)])


def virtual(target, folder):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "secret", (3,))
    target.create_virtual_dataset("out", layout)


def bomb(target, folder):
    target.create_dataset("out", data=np.zeros(1_000_000), chunks=(1_000_000,), compression="gzip")


def in_chunks(target, folder):
    target.create_dataset("out", data=np.zeros(4), chunks=(2,))


def never_written(target, folder):
    target.create_dataset("out", (1 << 40,), "f4")


def chunks_never_written(target, folder):
    target.create_dataset("out", (1 << 40,), "f4", chunks=(1 << 20,))


def huge_and_empty(target, folder):
    target.create_dataset("out", (0, 1 << 60), "f4")


def no_shape(target, folder):
    target["out"] = h5py.Empty("f4")


def records(target, folder):
    target["out"] = np.zeros(2, [("a", "f4"), ("b", "i4")])


def references(target, folder):
    target["out"] = np.array([target["w"].ref], h5py.ref_dtype)


def strange_numbers(target, folder):
    strange = h5py.h5t.IEEE_F32LE.copy()
    strange.set_ebias(3)
    h5py.h5d.create(target.id, b"out", strange, h5py.h5s.create_simple((2,))).write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.ones(2, np.float32)
    )


def named_type(target, folder):
    target["out"] = np.dtype("f4")


def deep(target, folder):
    target["/".join("out" + "x" * 20 for _ in range(60))] = np.ones(1)


def name_in_two_lines(target, folder):
    target["out\nhftk: all is well"] = np.ones(1)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (external_link, "group / has a link to elsewhere"),
        (soft_link, "out is a link to elsewhere"),
        (circle, "a/out stands in the file under another name too"),
        (root_again, "out stands in the file under another name too"),
        (two_names, "stands in the file under another name too"),
        (external_storage, "out lies in other files"),
        (virtual, "out lies in other files"),
        (bomb, "out is compressed"),
        (in_chunks, "out is in pieces"),
        (never_written, "out has 0 bytes, which is not what its shape needs"),
        (chunks_never_written, "out is in pieces"),
        (huge_and_empty, "no tensor has the shape"),
        (no_shape, "out has no shape"),
        (records, "out does not hold numbers of a type that hftk reads"),
        (references, "out does not hold numbers of a type that hftk reads"),
        (strange_numbers, "out does not hold numbers of a type that hftk reads"),
        (named_type, "out is neither a group nor a tensor"),
        (deep, "is no name that Keras gives"),
        (name_in_two_lines, "is not printable text"),
    ],
)
def test_what_keras_never_writes_is_refused_in_a_line(tmp_path, add, message):
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["secret"] = np.ones(3, np.float32)
    with h5py.File(tmp_path / "model.h5", "w") as target:
        target["w"] = np.ones(3)
        add(target, tmp_path)
    with pytest.raises(UsageError, match=message) as error:
        open_weights(tmp_path / "model.h5")
    assert str(error.value).startswith(f"{tmp_path / 'model.h5'}: ") and "\n" not in str(error.value)


def test_a_newer_form_is_refused_in_a_line(tmp_path):
    with h5py.File(tmp_path / "model.h5", "w", libver="latest") as target:
        target["w"] = np.ones(3)
    with pytest.raises(UsageError, match="not HDF5 in the form that Keras writes") as error:
        open_weights(tmp_path)
    assert "\n" not in str(error.value)


def test_other_files_are_not_even_looked_for(tmp_path):
    """A virtual dataset of open size asks its sources for theirs as soon as it is asked for its shape."""
    os.mkfifo(tmp_path / "secret.h5")  # to open it would wait forever
    with h5py.File(tmp_path / "model.h5", "w") as target:
        layout = h5py.VirtualLayout((3,), "f4", maxshape=(None,))
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "secret", (3,), maxshape=(None,))
        target.create_virtual_dataset("out", layout)
        target["link"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
    with pytest.raises(UsageError):
        open_weights(tmp_path / "model.h5")
