from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftk.errors import UsageError
from hftk.recipe_keys import ModelArguments, known_keys, read_file_keys, read_overrides, type_name


@dataclass
class Words:
    files: list[str] = field(default_factory=list)
    column: str = "text"
    weights: dict[str, float] = field(default_factory=dict)
    algorithm: Literal["bpe", "unigram"] = "bpe"
    hooks: str | list[str] | None = None


@dataclass
class Run:
    output: str
    model: ModelArguments
    words: Words
    seed: int = 42


KNOWN = known_keys(Run)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_keys_and_types_are_those_of_the_dataclasses():
    assert KNOWN["words.files"] == list[str]
    assert KNOWN["seed"] is int
    assert {"model", "model.preset", "model.d_model", "model.norm_type"} <= KNOWN.keys()
    assert "words" not in KNOWN


def test_each_key_has_its_line_and_text(tmp_path):
    path = write(tmp_path, "# head\noutput: run\n\nwords:\n  files: [a,\n    b]\n  column: 'x'\nmodel: {d_model: 8}\n")
    given = read_file_keys(path, KNOWN)
    assert {key: (where.place.rpartition(":")[2], where.text) for key, where in given.items()} == {
        "output": ("2", "run"),
        "words.files": ("5", "[a,\n    b]"),
        "words.column": ("7", "'x'"),
        "model.d_model": ("8", "8"),
    }
    assert given["output"].place == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: a\nseeed: 1\n", "2: unknown key 'seeed'; did you mean 'seed'?"),
        ("words:\n  colum: a\n", "2: unknown key 'words.colum'; did you mean 'column'?"),
        ("column: a\n", "1: unknown key 'column'; did you mean 'words.column'?"),
        ("model:\n  preset: t5\n  d_modle: 8\n", "3: unknown key 'model.d_modle'; did you mean 'd_model'?"),
        ("qqqqqqq: a\n", "1: unknown key 'qqqqqqq'; --help lists the keys"),
        ("words.column: a\n", "1: 'words.column': in a file the keys of a section stand below it, indented"),
        ("output: a\nseed: 1\noutput: b\n", "3: the key 'output' is given twice; remove one of the lines"),
        ("output: a\nwords:\n", "2: 'words' is a section; give keys below it, indented, or remove the line"),
        ("words: x.yaml\n", "1: 'words' is a section; give keys below it, indented, or remove the line"),
        ("", "1: a recipe is lines of `key: value`; see the ones that `hftk recipes ls` lists"),
        ("# nothing\n", "1: a recipe is lines of `key: value`; see the ones that `hftk recipes ls` lists"),
        ("- a\n- b\n", "1: a recipe is lines of `key: value`; see the ones that `hftk recipes ls` lists"),
        ("output: a\nseed: [1\n", "3: this is not YAML: expected ',' or ']', but got '<stream end>'"),
        ("output: a\n\tseed: 1\n", "2: this is not YAML: found character '\\t' that cannot start any token"),
        ("output: a\nseed: \x07\n", "2: this is not YAML: special characters are not allowed"),
        (b"output: a\nwords:\n  column: \xff\xfe\n", "3: this is not UTF-8; save the file as UTF-8"),
        ("output: a\n---\noutput: b\n", "2: this is not YAML: but found another document"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        read_file_keys(path, KNOWN)
    assert str(error.value) == f"{path}:{message}"


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UsageError, match="nowhere.yaml: No such file or directory"):
        read_file_keys(tmp_path / "nowhere.yaml", KNOWN)
    with pytest.raises(UsageError, match="Is a directory"):
        read_file_keys(tmp_path, KNOWN)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet="os:{}[]-&*!#'\"\n ,|>?%@\t"))
def test_no_text_is_met_with_anything_but_a_usage_error(tmp_path_factory, text):
    path = write(tmp_path_factory.getbasetemp(), text.encode(errors="surrogatepass"))
    try:
        assert read_file_keys(path, KNOWN).keys() <= KNOWN.keys()
    except UsageError as error:
        assert str(error).startswith(f"{path}:")


@pytest.mark.parametrize(
    ("overrides", "arguments"),
    [
        (["--seed", "3"], ["--seed=3"]),
        (["--seed=3"], ["--seed=3"]),
        (["--seed", "-1", "--output", "a b"], ["--seed=-1", "--output=a b"]),
        (["--words.files", "a"], ['--words.files=["a"]']),
        (["--words.files", "a", "b c", "한"], ['--words.files=["a", "b c", "한"]']),
        (["--words.files=a", "b"], ['--words.files=["a", "b"]']),
        (["--words.files", "[a, b]"], ["--words.files=[a, b]"]),
        (["--words.files+", "a", "b"], ["--words.files+=a", "--words.files+=b"]),
        (["--words.hooks", "a"], ["--words.hooks=a"]),
        (["--words.hooks", "a", "b"], ['--words.hooks=["a", "b"]']),
        (["--words.weights.x", "2"], ["--words.weights.x=2"]),
        (["--model", "folder"], ["--model=folder"]),
        (["--model.norm_type", "none"], ["--model.norm_type=none"]),
    ],
)
def test_overrides_come_in_one_form(overrides, arguments):
    assert read_overrides(overrides, KNOWN, {})[0] == arguments


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--sede", "3"], "unknown key 'sede'; did you mean 'seed'?"),
        (["--words.file", "a"], "unknown key 'words.file'; did you mean 'files'?"),
        (["--wrods.column", "a"], "unknown key 'wrods.column'; did you mean 'words.column'?"),
        (["--words", "x.yaml"], "'words' is a section; give its keys, as --words.… value"),
        (["--seed.x", "3"], "unknown key 'seed.x'; --help lists the keys"),
        (["--seed"], "--seed needs a value"),
        (["--seed", "3", "4"], "--seed takes one value, not 2: 3 4"),
        (["3"], "'3' follows no --key"),
        (["--config", "x.yaml"], "unknown key 'config'; --help lists the keys"),
    ],
)
def test_a_wrong_override_is_told(overrides, message):
    with pytest.raises(UsageError) as error:
        read_overrides(overrides, KNOWN, {})
    assert str(error.value).startswith(f"command line: {message}")


def test_a_size_is_not_laid_over_a_saved_model(tmp_path):
    given = read_file_keys(write(tmp_path, "model: folder\n"), KNOWN)
    with pytest.raises(UsageError, match=r"'model.d_model' has no effect on 'model: folder' \(.*r.yaml:1\)"):
        read_overrides(["--model.d_model", "8"], KNOWN, given)
    sizes = read_file_keys(write(tmp_path, "model:\n  d_model: 8\n"), KNOWN)
    with pytest.raises(UsageError, match=r"'model.d_model' has no effect on 'model: other' \(command line\)"):
        read_overrides(["--model", "other", "--model.d_model", "8"], KNOWN, sizes)


def test_the_last_place_counts(tmp_path):
    given = read_file_keys(write(tmp_path, "seed: 1\noutput: a\nmodel:\n  d_model: 8\n"), KNOWN)
    _, given = read_overrides(["--seed", "2", "--model", "folder"], KNOWN, given)
    assert {key: where.place.rpartition(":")[2] for key, where in given.items()} == {
        "output": "2",
        "seed": "command line",
        "model": "command line",
    }


def test_types_are_named_in_words():
    assert type_name(int) == "int"
    assert type_name(float | None) == "float or null"
    assert type_name(Literal["bpe", "unigram"]) == "bpe or unigram"
    assert type_name(list[str]) == "list[str]"
