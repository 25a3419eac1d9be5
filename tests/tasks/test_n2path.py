import pytest

from hftk.errors import UsageError
from hftk.tasks.conllu import parse_sentences
from hftk.tasks.n2path import N2Path

TASK = N2Path("n2path")
CONLLU = """# text = 나는 갔다.
1	나는	나+는	PRON	_	_	2	nsubj	_	_
2	갔다	가+았+다	VERB	_	_	0	root	_	SpaceAfter=No
3	.	.	PUNCT	_	_	2	punct	_	_

"""
[(WHERE, ROW)] = parse_sentences(CONLLU.splitlines(keepends=True), "a.conllu")


def test_what_is_read_is_the_text_with_its_spaces():
    TASK.check_inputs(ROW, WHERE)
    TASK.check_targets(ROW, WHERE)
    assert TASK.text(ROW) == "나는 갔다."


def test_a_predicted_tree_stands_in_the_sentences_own_text():
    columns = TASK.columns({"head": [0, 1, 1], "deprel": ["root", "x", "y"]}, ROW)
    assert columns["conllu"].splitlines()[2] == "2\t갔다\t가+았+다\tVERB\t_\t_\t1\tx\t_\tSpaceAfter=No"
    assert "conllu" not in TASK.columns({"head": [0], "deprel": ["root"]}, {"tokens": ["a"]})


def test_the_right_trees_score_one():
    right = {"head": [2, 0, 2], "deprel": ROW["deprel"]}
    assert TASK.score([right], [ROW]) == {"uas": 1, "las": 1, "clas": 1}
    wrong = {"head": [2, 0, 1], "deprel": ROW["deprel"]}
    assert TASK.score([wrong], [ROW]) == {"uas": pytest.approx(2 / 3), "las": pytest.approx(2 / 3), "clas": 1}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"tokens": []}, "must hold a list of words"),
        ({"head": [2, 0]}, "3 words, 2 heads, 3 relations"),
        ({"head": [2, 0, None]}, "word 3 has no head"),
        ({"head": [2, 1, 2]}, "no word is the root"),
        ({"head": [0, 3, 2]}, "cycle"),
        ({"head": [2, 0, 9]}, "head 9 of word 3 is not in the sentence"),
    ],
)
def test_a_sentence_without_a_tree_is_refused_with_its_place(changed, message):
    row = {**ROW, **changed}
    with pytest.raises(UsageError, match=f"^a.conllu:1: .*{message}"):
        TASK.check_inputs(row, WHERE)
        TASK.check_targets(row, WHERE)
