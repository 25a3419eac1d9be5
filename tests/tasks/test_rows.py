import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.errors import UsageError
from hftk.tasks.jsonl import parse_rows, read_rows, write_rows

rows = st.lists(st.dictionaries(st.text(), st.lists(st.text())))


@given(rows)
def test_what_is_written_comes_back_with_its_line(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(rows, file)
    assert list(read_rows(str(file))) == [(f"{file}:{number}", row) for number, row in enumerate(rows, start=1)]


def test_nothing_is_left_of_a_file_whose_rows_fail(tmp_path):
    def failing():
        yield {"a": 1}
        raise UsageError("no")

    with pytest.raises(UsageError):
        write_rows(failing(), tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


def test_lines_are_parsed_as_they_come():
    def pipe():
        yield '{"a": 1}\n'
        raise AssertionError("read ahead")

    assert next(parse_rows(pipe(), "pipe")) == ("pipe:1", {"a": 1})


@pytest.mark.parametrize(
    "line, message", [("{", "rows:3: not JSON"), ("[1]", "rows:3: each line must be one JSON object")]
)
def test_a_line_that_is_no_object_is_refused_with_its_number(line, message):
    with pytest.raises(UsageError, match=message):
        list(parse_rows(['{"a": 1}\n', "\n", line], "rows"))


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes('{"a": "ü"}'.encode("latin-1"))
    for file in ("latin.jsonl", "missing.jsonl"):
        with pytest.raises(UsageError, match=file):
            list(read_rows(str(tmp_path / file)))
