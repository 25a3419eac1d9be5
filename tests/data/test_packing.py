import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hftk.data import packing
from hftk.data.corpus import Documents
from hftk.data.objectives import Objective, ObjectiveArguments
from hftk.data.packing import PackedRows, evaluation_rows
from hftk.data.tokenizer import TokenizerArguments, train_tokenizer
from hftk.data.vocabulary import OBJECTIVES, Vocabulary
from hftk.errors import UsageError
from hftk.pretrain import batches_of_each_objective

TOKENIZER = train_tokenizer(["The cat sat on the mat. The dog did not!"], TokenizerArguments(vocab_size=400))
VOCABULARY = Vocabulary.from_tokenizer(TOKENIZER)
EOS = 2
FIRST = 1000  # the first token of a corpus: special ids stay apart
SIZE = 9000


def make_documents(lengths: list[int]) -> Documents:
    """Documents of consecutive ids, no two alike, so that each tells where in the corpus it comes from."""
    counts = np.array(lengths, dtype=np.int32)
    tokens = np.arange(FIRST, FIRST + counts.sum()).astype(np.uint16)
    return Documents(tokens=tokens, starts=np.cumsum(counts, dtype=np.int64) - counts, lengths=counts)


def make_objective(name: Any, **arguments: Any) -> Objective:
    wide = {
        "token_bytes": np.ones(SIZE, dtype=np.int64),
        "starts_word": np.arange(SIZE) % 3 != 0,
        "ends_sentence": np.arange(SIZE) % 11 == 0,
    }
    return Objective(ObjectiveArguments(name, **arguments), Vocabulary(**(vars(VOCABULARY) | wide)))


def random_lengths(count: int, longest: int) -> list[int]:
    return np.random.default_rng(0).integers(1, longest, count).tolist()


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) for key in left)


def read(rows: PackedRows) -> list[dict[str, np.ndarray]]:
    return [rows[row] for row in range(len(rows))]


def pieces_of(row: dict[str, np.ndarray]) -> list[list[int]]:
    """The documents of an infilling row: its labels are the original text."""
    starts = np.flatnonzero(row["decoder_position_ids"] == 0)
    pieces = [piece.tolist() for piece in np.split(row["labels"], starts[1:])]
    assert all(piece[-1] == EOS for piece in pieces)
    return [piece[:-1] for piece in pieces]


# What lies in which row


