import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from hftk.errors import UsageError
from hftk.tasks import n2n
from hftk.tasks.alignment import EncodedWords

TASK = n2n.TaskArguments()


def test_a_label_stands_at_its_words_first_token_and_the_loss_ignores_all_others():
    encoded = EncodedWords(input_ids=[1, 10, 11, 12, 2], first_tokens=[1, 3, None])
    row = {"tokens": ["cats", "sat", "."], "labels": ["NOUN", "VERB", "PUNCT"]}
    features = n2n.features(encoded, row, TASK, ["NOUN", "PUNCT", "VERB"])
    assert features == {"input_ids": [1, 10, 11, 12, 2], "labels": [-100, 0, -100, 2, -100]}


def test_a_label_that_training_never_showed_is_not_learned_from_and_counts_as_wrong():
    encoded = EncodedWords(input_ids=[1, 10, 11, 2], first_tokens=[1, 2])
    row = {"tokens": ["oh", "cats"], "labels": ["INTJ", "NOUN"]}
    assert n2n.features(encoded, row, TASK, ["NOUN"])["labels"] == [-100, -100, 0, -100]
    predicted = n2n.readable(np.zeros((1, 4), dtype=int), [encoded], ["NOUN"])
    assert predicted == [["NOUN", "NOUN"]]
    assert n2n.score(predicted, [row], TASK) == {"accuracy": 0.5, "f1": pytest.approx(1 / 3), "words_unseen": 0}


def test_a_word_that_was_not_shown_is_predicted_as_none_and_counts_as_wrong():
    encoded = EncodedWords(input_ids=[1, 10, 2], first_tokens=[1, None])
    predicted = n2n.readable(np.array([[0, 1, 0]]), [encoded], ["A", "B"])
    assert predicted == [["B", None]]
    rows = [{"tokens": ["x", "y"], "labels": ["B", "B"]}]
    assert n2n.score(predicted, rows, TASK) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3), "words_unseen": 1}


def test_loss_is_the_models_own_and_is_a_share_of_the_steps_where_the_step_has_more_words():
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = BertForTokenClassification(config).eval()
    labels = torch.tensor([[-100, 1, 0, -100], [-100, 1, -100, -100]])
    outputs = model(torch.arange(8).view(2, 4), labels=labels)
    torch.testing.assert_close(n2n.loss(outputs, labels), outputs.loss)
    torch.testing.assert_close(n2n.loss(outputs, labels, torch.tensor(12)), outputs.loss * 3 / 12)
    assert n2n.loss(outputs, torch.full_like(labels, -100)) == 0


def test_labels_are_those_of_the_rows_in_alphabetical_order():
    assert n2n.label_names([{"labels": ["B", "A"]}, {"labels": ["C", "A"]}, {"labels": []}], TASK) == ["A", "B", "C"]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"words": ["a"], "labels": ["A"]}, "'tokens'.*columns are words, labels.*task.tokens_column"),
        ({"tokens": "a b", "labels": ["A"]}, "'tokens' must hold a list of words, not 'a b'"),
        ({"tokens": [1], "labels": ["A"]}, "'tokens' must hold a list of words"),
        ({"tokens": ["a"]}, "'labels'.*columns are tokens.*task.labels_column"),
        ({"tokens": ["a"], "labels": [0]}, "'labels' must hold a list of label names"),
        ({"tokens": ["a", "b"], "labels": ["A"]}, "2 words but 1 labels"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_place(row, message):
    with pytest.raises(UsageError, match=f"^train.jsonl:3: .*{message}"):
        n2n.check_words(row, TASK, "train.jsonl:3")
        n2n.check_labels(row, TASK, "train.jsonl:3")
