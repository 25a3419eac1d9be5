from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.data.noise import (
    IGNORED,
    LONGEST_WORD,
    Noised,
    count_noise,
    infilling,
    masked_lm,
    shuffled_words,
    span_corruption,
    word_starts,
)
from hftk.data.vocabulary import Vocabulary

SPECIAL = 20  # ids 0..19: pad, bos, eos, mask, three modes, 13 sentinels
SIZE = 5000
MASK = 3
SENTINELS = list(range(7, SPECIAL))


def make_vocabulary(starts_word: float = 0.6, ends_sentence: float = 0.1) -> Vocabulary:
    """Of the tokens, these shares start a word and end a sentence."""
    rng = np.random.default_rng(0)
    return Vocabulary(
        token_bytes=np.ones(SIZE, dtype=np.int64),
        starts_word=rng.random(SIZE) < starts_word,
        ends_sentence=rng.random(SIZE) < ends_sentence,
        pad=0,
        bos=1,
        eos=2,
        mask=MASK,
        sentinels=np.array(SENTINELS),
        modes={"masked_lm": 4, "span_corruption": 5, "infilling": 6},
        random_tokens=np.arange(SPECIAL, SIZE),
    )


VOCABULARY = make_vocabulary()
document_lengths = st.lists(st.integers(1, 80), min_size=1, max_size=8)
seeds = st.integers(0, 2**32)


def distinct(lengths: list[int], seed: int = 0) -> np.ndarray:
    """Ids of documents in which no token occurs twice, so that each tells its place."""
    return np.random.default_rng(seed).permutation(np.arange(SPECIAL, SIZE))[: sum(lengths)]


def documents_of(flat: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    assert len(flat) == sum(lengths)
    return [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])]


def documents(ids: np.ndarray, noised: Noised, lengths: list[int]) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Original, source and labels of each document."""
    return zip(
        documents_of(ids, np.array(lengths)),
        documents_of(noised.source, noised.source_lengths),
        documents_of(noised.labels, noised.label_lengths),
        strict=True,
    )


def split_words(ids: list[int], vocabulary: Vocabulary) -> list[list[int]]:
    """The places of each word's tokens, found one token after another."""
    words: list[list[int]] = []
    for place, token in enumerate(ids):
        if not words or vocabulary.starts_word[token] or len(words[-1]) == LONGEST_WORD:
            words.append([])
        words[-1].append(place)
    return words


# masked_lm


@given(lengths=document_lengths, seed=seeds)
def test_masked_lm_labels_what_it_changes(lengths: list[int], seed: int) -> None:
    ids = distinct(lengths)
    noised = masked_lm(ids, np.array(lengths), np.random.default_rng(seed), VOCABULARY)
    restored = np.where(noised.labels == IGNORED, noised.source, noised.labels)
    assert np.array_equal(restored, ids)
    assert set(noised.labels[noised.labels != ids]) <= {IGNORED}


@given(lengths=document_lengths, seed=seeds, share=st.sampled_from([0.1, 0.4, 0.7, 1.0]), density=st.floats(0.01, 0.9))
def test_masked_lm_takes_whole_words_and_no_other_word_comes_closer(
    lengths: list[int], seed: int, share: float, density: float
) -> None:
    vocabulary = make_vocabulary(starts_word=share)
    ids = distinct(lengths, seed)
    noised = masked_lm(ids, np.array(lengths), np.random.default_rng(seed), vocabulary, density)
    for original, _, labels in documents(ids, noised, lengths):
        chosen: list[int] = []
        left: list[int] = []
        for word in split_words(original, vocabulary):
            is_chosen = {labels[place] != IGNORED for place in word}
            assert len(is_chosen) == 1
            (chosen if is_chosen.pop() else left).append(len(word))
        wanted = max(1, round(density * len(original)))
        error = abs(sum(chosen) - wanted)
        assert chosen
        assert all(abs(sum(chosen) + length - wanted) >= error for length in left)
        assert len(chosen) == 1 or abs(sum(chosen) - max(chosen) - wanted) >= error


