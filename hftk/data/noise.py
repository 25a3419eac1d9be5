"""
The noise of masked_lm (BERT), span_corruption (T5) and infilling (BART), as pure functions on arrays.

The documents of a row are one flat array of ids with the documents' lengths beside it; no function loops over either.
In shapes, N is the number of ids and D the number of documents; every document has at least one token.
"""

from typing import NamedTuple

import numpy as np

from hftk.data.vocabulary import Vocabulary

IGNORED = -100  # the label that the loss skips
LONGEST_WORD = 10  # tokens; longer runs are cut, so that text written without spaces is masked like any other


class Noised(NamedTuple):
    """Documents with noise, flat: what the encoder reads and what is to be predicted."""

    source: np.ndarray  # [sum of source_lengths]
    source_lengths: np.ndarray  # [D]
    labels: np.ndarray  # [sum of label_lengths]
    label_lengths: np.ndarray  # [D]


def masked_lm(
    ids: np.ndarray, lengths: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary, noise_density: float = 0.15
) -> Noised:
    """
    BERT's noise (https://arxiv.org/abs/1810.04805) on whole words: of the chosen tokens 80 % become the mask token,
    10 % a random token, and 10 % stay. A document gets as close to its share of chosen tokens as whole words in random
    order allow, and at least one word.

    Args:
        ids (`np.ndarray` of shape `(N,)`, int64), lengths (`np.ndarray` of shape `(D,)`, int64):
            The documents' tokens, and how many each document has.
        rng (`np.random.Generator`):
            Where all chance comes from.
        vocabulary (`Vocabulary`):
            Tells words.
        noise_density (`float`, *optional*, defaults to 0.15):
            Share of the tokens to choose.

    Returns:
        `Noised`: source and labels as long as the documents; labels are -100 where nothing was chosen.
    """
    word_lengths, words = _split_words(ids, lengths, vocabulary)
    wanted = np.maximum(np.rint(noise_density * lengths).astype(np.int64), 1)
    chosen = np.repeat(_choose_words(word_lengths, words, wanted, rng), word_lengths)  # [N]
    fate = rng.random(len(ids))
    replaced = chosen & (fate >= 0.9)
    source = ids.copy()
    source[chosen & (fate < 0.8)] = vocabulary.mask
    source[replaced] = rng.choice(vocabulary.random_tokens, replaced.sum())
    return Noised(source, lengths, np.where(chosen, ids, IGNORED), lengths)


