import random
import time
from threading import Lock

import pytest
import torch
from transformers import BertTokenizerFast

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForSequenceClassification
from hftk.tasks.n21 import N21
from hftk.tasks.task import Example
from hftk.training.prediction import predict_examples

WORDS = ["눈이", "비가", "온다", "온대", "밥을", "먹자"]
TOKENIZER = BertTokenizerFast(
    vocab={token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
)
NAMES = ["label"]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def asked() -> tuple:
    """What `predict_examples` is asked: 50 rows of up to 30 words, in batches of 8."""
    drawn, task = random.Random(0), N21("n21", problem_type="regression")
    rows = [{"text": " ".join(drawn.choices(WORDS, k=1 + i % 30)), "label": drawn.random()} for i in range(50)]
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 64}
    torch.manual_seed(0)
    config = HftkConfig(vocab_size=len(TOKENIZER), encoder_attention_heads=2, num_labels=1, init_std=0.3, **sizes)

    def example_of(place: int) -> Example:
        return task.encode(rows[place], TOKENIZER, 20, NAMES)  # some are cut, others not

    lengths = [1 + i % 30 for i in range(50)]
    return task, HftkForSequenceClassification(config), TOKENIZER, lengths, example_of, NAMES, 8


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_batches_at_once_are_the_same_bits_as_one_after_another(two_threads, asked, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        at_once, loss = predict_examples(*asked)
        torch.set_num_threads(1)
        one_by_one, same_loss = predict_examples(*asked)
    assert at_once == one_by_one and loss == same_loss
    assert len(set(at_once)) > 10


def test_one_thread_at_a_time_encodes(two_threads, asked):
    """A tokenizer that is set to cut for one text would cut that of another thread, or not cut it."""
    task, model, tokenizer, lengths, example_of, *rest = asked
    encoding = Lock()

    def alone(place: int) -> Example:
        assert encoding.acquire(blocking=False)
        time.sleep(0.001)
        encoding.release()
        return example_of(place)

    predict_examples(task, model, tokenizer, lengths, alone, *rest)


def test_what_fails_in_a_thread_fails_here(two_threads, asked):
    task, model, tokenizer, lengths, example_of, *rest = asked

    def broken(place: int) -> Example:
        example = example_of(place)
        if place == 17:
            example.features[0]["input_ids"][1] = 1000
        return example

    with pytest.raises(IndexError):
        predict_examples(task, model, tokenizer, lengths, broken, *rest)
    assert torch.get_num_threads() == 2 and torch.is_grad_enabled()
