import json
import struct
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftk.convert.readers import open_weights
from hftk.errors import UsageError


def test_an_archive_has_the_numbers_of_the_checkpoint_of_the_same_model(artifacts):
    archive = open_weights(artifacts / "keras_bart" / "model_full.keras")
    checkpoint = open_weights(artifacts / "keras_bart" / "bart.ckpt")
    assert (archive.container, archive.family) == ("Keras archive", "Keras 3, by objects")
    assert archive.config["class_name"] == "BartSeq2SeqLM"
    assert set(archive.skipped.values()) == {"optimizer state"}
    numbers = sorted(tensor.read().tobytes() for tensor in archive.tensors.values())
    assert numbers == sorted(tensor.read().tobytes() for tensor in checkpoint.tensors.values())
    assert len(numbers) == 91


def test_its_weights_alone_are_the_same(artifacts, tmp_path, contents):
    file = artifacts / "keras_bart" / "model_full.keras"
    with zipfile.ZipFile(file) as archive:
        archive.extract("model.weights.h5", tmp_path)
    assert contents(tmp_path) == contents(file)


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> list[tuple[str, bytes]]:
    path = tmp_path_factory.mktemp("archive") / "model.weights.h5"
    with h5py.File(path, "w") as target:
        target["layers/dense/vars/0"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    config = json.dumps({"class_name": "Sequential", "config": {}}).encode()
    return [("metadata.json", b"{}"), ("config.json", config), ("model.weights.h5", path.read_bytes())]


@settings(deadline=None)
@given(data=st.data())
def test_damage_is_noticed(data, members, contents, contents_or_none, damages, tmp_path_factory):
    good = write(tmp_path_factory.getbasetemp() / "good.keras", members)
    damaged = good.with_name("damaged.keras")
    damaged.write_bytes(data.draw(damages(good.read_bytes())))
    assert contents_or_none(damaged) in (None, contents(good))


def test_a_compressed_one_could_be_a_bomb(tmp_path, members):
    with pytest.raises(UsageError, match="config.json in it is compressed"):
        open_weights(write(tmp_path / "x.keras", members, zipfile.ZIP_DEFLATED))


def test_a_member_must_be_there_once(tmp_path, members):
    with pytest.raises(UsageError, match="0 members are called model.weights.h5"):
        open_weights(write(tmp_path / "x.keras", members[:2]))
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(tmp_path / "y.keras", [*members, members[2]])
    with pytest.raises(UsageError, match="2 members are called model.weights.h5"):
        open_weights(tmp_path / "y.keras")


@pytest.mark.parametrize("config", [b"[" * 100_000, b"[]", b"not JSON", b'{"a": 1, "a": 2}', b"\xff\xff"])
def test_a_config_that_is_none(tmp_path, members, config):
    with pytest.raises(UsageError, match=r"x.keras: its JSON") as error:
        open_weights(write(tmp_path / "x.keras", [("config.json", config), members[2]]))
    assert "\n" not in str(error.value)


def test_sizes_that_lie(tmp_path, members):
    data = write(tmp_path / "x.keras", members).read_bytes()
    entry = data.rindex(b"PK\x01\x02")  # of the weights, in the directory at the end
    for place in (20, 24):  # compressed and uncompressed
        data = data[: entry + place] + struct.pack("<I", 0xFFFFFFF0) + data[entry + place + 4 :]
    (tmp_path / "x.keras").write_bytes(data)
    with pytest.raises(UsageError, match="model.weights.h5 in it is cut off"):
        open_weights(tmp_path / "x.keras")
