"""transformers' own pipelines on the folders that hftk writes."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast, pipeline

from hftk import HftkConfig, HftkForMaskedLM, HftkForSequenceClassification, HftkForTokenClassification
from hftk.data.tokenizer import TokenizerArguments, train_tokenizer

TEXTS = [f"{animal} {verb}." for animal in ("고양이가", "개가", "새가") for verb in ("잔다", "먹는다", "운다")]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS * 3, TokenizerArguments(vocab_size=400))


def saved(folder, model_class, tokenizer, **labels):
    torch.manual_seed(0)
    config = HftkConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, **labels,
    )  # fmt: skip
    model = model_class(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_text_classification(tokenizer, tmp_path):
    model = saved(tmp_path, HftkForSequenceClassification, tokenizer, id2label={0: "no", 1: "yes"})
    [found] = pipeline("text-classification", model=str(tmp_path))(TEXTS[0])
    scores = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits.softmax(dim=-1)[0]
    assert found == {"label": ["no", "yes"][scores.argmax()], "score": pytest.approx(scores.max().item())}


def test_token_classification(tokenizer, tmp_path):
    model = saved(tmp_path, HftkForTokenClassification, tokenizer, id2label={0: "B-PS", 1: "I-PS"})
    found = pipeline("token-classification", model=str(tmp_path))(TEXTS[0])
    labels = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits.argmax(dim=-1)[0, 1:-1]
    assert [entity["entity"] for entity in found] == [["B-PS", "I-PS"][label] for label in labels]
    assert "".join(TEXTS[0][entity["start"] : entity["end"]] for entity in found) == TEXTS[0]


def test_fill_mask(tokenizer, tmp_path):
    model = saved(tmp_path, HftkForMaskedLM, tokenizer)
    text = f"개가 {tokenizer.mask_token}."
    found = pipeline("fill-mask", model=str(tmp_path))(text)
    inputs = tokenizer(text, return_tensors="pt")
    logits = model(**inputs).logits[0, inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
    assert [guess["token"] for guess in found] == logits.topk(5).indices.tolist()
