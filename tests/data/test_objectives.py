from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.data.noise import IGNORED
from hftk.data.objectives import Objective, ObjectiveArguments
from hftk.data.tokenizer import TokenizerArguments, train_tokenizer
from hftk.data.vocabulary import OBJECTIVES, Vocabulary
from hftk.errors import UsageError

TOKENIZER = train_tokenizer(["The cat sat on the mat. The dog did not!"] * 4, TokenizerArguments(vocab_size=400))
VOCABULARY = Vocabulary.from_tokenizer(TOKENIZER)
ALL = {name: 1.0 for name in OBJECTIVES}
BOS, EOS = 1, 2


def make_ids(lengths: list[int]) -> np.ndarray:
    return np.random.default_rng(0).choice(VOCABULARY.random_tokens, sum(lengths))


@pytest.mark.parametrize("name", OBJECTIVES)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    density=st.none() | st.floats(0.01, 0.99),
    is_mixture=st.booleans(),
)
def test_noised_documents_have_the_announced_lengths_and_special_tokens(
    name: str, lengths: list[int], seed: int, density: float | None, is_mixture: bool
) -> None:
    arguments: dict[str, Any] = {"name": "mixture", "weights": ALL} if is_mixture else {"name": name}
    objective = Objective(ObjectiveArguments(**arguments, noise_density=density), VOCABULARY)
    noised = objective.noise(name, make_ids(lengths), np.array(lengths), np.random.default_rng(seed))
    sources, targets = objective.only(name).packed_lengths(np.array(lengths))
    if name == "infilling":
        assert (noised.source_lengths <= sources).all()
    else:
        assert noised.source_lengths.tolist() == sources.tolist()
    if name == "masked_lm":
        assert not targets.any()
        assert noised.label_lengths.tolist() == sources.tolist()
    else:
        assert noised.label_lengths.tolist() == targets.tolist()

    opening = [BOS, VOCABULARY.modes[name]] if is_mixture else [BOS]
    for source in np.split(noised.source, np.cumsum(noised.source_lengths)[:-1]):
        assert source[: len(opening)].tolist() == opening
        assert source[-1] == EOS
        assert not np.isin(source[len(opening) : -1], [BOS, EOS, *VOCABULARY.modes.values()]).any()
    for labels in np.split(noised.labels, np.cumsum(noised.label_lengths)[:-1]):
        if name == "masked_lm":
            assert {*labels[: len(opening)], labels[-1]} == {IGNORED}
        else:
            assert labels[-1] == EOS
            assert EOS not in labels[:-1]


@given(density=st.none() | st.floats(0.01, 0.99), mean_span_length=st.floats(1, 10), name=st.sampled_from(OBJECTIVES))
def test_a_longer_document_never_takes_less_room(density: float | None, mean_span_length: float, name: Any) -> None:
    objective = Objective(ObjectiveArguments(name, {}, density, mean_span_length), VOCABULARY)
    sources, targets = objective.packed_lengths(np.arange(1, 3000))
    assert (np.diff(sources) >= 0).all()
    assert (np.diff(targets) >= 0).all()


def test_a_mixture_announces_the_larger_lengths() -> None:
    lengths = np.arange(1, 600)
    objective = Objective(ObjectiveArguments(weights=ALL), VOCABULARY)
    each = [objective.only(name).packed_lengths(lengths) for name in OBJECTIVES]
    sources, targets = objective.packed_lengths(lengths)
    assert np.array_equal(sources, np.max([source for source, _ in each], axis=0))
    assert np.array_equal(targets, np.max([target for _, target in each], axis=0))
    assert np.array_equal(sources, lengths + 3)


@pytest.mark.parametrize(("name", "density"), [("masked_lm", 0.15), ("span_corruption", 0.15), ("infilling", 0.3)])
def test_each_objective_has_its_papers_density(name: Any, density: float) -> None:
    objective = Objective(ObjectiveArguments(name), VOCABULARY)
    ids = make_ids([200])
    noised = objective.noise(name, ids, np.array([200]), np.random.default_rng(0))
    if name == "masked_lm":
        count = (noised.labels != IGNORED).sum()
    else:
        count = 200 - np.isin(noised.source, VOCABULARY.random_tokens).sum()
    assert count == pytest.approx(density * 200, abs=1)


def test_draws_follow_the_weights_and_depend_on_seed_and_batch_only() -> None:
    weights = {"infilling": 1.0, "masked_lm": 3.0, "span_corruption": 0.0}
    objective = Objective(ObjectiveArguments(weights=weights), VOCABULARY)
    draws = [objective.draw(7, batch) for batch in range(2000)]
    assert draws.count("masked_lm") / 2000 == pytest.approx(0.75, abs=0.05)  # five standard deviations
    assert objective.names == ["masked_lm", "infilling"]
    in_other_order = Objective(ObjectiveArguments(weights=dict(reversed(weights.items()))), VOCABULARY)
    assert [in_other_order.draw(7, batch) for batch in reversed(range(2000))] == draws[::-1]
    assert [objective.draw(8, batch) for batch in range(2000)] != draws


