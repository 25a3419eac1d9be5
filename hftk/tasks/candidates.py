"""What may be said to a text: what the training rows most like it say, for a model to choose from."""

from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from hftk.errors import UsageError
from hftk.tasks.n2m import N2M, Offered
from hftk.tasks.rows import Row, read_rows, write_rows

CANDIDATES = "candidates.jsonl"  # in a run's folder, since the model needs them


class Candidates:
    """
    The training rows, to be looked up by the character 1–4-grams that a source shares with theirs (cosine of TF-IDF).

    Args:
        rows (`list[Row]`): checked rows.
        task ([`N2M`]): how many are offered, and from which columns.
    """

    def __init__(self, rows: list[Row], task: N2M):
        if len(rows) < task.candidates:
            raise UsageError(f"task.candidates: {task.candidates} rows are asked of {len(rows)}; ask for fewer")
        self.rows, self.task = rows, task
        self.lookups = {}
        for source in {direction["source"] for direction in task.directions}:
            vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
            known = vectorizer.fit_transform(row[source] for row in rows)
            self.lookups[source] = vectorizer, NearestNeighbors(n_neighbors=task.candidates, metric="cosine").fit(known)

    def of(self, rows: list[Row]) -> list[list[Offered]]:
        """For each row, and each direction that it has the source of, the most alike first."""
        found: list[list[Offered]] = [[] for _ in rows]
        for direction in self.task.directions:
            having = [place for place, row in enumerate(rows) if direction["source"] in row]
            if not having:
                continue
            vectorizer, lookup = self.lookups[direction["source"]]
            asked = vectorizer.transform(rows[place][direction["source"]] for place in having)
            for place, distances, known in zip(having, *lookup.kneighbors(asked), strict=True):
                texts = [self.rows[number][direction["target"]] for number in known]
                found[place].append(list(zip(texts, (1 - distances).tolist(), strict=True)))
        return found

    def save(self, folder: Path) -> None:
        """Writes the columns that [`load_candidates`] needs."""
        names = [direction[side] for direction in self.task.directions for side in ("source", "target")]
        write_rows(({name: row[name] for name in names} for row in self.rows), folder / CANDIDATES)


def load_candidates(folder: Path, task: N2M) -> Candidates:
    """What [`Candidates.save`] wrote."""
    placed = list(read_rows(str(folder / CANDIDATES)))
    for where, row in placed:
        task.check_targets(row, where)
    return Candidates([row for _, row in placed], task)
