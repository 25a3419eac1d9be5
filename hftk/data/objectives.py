"""What pretraining learns: one objective, or a mixture that draws one of them for each global batch."""

import copy
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hftk.data.noise import (
    IGNORED,
    Noised,
    count_noise,
    infilling,
    masked_lm,
    shuffled_words,
    span_corruption,
    word_starts,
)
from hftk.data.vocabulary import OBJECTIVES, SKIP_GRAM, Vocabulary
from hftk.errors import UsageError

NOISE_DENSITY = {"masked_lm": 0.15, "span_corruption": 0.15, "infilling": 0.30}


@dataclass
class ObjectiveArguments:
    """
    What the model learns to undo.

    Args:
        name (`str`, *optional*, defaults to `"mixture"`):
            `masked_lm`, `span_corruption`, `infilling`, or a `mixture`, which draws one of them for each global batch.
            `skip_gram` noises nothing and runs no layer: the embeddings alone learn which words stand near each other.
            Alone it is for a first run of minutes, from whose checkpoint another goes on; a mixture may have it too.
        weights (`dict[str, float]`, *optional*, defaults to masked_lm and span_corruption, 1.0 each):
            How often the mixture draws each objective, relative to the others. Read for a mixture only.
        noise_density (`float`, *optional*):
            Share of the tokens that is noised, between 0 and 1. By default each paper's own: 0.15 for masked_lm and
            span_corruption, 0.30 for infilling.
        mean_span_length (`float`, *optional*, defaults to 3.0):
            Mean length in tokens of a span of span_corruption or infilling, at least 1.

    Raises:
        UsageError: If a value is out of its range.
    """

    name: Literal["masked_lm", "span_corruption", "infilling", "mixture", "skip_gram"] = "mixture"
    weights: dict[str, float] = field(default_factory=lambda: {"masked_lm": 1.0, "span_corruption": 1.0})
    noise_density: float | None = None
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if name not in (*OBJECTIVES, SKIP_GRAM):
                known = ", ".join((*OBJECTIVES, SKIP_GRAM))
                raise UsageError(f"objective.weights: {name!r} is no objective, write one of {known}")
            if not 0 <= weight < np.inf:
                raise UsageError(f"objective.weights.{name}: {weight} is no weight, write a number from 0 up")
        if self.name == "mixture" and not any(self.weights.values()):
            raise UsageError("objective.weights: none is above 0, give at least one objective a weight")
        if self.noise_density is not None and not 0 < self.noise_density < 1:
            raise UsageError(f"objective.noise_density: {self.noise_density} is not between 0 and 1")
        if not 1 <= self.mean_span_length < np.inf:
            raise UsageError(f"objective.mean_span_length: {self.mean_span_length} is not a number of tokens from 1 up")


