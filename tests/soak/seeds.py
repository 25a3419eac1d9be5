"""
Small valid files of every format that hftk reads, and small hostile ones: what fuzzing starts from.

    python -m tests.soak.seeds runs/soak
"""

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save_file

from tests.convert import test_hdf5
from tests.convert.conftest import BundleWriter

ARTIFACTS = Path(__file__).parents[1] / "convert/artifacts"
SEPARATOR = b"\n-- next file --\n"  # between the files of one input
HOSTILE_HDF5 = [
    *(test_hdf5.external_link, test_hdf5.soft_link, test_hdf5.circle, test_hdf5.root_again, test_hdf5.external_storage),
    *(test_hdf5.virtual, test_hdf5.chunks_never_written, test_hdf5.huge_and_empty, test_hdf5.records),
    *(test_hdf5.references, test_hdf5.named_type, test_hdf5.strange_numbers),
]


def hdf5(path: Path) -> Path:
    """Groups, as Keras 2 and 3 write them."""
    with h5py.File(path, "w") as target:
        target["bert/layer_._0/kernel:0"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        target["bert"].attrs["weight_names"] = np.array(["bert/layer_._0/kernel:0"], "S")
        target["layers/dense/vars/0"] = np.ones(3, ">f8")
        target.create_dataset("brain", data=np.array([0x3F80], "<u2").view("V2")).attrs["dtype"] = "bfloat16"
        target["text"] = ["of", "words"]
    return path


def hdf5_seeds(folder: Path) -> Iterator[list[Path]]:
    (folder / "secret.h5").write_bytes(b"")
    yield [hdf5(folder / "model.h5")]
    for add in HOSTILE_HDF5:
        path = folder / f"{add.__name__}.h5"
        with h5py.File(path, "w") as target:
            target["w"] = np.ones(3)
            add(target, folder)
        yield [path]


def bundle_seeds(folder: Path) -> Iterator[list[Path]]:
    """The index, then the data files."""
    real = ARTIFACTS / "tf2_dtypes"
    yield [next(real.glob("*.index")), next(real.glob("*.data-00000-of-00001"))]
    writer = BundleWriter()
    writer.add("a/kernel", np.ones((2, 2), np.float32))
    writer.add("a/kernel/Adam", np.ones((2, 2), np.float32), 1)
    writer.add("half", np.array([0x3F80], "<u2"), 1, "bfloat16")
    writer.add_parts("rows", [np.ones((1, 3), np.float32), np.zeros((2, 3), np.float32)], 0)
    index = writer.write(folder / "ours")
    yield [index, *sorted(folder.glob("ours.data-*"))]


def keras_seeds(folder: Path) -> Iterator[list[Path]]:
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": [1, 2.5]}}))
        archive.write(hdf5(folder / "model.weights.h5"), "model.weights.h5")
    yield [path]
    path = folder / "compressed.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(1000))
    yield [path]


def safetensors_seeds(folder: Path) -> Iterator[list[Path]]:
    path = folder / "model.safetensors"
    dtypes = {"w": "float32", "half": "float16", "flag": "bool"}
    tensors = {name: np.ones((2, 3), dtype) for name, dtype in dtypes.items()}
    save_file({**tensors, "empty": np.ones((0, 3))}, path, {"format": "pt"})
    yield [path]


def shards_seeds(folder: Path) -> Iterator[list[Path]]:
    """An index, then the files that it names."""
    first, second, index = folder / "first.safetensors", folder / "second.safetensors", folder / "index.json"
    save_file({"a": np.ones(2), "b": np.ones(2)}, first)
    save_file({"c": np.ones(2)}, second)
    weight_map = {"a": "first.safetensors", "b": "first.safetensors", "c": "second.safetensors"}
    index.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": weight_map}))
    yield [index, first, second]


def h5_shards_seeds(folder: Path) -> Iterator[list[Path]]:
    first, second, index = folder / "first.h5", folder / "second.h5", folder / "index.json"
    for path, name in ((first, "bert/kernel:0"), (second, "model.shared/embeddings:0")):
        with h5py.File(path, "w") as target:
            target[name] = np.ones(2)
    weight_map = {"tf_bert/bert/kernel:0": "first.h5", "model.shared/embeddings:0": "second.h5"}
    index.write_text(json.dumps({"weight_map": weight_map}))
    yield [index, first, second]


SEEDS = {
    "bundle": bundle_seeds,
    "hdf5": hdf5_seeds,
    "keras": keras_seeds,
    "safetensors": safetensors_seeds,
    "shards": shards_seeds,
    "h5_shards": h5_shards_seeds,
}


def main(folder: Path) -> None:
    for kind, seeds in SEEDS.items():
        made, corpus = folder / "files" / kind, folder / "corpus" / kind
        made.mkdir(parents=True, exist_ok=True)
        corpus.mkdir(parents=True, exist_ok=True)
        for number, files in enumerate(seeds(made)):
            (corpus / f"seed_{number:02}").write_bytes(SEPARATOR.join(file.read_bytes() for file in files))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
