import conllu
import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.errors import UsageError
from hftk.tasks.conllu import check_tree, parse_sentences, read_sentences, with_tree

# Columns may hold whatever is no tab and ends no line, such as what ends one elsewhere.
anything = st.text("가a1_#= \x0b\x85\u2028", min_size=1, max_size=3)
words = st.text("가나다abc12.", min_size=1, max_size=3)


@st.composite
def trees(draw: st.DrawFn) -> list[int]:
    order = draw(st.permutations(range(1, draw(st.integers(2, 6)))))
    head = {order[0]: 0, **{word: draw(st.sampled_from(order[:i])) for i, word in enumerate(order) if i}}
    return [head[word] for word in sorted(head)]


@st.composite
def sentences(draw: st.DrawFn, column: st.SearchStrategy[str] = anything) -> str:
    """A sentence with a comment, multiword tokens and empty nodes; DEPS is `_`."""
    columns = draw(st.lists(column, min_size=8, max_size=8))
    wordless = "\t".join([*columns[:5], "_", *columns[5:]])
    lines = [f"# {columns[0]}"]
    for number, head in enumerate(draw(trees()), start=1):
        before, after = draw(st.booleans()), draw(st.booleans())
        lines += [f"{number}-{number + 1}\t{wordless}"] * before
        # The number tells words apart, the place columns.
        fields = [f"{text}{number}.{place}" for place, text in enumerate(columns)]
        lines.append("\t".join([f"{number}", *fields[:5], f"{head}", fields[5], "_", fields[6]]))
        lines += [f"{number}.1\t{wordless}"] * after
    return "".join(f"{line}\n" for line in [*lines, ""])


def lines_of(text: str) -> list[str]:
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def row_of(text: str) -> dict:
    [(_, row)] = parse_sentences(lines_of(text), "text", trees=True)
    return row


