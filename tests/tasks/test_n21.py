import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef

from hftk.errors import UsageError
from hftk.tasks.n21 import N21
from hftk.tasks.task import Example

ONE = N21("n21")
MANY = N21("n21", problem_type="multi_label_classification")
NUMBER = N21("n21", problem_type="regression")


def test_scores_are_scikit_learns():
    wanted, given = ["a", "b", "b", "a"], ["a", "b", "a", "a"]
    scores = ONE.score(given, [{"label": label} for label in wanted])
    assert scores["accuracy"] == 0.75
    assert scores["f1"] == pytest.approx(f1_score(wanted, given, average="macro"))
    assert scores["matthews"] == pytest.approx(matthews_corrcoef(wanted, given))


def test_sets_of_labels_are_scored_over_all_decisions():
    scores = MANY.score([["a"], []], [{"label": ["a", "b"]}, {"label": []}])
    assert scores == {"accuracy": 0.5, "f1": pytest.approx(2 / 3), "f1_macro": 0.5}


def test_numbers_are_scored_by_error_and_correlation():
    scores = NUMBER.score([1.0, 2.0, 4.0], [{"label": 1.0}, {"label": 2.0}, {"label": 3.0}])
    assert scores["mse"] == pytest.approx(1 / 3) and scores["spearman"] == 1.0 and 0.9 < scores["pearson"] < 1.0
    assert NUMBER.score([1.0, 1.0], [{"label": 1.0}, {"label": 2.0}])["pearson"] == 0.0


@pytest.mark.parametrize(
    "task, labels, torchs",
    [
        (ONE, torch.tensor([2, 0]), torch.nn.functional.cross_entropy),
        (MANY, torch.tensor([[1.0, 0, 1], [0, 0, 1]]), torch.nn.functional.binary_cross_entropy_with_logits),
        (NUMBER, torch.tensor([1.5, -2.0]), lambda logits, labels: torch.nn.functional.mse_loss(logits[:, 0], labels)),
    ],
)
def test_the_loss_is_a_mean_over_labels_or_a_share_of_the_steps(task, labels, torchs):
    logits = torch.randn(2, 1 if task is NUMBER else 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(task.loss(logits, labels, None), torchs(logits, labels))
    share = task.loss(logits, labels, torch.tensor(4 * labels.numel()))
    torch.testing.assert_close(share, torchs(logits, labels) / 4)


def test_predictions_are_names_sets_of_names_or_numbers():
    logits = {"logits": torch.tensor([[1.0, -1.0]])}
    read = [task.join(Example([]), task.predict(None, {}, logits, None), ["a", "b"]) for task in (ONE, MANY)]
    assert read == ["a", ["a"]]
    assert NUMBER.join(Example([]), NUMBER.predict(None, {}, {"logits": torch.tensor([[0.5]])}, None), []) == 0.5


def test_a_number_in_a_table_is_a_number():
    row = {"text": "x", "label": "2.5"}
    NUMBER.check_targets(row, "t.csv:2")
    assert row["label"] == 2.5


@pytest.mark.parametrize(
    "task, row, message",
    [
        (ONE, {"label": 1}, "no column 'text'.*label.*task.text_column"),
        (ONE, {"text": None, "label": 1}, "'text' must hold a text, not None"),
        (ONE, {"text": " ", "label": 1}, "'text' is empty"),
        (ONE, {"text": "x"}, "no column 'label'.*text.*task.label_column"),
        (ONE, {"text": "x", "label": None}, "'label' must hold a label, not None"),
        (MANY, {"text": "x", "label": "a"}, "'label' must hold a list of labels, not 'a'"),
        (NUMBER, {"text": "x", "label": "much"}, "'label' must hold a number, not 'much'"),
        (N21("n21", second_text_column="more"), {"text": "x", "label": 1}, "no column 'more'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_place(task, row, message):
    with pytest.raises(UsageError, match=f"^a.csv:3: .*{message}"):
        task.check_inputs(row, "a.csv:3")
        task.check_targets(row, "a.csv:3")


def test_one_class_only_is_refused():
    with pytest.raises(UsageError, match="every row has the label 'a'"):
        ONE.label_names([{"label": "a"}, {"label": "a"}])
