"""
What a model reads beside a text: the training rows most like it, with what they say (retrieval from the training data,
Wang et al. 2022, "Training Data is More Valuable than You Think").
"""

from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from transformers import PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.tasks.rows import Row, read_rows, write_rows
from hftk.tasks.task import Task

NEIGHBOURS = "neighbours.jsonl"  # in a run's folder, since the model needs them


class Neighbours:
    """
    The training rows, to be looked up by how many character 1–4-grams a text shares with theirs (cosine of TF-IDF).

    Args:
        rows (`list[Row]`): checked rows.
        count (`int`): how many are read beside a text, fewer than there are.
        task ([`Task`]): with `text_and_target_columns`.
        tokenizer ([`PreTrainedTokenizerBase`]): its `sep_token`, or `eos_token`, stands between what is read.
    """

    def __init__(self, rows: list[Row], count: int, task: Task, tokenizer: PreTrainedTokenizerBase):
        if len(rows) <= count:
            raise UsageError(f"data.neighbours: {count} rows are to be found beside each of {len(rows)}; ask for fewer")
        self.rows, self.columns = rows, task.text_and_target_columns()
        self.separator = tokenizer.sep_token or tokenizer.eos_token
        self.lookups = {}
        for text, _ in self.columns:
            vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
            known = vectorizer.fit_transform(row[text] for row in rows)
            self.lookups[text] = vectorizer, NearestNeighbors(n_neighbors=count, metric="cosine").fit(known)

    def beside(self, rows: list[Row]) -> list[Row]:
        """The rows, each text followed by its neighbours, the nearest first."""
        read = [dict(row) for row in rows]
        for text, target in self.columns:
            having = [row for row in read if text in row]
            if having:
                vectorizer, lookup = self.lookups[text]
                asked = vectorizer.transform(row[text] for row in having)
                self._append(having, text, target, lookup.kneighbors(asked, return_distance=False))
        return read

    def beside_training(self) -> list[Row]:
        """The training rows themselves, of which none is its own neighbour."""
        read = [dict(row) for row in self.rows]
        for text, target in self.columns:
            self._append(read, text, target, self.lookups[text][1].kneighbors(return_distance=False))
        return read

    def _append(self, read: list[Row], text: str, target: str, found: list[list[int]]) -> None:
        for row, places in zip(read, found, strict=True):
            near = [f"{self.rows[place][text]}{self.separator}{self.rows[place][target]}" for place in places]
            row[text] = self.separator.join([row[text], *near])

    def save(self, folder: Path) -> None:
        """Writes the columns that [`load_neighbours`] needs."""
        names = [name for pair in self.columns for name in pair]
        write_rows(({name: row[name] for name in names} for row in self.rows), folder / NEIGHBOURS)


def load_neighbours(folder: Path, count: int, task: Task, tokenizer: PreTrainedTokenizerBase) -> Neighbours | None:
    """What [`Neighbours.save`] wrote; None for a model that reads no neighbours."""
    if not count:
        return None
    placed = list(read_rows(str(folder / NEIGHBOURS)))
    for where, row in placed:
        task.check_inputs(row, where)
        task.check_targets(row, where)
    return Neighbours([row for _, row in placed], count, task, tokenizer)
