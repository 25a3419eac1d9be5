"""Rows of whole documents, noised and ready for the model: each is a pure function of the seed and the row's index."""

import copy
from array import array
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from hftk.data.corpus import Documents
from hftk.data.noise import IGNORED
from hftk.data.objectives import Objective
from hftk.data.vocabulary import SKIP_GRAM
from hftk.errors import UsageError

EVALUATION_SEED = 0
PADDED_TO = 8  # rows of a batch are padded to a multiple of it, so that matrix units are used well
WINDOW = 1 << 16  # pieces that are packed at a time, which bounds the memory of planning


@dataclass(frozen=True)
class EpochPlan:
    """Which pieces of documents lie in which row of an epoch: in row r those from `row_starts[r]` to the next row's."""

    epoch: int
    documents: np.ndarray  # [pieces] int32: the document that the piece is cut from
    begins: np.ndarray  # [pieces] int32: the piece's first token within the document
    row_starts: np.ndarray  # [rows + 1] int64

    def __len__(self) -> int:
        return len(self.row_starts) - 1


class PackedRows(Dataset[dict[str, np.ndarray]]):
    """
    Noised training rows, each as full of documents as fits, for a run that may last many epochs.

    An epoch takes the documents in an order drawn from the seed and the epoch, cuts those that are longer than a row,
    and fills row after row. Epochs may differ by a few rows. Only one epoch's plan is kept, so read rows in order.

    Args:
        documents (`Documents`):
            The tokenised corpus.
        objective (`Objective`):
            The noise. A mixture draws one objective for each global batch.
        rows (`int`, *optional*):
            The length of the dataset: steps times `rows_per_batch`. By default one epoch.
        rows_per_batch (`int`, *optional*, defaults to 1):
            Rows of a global batch over all processes and accumulation steps.
        seed (`int`, *optional*, defaults to 0):
            Where the order of documents, the mixture's draws and the noise come from.
        max_source_length (`int`, *optional*, defaults to 512):
            Most tokens of an encoder's row.
        max_target_length (`int`, *optional*, defaults to 256):
            Most tokens of a decoder's row.
        shuffle (`bool`, *optional*, defaults to `True`):
            False keeps the documents in the order of the corpus.
        packing (`bool`, *optional*, defaults to `True`):
            False gives each document a row of its own, and a batch no positions, which would tell of packed documents.

    Attributes:
        cut_documents (`int`):
            Documents that are longer than a row and so are cut.
        rows_per_epoch (`int`):
            Rows of the first epoch.

    Raises:
        UsageError: If the corpus is empty or a row cannot hold a single token.
    """

    def __init__(
        self,
        documents: Documents,
        objective: Objective,
        rows: int | None = None,
        rows_per_batch: int = 1,
        seed: int = 0,
        max_source_length: int = 512,
        max_target_length: int = 256,
        shuffle: bool = True,
        packing: bool = True,
    ) -> None:
        self.documents = documents
        self.objective = objective
        self.rows_per_batch = rows_per_batch
        self.seed = seed
        self.max_source_length = max_source_length
        self.max_target_length = max_target_length
        self.shuffle = shuffle
        self.packing = packing
        # Each token of a document lies in its source or its target, so no longer piece can fit.
        source_lengths, target_lengths = objective.packed_lengths(np.arange(1, max_source_length + max_target_length))
        fits = (source_lengths <= max_source_length) & (target_lengths <= max_target_length)
        if not fits.any():
            raise UsageError(
                f"data.max_source_length {max_source_length} and data.max_target_length {max_target_length} "
                "do not hold a single token and its special tokens: raise them"
            )
        self.longest_piece = int(np.flatnonzero(fits)[-1]) + 1
        self.cut_documents = int(np.count_nonzero(np.asarray(documents.lengths) > self.longest_piece))
        self._first_rows = [0]  # of each epoch that was planned, and of the one after
        self._plan = self._plan_epoch(0)
        if not len(self._plan):
            raise UsageError("the corpus holds no text to pack: look at data.train_files and data.validation_files")
        self._first_rows.append(len(self._plan))
        self.rows_per_epoch = len(self._plan)
        self.rows = len(self._plan) if rows is None else rows

    def __len__(self) -> int:
        return self.rows

    def only(self, name: str) -> "PackedRows":
        """The same texts, noised by `name` alone, one of the objective's `names`. These rows stay as they are."""
        narrowed = copy.copy(self)
        narrowed.objective = self.objective.only(name)
        narrowed._first_rows = [*self._first_rows]
        return narrowed

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """
        Args:
            row (`int`):
                Index of the row in the whole run, all epochs together.

        Returns:
            `dict[str, np.ndarray]`: `input_ids`, `position_ids` and `labels`, and for a denoising objective
            `decoder_position_ids`; int64, not padded.
        """
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        ids, lengths = self._read(row)
        name = self.objective.draw(self.seed, row // self.rows_per_batch)
        noised = self.objective.noise(name, ids, lengths, np.random.default_rng([3, self.seed, row]))
        example = {"input_ids": noised.source, "position_ids": _count_from_zero(noised.source_lengths)}
        if name == SKIP_GRAM:
            return example | {"word_starts": noised.labels}
        example["labels"] = noised.labels
        if name != "masked_lm":
            example["decoder_position_ids"] = _count_from_zero(noised.label_lengths)
        return example

    def _read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a row's pieces, one after another, and the pieces' lengths."""
        while row >= self._first_rows[-1]:
            self._plan = self._plan_epoch(len(self._first_rows) - 1)
            self._first_rows.append(self._first_rows[-1] + len(self._plan))
        epoch = bisect_right(self._first_rows, row) - 1
        if self._plan.epoch != epoch:
            self._plan = self._plan_epoch(epoch)
        plan, place = self._plan, row - self._first_rows[epoch]

        pieces = slice(plan.row_starts[place], plan.row_starts[place + 1])
        documents, begins = plan.documents[pieces], plan.begins[pieces].astype(np.int64)
        lengths = np.minimum(self.documents.lengths[documents] - begins, self.longest_piece)
        places = np.repeat(self.documents.starts[documents] + begins, lengths) + _count_from_zero(lengths)
        return self.documents.tokens[places].astype(np.int64), lengths

    def _plan_epoch(self, epoch: int) -> EpochPlan:
        all_lengths = np.asarray(self.documents.lengths)
        order = np.arange(len(all_lengths), dtype=np.int32)
        if self.shuffle:
            np.random.default_rng([2, self.seed, epoch]).shuffle(order)
        pieces = -(-all_lengths[order] // self.longest_piece)  # [documents]
        documents = np.repeat(order, pieces)
        begins = np.arange(len(documents), dtype=np.int32)
        begins -= np.repeat(np.cumsum(pieces, dtype=np.int32) - pieces, pieces)
        begins *= self.longest_piece

        if not self.packing:
            return EpochPlan(epoch, documents, begins, np.arange(len(documents) + 1))
        row_starts = array("q", [0])
        while (first := row_starts[-1]) < len(documents):
            window = slice(first, first + WINDOW)
            lengths = np.minimum(all_lengths[documents[window]] - begins[window], self.longest_piece)
            source_lengths, target_lengths = self.objective.packed_lengths(lengths)
            next_rows = np.minimum(
                _next_row(source_lengths, self.max_source_length), _next_row(target_lengths, self.max_target_length)
            ).tolist()
            place = 0
            while place < len(next_rows):
                place = next_rows[place]
                row_starts.append(first + place)
            if first + place < len(documents):
                row_starts.pop()  # the window ended within this row: the next window starts with it
        return EpochPlan(epoch, documents, begins, np.array(row_starts))

    def collate(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """
        Pads the rows of one batch, which have the same objective, to the longest, rounded up to a multiple of 8.

        Args:
            rows (`list[dict[str, np.ndarray]]`):
                B rows of this dataset.

        Returns:
            `dict[str, torch.Tensor]`: `input_ids`, `attention_mask` (1 for tokens, 0 for padding) and `position_ids`,
            `(B, S)` each, and `labels`: for masked_lm `(B, S)`; for denoising `(B, T)`, as are then
            `decoder_attention_mask` and `decoder_position_ids`. For skip_gram `word_starts`, `(B, S)`, in the place of
            labels. All are int64. Positions restart at 0 at each document,
            and padding goes on with those of the row's last one, so that no query is without keys; its labels are -100.
        """
        source_length = _padded_length([row["input_ids"] for row in rows], self.max_source_length)
        batch = {
            "input_ids": _pad([row["input_ids"] for row in rows], source_length, self.objective.vocabulary.pad),
            "attention_mask": _pad([np.ones_like(row["input_ids"]) for row in rows], source_length, 0),
        }
        if self.packing:
            batch["position_ids"] = _pad_positions([row["position_ids"] for row in rows], source_length)
        if "word_starts" in rows[0]:
            return batch | {"word_starts": _pad([row["word_starts"] for row in rows], source_length, 0)}
        labels = [row["labels"] for row in rows]
        if "decoder_position_ids" not in rows[0]:
            return batch | {"labels": _pad(labels, source_length, IGNORED)}
        target_length = _padded_length(labels, self.max_target_length)
        batch["labels"] = _pad(labels, target_length, IGNORED)
        batch["decoder_attention_mask"] = _pad([np.ones_like(row) for row in labels], target_length, 0)
        if self.packing:
            target_positions = [row["decoder_position_ids"] for row in rows]
            batch["decoder_position_ids"] = _pad_positions(target_positions, target_length)
        return batch


def evaluation_rows(
    documents: Documents,
    objective: Objective,
    name: str,
    max_source_length: int = 512,
    max_target_length: int = 256,
    packing: bool = True,
) -> PackedRows:
    """
    One epoch of rows to evaluate one objective on: documents in their order, noise that no recipe's seed changes.

    Args:
        documents (`Documents`):
            The validation documents.
        objective (`Objective`):
            What the model was trained on; of a mixture, the mode token stays in the rows.
        name (`str`):
            Which of the objective's `names` to evaluate.
        max_source_length (`int`, *optional*, defaults to 512), max_target_length (`int`, *optional*, defaults to 256):
            As in `PackedRows`, and so is `packing`.

    Returns:
        `PackedRows`: as many rows as one epoch has.
    """
    return PackedRows(
        documents,
        objective.only(name),
        seed=EVALUATION_SEED,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        shuffle=False,
        packing=packing,
    )


def _next_row(lengths: np.ndarray, limit: int) -> np.ndarray:
    """For each piece, the first piece that no longer fits in a row that starts with it."""
    ends = np.cumsum(lengths)
    return np.searchsorted(ends, ends - lengths + limit, side="right")


def _count_from_zero(lengths: np.ndarray) -> np.ndarray:
    """0, 1, … for each document in turn, `(sum of lengths,)`."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _padded_length(rows: list[np.ndarray], limit: int) -> int:
    longest = max(len(row) for row in rows)
    return min(-(-longest // PADDED_TO) * PADDED_TO, limit)


def _pad(rows: list[np.ndarray], length: int, value: int) -> torch.Tensor:
    padded = np.full((len(rows), length), value, dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)


def _pad_positions(rows: list[np.ndarray], length: int) -> torch.Tensor:
    return _pad([np.append(row, row[-1] + 1 + np.arange(length - len(row))) for row in rows], length, 0)
