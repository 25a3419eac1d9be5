import pytest

from hftk.finetune_recipe import load_finetune_recipe
from hftk.quickstart import GUESSES, SHAPES, letters, log_of, table, write_data, write_recipes
from hftk.recipe import PretrainRecipe, load_recipe

pytest.importorskip("turkish_treebanks", reason="comes with hftk[quickstart]")


def test_no_text_to_test_on_is_among_the_text_or_the_labels(tmp_path):
    rows = write_data(tmp_path)
    raw = {letters(line) for line in (tmp_path / "raw.txt").read_text().splitlines()}
    assert len(raw) > 8000
    for shape, column in (("n21", "text"), ("n2n", "tokens"), ("n2path", "tokens"), ("n2m", "source")):
        learned, tested = ({letters("".join(row[column])) for row in rows[name]} for name in (shape, f"{shape}_test"))
        assert len(tested) == len(rows[f"{shape}_test"]) >= 200 and len(learned) >= 300
        assert not tested & learned and not tested & raw and len(learned & raw) > 0.9 * len(learned)
    assert not {letters(row["target"]) for row in rows["n2m_test"]} & raw
    assert write_data(tmp_path) == rows


def test_recipes_are_whole_and_meet_at_the_same_files(tmp_path):
    files = write_recipes(tmp_path)
    pretrain = load_recipe(files["pretrain"], [], PretrainRecipe)
    for shape in SHAPES:
        recipe = load_finetune_recipe(files[shape], [])
        assert recipe.model == pretrain.output and recipe.task.name == shape and not recipe.from_scratch
        assert recipe.data.test_files == [f"{tmp_path}/data/{shape}_test.jsonl"]


def test_guesses_take_what_is_most_frequent():
    assert GUESSES["n21"]([{"label": "a"}, {"label": "a"}, {"label": "b"}], [{"label": "a"}, {"label": "b"}]) == 0.5
    tagged = [{"tokens": ["a", "b", "a", "a"], "labels": ["X", "Y", "Z", "Z"]}, {"tokens": ["b"], "labels": ["Y"]}]
    tagged.append({"tokens": ["c", "c"], "labels": ["Y", "Y"]})
    assert GUESSES["n2n"](tagged, [{"tokens": ["a", "b", "unknown", "c"], "labels": ["Z", "X", "Y", "Y"]}]) == 0.75
    trees = [{"tokens": ["a", "b", "c"], "head": [2, 0, 2], "deprel": ["x", "root", "x"]}]
    assert GUESSES["n2path"](trees, trees) == pytest.approx(1 / 3)
    assert GUESSES["n2m"]([], [{"source": "JupyterLab", "target": "JupyterLab"}]) == 100


def test_the_table_has_each_score_in_percent(tmp_path):
    metrics = {f"{shape}_{kind}": 0.5 for shape in SHAPES for kind in ("pretrained", "scratch", "guess")}
    text = table(metrics | {"minutes": 5.4}, tmp_path)
    assert text.count(" 50.0") == 9 and text.count(" 0.5") == 3  # chrF++ is in percent as it comes
    assert "5.4 minutes" in text


def test_what_is_printed_is_kept(tmp_path, capsys):
    with log_of(tmp_path, "words"):
        print("kept")
    assert (tmp_path / "logs" / "words.txt").read_text() == "kept\n" and not capsys.readouterr().out
