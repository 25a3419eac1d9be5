import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.errors import UsageError
from hftk.tasks.conllu import parse_sentences, read_sentences
from hftk.tasks.morphemes import Morphemes, joined_tags, morpheme_labels
from hftk.tasks.rows import Row
from hftk.tasks.task import Example

TASK = Morphemes("morphemes")
CONLLU = """1	경찰은	경찰+은	NOUN	NNG+JX	_	2	nsubj	_	_
2	왔다	오+았+다	VERB	VV+EP+EF	_	0	root	_	SpaceAfter=No
3	.	.	PUNCT	SF	_	2	punct	_	_

"""


def row():
    [(_, row)] = parse_sentences(CONLLU.splitlines(keepends=True), "a.conllu")
    TASK.check_inputs(row, "a.conllu:1")
    TASK.check_targets(row, "a.conllu:1")
    return row


@pytest.mark.parametrize(
    ("form", "lemma", "xpos", "labels"),
    [
        ("경찰은", "경찰+은", "NNG+JX", ["B-NNG", "I-NNG", "B-JX"]),
        ("가까운", "가깝+ㄴ", "VA+ETM", ["B-VA", "I-VA", "I-VA+B-ETM"]),
        ("왔다", "오+았+다", "VV+EP+EF", ["B-VV+B-EP", "B-EF"]),
        ("서울입니다", "서울+이+ㅂ니다", "nq+jp+ef", ["B-nq", "I-nq", "B-jp+B-ef", "I-ef", "I-ef"]),
        ("학교다", "학교+이+다", "NNG+VCP+EF", ["B-NNG", "I-NNG", "B-VCP+B-EF"]),
        ("1+1", "1+1", "SN", ["B-SN", "I-SN", "I-SN"]),
    ],
)
def test_each_character_has_the_morphemes_that_it_is_part_of(form, lemma, xpos, labels):
    assert morpheme_labels(form, lemma, xpos) == labels


words = st.text("가까운강았오다ㄴㅂa1.", min_size=1, max_size=6)


@given(form=words, morphemes=st.lists(st.tuples(words, st.sampled_from("ABC")), min_size=1, max_size=5))
def test_every_morpheme_begins_once_and_in_order(form, morphemes):
    lemma, xpos = ("+".join(parts) for parts in zip(*morphemes, strict=True))
    labels = morpheme_labels(form, lemma, xpos)
    assert len(labels) == len(form) and joined_tags(labels) == xpos


@pytest.mark.shared_data
@pytest.mark.parametrize("treebank", ["kaist", "gsd"])
def test_the_tags_of_every_word_of_a_treebank_come_back_from_few_labels(treebank, shared_data):
    names = set()
    for _, sentence in read_sentences(f"{shared_data}/ud_korean_{treebank}/validation.conllu"):
        for form, lemma, xpos in zip(sentence["tokens"], sentence["lemmas"], sentence["xpos"], strict=True):
            labels = morpheme_labels(form, lemma, xpos)
            assert joined_tags(labels) == xpos
            names |= set(labels)
    assert len(names) < 200


def test_a_sentence_is_read_character_by_character_with_its_spaces():
    assert row()["characters"] == list("경찰은 왔다.")
    assert row()["morphemes"] == ["B-NNG", "I-NNG", "B-JX", "O", "B-VV+B-EP", "B-EF", "B-SF"]
    assert TASK.columns(row()["morphemes"], row()) == {"xpos": row()["xpos"]}


def test_words_count_as_right_if_all_their_morphemes_are():
    wrong = ["B-NNG", "I-NNG", "B-JKS", "O", "B-VV+B-EP", "B-EF", "B-SF"]
    scores = TASK.score([wrong], [row()])
    assert scores["xpos_accuracy"] == pytest.approx(2 / 3) and scores["accuracy"] == pytest.approx(6 / 7)


def test_syllables_of_two_morphemes_may_follow_each_other():
    names = ["B-VA", "I-VA", "I-VA+B-ETM", "O"]
    sure = np.log([[0.9 if i == unit else 0.03 for i in range(4)] for unit in range(3)])  # [characters, labels]
    assert TASK.join(Example([], [(0, 0), (0, 1), (0, 2)]), [sure], names) == ["B-VA", "I-VA", "I-VA+B-ETM"]


def test_a_word_without_tags_is_refused_with_its_place():
    sentence = {"tokens": ["왔다"], "lemmas": ["_"], "xpos": ["VV"]}
    TASK.check_inputs(sentence, "a:1")
    with pytest.raises(UsageError, match="^a:1: the word '왔다' has no lemma"):
        TASK.check_targets(sentence, "a:1")


def test_raw_text_is_labelled_by_kiwipiepy():
    pytest.importorskip("kiwipiepy", reason="comes with hftk[ko]")
    row: Row = {"text": "경찰은 또 왔다. ㅋㅋ"}
    silver = Morphemes("morphemes", silver=True)
    silver.check_inputs(row, "a:1")
    silver.check_targets(row, "a:1")
    assert row["tokens"] == ["경찰은", "또", "왔다.", "ㅋㅋ"]
    assert row["xpos"][:3] == ["NNG+JX", "MAG", "VV+EP+EF+SF"]
    assert silver.columns(row["morphemes"], row) == {"xpos": row["xpos"]}