def test_masked_lm_gets_to_15_percent_exactly_among_short_words() -> None:
    lengths = np.array([7, 40, 333, 1, 2, 2000])
    ids = np.random.default_rng(0).integers(SPECIAL, SIZE, lengths.sum())
    noised = masked_lm(ids, lengths, np.random.default_rng(0), make_vocabulary(starts_word=1))
    masked = [sum(label != IGNORED for label in labels) for labels in documents_of(noised.labels, lengths)]
    assert masked == [1, 6, 50, 1, 1, 300]


def test_masked_lm_masks_text_without_word_borders_in_tens() -> None:
    ids = distinct([1000])
    noised = masked_lm(ids, np.array([1000]), np.random.default_rng(0), make_vocabulary(starts_word=0))
    masked = (noised.labels != IGNORED).reshape(100, 10)
    assert masked.all(axis=1).sum() == 15
    assert masked.sum() == 150


def test_masked_lm_replaces_80_10_10() -> None:
    count = 200_000
    ids = np.full(count, SPECIAL)
    vocabulary = make_vocabulary(starts_word=1)
    noised = masked_lm(ids, np.array([count]), np.random.default_rng(0), vocabulary)
    source = noised.source[noised.labels != IGNORED]
    drawn = source[(source != MASK) & (source != SPECIAL)]
    # standard deviation of a share among 30,000 tokens: at most 0.0024
    assert np.mean(source == MASK) == pytest.approx(0.8, abs=0.01)
    assert np.mean(source == SPECIAL) == pytest.approx(0.1, abs=0.01)
    assert len(drawn) / len(source) == pytest.approx(0.1, abs=0.01)
    assert drawn.min() >= SPECIAL
    assert len(np.unique(drawn)) > 1000


def test_masked_lm_chooses_all_places_equally() -> None:
    lengths = np.full(4000, 10)  # 2 of 10 tokens each
    ids = np.random.default_rng(0).integers(SPECIAL, SIZE, lengths.sum())
    noised = masked_lm(ids, lengths, np.random.default_rng(0), make_vocabulary(starts_word=1))
    masked = (noised.labels != IGNORED).reshape(4000, 10).mean(axis=0)
    assert np.abs(masked - 0.2).max() < 0.032  # five standard deviations


# span_corruption


@given(lengths=document_lengths, seed=seeds)
def test_span_corruption_is_undone_by_putting_the_spans_back(lengths: list[int], seed: int) -> None:
    ids = distinct(lengths)
    noised = span_corruption(ids, np.array(lengths), np.random.default_rng(seed), VOCABULARY)
    for original, source, labels in documents(ids, noised, lengths):
        spans: list[list[int]] = []
        for token in labels:
            if token in SENTINELS:
                assert token == SENTINELS[len(spans)]
                spans.append([])
            else:
                spans[-1].append(token)
        assert all(spans)
        restored: list[int] = []
        for token in source:
            restored += spans[SENTINELS.index(token)] if token in SENTINELS else [token]
        assert restored == original
        assert [token for token in source if token in SENTINELS] == SENTINELS[: len(spans)]
        assert not any(a in SENTINELS and b in SENTINELS for a, b in pairwise(source))
        assert len(original) == 1 or source[0] not in SENTINELS


def t5_counts(length: int, density: float, mean_span_length: float) -> tuple[int, int]:
    """Noised tokens and spans in `run_t5_mlm_flax.py`, for one document of at least two tokens."""
    kept = length - int(np.round(length * density))
    noised = min(max(length - kept, 1), length - 1)
    return noised, max(int(np.round(min(noised, kept) / mean_span_length)), 1)


@given(density=st.floats(0.01, 0.99), mean_span_length=st.floats(1, 10))
def test_numbers_of_noised_tokens_and_spans_are_t5s(density: float, mean_span_length: float) -> None:
    lengths = np.arange(2, 200)
    noise, spans = count_noise(lengths, density, mean_span_length, most_spans=1000)
    expected = [t5_counts(length, density, mean_span_length) for length in lengths.tolist()]
    assert list(zip(noise.tolist(), spans.tolist(), strict=True)) == expected


