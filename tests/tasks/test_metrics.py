import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.tasks.metrics import LabelScores


@given(st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from("AB")), min_size=1))
def test_accuracy_and_f1_follow_their_definitions(pairs):
    f1 = []
    for label in {gold for _, gold in pairs}:
        hits = sum(guess == gold == label for guess, gold in pairs)
        guessed = sum(guess == label for guess, _ in pairs)
        f1.append(2 * hits / (guessed + sum(gold == label for _, gold in pairs)))
    scores = LabelScores(keep_in_memory=True).compute(
        predictions=[guess for guess, _ in pairs], references=[gold for _, gold in pairs]
    )
    assert scores["accuracy"] == pytest.approx(sum(guess == gold for guess, gold in pairs) / len(pairs))
    assert scores["f1"] == pytest.approx(sum(f1) / len(f1))
