import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from hftk.errors import UsageError
from hftk.model.modeling_hftk_arc import ArcOutput, HftkArcConfig, HftkForArcPrediction
from hftk.tasks.subjects import PERSONS, Subjects

TASK = Subjects("subjects")
WORDS = "나는 영희를 봤다 . 웃었다 . 갔다".split()
ROW = {
    "tokens": WORDS,
    "predicates": [5, 7],
    "subjects": [2, 0],
    "persons": ["3", "1"],
    "mentions": [[2, 1], []],
}


@pytest.fixture(scope="module")
def tokenizer():
    """A token a word, so that lengths can be counted."""
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(f"▁{word}" for word in WORDS)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    backbone = BertConfig(
        vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    names = TASK.label_names([ROW])
    return HftkForArcPrediction(HftkArcConfig(backbone_config=backbone, id2label=dict(enumerate(names))))


def test_only_predicates_have_something_to_learn(tokenizer):
    [features] = TASK.encode(ROW, tokenizer, 64, PERSONS).features
    assert features["heads"] == [-100, -100, -100, -100, 2, -100, 0]
    assert features["labels"] == [-100, -100, -100, -100, 2, -100, 0]
    assert "heads" not in TASK.encode(ROW, tokenizer, 64, None).features[0]


def test_of_a_long_text_the_model_sees_the_last_predicate(tokenizer):
    example = TASK.encode(ROW, tokenizer, 6, PERSONS)
    assert example.cut and max(example.features[0]["word_ids"]) == 7
    assert not TASK.encode(ROW, tokenizer, 64, PERSONS).cut


def test_a_model_that_learned_a_text_restores_its_subjects(model, tokenizer):
    other = {"tokens": WORDS[4:], "predicates": [3], "subjects": [0], "persons": ["2"], "mentions": [[]]}
    rows = [ROW, other]
    examples = [TASK.encode(row, tokenizer, 64, PERSONS) for row in rows]
    batch = TASK.collate([features for example in examples for features in example.features], tokenizer, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(40):
        loss, _ = TASK.forward(model, batch)
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        _, outputs = TASK.forward(model, batch)
    raw = TASK.predict(model, batch, outputs, tokenizer)
    found = [TASK.join(example, [item], PERSONS) for example, item in zip(examples, raw, strict=True)]
    assert [prediction["subjects"] for prediction in found] == [[2, 0], [0]]
    assert [prediction["persons"] for prediction in found] == [["3", "1"], ["2"]]
    assert TASK.score(found, rows) == {"f1": 1, "word_accuracy": 1, "person_accuracy": 1}


def test_predicates_share_subjects_as_words_of_a_tree_share_no_root():
    scores = torch.full((1, 3, 4), 0.0)
    scores[0, :, 0] = 1  # each word's best arc is to whoever is not in the text
    persons = torch.zeros(1, 3, 4, 3)
    persons[0, :, 0] = torch.eye(3)
    persons[0, :, 1:, 2] = 9  # what they would be on other arcs does not matter
    [raw] = TASK.predict(None, {}, ArcOutput(arc_scores=scores, label_scores=persons), None)
    assert raw == ([0, 0, 0], [0, 1, 2])


def test_any_mention_is_right_and_a_person_only_for_one_not_in_the_text():
    def score(subjects, persons):
        return TASK.score([{"subjects": subjects, "persons": persons}], [ROW])

    assert score([1, 0], ["1", "1"]) == {"f1": 1, "word_accuracy": 1, "person_accuracy": 1}
    assert score([3, 0], ["3", "1"]) == {"f1": 0.5, "word_accuracy": 0, "person_accuracy": 1}
    assert score([2, 0], ["3", "3"]) == {"f1": 0.5, "word_accuracy": 1, "person_accuracy": 0}
    assert score([0, 2], ["3", "1"]) == {"f1": 0, "word_accuracy": 0, "person_accuracy": 0}


def test_without_mentions_the_subject_alone_is_right():
    row = {name: values for name, values in ROW.items() if name != "mentions"}
    TASK.check_inputs(row, "a.jsonl:1")
    TASK.check_targets(row, "a.jsonl:1")
    assert TASK.score([{"subjects": [1, 0], "persons": ["1", "1"]}], [row])["word_accuracy"] == 0


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"tokens": []}, "must hold a list of words"),
        ({"predicates": []}, "must list each predicate once"),
        ({"predicates": [5, 5]}, "must list each predicate once"),
        ({"predicates": [5, 8]}, "predicate 8 is no word of the text; words are 1 to 7"),
        ({"predicates": [0, 5]}, "predicate 0 is no word"),
        ({"subjects": [2]}, "2 predicates, 1 subjects, 2 persons"),
        ({"subjects": [2, "1"]}, "subject '1' is no word of the text"),
        ({"subjects": [2, 9]}, "subject 9 is no word"),
        ({"subjects": [5, 0]}, "word 5 is its own subject"),
        ({"persons": ["3", "4"]}, "person '4' of word 7; give '1', '2' or '3'"),
        ({"mentions": [[2, 0], []]}, "mention 0 is no word"),
    ],
)
def test_a_row_that_cannot_be_is_refused_with_its_place(changed, message):
    row = {**ROW, **changed}
    with pytest.raises(UsageError, match=f"^a.jsonl:1: .*{message}"):
        TASK.check_inputs(row, "a.jsonl:1")
        TASK.check_targets(row, "a.jsonl:1")