@given(lengths=document_lengths, seed=seeds, density=st.floats(0.01, 0.99), mean_span_length=st.floats(1, 10))
def test_span_corruption_has_the_numbers_that_are_announced(
    lengths: list[int], seed: int, density: float, mean_span_length: float
) -> None:
    ids = distinct(lengths)
    rng = np.random.default_rng(seed)
    noised = span_corruption(ids, np.array(lengths), rng, VOCABULARY, density, mean_span_length)
    noise, spans = count_noise(np.array(lengths), density, mean_span_length, len(SENTINELS))
    labels = documents_of(noised.labels, noised.label_lengths)
    assert [sum(token in SENTINELS for token in document) for document in labels] == spans.tolist()
    assert noised.label_lengths.tolist() == (noise + spans).tolist()
    assert noised.source_lengths.tolist() == (lengths - noise + spans).tolist()


def test_span_corruption_noises_one_token_whole() -> None:
    noised = span_corruption(np.array([50, 60]), np.array([1, 1]), np.random.default_rng(0), VOCABULARY)
    assert noised.source.tolist() == [7, 7]
    assert noised.labels.tolist() == [7, 50, 7, 60]


def test_span_corruption_never_needs_more_sentinels_than_there_are() -> None:
    noised = span_corruption(distinct([4000]), np.array([4000]), np.random.default_rng(0), VOCABULARY)
    assert [token for token in noised.source.tolist() if token < SPECIAL] == SENTINELS
    assert noised.label_lengths.tolist() == [600 + len(SENTINELS)]


def test_span_corruption_cuts_in_all_ways_equally() -> None:
    lengths = np.full(5000, 10)
    ids = np.tile(np.arange(30, 40), 5000)
    noised = span_corruption(ids, lengths, np.random.default_rng(0), VOCABULARY, 0.4, 2.0)
    ways = documents_of(noised.source, noised.source_lengths)
    _, counts = np.unique(ways, axis=0, return_counts=True)
    assert len(counts) == 15  # 3 ways to cut 4 noised tokens in two, times 5 ways to cut the other 6
    assert np.abs(counts - 5000 / 15).max() < 5 * np.sqrt(5000 / 15)


# infilling


@given(lengths=document_lengths, seed=seeds, density=st.floats(0.01, 0.99), mean_span_length=st.floats(1, 10))
def test_infilling_keeps_whole_sentences_together_and_labels_the_original(
    lengths: list[int], seed: int, density: float, mean_span_length: float
) -> None:
    ids = distinct(lengths, seed)
    noised = infilling(ids, np.array(lengths), np.random.default_rng(seed), VOCABULARY, density, mean_span_length)
    for original, source, labels in documents(ids, noised, lengths):
        assert labels == original
        noise = max(1, round(density * len(original)))
        kept = [token for token in source if token != MASK]
        assert len(kept) == len(original) - noise
        assert len(original) - noise < len(source) <= len(original)
        # Every sentence's kept tokens lie together and in their order.
        sentence_of, sentence = {}, 0
        for place, token in enumerate(original):
            previous = original[place - 1] if place else token
            sentence += bool(VOCABULARY.ends_sentence[previous] and not VOCABULARY.ends_sentence[token])
            sentence_of[token] = sentence
        for left, right in pairwise(kept):
            assert sentence_of[left] != sentence_of[right] or original.index(left) < original.index(right)
        order = [sentence_of[token] for token in kept]
        assert len([1 for left, right in pairwise(order) if left != right]) == max(len(set(order)) - 1, 0)


