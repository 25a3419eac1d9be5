import itertools

import pytest
import sacrebleu
import torch
from transformers import BartConfig, BartForConditionalGeneration

from hftk.errors import UsageError
from hftk.tasks.n2m import N2M

ONE = N2M("n2m")
BOTH = N2M(
    "n2m",
    directions=[{"source": "en", "target": "ko", "prefix": "ko: "}, {"source": "ko", "target": "en", "prefix": "en: "}],
)


class Letters:
    """A tokenizer of letters with the interface that the task uses: `<s>` 0, `</s>` 2, `a` 3 and so on."""

    bos_token_id = 0

    def __call__(self, text=None, text_target=None, verbose=True):
        return {"input_ids": [0, *(ord(letter) - 94 for letter in text or text_target), 2]}

    def pad(self, items, return_tensors):
        ids = torch.tensor([item["input_ids"] for item in items])  # of one length
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_scores_and_signatures_are_sacrebleus():
    written, wanted = ["the cat sat on the mat"], ["the cat sat on a mat"]
    scores = ONE.score([written], [{"target": wanted[0]}])
    assert scores["bleu"] == sacrebleu.corpus_bleu(written, [wanted]).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(written, [wanted], word_order=2).score
    assert "nw:2" in scores["chrf_signature"] and "tok:13a" in scores["bleu_signature"]


def test_each_direction_has_its_prefix_its_target_and_its_score():
    row = {"en": "ab", "ko": "cd"}
    example = BOTH.encode(row, Letters(), 64, [])
    prefix = Letters()("ko: ab")["input_ids"]
    assert example.features[0] == {"input_ids": prefix, "labels": [5, 6, 2]} and len(example.features) == 2
    assert BOTH.columns(["x", "y"], row) == {"ko": "x", "en": "y"}
    scores = BOTH.score([["cd", "zz"]], [row])
    assert scores["chrf_en_ko"] == 100 and scores["chrf_ko_en"] == 0 < scores["chrf"] < 100


def test_only_directions_whose_source_is_there_are_predicted():
    row = {"ko": "cd"}
    BOTH.check_inputs(row, "x:1")
    assert BOTH.encode(row, Letters(), 64, None).features == [Letters()("en: cd")]
    assert BOTH.columns(["y"], row) == {"en": "y"}


def test_a_long_text_is_cut_before_its_end_symbol_and_it_is_said():
    example = N2M("n2m", max_target_length=3).encode({"source": "abcdef", "target": "abcdef"}, Letters(), 4, [])
    assert example.cut and example.features == [{"input_ids": [0, 3, 4, 2], "labels": [3, 4, 2]}]


def test_training_is_smoothed_and_evaluation_is_not():
    logits, labels = torch.randn(1, 3, 7), torch.tensor([[1, 5, -100]])
    plain = torch.nn.functional.cross_entropy(logits[0], labels[0])
    smooth = torch.nn.functional.cross_entropy(logits[0], labels[0], label_smoothing=0.1)
    torch.testing.assert_close(ONE.loss(logits, labels, None), plain)
    torch.testing.assert_close(ONE.loss(logits, labels, torch.tensor(4)), smooth * 2 / 4)


def tiny_bart(**config) -> BartForConditionalGeneration:
    config = BartConfig(
        vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None, **config,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()


def test_without_smoothing_the_loss_is_the_models_own():
    model = tiny_bart()
    ids, labels = torch.tensor([[0, 5, 6, 2]]), torch.tensor([[7, 8, 2]])
    batch = {"input_ids": ids, "labels": labels}
    batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
    loss, _ = ONE.forward(model, batch)
    torch.testing.assert_close(loss, model(input_ids=ids, labels=labels).loss)


@pytest.mark.parametrize("row", [{"target": "x"}, {"source": "x"}, {"source": "", "target": "x"}, {"source": 1}])
def test_a_row_that_does_not_fit_is_refused_with_its_place(row):
    with pytest.raises(UsageError, match="^a:3: "):
        ONE.check_inputs(row, "a:3")
        ONE.check_targets(row, "a:3")


def test_a_direction_needs_a_source_and_a_target():
    with pytest.raises(UsageError, match="task.directions: .*must have source, target"):
        N2M("n2m", directions=[{"from": "en", "target": "ko"}])


def test_what_is_chosen_is_most_alike_and_likely():
    torch.manual_seed(0)
    model, task = tiny_bart(init_std=1.0), N2M("n2m", candidates=3)
    row, texts = {"source": "abc"}, ["ab", "abcdefgh", "zzz"]
    losses: list[float] = []
    for text in texts:
        example = task.encode({**row, "target": text}, Letters(), 64, [])
        loss, _ = task.forward(model, task.collate(example.features, Letters(), model))
        assert loss is not None
        losses.append(loss.item())
    chosen = set()
    for likeness in itertools.product([0.1, 0.2, 0.3], repeat=3):
        example = task.encode(row, Letters(), 64, None)
        task.offer(example, [list(zip(texts, likeness, strict=True))], Letters())
        raw = task.predict(model, task.collate(example.features * 2, Letters(), model), None, Letters())
        weighed = [like - 0.05 * loss for like, loss in zip(likeness, losses, strict=True)]
        best = texts[weighed.index(max(weighed))]
        assert task.join(example, raw[:1], []) == task.join(example, raw[1:], []) == [best]
        chosen.add((best, likeness.index(max(likeness))))
    assert len(chosen) > 3, "neither the likeness nor the loss alone tells which"
