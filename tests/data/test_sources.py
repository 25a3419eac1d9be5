import gzip
import json
from collections.abc import Callable

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from hftk.data.sources import find_files, read_dataset, read_documents
from hftk.errors import UsageError

TEXTS = ["하나 둘", "three  four", "다섯\u2028six", ""]


def texts_of(*files, column="text"):
    return [text for text, _, _ in read_documents([str(file) for file in files], column)]


def write_parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def refusal(*files, column="text"):
    with pytest.raises(UsageError) as error:
        texts_of(*files, column=column)
    assert "\n" not in str(error.value)
    return str(error.value)


def compressed(content, ending):
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }
    return compressors[ending](content)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_every_format_gives_the_same_documents_with_their_places(tmp_path, ending):
    parquet = write_parquet(tmp_path / "whole.parquet", text=TEXTS, other=[1, 2, 3, 4])
    contents = {
        ".txt": "\n".join(TEXTS).encode() + b"\n\n",
        ".jsonl": "\n".join(json.dumps({"other": 1, "text": text}) for text in TEXTS).encode(),
        ".parquet": parquet.read_bytes(),
    }
    for kind, content in contents.items():
        path = tmp_path / f"a{kind}{ending}"
        path.write_bytes(compressed(content, ending))
        documents = list(read_documents([str(path)], "text"))
        assert documents[: len(TEXTS)] == [(text, str(path), number) for number, text in enumerate(TEXTS, 1)]
        assert not any(text for text, _, _ in documents[len(TEXTS) :])


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_file_compressed_in_parts_is_read_to_its_end(tmp_path, compress):
    path = tmp_path / ("a.txt.gz" if compress is gzip.compress else "a.txt.zst")
    path.write_bytes(compress(b"one\n") + compress(b"two\n"))
    assert texts_of(path) == ["one", "two"]


def test_folders_and_globs_are_sorted_and_no_file_comes_twice(tmp_path):
    for name in ("b.txt", "a.jsonl", "c.txt.gz", "readme.md"):
        (tmp_path / name).write_text("x")
    folder = [str(tmp_path / name) for name in ("a.jsonl", "b.txt", "c.txt.gz")]
    assert find_files([str(tmp_path)]) == folder
    assert find_files([f"{tmp_path}/*.txt*", str(tmp_path)]) == [folder[1], folder[2], folder[0]]


def test_a_name_with_glob_characters_is_the_file_of_that_name(tmp_path):
    path = tmp_path / "a[1].txt"
    path.write_text("x")
    assert texts_of(path) == ["x"]


@pytest.mark.parametrize("name", ["none.txt", "*.txt", "empty_folder"])
def test_what_stands_for_no_file_is_refused(tmp_path, name):
    (tmp_path / "empty_folder").mkdir()
    assert "no .txt, .jsonl or .parquet file is there" in refusal(tmp_path / name)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    assert "its name does not end with" in refusal(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "name, content", [("a.txt", b""), ("a.txt.gz", gzip.compress(b"", mtime=0)), ("a.parquet", b"")]
)
def test_an_empty_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "the file is empty" in refusal(tmp_path / name)


def test_a_parquet_without_rows_is_refused(tmp_path):
    assert "no rows" in refusal(write_parquet(tmp_path / "a.parquet", text=pyarrow.array([], pyarrow.string())))


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\0\0\0", "utf-16".encode("utf-16")])
def test_a_binary_file_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert "binary" in refusal(tmp_path / "a.txt")


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("이것은 글입니다\nascii\n둘째 줄입니다\n".encode("cp949"))
    assert "not UTF-8" in refusal(tmp_path / "a.txt")


def test_one_line_that_is_not_utf8_comes_marked_for_cleaning(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntw\xff\nthree\n")
    assert texts_of(tmp_path / "a.txt") == ["one", "tw\ufffd", "three"]


def test_a_file_of_replacement_characters_is_utf8(tmp_path):
    (tmp_path / "a.txt").write_text("\ufffd\n\ufffd\n")
    assert texts_of(tmp_path / "a.txt") == ["\ufffd", "\ufffd"]


def test_a_parquet_value_that_is_not_utf8_comes_marked_for_cleaning(tmp_path):
    broken = pyarrow.array([b"one", b"tw\xff", None]).view(pyarrow.string())
    assert texts_of(write_parquet(tmp_path / "a.parquet", text=broken)) == ["one", "tw\ufffd", ""]


def test_a_first_long_line_cut_by_the_check_is_no_broken_line(tmp_path):
    (tmp_path / "a.txt").write_text("가" * 100_000)
    assert texts_of(tmp_path / "a.txt") == ["가" * 100_000]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n')
    assert texts_of(tmp_path / "a.jsonl") == ["x"]


@pytest.mark.parametrize("cut", [5, 12])
@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_cut_off_compressed_file_is_refused(tmp_path, ending, cut):
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(compressed(b"a line\n" * 1000, ending)[:-cut])
    assert f"{path}: cannot be read" in refusal(path)


def test_a_broken_parquet_is_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", text=TEXTS)
    path.write_bytes(path.read_bytes()[:-20])
    assert "the parquet is broken" in refusal(path)


def test_a_line_that_is_not_json_is_refused_with_its_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n\n{"text": \n')
    assert refusal(path).startswith(f"{path}:3: this line is not json")


def test_a_missing_column_is_refused_with_those_there_are(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"body": "x", "id": 1}\n')
    assert f"{path}:2: there is no column 'text', set data.text_column to one of body, id" == refusal(path)
    parquet = write_parquet(tmp_path / "a.parquet", body=["x"])
    assert "set data.text_column to one of body" in refusal(parquet)


def test_a_column_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n{"text": 3}\n')
    assert f"{path}:2: column 'text' is no text but int" in refusal(path)
    assert "is no text but int64" in refusal(write_parquet(tmp_path / "a.parquet", text=[1]))


def test_a_dataset_is_streamed_like_its_files(tmp_path):
    write_parquet(tmp_path / "train.parquet", body=TEXTS)
    documents = list(read_dataset(str(tmp_path), None, "train", "body"))
    assert documents == [(text, str(tmp_path), number) for number, text in enumerate(TEXTS, 1)]


@pytest.mark.parametrize("split, column, message", [("test", "text", "cannot be read"), ("train", "body", "no column")])
def test_a_dataset_without_the_split_or_column_is_refused(tmp_path, split, column, message):
    write_parquet(tmp_path / "train.parquet", text=TEXTS)
    with pytest.raises(UsageError, match=message):
        list(read_dataset(str(tmp_path), None, split, column))
