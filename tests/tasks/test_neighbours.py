from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from hftk.errors import UsageError
from hftk.tasks.n2m import N2M
from hftk.tasks.n21 import N21
from hftk.tasks.neighbours import Neighbours, load_neighbours

TASK = N21("n21")
TEXTS = ["눈이 온다", "비가 온다", "비가 온대", "밥을 먹자", "밥을 먹을까", "밥을 먹자"]
ROWS = [{"text": text, "label": place, "id": "x"} for place, text in enumerate(TEXTS)]


@dataclass
class Tokens:
    sep_token: str | None = None
    eos_token: str = "</s>"


def test_the_nearest_come_first_and_a_training_row_is_not_its_own():
    weights = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True).fit_transform(TEXTS)
    cosines = (weights @ weights.T).toarray()
    numpy.fill_diagonal(cosines, -1)
    for place, row in enumerate(Neighbours(ROWS, 2, TASK, Tokens()).beside_training()):
        text, *beside = row["text"].split("</s>")
        assert text == TEXTS[place] and row["label"] == place
        found = [int(label) for label in beside[1::2]]
        assert place not in found and beside[::2] == [TEXTS[label] for label in found]
        assert list(cosines[place, found]) == sorted(cosines[place], reverse=True)[:2]
    assert {"밥을 먹자"} == {
        row["text"].split("</s>")[1] for row in Neighbours(ROWS, 1, TASK, Tokens()).beside_training()[3::2]
    }


def test_a_text_is_followed_by_its_neighbours_and_what_they_say():
    [read] = Neighbours(ROWS, 1, TASK, Tokens("[SEP]")).beside([{"text": "비가 온대요"}])
    assert read == {"text": "비가 온대요[SEP]비가 온대[SEP]2"}


def test_each_direction_has_neighbours_of_its_own(tmp_path: Path):
    task = N2M("n2m", directions=[{"source": "en", "target": "ko"}, {"source": "de", "target": "kr"}])
    rows = [
        {"en": "rain", "ko": "비", "de": "Regen", "kr": "비다"},
        {"en": "snow", "ko": "눈", "de": "Schnee", "kr": "눈이다"},
    ]
    neighbours = Neighbours(rows, 1, task, Tokens())
    asked = [{"en": "rainy", "de": "Schneefall"}, {"de": "Regenguss"}]
    read = neighbours.beside(asked)
    assert read == [
        {"en": "rainy</s>rain</s>비", "de": "Schneefall</s>Schnee</s>눈이다"},
        {"de": "Regenguss</s>Regen</s>비다"},
    ]
    assert asked[1] == {"de": "Regenguss"}
    neighbours.save(tmp_path)
    loaded = load_neighbours(tmp_path, 1, task, Tokens())
    assert loaded and loaded.beside(asked) == read


@pytest.mark.parametrize("other", [{"source": "ko", "target": "en"}, {"source": "en", "target": "de"}])
def test_directions_that_share_a_source_have_none(other):
    assert not N2M("n2m", directions=[{"source": "en", "target": "ko"}, other]).text_and_target_columns()


def test_what_is_saved_is_what_is_needed(tmp_path: Path):
    Neighbours(ROWS, 1, TASK, Tokens()).save(tmp_path)
    assert "id" not in (tmp_path / "neighbours.jsonl").read_text()


def test_more_neighbours_than_other_rows_are_refused():
    with pytest.raises(UsageError, match="data.neighbours: 6 rows are to be found beside each of 6"):
        Neighbours(ROWS, 6, TASK, Tokens())
