"""Cards say what the run left, in the form of the committed examples, and nothing else."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hftk.report.card import card, templates, write_card

EXAMPLES = Path(__file__).parents[2] / "hub_cards" / "examples"
KINDS = ["pretrained", "task", "adapters", "last_layer"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_rendered_as_its_example(kind):
    assert str(card(EXAMPLES / kind)) == (EXAMPLES / kind / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_a_card_stands_in_what_the_run_left(kind):
    folder = EXAMPLES / kind
    text = card(folder).text
    left = {}
    for name in ("metrics.json", "run.json"):
        values = [json.loads((folder / name).read_text(encoding="utf-8"))]
        while values:
            value = values.pop()
            values += value.values() if isinstance(value, dict) else []
            if isinstance(value, int | float):
                left[f"{value:,}" if isinstance(value, int) else f"{value:.4g}"] = value
    tables = re.findall(r"^\| (?:validation|test|masked_lm|span_corruption|tokens seen|minutes|steps) .*$", text, re.M)
    numbers = [number for line in tables for number in re.findall(r"(?<![\w.])\d[\d.,e-]*", line)]
    assert numbers and all(number in left for number in numbers)


def test_the_head_has_scores_for_the_hub(tmp_path):
    data: Any = card(EXAMPLES / "task").data
    metrics = json.loads((EXAMPLES / "task" / "metrics.json").read_text(encoding="utf-8"))
    scores = {(result.dataset_split, result.metric_type): result.metric_value for result in data.eval_results}
    assert scores["test", "accuracy"] == metrics["test_accuracy"] and ("test", "loss") not in scores
    assert data.pipeline_tag == "text-classification" and data.license is None


def test_what_a_recipe_says_of_licences_stands_in_the_card(tmp_path):
    shutil.copytree(EXAMPLES / "task", tmp_path / "task")
    recipe = tmp_path / "task" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "card: {license: apache-2.0, data_license: cc0-1.0, language: [ko]}\n")
    write_card(tmp_path / "task")
    written = ModelCard.load(tmp_path / "task" / "README.md")
    assert (written.data.license, written.data.language) == ("apache-2.0", ["ko"])
    assert "| licence of the data | cc0-1.0 |" in written.text and "Licence of the model: apache-2.0" in written.text


def test_what_was_forgotten_is_told_with_its_direction(tmp_path):
    shutil.copytree(EXAMPLES / "task", tmp_path / "task")
    file = tmp_path / "task" / "metrics.json"
    metrics = json.loads(file.read_text())
    for after, said in ((2.5, "it forgot\n0.5"), (1.5, "it gained\n0.5")):
        file.write_text(json.dumps(metrics | {"retention_before": 2.0, "retention_after": after}))
        assert said in card(tmp_path / "task").text
    del metrics["retention_before"], metrics["retention_after"]
    file.write_text(json.dumps(metrics))
    assert "forgot" not in card(tmp_path / "task").text


def test_energy_is_estimated_from_the_watts_that_a_recipe_states_and_from_nothing_else(tmp_path):
    shutil.copytree(EXAMPLES / "pretrained", tmp_path / "run")
    assert "| energy | not measured |" in card(tmp_path / "run").text
    minutes = json.loads((tmp_path / "run" / "metrics.json").read_text())["minutes"]
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "card": {"watts": 120}}))
    assert f"| energy | {minutes * 2:.4g} Wh, estimated: its minutes at the 120 W" in card(tmp_path / "run").text


def test_no_template_is_left_without_an_example():
    files = {path.stem for path in templates().glob("*.md")} - {"README", "card"}
    assert files == set(KINDS) == {path.name for path in EXAMPLES.iterdir()}
