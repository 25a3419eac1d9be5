import pytest

from hftk.finetune import FinetuneRecipe
from hftk.quickstart import guessing_accuracy, run, write_data, write_recipes
from hftk.recipe import PretrainRecipe, load_recipe

pytest.importorskip("turkish_treebanks", reason="comes with hftk[quickstart]")


def test_no_sentence_to_test_on_is_among_the_text_or_the_labels(tmp_path):
    def letters(text: str) -> str:
        return "".join(filter(str.isalpha, text.casefold()))

    labelled, test = write_data(tmp_path)
    raw = [letters(line) for line in (tmp_path / "raw.txt").read_text().splitlines()]
    held_out = [letters(line) for line in (tmp_path / "raw_validation.txt").read_text().splitlines()]
    tested = [letters(" ".join(row["tokens"])) for row in test]
    assert len(raw) > 3800 and len(tested) == len(held_out) == 485
    assert not set(tested) & {*raw, *held_out} and not set(held_out) & set(raw)
    assert {letters(" ".join(row["tokens"])) for row in labelled} <= set(raw)
    assert write_data(tmp_path) == (labelled, test)


def test_recipes_are_whole_and_meet_at_the_same_files(tmp_path):
    write_recipes(tmp_path)
    pretrain = load_recipe(tmp_path / "recipes" / "pretrain.yaml", [], PretrainRecipe)
    finetune = load_recipe(tmp_path / "recipes" / "finetune.yaml", [], FinetuneRecipe)
    from_scratch = load_recipe(tmp_path / "recipes" / "from_scratch.yaml", [], FinetuneRecipe)
    assert pretrain.output == finetune.model == from_scratch.model
    assert (finetune.from_scratch, from_scratch.from_scratch) == (False, True)
    assert finetune.data == from_scratch.data


def test_guesses_take_the_most_frequent_tag():
    labelled = [{"tokens": ["a", "b", "a", "a"], "labels": ["X", "Y", "Z", "Z"]}, {"tokens": ["b"], "labels": ["Y"]}]
    labelled.append({"tokens": ["c", "c"], "labels": ["Y", "Y"]})
    test = [{"tokens": ["a", "b", "unknown", "c"], "labels": ["Z", "X", "Y", "Y"]}]
    assert guessing_accuracy(labelled, test) == {"guess_by_word": 0.75, "guess_most_frequent": 0.5}


def test_a_command_runs_without_a_network_and_what_it_prints_is_kept(tmp_path):
    assert run(tmp_path, "offline", "-c", "import os; print('a'); print(os.environ['HF_HUB_OFFLINE'])") == "1"
    assert (tmp_path / "logs" / "offline.txt").read_text() == "a\n1\n"
    with pytest.raises(RuntimeError, match="logs/fails.txt"):
        run(tmp_path, "fails", "-c", "raise SystemExit('this is why')")
    assert (tmp_path / "logs" / "fails.txt").read_text() == "this is why\n"
