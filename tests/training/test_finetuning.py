import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from hftk.training.finetuning import hide_words

TOKENIZER = BertTokenizerFast(
    vocab={token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=50), st.floats(0, 1))
def test_words_are_hidden_and_special_tokens_are_not(ids, share):
    given_ids = torch.tensor([ids])
    hidden = hide_words(given_ids, TOKENIZER, share)
    assert torch.equal(hidden[given_ids < 5], given_ids[given_ids < 5])
    assert bool(((hidden == given_ids) | (hidden == 4)).all())


def test_so_many_words_are_hidden_and_others_each_time():
    ids = torch.full((100, 100), 7)
    torch.manual_seed(0)
    first, second = hide_words(ids, TOKENIZER, 0.3), hide_words(ids, TOKENIZER, 0.3)
    assert (first == 4).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(first, second)
    assert torch.equal(hide_words(ids, TOKENIZER, 0), ids)
