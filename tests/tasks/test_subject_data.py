from collections import Counter
from importlib.metadata import distribution
from itertools import chain

import pytest

from hftk.errors import UsageError
from hftk.tasks.conllu import parse_sentences, read_sentences
from hftk.tasks.subject_data import kaist_rows, turkish_rows
from hftk.tasks.subjects import Subjects


def sentences(*blocks: str):
    """Sentences, each an id and lines of `form lemma upos xpos feats head deprel [misc]` with spaces between."""
    text = ""
    for block in blocks:
        sent_id, *lines = block.strip().splitlines()
        text += f"# sent_id = {sent_id.strip()}\n"
        for number, line in enumerate(lines, start=1):
            form, lemma, upos, xpos, feats, head, deprel, *misc = line.split()
            columns = [str(number), form, lemma, upos, xpos, feats, head, deprel, "_", *(misc or ["_"])]
            text += "\t".join(columns) + "\n"
        text += "\n"
    return list(parse_sentences(text.splitlines(keepends=True), "a.conllu"))


BREAD = """a-s9
    철수는 철수+는 PROPN nq+jxt _ 3 dislocated
    빵을 빵+을 NOUN ncn+jco _ 3 obj
    샀다 사+았+다 VERB pvg+ep+ef _ 0 root SpaceAfter=No
    . . PUNCT sf _ 3 punct"""
SLEEP = """a-s10
    그 그 DET mmd _ 2 det
    철수가 철수+가 PROPN nq+jcs _ 3 nsubj
    잤다 자+았+다 VERB pvg+ep+ef _ 0 root SpaceAfter=No
    . . PUNCT sf _ 3 punct"""
RAIN = """a-s11
    비가 비+가 NOUN ncn+jcs _ 2 nsubj
    왔다 오+았+다 VERB pvg+ep+ef _ 0 root"""
WE = """a-s12
    우리는 우리+는 PRON npp+jxt _ 2 dislocated
    갔다 가+았+다 VERB pvg+ep+ef _ 0 root"""


def test_a_subject_that_was_mentioned_is_taken_out_with_what_depends_on_it():
    rows, left_out = kaist_rows(sentences(SLEEP, RAIN, BREAD))  # the order of the numbers counts, not that of the file
    assert rows == [
        {
            "document": "a",
            "tokens": ["철수는", "빵을", "샀다", ".", "잤다", "."],
            "misc": ["_", "_", "SpaceAfter=No", "_", "SpaceAfter=No", "_"],
            "predicates": [5],
            "subjects": [1],
            "persons": ["3"],
            "mentions": [[1]],
            "nearest_subject": [1],
        }
    ]
    assert left_out == {"not mentioned before": 2}


def test_the_nearest_mention_comes_first_and_none_is_farther_than_three_sentences():
    again = SLEEP.replace("s10", "s12")
    [first, second] = kaist_rows(sentences(BREAD, SLEEP, RAIN, again))[0]
    assert (second["subjects"], second["mentions"]) == ([6], [[6, 1]])
    assert second["nearest_subject"] == [9]
    nouns = {10: "눈", 11: "밤", 12: "봄"}
    far = [RAIN.replace("s11", f"s{number}").replace("비", noun) for number, noun in nouns.items()]
    assert kaist_rows(sentences(BREAD, *far, SLEEP.replace("s10", "s13")))[0] == []
    assert kaist_rows(sentences(BREAD, SLEEP.replace("a-", "b-")))[0] == []


def test_a_pronoun_is_a_person_until_it_is_mentioned():
    [first, second] = kaist_rows(sentences(WE, WE.replace("s12", "s13")))[0]
    assert (first["subjects"], first["persons"], first["mentions"], first["tokens"]) == ([0], ["1"], [[]], ["갔다"])
    assert (second["subjects"], second["persons"]) == ([1], ["1"])


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("그 그 DET mmd _ 2 det", "젊은 젊+은 ADJ paa+etm _ 2 amod", "not mentioned before"),
        ("그 그 DET mmd _ 2 det", "밤은 밤+은 NOUN ncn+jxt _ 3 dislocated", "beside another subject"),
        ("그 그 DET mmd _ 2 det", "오늘 오늘 NOUN ncn _ 4 obl", None),
        ("nq+jcs", "npd+jcs", "no noun, or more than a particle behind it"),
        ("철수+가 PROPN nq+jcs", "철수+만+이 PROPN nq+jxc+jcs", "no noun, or more than a particle behind it"),
        ("pvg+ep+ef", "ncn+ncn+ncn", "does not stand before a predicate"),
    ],
)
def test_other_subjects_stay_and_are_counted(old, new, reason):
    rows, left_out = kaist_rows(sentences(BREAD, SLEEP.replace(old, new)))
    of_second = left_out - Counter({"not mentioned before": 1})
    if reason is None:
        assert len(rows) == 1 and not of_second
    else:
        expected = Counter({reason: 2 if reason.startswith("beside") else 1})
        assert rows == [] and of_second == expected


