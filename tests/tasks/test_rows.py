import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.errors import UsageError
from hftk.tasks.rows import parse_rows, read_dataset, read_rows, write_rows

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


def test_tables_come_with_the_line_of_each_row(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\nsays "no\t1\n')
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines, one row",1\nx,2\n')
    assert list(read_rows(f"{tmp_path}/a.tsv")) == [(f"{tmp_path}/a.tsv:2", {"text": 'says "no', "label": "1"})]
    assert [row["text"] for _, row in read_rows(f"{tmp_path}/a.csv")] == ["two\nlines, one row", "x"]
    (tmp_path / "a.tsv").write_text("text\tlabel\nx\n")
    with pytest.raises(UsageError, match=r"a.tsv:2: .*fewer fields than the 2 columns"):
        list(read_rows(f"{tmp_path}/a.tsv"))


def test_units_in_lines_are_texts_apart_by_an_empty_line(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("## a comment\twith a tab\n경\tB-OG\n찰\tI-OG\n \tO\n#\tO\n\n\n또\tO\n", encoding="utf-8")
    assert list(read_rows(str(file), lists=True)) == [
        (f"{file}:2", {"tokens": ["경", "찰", " ", "#"], "labels": ["B-OG", "I-OG", "O", "O"]}),
        (f"{file}:8", {"tokens": ["또"], "labels": ["O"]}),
    ]
    file.write_text("경\tB-OG\n찰\n", encoding="utf-8")
    with pytest.raises(UsageError, match="a.tsv:2: expected a unit, a tab and its label"):
        list(read_rows(str(file), lists=True))


def test_parquet_and_data_sets_have_rows_of_columns(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    features = Features({"tokens": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=["A", "B"]))})
    data = Dataset.from_dict({"tokens": [["x", "y"]], "tags": [[1, 0]]}, features=features)
    data.to_parquet(f"{tmp_path}/train.parquet")
    assert list(read_rows(f"{tmp_path}/train.parquet")) == [
        (f"{tmp_path}/train.parquet:1", {"tokens": ["x", "y"], "tags": [1, 0]})
    ]
    assert list(read_dataset(str(tmp_path), None, "train")) == [
        (f"{tmp_path}:1", {"tokens": ["x", "y"], "tags": ["B", "A"]})
    ]


def test_a_file_of_another_kind_or_a_broken_one_is_refused_by_name(tmp_path):
    (tmp_path / "a.xml").write_text("<a/>")
    (tmp_path / "a.parquet").write_text("PAR1")
    for name in ("a.xml", "a.parquet"):
        with pytest.raises(UsageError, match=name):
            list(read_rows(f"{tmp_path}/{name}"))
