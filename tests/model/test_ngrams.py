"""The n-grams beside the tokens: the rows of their table, and the skip-gram that they learn from."""

import math

import pytest
import torch

from hftk import HftkEncoderModel, HftkForPreTraining


def test_ngrams_of_different_tokens_fall_as_evenly_as_chance(build):
    encoder = build(HftkEncoderModel, ngram_order=4, ngram_vocab_size=4096).encoder
    torch.manual_seed(2)
    tokens = torch.randint(5, 97, (1, 4096))
    for length, buckets in enumerate(
        encoder.embed_ngrams.buckets(tokens, torch.arange(4096)[None]).unbind(-1), start=2
    ):
        ngrams = {tuple(ngram.tolist()) for ngram in tokens[0].unfold(0, length, 1)}
        expected = 4096 * (1 - math.exp(-len(ngrams) / 4096))  # rows of the table that so many throws hit
        assert len(set(buckets[0].tolist())) == pytest.approx(expected, rel=0.05)


def test_ngrams_end_at_their_token_and_begin_no_earlier_than_the_text(build):
    encoder = build(HftkEncoderModel, ngram_order=3, ngram_vocab_size=1 << 20).encoder
    positions = torch.arange(4)[None]
    [one] = encoder.embed_ngrams.buckets(torch.tensor([[7, 8, 9, 7]]), positions).tolist()
    [other] = encoder.embed_ngrams.buckets(torch.tensor([[6, 8, 9, 7]]), positions).tolist()
    assert [[a == b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)] == [
        [False, False],  # 7 | 6
        [False, False],  # 7 8 | 6 8
        [True, False],  # 8 9 in both, 7 8 9 | 6 8 9
        [True, True],
    ]
    [alone] = encoder.embed_ngrams.buckets(torch.tensor([[8, 9, 7]]), positions[:, :3]).tolist()
    assert alone[2] == one[3] and alone[1] != one[2]


def test_ngrams_need_ids(build):
    with pytest.raises(ValueError, match="needs input_ids"):
        build(HftkEncoderModel, ngram_order=2)(inputs_embeds=torch.zeros(1, 3, 32))


@pytest.mark.parametrize("ngram_order", [1, 3])
def test_a_skip_gram_tells_the_words_near_each_word_from_the_others(build, ngram_order):
    model = build(HftkForPreTraining, ngram_order=ngram_order, ngram_vocab_size=50, ngram_dim=8)
    documents = [[[5, 6], [7], [8, 9, 10], [11], [12], [13], [14]], [[15], [16, 17]], [[18]]]
    tokens = [[token for word in document for token in word] for document in documents]
    starts = [[int(place == 0) for word in document for place in range(len(word))] for document in documents]
    positions = [list(range(len(document))) for document in tokens]
    padding = [0] * (len(tokens[0]) - len(tokens[1]) - len(tokens[2]))  # the other two are one row
    loss = model(
        input_ids=torch.tensor([tokens[0], tokens[1] + tokens[2] + padding]),
        attention_mask=torch.tensor([[1] * len(tokens[0]), [1] * 4 + padding]),
        position_ids=torch.tensor([positions[0], positions[1] + positions[2] + list(range(1, 1 + len(padding)))]),
        word_starts=torch.tensor([starts[0], starts[1] + starts[2] + padding]),
    ).loss

    words = []  # the document, the place and the vector of each
    for document, ids_of, split in zip(range(3), tokens, documents, strict=True):
        embeds = model.encoder.embed(torch.tensor([ids_of]), None)
        if ngram_order > 1:
            embeds = embeds + model.encoder.embed_ngrams(torch.tensor([ids_of]), torch.arange(len(ids_of))[None])
        for place, part in enumerate(embeds[0].split([len(word) for word in split])):
            words.append((document, place, part.mean(dim=0)))
    expected = []
    for word in words:
        others = [other for other in words if other is not word]
        near = [other for other in others if other[0] == word[0] and abs(other[1] - word[1]) <= 5]
        total = torch.logsumexp(torch.stack([word[2] @ other[2] for other in others]), dim=0)
        if near:  # the one word of the third document has none
            expected.append(sum(total - word[2] @ other[2] for other in near) / len(near))
    assert len(expected) == 9
    torch.testing.assert_close(loss, sum(expected) / 9)