def word_starts(ids: np.ndarray, lengths: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """
    1 at the first token of each word and 0 elsewhere, `(N,)` int64, for documents as `masked_lm` takes them.
    """
    word_lengths, _ = _split_words(ids, lengths, vocabulary)
    starts = np.zeros(len(ids), dtype=np.int64)
    starts[_starts(word_lengths)] = 1
    return starts


def _split_words(ids: np.ndarray, lengths: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Lengths in tokens of all words, `(W,)`, and the number of words of each document, `(D,)`."""
    begins = vocabulary.starts_word[ids]
    begins[_starts(lengths)] = True
    place = np.arange(len(ids))
    begins |= (place - np.maximum.accumulate(np.where(begins, place, 0))) % LONGEST_WORD == 0
    return np.diff(np.flatnonzero(begins), append=len(ids)), np.add.reduceat(begins, _starts(lengths), dtype=np.int64)


def _choose_words(
    word_lengths: np.ndarray, words: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """
    Chooses words, `(W,)` bool, until each document has the tokens it wants, `(D,)`. As in BERT, words come in random
    order and one that no longer fits is passed over; at the end the shortest one left is added where that comes closer.
    """
    document = np.repeat(np.arange(len(words)), words)  # [W]
    first_word = _starts(words)
    order = np.lexsort((rng.random(len(document)), document))
    length = word_lengths[order]
    chosen = np.zeros(len(length), dtype=bool)
    missing = wanted.copy()
    while (fits := ~chosen & (length <= missing[document])).any():  # the first of them is taken, so this ends
        added = np.cumsum(length * fits)
        added -= (added - length * fits)[first_word][document]
        taken = fits & (added <= missing[document])
        chosen |= taken
        missing -= np.add.reduceat(length * taken, first_word)

    shortest = np.minimum.reduceat(np.where(chosen, LONGEST_WORD + 1, length), first_word)  # [D]
    closer = (shortest - missing < missing) | (missing == wanted)
    candidates = np.flatnonzero(~chosen & (length == shortest[document]) & closer[document])
    chosen[candidates[np.unique(document[candidates], return_index=True)[1]]] = True
    in_text_order = np.empty_like(chosen)
    in_text_order[order] = chosen
    return in_text_order


def span_corruption(
    ids: np.ndarray,
    lengths: np.ndarray,
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
) -> Noised:
    """
    T5's noise (https://arxiv.org/abs/1910.10683): spans become one sentinel each, and the labels are the sentinels with
    the spans' tokens behind them. Kept and noised spans alternate, starting with a kept one. `count_noise` gives their
    numbers; all ways to cut are equally likely, as in seqio's `random_spans_noise_mask`.

    Args:
        ids (`np.ndarray` of shape `(N,)`, int64), lengths (`np.ndarray` of shape `(D,)`, int64):
            The documents' tokens, and how many each document has.
        rng (`np.random.Generator`):
            Where all chance comes from.
        vocabulary (`Vocabulary`):
            Has the sentinels.
        noise_density (`float`, *optional*, defaults to 0.15):
            Share of the tokens in noised spans.
        mean_span_length (`float`, *optional*, defaults to 3.0):
            Mean length of a noised span in tokens.

    Returns:
        `Noised`: `kept <extra_id_0> kept <extra_id_1> …` and `<extra_id_0> span <extra_id_1> span …` of each document.
    """
    noise, spans = count_noise(lengths, noise_density, mean_span_length, len(vocabulary.sentinels))
    kept = lengths - noise  # [D]; 0 for a document of one token only
    noise_lengths = _random_segments(noise, spans, rng)  # [sum of spans]
    kept_lengths = _random_segments(np.maximum(kept, 1), spans, rng) - np.repeat(kept == 0, spans)
    edges = np.cumsum(np.stack([kept_lengths, noise_lengths], axis=1))  # [2 * sum of spans]
    is_noise = np.repeat(np.arange(len(edges)) % 2 == 1, np.diff(edges, prepend=0))  # [N]
    sentinels = vocabulary.sentinels[np.arange(len(noise_lengths)) - np.repeat(_starts(spans), spans)]

    first_of_span = edges[::2]
    source = ids.copy()
    source[first_of_span] = sentinels
    in_source = ~is_noise
    in_source[first_of_span] = True
    labels = np.insert(ids[is_noise], _starts(noise_lengths), sentinels)
    return Noised(source[in_source], kept + spans, labels, noise + spans)


def count_noise(
    lengths: np.ndarray, noise_density: float, mean_span_length: float, most_spans: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    The numbers of noised tokens and of noised spans of each document in span_corruption, `(D,)` each: those of
    `random_spans_noise_mask` in seqio and in transformers' `run_t5_mlm_flax.py`, with at most `most_spans` spans; a
    document of one token is noised whole.
    """
    noise = np.maximum(np.minimum(np.rint(lengths * noise_density).astype(np.int64), lengths - 1), 1)
    spans = np.rint(np.minimum(noise, lengths - noise) / mean_span_length).astype(np.int64)
    return noise, np.clip(spans, 1, most_spans)


def infilling(
    ids: np.ndarray,
    lengths: np.ndarray,
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    noise_density: float = 0.3,
    mean_span_length: float = 3.0,
) -> Noised:
    """
    BART's noise (https://arxiv.org/abs/1910.13461): the sentences in random order, then spans of Poisson-distributed
    lengths become one mask token each; a span of no tokens inserts one. A document has at most as many spans as noised
    tokens, so that its source is never longer than itself; the last possible one takes all that is left.

    Args:
        ids (`np.ndarray` of shape `(N,)`, int64), lengths (`np.ndarray` of shape `(D,)`, int64):
            The documents' tokens, and how many each document has.
        rng (`np.random.Generator`):
            Where all chance comes from.
        vocabulary (`Vocabulary`):
            Tells where sentences end.
        noise_density (`float`, *optional*, defaults to 0.3):
            Share of the tokens in spans.
        mean_span_length (`float`, *optional*, defaults to 3.0):
            Mean of the Poisson distribution in tokens.

    Returns:
        `Noised`: the noised documents, and the original ones as labels.
    """
    noise = np.maximum(np.rint(noise_density * lengths).astype(np.int64), 1)  # [D]
    owner = np.repeat(np.arange(len(lengths)), noise)  # [draws]: the document of each span that is drawn
    drawn = rng.poisson(mean_span_length, len(owner))
    drawn[np.cumsum(noise) - 1] = noise
    before = _starts(drawn)
    left = noise[owner] - (before - before[_starts(noise)][owner])  # [draws]: tokens to noise before this span
    span_lengths = np.minimum(drawn, left)[left > 0]
    spans = np.bincount(owner[left > 0], minlength=len(lengths))  # [D]

    source_lengths = lengths - noise + spans
    rank = _random_ranks(source_lengths, rng)  # [source]: in each document the lowest ranks become the spans
    is_mask = rank < np.repeat(spans, source_lengths)
    width = np.ones(len(rank), dtype=np.int64)  # [source]: tokens of the document that each token stands for
    width[is_mask] = span_lengths[(rank + np.repeat(_starts(spans), source_lengths))[is_mask]]
    source = np.full(len(rank), vocabulary.mask, dtype=np.int64)
    source[~is_mask] = _permute_sentences(ids, lengths, vocabulary, rng)[_starts(width)[~is_mask]]
    return Noised(source, source_lengths, ids, lengths)


def _permute_sentences(
    ids: np.ndarray, lengths: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator
) -> np.ndarray:
    """The ids with each document's sentences in random order; of several ends in a row only the last counts."""
    ends = vocabulary.ends_sentence[ids]
    begins = np.append(True, ends[:-1] & ~ends[1:])
    begins[_starts(lengths)] = True
    sentence = np.cumsum(begins) - 1  # [N]
    document = np.repeat(np.arange(len(lengths)), lengths)
    return ids[np.lexsort((rng.random(len(ids))[sentence], document))]


def shuffled_words(
    noised: Noised, text: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary, labels_follow: bool
) -> Noised:
    """
    The same noise with the words of each source in random order, as a model without positions sees them anyway.

    Args:
        noised (`Noised`):
            Documents with noise, without special tokens round them.
        text (`np.ndarray` of shape `(sum of source_lengths,)`, int64):
            Ids that tell where the sources' words begin: the sources, or what they were before masks hid it.
        rng (`np.random.Generator`):
            Where all chance comes from.
        vocabulary (`Vocabulary`):
            Tells words.
        labels_follow (`bool`):
            True where each token of the source has its own label, which moves with it (masked_lm). False leaves the
            labels in their order: they are what a decoder writes.

    Returns:
        `Noised`: of the same lengths.
    """
    word_lengths, words = _split_words(text, noised.source_lengths, vocabulary)
    document = np.repeat(np.arange(len(words)), words)  # [W]
    drawn = np.lexsort((rng.random(len(document)), document))  # [W]
    lengths = word_lengths[drawn]
    order = np.repeat(_starts(word_lengths)[drawn] - _starts(lengths), lengths) + np.arange(len(text))
    labels = noised.labels[order] if labels_follow else noised.labels
    return noised._replace(source=noised.source[order], labels=labels)


def _starts(counts: np.ndarray) -> np.ndarray:
    """Where each group begins in a flat array of groups of `counts` items."""
    return np.cumsum(counts) - counts


def _random_ranks(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ranks 0, 1, … of the items of each group in random order, `(sum of counts,)`."""
    group = np.repeat(np.arange(len(counts)), counts)
    ranks = np.empty_like(group)
    ranks[np.lexsort((rng.random(len(group)), group))] = np.arange(len(group)) - _starts(counts)[group]
    return ranks


def _random_segments(totals: np.ndarray, segments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cuts each total into so many segments of at least 1, all ways equally likely. Lengths, `(sum of segments,)`."""
    begins = np.zeros(totals.sum(), dtype=bool)
    begins[_starts(totals)] = True
    begins[~begins] = _random_ranks(totals - 1, rng) < np.repeat(segments - 1, totals - 1)
    return np.diff(np.flatnonzero(begins), append=len(begins))
