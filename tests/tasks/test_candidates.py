from pathlib import Path

import numpy
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from hftk.errors import UsageError
from hftk.tasks.candidates import Candidates, load_candidates
from hftk.tasks.n2m import N2M

SOURCES = ["눈이 온다", "비가 온다", "비가 온대", "밥을 먹자", "밥을 먹을까"]
ROWS = [{"source": source, "target": f"말 {place}", "id": "x"} for place, source in enumerate(SOURCES)]


def test_the_most_alike_come_first_with_their_cosines():
    asked = ["비가 온대요", "눈", "zzz"]
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    cosines = (vectorizer.fit_transform(SOURCES) @ vectorizer.transform(asked).T).toarray().T
    found = Candidates(ROWS, N2M("n2m", candidates=2)).of([{"source": text} for text in asked])
    for [offered], of_row in zip(found, cosines, strict=True):
        assert [likeness for _, likeness in offered] == pytest.approx(numpy.sort(of_row)[:-3:-1])
        assert [of_row[int(text[2:])] for text, _ in offered] == pytest.approx(numpy.sort(of_row)[:-3:-1])
    assert found[0][0][0][0] == "말 2"


def test_each_direction_that_a_row_has_the_source_of_is_offered_its_own(tmp_path: Path):
    task = N2M("n2m", directions=[{"source": "en", "target": "ko"}, {"source": "de", "target": "kr"}], candidates=1)
    rows = [
        {"en": "rain", "ko": "비", "de": "Regen", "kr": "비다", "id": "x"},
        {"en": "snow", "ko": "눈", "de": "Schnee", "kr": "눈이다", "id": "y"},
    ]
    candidates = Candidates(rows, task)
    candidates.save(tmp_path)
    assert "id" not in (tmp_path / "candidates.jsonl").read_text()
    for known in (candidates, load_candidates(tmp_path, task)):
        both, one = known.of([{"en": "rainy", "de": "Schneefall"}, {"de": "Regenguss"}])
        assert [[text for text, _ in offered] for offered in both] == [["비"], ["눈이다"]]
        assert [[text for text, _ in offered] for offered in one] == [["비다"]]


def test_more_candidates_than_rows_are_refused():
    with pytest.raises(UsageError, match="task.candidates: 6 rows are asked of 5"):
        Candidates(ROWS, N2M("n2m", candidates=6))
    with pytest.raises(UsageError, match="task.candidates: among -1 nothing can be chosen"):
        N2M("n2m", candidates=-1)