@given(st.lists(sentences(), min_size=1, max_size=3), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_file_comes_back_byte_for_byte_with_its_lines(tmp_path_factory, texts, end, cut):
    file = tmp_path_factory.mktemp("trees") / "trees.conllu"
    text = "".join(texts).replace("\n", end)
    text = text.removesuffix(end) if cut else text  # some writers leave out the last empty line
    file.write_bytes(text.encode())
    found = list(read_sentences(str(file), trees=True))
    assert "".join(row["conllu"] for _, row in found) == text
    firsts = [1 + sum(other.count("\n") for other in texts[:i]) for i in range(len(texts))]
    assert [where for where, _ in found] == [f"{file}:{line}" for line in firsts]


@given(sentences(words))
def test_words_are_those_that_another_reader_finds(text):
    [tokens] = conllu.parse(text)
    row = row_of(text)
    found = [token for token in tokens if isinstance(token["id"], int)]
    columns = {"tokens": "form", "lemmas": "lemma", "upos": "upos", "xpos": "xpos", "head": "head", "deprel": "deprel"}
    for name, field in columns.items():
        assert row[name] == [token[field] for token in found]


@pytest.mark.parametrize(
    "comments, idx, text",
    [
        ("# newpar\n# sent_id = s-1\n# text = 1 = 하나\n", "s-1", "1 = 하나"),
        ("# newpar\n", "", "비가 온다"),
    ],
)
def test_comments_name_the_sentence(comments, idx, text):
    row = row_of(f"{comments}1\t비가\t_\t_\t_\tCase=Nom\t2\tnsubj\t_\t_\n2\t온다\t_\t_\t_\t_\t0\troot\t_\tA=1\n\n")
    assert (row["idx"], row["text"]) == (idx, text)
    assert (row["feats"], row["deps"], row["misc"]) == (["Case=Nom", "_"], ["_", "_"], ["_", "A=1"])


def test_heads_need_not_be_there_to_be_predicted():
    lines = ["1\t비가\t_\t_\t_\t_\t_\t_\t_\t_\n", "2\t온다\t_\t_\t_\t_\t2\t_\t_\t_\n"]
    [(_, row)] = parse_sentences(lines, "text")
    assert (row["head"], row["deprel"]) == ([None, 2], ["_", "_"])
    with pytest.raises(UsageError, match="text:1: head '_' is not a number"):
        list(parse_sentences(lines, "text", trees=True))


def test_sentences_are_parsed_as_they_come():
    def pipe():
        yield "\n"
        yield "1\t네\t_\t_\t_\t_\t0\troot\t_\t_\n"
        yield "\n"
        raise AssertionError("read ahead")

    assert next(parse_sentences(pipe(), "pipe"))[0] == "pipe:2"


@given(sentences(), st.sampled_from(["\n", "\r\n"]), st.data())
def test_a_new_tree_changes_nothing_else(text, end, data):
    text = text.replace("\n", end)
    old = row_of(text)
    assert with_tree(text, old["head"], old["deprel"]) == text
    heads = data.draw(st.permutations(range(len(old["head"]))))
    deprels = data.draw(st.lists(words, min_size=len(heads), max_size=len(heads)))
    new_text = with_tree(text, heads, deprels)
    new = iter(zip(heads, deprels, strict=True))
    for old_line, new_line in zip(text.split("\n"), new_text.split("\n"), strict=True):
        columns = old_line.split("\t")
        if columns[0].isdecimal():
            columns[6:8] = map(str, next(new))
        assert new_line == "\t".join(columns)


def test_the_graph_of_the_old_tree_goes_with_it():
    text = "1\t네\t_\t_\t_\t_\t0\troot\t0:root\t_\n1.1\t_\t_\t_\t_\t_\t_\t_\t1:dep\t_\n\n"
    assert with_tree(text, [0], ["root"]) == text.replace("0:root", "_")


@given(st.one_of(trees(), st.lists(st.integers(-1, 5), max_size=5)))
def test_a_tree_is_an_arborescence_with_one_root(heads):
    graph = networkx.DiGraph([(head, word) for word, head in enumerate(heads, start=1)])
    graph.add_nodes_from(range(len(heads) + 1))
    one_root = networkx.is_arborescence(graph) and len(graph) == len(heads) + 1 and graph.out_degree(0) == 1
    assert (check_tree(heads) is None) == one_root


@pytest.mark.parametrize(
    "heads, word, fault",
    [
        ([], 0, "no word is the root"),
        ([2, 1], 0, "no word is the root"),
        ([0, 4, 1], 2, "head 4 of word 2"),
        ([0, -1], 2, "head -1 of word 2"),
        ([2, 0, 0], 3, "word 3 is a second root beside word 2"),
        ([0, 2], 2, "word 2 is in a cycle"),
        ([3, 0, 4, 3], 3, "word 3 is in a cycle"),
    ],
)
def test_what_is_no_tree_is_told_with_its_word(heads, word, fault):
    found = check_tree(heads)
    assert found is not None and found[0] == word
    assert found[1].startswith(fault)


FIRST = b"1\t\xeb\x84\xa4\t_\t_\t_\t_\t0\troot\t_\t_\n\n# second\n"  # 네


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", "file: no sentences; "),
        (b"\n\r\n", "file: no sentences; "),
        (b"\x89PNG\r\n", "file:1: not UTF-8"),
        (b"\x00\x01\n", "file:1: '\\x00\\x01' is not a line of CoNLL-U"),
        (FIRST + "비\n".encode("cp949"), "file:4: not UTF-8"),
        (FIRST + b"\n", "file:3: a sentence without words"),
        (FIRST + b"1\ta\t_\t_\t_\t_\t0\troot\t_\n", "file:4: '1\\ta\\t"),
        (FIRST + b"1\ta\t_\t_\t_\t_\t0\troot\t_\t_\t_\n", "file:4: '1\\ta\\t"),
        (FIRST + b"1\t\t_\t_\t_\t_\t0\troot\t_\t_\n", "file:4: '1\\t\\t"),
        (FIRST + b"1  a  _  _  _  _  0  root  _  _\n", "file:4: '1  a"),
        (FIRST + b" \n", "file:4: ' ' is not a line"),
        (FIRST + b"2\ta\t_\t_\t_\t_\t0\troot\t_\t_\n", "file:4: id '2' where word 1"),
        (FIRST + b"2-3\ta\t_\t_\t_\t_\t_\t_\t_\t_\n", "file:4: id '2-3' where word 1"),
        (FIRST + b"1.1\ta\t_\t_\t_\t_\t_\t_\t_\t_\n", "file:4: id '1.1' where word 1"),
        (FIRST + b"1\ta\t_\t_\t_\t_\tx\troot\t_\t_\n", "file:4: head 'x' is not a number"),
        (FIRST + b"1\ta\t_\t_\t_\t_\t0\troot\t_\t_\n2\ta\t_\t_\t_\t_\t3\tdep\t_\t_\n", "file:5: head 3 of word 2"),
        (
            FIRST + b"1\ta\t_\t_\t_\t_\t0\troot\t_\t_\n2\ta\t_\t_\t_\t_\t0\tdep\t_\t_\n",
            "file:5: word 2 is a second root",
        ),
        (FIRST + b"1\ta\t_\t_\t_\t_\t0\troot\t_\t_\n2\ta\t_\t_\t_\t_\t2\tdep\t_\t_\n", "file:5: word 2 is in a cycle"),
        (FIRST + b"1\ta\t_\t_\t_\t_\t1\tdep\t_\t_\n", "file:3: no word is the root"),
    ],
)
def test_what_is_no_conllu_is_refused_with_its_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(UsageError) as refused:
        list(read_sentences("file", trees=True))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_byte_order_mark_is_no_part_of_a_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf" + FIRST.split(b"#")[0])
    [(_, row)] = read_sentences(str(tmp_path / "file"))
    assert row["conllu"].encode() == FIRST.split(b"#")[0]


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="missing.conllu: cannot be read"):
        list(read_sentences(str(tmp_path / "missing.conllu")))


@pytest.mark.shared_data
def test_treebanks_come_back_byte_for_byte(shared_data):
    files = sorted(shared_data.glob("ud_korean_*/*.conllu"))
    assert files
    for file in files:
        text = "".join(row["conllu"] for _, row in read_sentences(str(file), trees=True))
        assert text.encode() == file.read_bytes(), file