@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=30).filter(any),
    seed=st.integers(0, 1000),
    max_source_length=st.integers(8, 70),
    max_target_length=st.integers(8, 70),
    shuffle=st.booleans(),
    window=st.sampled_from([32, 1 << 16]),
)
@settings(deadline=None, max_examples=50)
def test_each_epoch_holds_every_token_once_in_rows_that_are_full(
    lengths: list[int], seed: int, max_source_length: int, max_target_length: int, shuffle: bool, window: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW", window)
        documents, objective = make_documents(lengths), make_objective("infilling")
        rows = PackedRows(documents, objective, 10**6, 1, seed, max_source_length, max_target_length, shuffle)
        row = 0
        for _ in range(2):
            epoch: list[list[int]] = []
            following = None
            while sum(map(len, epoch)) < sum(lengths):
                pieces = pieces_of(rows[row])
                assert sum(map(len, pieces)) + 2 * len(pieces) <= max_source_length
                assert sum(map(len, pieces)) + len(pieces) <= max_target_length
                if following is not None:  # the first piece of this row had no room in the row before
                    following.append(pieces[0])
                    source = sum(map(len, following)) + 2 * len(following)
                    target = sum(map(len, following)) + len(following)
                    assert source > max_source_length or target > max_target_length
                following = pieces
                epoch += pieces
                row += 1
            tokens = [token for piece in epoch for token in piece]
            assert sorted(tokens) == documents.tokens[:].tolist()
            if not shuffle:
                assert tokens == documents.tokens[:].tolist()
            # A document is cut only where a row cannot hold more of it.
            longest = min(max_source_length - 2, max_target_length - 1)
            expected = [min(longest, length - begin) for length in lengths for begin in range(0, length, longest)]
            assert sorted(map(len, epoch)) == sorted(expected)
            assert rows.longest_piece == longest
            assert rows.cut_documents == sum(length > longest for length in lengths)


def test_planning_window_by_window_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    documents, objective = make_documents([5] * 100), make_objective("infilling")  # 9 of them fill a row
    at_once = read(PackedRows(documents, objective, max_source_length=64))
    monkeypatch.setattr(packing, "WINDOW", 16)
    windowed = read(PackedRows(documents, objective, max_source_length=64))
    assert len(at_once) == 12
    assert all(same(left, right) for left, right in zip(at_once, windowed, strict=True))


def test_a_document_that_just_fits_is_not_cut() -> None:
    rows = PackedRows(make_documents([7, 8, 9]), make_objective("infilling"), max_source_length=10, shuffle=False)
    assert [list(map(len, pieces_of(row))) for row in read(rows)] == [[7], [8], [8], [1]]
    assert rows.cut_documents == 1


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    documents, objective = make_documents([5] * 200), make_objective("infilling")
    orders = []
    for seed in (0, 1):
        rows = PackedRows(documents, objective, seed=seed, rows=10**6, max_source_length=7)
        orders += [[pieces_of(rows[row])[0][0] for row in range(epoch, epoch + 200)] for epoch in (0, 200)]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("name", [*OBJECTIVES, "mixture"])
@pytest.mark.parametrize("limits", [(64, 16), (33, 64), (10, 10)])
def test_no_row_is_longer_than_the_limits(name: Any, limits: tuple[int, int]) -> None:
    weights = {name: 1.0 for name in OBJECTIVES}
    objective = make_objective(name, weights=weights)
    rows = PackedRows(make_documents(random_lengths(100, 60)), objective, 300, 1, 0, *limits)
    for row in read(rows):
        assert len(row["input_ids"]) == len(row["position_ids"]) <= limits[0]
        if "decoder_position_ids" in row:
            assert len(row["labels"]) == len(row["decoder_position_ids"]) <= limits[1]
        else:
            assert len(row["labels"]) == len(row["input_ids"])


def test_span_corruption_fills_rows_by_its_exact_lengths() -> None:
    rows = PackedRows(make_documents([100] * 40), make_objective("span_corruption"), max_source_length=184)
    # 15 of 100 tokens, in 5 spans, leave 90 and <s> </s>: two documents fill a row to the last place
    assert {len(row["input_ids"]) for row in read(rows)} == {184}
    assert len(rows) == 20


def test_positions_restart_at_each_document() -> None:
    rows = PackedRows(make_documents([3, 5, 4]), make_objective("masked_lm"), shuffle=False)
    assert rows[0]["position_ids"].tolist() == [*range(5), *range(7), *range(6)]


# A row is a function of the seed and its index


def test_a_row_is_the_same_in_any_order_and_object_and_copied(tmp_path: Path) -> None:
    objective = make_objective("mixture", weights={name: 1.0 for name in OBJECTIVES})

    def make_rows() -> PackedRows:
        return PackedRows(make_documents(random_lengths(40, 60)), objective, 300, 4, 3, 64, 64)

    in_order = read(make_rows())
    assert len(in_order) == 300
    mixed = make_rows()
    for row in np.random.default_rng(0).permutation(300).tolist():
        assert same(mixed[row], in_order[row])
    assert same(make_rows()[299], in_order[299])
    assert same(copy.deepcopy(make_rows())[123], in_order[123])
    assert not any(same(in_order[0], other) for other in in_order[1:])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    rows = PackedRows(make_documents(random_lengths(40, 60)), make_objective("mixture"), 64, 8, 0, 64, 64)
    alone = DataLoader(rows, batch_size=8, collate_fn=rows.collate)
    shared = DataLoader(rows, batch_size=8, collate_fn=rows.collate, num_workers=workers)
    for expected, batch in zip(alone, shared, strict=True):
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[key], expected[key]) for key in batch)


def test_noise_differs_between_rows_and_seeds() -> None:
    documents, objective = make_documents([30]), make_objective("masked_lm")
    labels = {tuple(row["labels"]) for seed in (0, 1) for row in read(PackedRows(documents, objective, 5, seed=seed))}
    assert len(labels) == 10