class Objective:
    """
    One objective or a mixture, ready to noise the documents of a row and to say how long they become.

    Args:
        arguments (`ObjectiveArguments`):
            What to learn.
        vocabulary (`Vocabulary`):
            Needs a mask token for masked_lm and infilling, sentinels for span_corruption, and for a mixture the mode
            token of each objective that it draws.

    Raises:
        UsageError: If the tokenizer lacks one of those tokens.
    """

    def __init__(self, arguments: ObjectiveArguments, vocabulary: Vocabulary) -> None:
        self.arguments = arguments
        self.vocabulary = vocabulary
        self.is_mixture = arguments.name == "mixture"
        self.shuffles_words = False
        weights: dict[str, float] = dict(arguments.weights) if self.is_mixture else {arguments.name: 1.0}
        self.names = [name for name in (*OBJECTIVES, SKIP_GRAM) if weights.get(name, 0) > 0]
        self.shares = np.array([weights[name] for name in self.names]) / sum(weights.values())
        for name in self.names:
            if self.is_mixture and name not in (*vocabulary.modes, SKIP_GRAM):
                raise UsageError(f"a mixture with {name} needs the token <{name}>, which the tokenizer lacks: add it")
            if name == "span_corruption" and not len(vocabulary.sentinels):
                raise UsageError("span_corruption needs <extra_id_0> and so on, which the tokenizer lacks: add them")
            if name in ("masked_lm", "infilling") and vocabulary.mask is None:
                raise UsageError(f"{name} needs a mask token, which the tokenizer lacks: add one")

    def only(self, name: str) -> "Objective":
        """The same objective, mode token included, that always draws `name`, one of its `names`."""
        narrowed = copy.copy(self)
        narrowed.names, narrowed.shares = [name], np.ones(1)
        return narrowed

    def with_shuffled_words(self) -> "Objective":
        """
        The same objective under the same noise, whose sources have the words of each document in random order. What is
        to be predicted stays the same, so the loss says how much a model makes of the order of its input.
        """
        shuffling = copy.copy(self)
        shuffling.shuffles_words = True
        return shuffling

    def draw(self, seed: int, batch: int) -> str:
        """The name of the objective of a global batch: a pure function of the seed and the batch's index."""
        return self.names[np.random.default_rng([1, seed, batch]).choice(len(self.names), p=self.shares)]

    def packed_lengths(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        The places that documents take in a row, special tokens included: for infilling's source a bound, else exact;
        for a mixture the larger of its objectives.

        Args:
            lengths (`np.ndarray` of shape `(D,)`, int64):
                The documents' lengths in tokens.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: lengths in the encoder's and in the decoder's row, `(D,)` each; masked_lm
            takes 0 in the latter.
        """
        sources, targets = zip(*(self._packed_lengths(name, lengths) for name in self.names), strict=True)
        return np.maximum.reduce(sources), np.maximum.reduce(targets)

    def _packed_lengths(self, name: str, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if name == SKIP_GRAM:
            return lengths, np.zeros_like(lengths)
        source_specials = 3 if self.is_mixture else 2
        if name == "masked_lm":
            return lengths + source_specials, np.zeros_like(lengths)
        if name == "infilling":
            return lengths + source_specials, lengths + 1
        most_spans = len(self.vocabulary.sentinels)
        noise, spans = count_noise(lengths, self._noise_density(name), self.arguments.mean_span_length, most_spans)
        return lengths - noise + spans + source_specials, noise + spans + 1

    def noise(self, name: str, ids: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> Noised:
        """
        Noises documents and puts the special tokens round them.

        Args:
            name (`str`):
                One of the objective's `names`.
            ids (`np.ndarray` of shape `(N,)`, int64), lengths (`np.ndarray` of shape `(D,)`, int64):
                The documents' tokens, one document after another, and how many each document has.
            rng (`np.random.Generator`):
                Where all chance comes from.

        Returns:
            `Noised`: of each document the source as `<s> source </s>`, in a mixture `<s> <mode> source </s>`, and the
            labels as `labels </s>`; those of masked_lm are as long as the source, -100 wherever nothing is predicted.
            For skip_gram the documents as they are, and [`word_starts`].
        """
        vocabulary = self.vocabulary
        if name == SKIP_GRAM:
            return Noised(ids, lengths, word_starts(ids, lengths, vocabulary), lengths)
        density = self._noise_density(name)
        before = [vocabulary.bos, vocabulary.modes[name]] if self.is_mixture else [vocabulary.bos]
        if name == "masked_lm":
            noised = masked_lm(ids, lengths, rng, vocabulary, density)
        else:
            corrupt = span_corruption if name == "span_corruption" else infilling
            noised = corrupt(ids, lengths, rng, vocabulary, density, self.arguments.mean_span_length)
        if self.shuffles_words:
            text = ids if name == "masked_lm" else noised.source
            noised = shuffled_words(noised, text, rng, vocabulary, labels_follow=name == "masked_lm")
        if name == "masked_lm":
            labels = _surround(noised.labels, noised.label_lengths, [IGNORED] * len(before), [IGNORED])
        else:
            labels = _surround(noised.labels, noised.label_lengths, [], [vocabulary.eos])
        return Noised(*_surround(noised.source, noised.source_lengths, before, [vocabulary.eos]), *labels)

    def _noise_density(self, name: str) -> float:
        return NOISE_DENSITY[name] if self.arguments.noise_density is None else self.arguments.noise_density


def _surround(
    ids: np.ndarray, lengths: np.ndarray, before: list[int], after: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Puts the same ids before and after each document. Returns the new flat ids and the new lengths."""
    documents = len(lengths)
    parts = np.stack([np.full(documents, len(before)), lengths, np.full(documents, len(after))], axis=1)  # [D, 3]
    is_document = np.repeat(np.tile([False, True, False], documents), parts.ravel())
    surrounded = np.empty(len(is_document), dtype=np.int64)
    surrounded[is_document] = ids
    surrounded[~is_document] = np.tile(before + after, documents)
    return surrounded, parts.sum(axis=1)