def test_only_draws_one_and_keeps_the_mode_token() -> None:
    objective = Objective(ObjectiveArguments(), VOCABULARY)
    narrowed = objective.only("span_corruption")
    assert {narrowed.draw(0, batch) for batch in range(20)} == {"span_corruption"}
    noised = narrowed.noise("span_corruption", make_ids([9]), np.array([9]), np.random.default_rng(0))
    assert noised.source[1] == VOCABULARY.modes["span_corruption"]
    assert objective.names == ["masked_lm", "span_corruption"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"masked": 1.0}}, "objective.weights: 'masked' is no objective"),
        ({"weights": {"masked_lm": -1.0}}, "objective.weights.masked_lm: -1.0"),
        ({"weights": {"masked_lm": float("nan")}}, "objective.weights.masked_lm: nan"),
        ({"weights": {"masked_lm": 0.0}}, "none is above 0"),
        ({"noise_density": 1.0}, "objective.noise_density: 1.0"),
        ({"noise_density": 0.0}, "objective.noise_density: 0.0"),
        ({"mean_span_length": 0.5}, "objective.mean_span_length: 0.5"),
        ({"mean_span_length": float("nan")}, "objective.mean_span_length: nan"),
    ],
)
def test_values_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ObjectiveArguments(**arguments)


@pytest.mark.parametrize(
    ("name", "lacks", "message"),
    [
        ("mixture", {"modes": {}}, "a mixture with masked_lm needs the token <masked_lm>"),
        ("masked_lm", {"mask": None}, "masked_lm needs a mask token"),
        ("infilling", {"mask": None}, "infilling needs a mask token"),
        ("span_corruption", {"sentinels": np.array([], dtype=np.int64)}, "span_corruption needs <extra_id_0>"),
    ],
)
def test_a_token_that_the_tokenizer_lacks_is_named(name: Any, lacks: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Objective(ObjectiveArguments(name), Vocabulary(**(vars(VOCABULARY) | lacks)))


@pytest.mark.parametrize("name", OBJECTIVES)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_shuffled_words_are_noised_and_predicted_as_they_would_be_in_order(
    name: str, lengths: list[int], seed: int
) -> None:
    objective = Objective(ObjectiveArguments(weights=ALL), VOCABULARY).only(name)
    ids, lengths_array = make_ids(lengths), np.array(lengths)
    ordered, shuffled, again = (
        each.noise(name, ids, lengths_array, np.random.default_rng(seed))
        for each in (objective, objective.with_shuffled_words(), objective.with_shuffled_words())
    )
    assert all(map(np.array_equal, shuffled, again))
    assert np.array_equal(shuffled.source_lengths, ordered.source_lengths)
    ends = np.cumsum(ordered.source_lengths)
    for one, other in zip(np.split(ordered.source, ends), np.split(shuffled.source, ends), strict=True):
        assert one[:2].tolist() == other[:2].tolist() and one[-1:].tolist() == other[-1:].tolist()  # special tokens
        assert sorted(one) == sorted(other)
    if name == "masked_lm":
        pairs = [sorted(zip(noised.source, noised.labels, strict=True)) for noised in (ordered, shuffled)]
        assert pairs[0] == pairs[1]
    else:
        assert np.array_equal(shuffled.labels, ordered.labels)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shuffling_changes_the_order(name: Any) -> None:
    objective = Objective(ObjectiveArguments(name), VOCABULARY)
    ordered, shuffled = (
        each.noise(name, make_ids([50]), np.array([50]), np.random.default_rng(0))
        for each in (objective, objective.with_shuffled_words())
    )
    assert ordered.source.tolist() != shuffled.source.tolist()


def test_words_of_which_masked_lm_hides_tokens_are_shuffled_whole() -> None:
    starts = VOCABULARY.starts_word[VOCABULARY.random_tokens]
    first, later = VOCABULARY.random_tokens[starts][:20], VOCABULARY.random_tokens[~starts][:20]
    words = np.stack([first, later, later[::-1]], axis=1)  # [20 words, 3 tokens]
    objective = Objective(ObjectiveArguments("masked_lm", noise_density=0.5), VOCABULARY).with_shuffled_words()
    noised = objective.noise("masked_lm", words.ravel(), np.array([words.size]), np.random.default_rng(0))
    restored = np.where(noised.labels == IGNORED, noised.source, noised.labels)[1:-1].reshape(-1, 3)
    assert sorted(restored.tolist()) == sorted(words.tolist()) != restored.tolist()