def test_a_noun_without_a_particle_is_a_mention_and_a_verb_made_of_it_is_none():
    bare = BREAD.replace("철수는 철수+는 PROPN nq+jxt _ 3 dislocated", "철수 철수 PROPN nq _ 3 obl")
    assert kaist_rows(sentences(bare, SLEEP))[0][0]["subjects"] == [1]
    thinks = BREAD.replace("빵을 빵+을 NOUN ncn+jco", "말했고 말+하+았+고 VERB ncpa+xsv+ep+ecc")
    speech = SLEEP.replace("철수가 철수+가 PROPN nq", "말이 말+이 NOUN ncpa")
    assert kaist_rows(sentences(thinks, speech))[0] == []


def test_a_sentence_of_no_document_is_refused_with_its_place():
    with pytest.raises(UsageError, match="^a.conllu:1: sent_id 'a9' names no document; "):
        kaist_rows(sentences(BREAD.replace("a-s9", "a9")))


COOK = """web:7:S03
    Annem anne NOUN NN PersonNumber=A3sg 6 nsubj
    yemek yemek NOUN NN PersonNumber=A3sg 4 dobj
    pi piş VERB VB _ 4 ig SpaceAfter=No
    şirdi _ VERB VB PersonNumber=V3sg 6 conj
    ve ve CONJ CC _ 6 cc
    uyudu uyu VERB VB PersonNumber=V3sg 0 root SpaceAfter=No
    ; ; PUNCT . _ 6 p
    gördüm gör VERB VB PersonNumber=V1sg 6 parataxis"""


def test_the_person_is_that_of_the_verb_and_what_coordinated_verbs_share_is_a_word():
    rows, left_out = turkish_rows(sentences(COOK))
    assert rows == [
        {
            "document": "web:7",
            "tokens": ["Annem", "yemek", "pişirdi", "ve", "uyudu", ";", "gördüm"],
            "misc": ["_", "_", "_", "_", "SpaceAfter=No", "_", "_"],
            "predicates": [3, 7],
            "subjects": [1, 0],
            "persons": ["3", "1"],
            "mentions": [[1], []],
            "nearest_subject": [1, 1],
        }
    ]
    assert left_out == {"has a subject": 1}


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("V3sg 0 root", "V2sg 0 root", "coordinated with another person"),
        ("V3sg 6 conj", "V3sg 6 goeswith", "part of another word's clause"),
        ("CC _ 6 cc", "CC PersonNumber=V3sg 4 aux", "part of another word's clause"),
    ],
)
def test_verbs_whose_person_may_be_anothers_are_left_out(old, new, reason):
    rows, left_out = turkish_rows(sentences(COOK.replace(old, new).replace("CONJ CC P", "VERB VB P")))
    assert rows[0]["predicates"] == [7] and left_out[reason] == 1
    assert left_out["its auxiliary has a person too"] == ("aux" in new)


@pytest.mark.shared_data
def test_rows_of_kaist_lack_a_subject_that_is_mentioned(shared_data):
    files = [f"{shared_data}/ud_korean_kaist/{split}.conllu" for split in ("train", "validation", "test")]
    rows, left_out = kaist_rows(chain.from_iterable(map(read_sentences, files)))
    assert (len(rows), left_out["not mentioned before"]) == (771, 3228)
    assert Counter(bool(row["subjects"][0]) for row in rows) == {True: 685, False: 86}
    check(rows)
    nouns = [row["tokens"][row["subjects"][0] - 1] for row in rows if row["subjects"][0]]
    assert sum(noun.startswith("헤겔") for noun in nouns) > 20  # of whom one document tells


def test_rows_of_the_turkish_package_have_all_three_persons():
    pytest.importorskip("turkish_treebanks", reason="comes with hftk[quickstart]")
    files = [str(distribution("turkish-treebanks").locate_file(f"data/{part}.conllu")) for part in ("web", "wiki")]
    rows, left_out = turkish_rows(chain.from_iterable(map(read_sentences, files)))
    persons = Counter(person for row in rows for person in row["persons"])
    assert (len(rows), persons) == (1911, {"3": 1410, "2": 597, "1": 474})
    check(rows)


def check(rows):
    for row in rows:
        Subjects("subjects").check_inputs(row, "here")
        Subjects("subjects").check_targets(row, "here")
        last = max(row["predicates"])
        assert all(0 <= place < last for place in row["subjects"] + row["nearest_subject"])