def test_all_rows_of_a_global_batch_have_the_objective_that_is_drawn_for_it() -> None:
    objective = make_objective("mixture", weights={"masked_lm": 1.0, "infilling": 2.0})
    rows = PackedRows(make_documents([9] * 50), objective, 120, 6, 5, 64, 64)
    modes = [int(row["input_ids"][1]) for row in read(rows)]
    assert modes == [VOCABULARY.modes[objective.draw(5, row // 6)] for row in range(120)]
    assert set(modes) == {VOCABULARY.modes["masked_lm"], VOCABULARY.modes["infilling"]}


def test_evaluation_rows_are_one_epoch_of_one_objective_in_order() -> None:
    lengths = random_lengths(30, 60)
    objective = make_objective("mixture", weights={name: 1.0 for name in OBJECTIVES})
    rows = evaluation_rows(make_documents(lengths), objective, "infilling", 64, 64)
    tokens = [token for row in read(rows) for piece in pieces_of(row) for token in piece]
    assert tokens == list(range(FIRST, FIRST + sum(lengths)))
    assert {int(row["input_ids"][1]) for row in read(rows)} == {VOCABULARY.modes["infilling"]}
    again = evaluation_rows(make_documents(lengths), objective, "infilling", 64, 64)
    assert all(same(left, right) for left, right in zip(read(rows), read(again), strict=True))
    assert len(evaluation_rows(make_documents(lengths), objective, "masked_lm", 64, 2)) > 0  # needs no decoder's row


# Batches


def test_collate_pads_a_denoising_batch() -> None:
    rows = PackedRows(make_documents([20, 9]), make_objective("span_corruption"), shuffle=False)
    short, long = PackedRows(make_documents([3, 5]), rows.objective, shuffle=False)[0], rows[0]
    batch = rows.collate([short, long])
    encoder = {"input_ids", "attention_mask", "position_ids"}
    assert set(batch) == encoder | {"labels", "decoder_attention_mask", "decoder_position_ids"}
    for side, ids, padding in (("", "input_ids", VOCABULARY.pad), ("decoder_", "labels", -100)):
        width = batch[ids].shape[1]
        assert width % 8 == 0
        assert 0 <= width - len(long[ids]) < 8
        for index, row in enumerate((short, long)):
            length, positions = len(row[ids]), row[f"{side}position_ids"].tolist()
            assert batch[ids][index].tolist() == row[ids].tolist() + [padding] * (width - length)
            assert batch[f"{side}attention_mask"][index].tolist() == [1] * length + [0] * (width - length)
            padded = batch[f"{side}position_ids"][index].tolist()
            assert padded[:length] == positions
            assert padded[length:] == list(range(positions[-1] + 1, positions[-1] + 1 + width - length))
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}


def test_collate_pads_masked_lm_labels_to_the_source() -> None:
    rows = PackedRows(make_documents([3, 30]), make_objective("masked_lm"), max_source_length=32, shuffle=False)
    batch = rows.collate([rows[0], rows[1]])
    assert set(batch) == {"input_ids", "attention_mask", "position_ids", "labels"}
    assert {tuple(tensor.shape) for tensor in batch.values()} == {(2, 32)}
    assert batch["labels"][0, 5:].tolist() == [-100] * 27
    assert batch["position_ids"][0].tolist() == list(range(32))


@pytest.mark.parametrize("name", ["masked_lm", "infilling"])
def test_without_packing_each_document_has_a_row_and_no_positions(name: Any) -> None:
    rows = PackedRows(make_documents([3, 9, 5]), make_objective(name), shuffle=False, packing=False)
    packed = PackedRows(make_documents([3, 9, 5]), make_objective(name), shuffle=False)
    assert [int(np.count_nonzero(row["position_ids"] == 0)) for row in read(rows)] == [1, 1, 1]
    assert len(packed) == 1
    without = {key for key in packed.collate(read(packed)) if not key.endswith("position_ids")}
    assert set(rows.collate(read(rows))) == without


def test_padding_never_exceeds_the_limits() -> None:
    rows = PackedRows(make_documents([50] * 5), make_objective("infilling"), 5, 1, 0, 45, 43)
    batch = rows.collate(read(rows))
    assert batch["labels"].shape == (5, 43)
    assert batch["input_ids"].shape[1] <= 45


# Mistakes


def test_an_empty_corpus_is_refused() -> None:
    for lengths in ([], [0, 0]):
        with pytest.raises(UsageError, match="holds no text"):
            PackedRows(make_documents(lengths), make_objective("masked_lm"))


def test_rows_that_hold_no_token_are_refused() -> None:
    with pytest.raises(UsageError, match="max_target_length 1 "):
        PackedRows(make_documents([5]), make_objective("infilling"), max_target_length=1)


def test_rows_end() -> None:
    rows = PackedRows(make_documents([5] * 9), make_objective("masked_lm"), rows=7)
    assert len(rows) == 7
    assert rows.rows_per_epoch == 1
    with pytest.raises(IndexError, match="row 7 of 7"):
        rows[7]


def test_what_is_measured_of_a_mixture_holds_each_objective_by_its_share() -> None:
    weights = {"masked_lm": 3, "skip_gram": 1}
    rows = PackedRows(make_documents(random_lengths(40, 60)), make_objective("mixture", weights=weights), 64, 8, 0, 64)
    batches, shares = batches_of_each_objective(rows, size=4)
    assert ["word_starts" in batch for batch in batches] == [False] * 3 + [True] * 3
    assert all(len(batch["input_ids"]) == 4 for batch in batches)
    assert shares == [0.75] * 3 + [0.25] * 3


def test_rows_stay_as_they_are_when_each_objective_is_measured() -> None:
    def few_texts() -> PackedRows:
        # measured first is the one that takes less room
        objective = make_objective("mixture", weights={"span_corruption": 1, "infilling": 1})
        return PackedRows(make_documents(random_lengths(40, 30)), objective, 200, 8, 0, 64, 64)

    rows = few_texts()
    batches_of_each_objective(rows, size=8)
    assert rows.rows_per_epoch < 24  # some of what was measured belongs to a later epoch
    assert all(same(*pair) for pair in zip(read(rows), read(few_texts()), strict=True))