def test_infilling_draws_poisson_spans() -> None:
    length = 4000
    ids = distinct([length])
    noised = infilling(ids, np.array([length]), np.random.default_rng(0), make_vocabulary(ends_sentence=0))
    place_of = {token: place for place, token in enumerate(ids.tolist())}
    spans: list[int] = []
    before, masks = -1, 0
    for token in [*noised.source.tolist(), None]:
        if token == MASK:
            masks += 1
            continue
        place = length if token is None else place_of[token]
        if masks == 1:  # neighbouring masks do not tell which of them stands for what
            spans.append(place - before - 1)
        else:
            assert masks or place == before + 1
        before, masks = place, 0
    frequencies = np.bincount(spans)[:5] / len(spans)
    poisson = [0.0498, 0.1494, 0.2240, 0.2240, 0.1680]
    assert len(spans) > 250
    assert np.abs(frequencies - poisson).max() < 0.1
    assert 1200 / (noised.source == MASK).sum() == pytest.approx(3, abs=0.45)  # five standard deviations


def test_infilling_puts_sentences_in_every_order_equally() -> None:
    vocabulary = make_vocabulary(ends_sentence=0)
    vocabulary.ends_sentence[[31, 33, 35]] = True
    lengths = np.full(6000, 6)
    ids = np.tile(np.arange(30, 36), 6000)
    noised = infilling(ids, lengths, np.random.default_rng(0), vocabulary, 0.01)  # one token noised
    orders = [
        tuple(dict.fromkeys(token // 2 for token in source if token != MASK))
        for source in documents_of(noised.source, noised.source_lengths)
    ]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_several_sentence_ends_in_a_row_end_one_sentence() -> None:
    vocabulary = make_vocabulary(ends_sentence=0)
    vocabulary.ends_sentence[[31, 32, 33]] = True  # 30 31 32 33 | 34 35
    ids = np.tile(np.arange(30, 36), 200)
    noised = infilling(ids, np.full(200, 6), np.random.default_rng(0), vocabulary, 0.01)
    for source in documents_of(noised.source, noised.source_lengths):
        kept = [token for token in source if token != MASK]
        assert [token for token in kept if token < 34] == sorted(token for token in kept if token < 34)


@pytest.mark.parametrize("noise", [masked_lm, span_corruption, infilling])
def test_noise_leaves_its_input_alone(noise: Callable[..., Noised]) -> None:
    ids = distinct([50, 60])
    original = ids.copy()
    noise(ids, np.array([50, 60]), np.random.default_rng(0), VOCABULARY)
    assert np.array_equal(ids, original)


# shuffled words


@given(lengths=document_lengths, seed=seeds, labels_follow=st.booleans())
def test_shuffled_words_stay_whole_and_in_their_document_and_labels_follow_if_told(
    lengths: list[int], seed: int, labels_follow: bool
) -> None:
    ids = distinct(lengths)
    noised = Noised(ids, np.array(lengths), ids + SIZE, np.array(lengths))
    shuffled = shuffled_words(noised, ids, np.random.default_rng(seed), VOCABULARY, labels_follow)
    assert np.array_equal(shuffled.labels, shuffled.source + SIZE if labels_follow else noised.labels)
    for original, source, _ in documents(ids, shuffled, lengths):
        assert sorted(original) == sorted(source)
        for word in split_words(original, VOCABULARY):
            place = source.index(original[word[0]])
            assert source[place : place + len(word)] == [original[token] for token in word]


def test_all_orders_of_words_are_equally_likely() -> None:
    ids, vocabulary = np.arange(SPECIAL, SPECIAL + 3), make_vocabulary(starts_word=1)
    noised = Noised(ids, np.array([3]), ids, np.array([3]))
    rng = np.random.default_rng(0)
    orders = Counter(tuple(shuffled_words(noised, ids, rng, vocabulary, True).source.tolist()) for _ in range(1200))
    assert len(orders) == 6 and min(orders.values()) > 150


# skip_gram


@given(lengths=document_lengths, seed=seeds)
def test_words_start_where_words_are_split(lengths, seed):
    ids = distinct(lengths, seed)
    starts = documents_of(word_starts(ids, np.array(lengths), VOCABULARY), np.array(lengths))
    for original, found in zip(documents_of(ids, np.array(lengths)), starts, strict=True):
        firsts = [word[0] for word in split_words(original, VOCABULARY)]
        assert found == [int(place in firsts) for place in range(len(original))]
