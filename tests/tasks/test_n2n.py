import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from transformers import BertTokenizerFast

from hftk.errors import UsageError
from hftk.tasks.n2n import N2N
from hftk.tasks.task import Example

WORDS, CHARACTERS, SPANS = N2N("n2n"), N2N("n2n", unit="character"), N2N("n2n", unit="span")
NAMES = ["B-LC", "B-PS", "I-LC", "I-PS", "O"]


def log_probabilities(rows: list[list[float]]) -> np.ndarray:
    return np.log(np.array(rows))


def test_the_score_of_entities_is_seqevals_in_strict_mode():
    wanted = [["B-PS", "I-PS", "O"], ["B-LC", "O", "B-LC"]]
    given_labels = [["B-PS", "O", "O"], ["B-LC", "O", "B-PS"]]
    rows = [{"tokens": list("abc"), "labels": labels} for labels in wanted]
    scores = CHARACTERS.score(given_labels, rows)
    assert scores["f1"] == pytest.approx(f1_score(wanted, given_labels, mode="strict", scheme=IOB2))
    assert scores["f1"] == pytest.approx(1 / 3) and scores["accuracy"] == pytest.approx(4 / 6)


def test_a_space_is_inside_an_entity_if_the_character_after_it_is():
    places = [(0, 1), (0, 2), (0, 2), (0, 3), (0, 3)]  # "a b c", where b and c carry the spaces
    sure = {name: [0.9 if other == name else 0.025 for other in NAMES] for name in NAMES}
    raw = [log_probabilities([sure["O"], sure["B-PS"], sure["I-PS"], sure["O"]])]
    labels = CHARACTERS.join(Example([], places), raw, NAMES)
    assert labels == ["B-PS", "I-PS", "I-PS", "O", "O"]


def test_a_words_label_stands_at_its_first_subword_or_at_its_last_and_is_predicted_there():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s"]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    row, names = {"tokens": ["the", "cats"], "labels": ["DET", "NOUN"]}, ["DET", "NOUN"]
    raw = [log_probabilities([[0.5, 0.5], [0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])]  # [CLS] the cat ##s [SEP]
    for task, labels, predicted in (
        (WORDS, [-100, 0, 1, -100, -100], ["DET", "DET"]),
        (N2N("n2n", label_token="last"), [-100, 0, -100, 1, -100], ["DET", "NOUN"]),
    ):
        example = task.encode(row, tokenizer, 8, names)
        assert example.features[0]["labels"] == labels
        assert task.join(example, raw, names) == predicted


def test_spans_of_a_text_have_labels_and_what_is_between_them_has_none():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat"]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    row = {"tokens": "the cats sat", "spans": [[4, 7], [9, 12]], "labels": ["ANIMAL", "VERB"]}
    SPANS.check_inputs(row, "x:1")
    SPANS.check_targets(row, "x:1")
    example = SPANS.encode(row, tokenizer, 8, ["ANIMAL", "VERB"])
    assert tokenizer.convert_ids_to_tokens(example.features[0]["input_ids"])[1:4] == ["the", "cat", "[UNK]"]
    assert example.features[0]["labels"] == [-100, -100, 0, -100, 1, -100]
    raw = [log_probabilities([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])]
    assert SPANS.join(example, raw, ["ANIMAL", "VERB"]) == ["ANIMAL", "VERB"]


@pytest.mark.parametrize("spans", [[[4, 4]], [[4, 13]], [[4, 7], [6, 12]], [[3, 4]], [["4", 7]], [[4]], [4], [], "4-7"])
def test_a_span_that_is_none_is_refused_with_its_place(spans):
    with pytest.raises(UsageError, match=r"^x:1: (span .* is no \[start, end\]|column 'spans' must hold a list)"):
        SPANS.check_inputs({"tokens": "the cats sat", "spans": spans}, "x:1")


def test_a_label_that_training_never_showed_counts_as_wrong():
    row = {"tokens": ["oh", "cats"], "labels": ["INTJ", "NOUN"]}
    scores = WORDS.score([["NOUN", "NOUN"]], [row])
    assert scores["accuracy"] == 0.5 and scores["f1"] == pytest.approx(1 / 3)


def test_labels_are_those_of_the_rows_in_alphabetical_order():
    assert WORDS.label_names([{"labels": ["B", "A"]}, {"labels": ["C", "A"]}]) == ["A", "B", "C"]
    with pytest.raises(UsageError, match="every word has the label 'A'"):
        WORDS.label_names([{"labels": ["A"]}])


@pytest.mark.parametrize(
    "row, message",
    [
        ({"words": ["a"], "labels": ["A"]}, "no column 'tokens'.*words, labels.*task.tokens_column"),
        ({"tokens": "a b", "labels": ["A"]}, "'tokens' must hold a list of words, not 'a b'"),
        ({"tokens": [1], "labels": ["A"]}, "'tokens' must hold a list of words"),
        ({"tokens": [], "labels": []}, "'tokens' holds an empty text"),
        ({"tokens": ["a"]}, "no column 'labels'.*tokens.*task.labels_column"),
        ({"tokens": ["a"], "labels": [0]}, "'labels' must hold a list of label names"),
        ({"tokens": ["a", "b"], "labels": ["A"]}, "2 words but 1 labels"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_place(row, message):
    with pytest.raises(UsageError, match=f"^train.jsonl:3: .*{message}"):
        WORDS.check_inputs(row, "train.jsonl:3")
        WORDS.check_targets(row, "train.jsonl:3")


def test_a_text_is_a_list_of_characters():
    row = {"tokens": "나는", "labels": ["O", "O"]}
    CHARACTERS.check_inputs(row, "x:1")
    CHARACTERS.check_targets(row, "x:1")
    assert row["tokens"] == ["나", "는"]
