"""
The mistakes that conversions are made of. Each is made here in a rule or a configuration, and the report tells of it: a
rule that loses numbers by the way back, one that is wrong both ways by the first layer that computes something else.
The command exits with status 1.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hftk.cli import main
from hftk.convert.conversion import Report
from hftk.convert.families import FAMILIES
from hftk.convert.reference import first_difference
from hftk.convert.rules import SAME, TRANSPOSE, Rule, Transform

LAYER, TORCH = "model/encoder/layers.0/", "model.encoder.layers.0."
ZEROED = Transform("", "", lambda x, config: np.zeros_like(x), lambda x, config: x)
SHIFTED = Transform("", "", lambda x, config: np.roll(x, 2, 0), lambda x, config: np.roll(x, -2, 0))


def refused(source: Path, target: Path, *options: str) -> Report:
    """The report of a command that finds that something is wrong."""
    file = target.with_name("report.json")
    reference = str(source / "io.npz")
    assert main(["convert", str(source), str(target), "--reference", reference, "--report", str(file), *options]) == 1
    content = json.loads(file.read_text())
    assert content.pop("ok") is False
    return Report(**content)


@pytest.fixture
def with_rules(artifacts, tmp_path, monkeypatch):
    """Converts the BART artefact with rules that come before those of the table."""

    def run(*rules: Rule) -> Report:
        bart = FAMILIES["bart"]
        naming = replace(bart.namings["tf"], rules=(*rules, *bart.namings["tf"].rules))
        monkeypatch.setitem(FAMILIES, "bart", replace(bart, namings={**bart.namings, "tf": naming}))
        return refused(artifacts / "bart", tmp_path / "new")

    return run


@pytest.mark.parametrize(
    ("rules", "first"),
    [
        pytest.param(
            [Rule(LAYER + "self_attn/q_proj/kernel", TORCH + "self_attn.q_proj.weight", SAME)],
            "encoder_hidden_states_1",
            id="a square kernel is not transposed",
        ),
        pytest.param(
            [
                Rule(LAYER + "self_attn/q_proj/kernel", TORCH + "self_attn.k_proj.weight", TRANSPOSE),
                Rule(LAYER + "self_attn/k_proj/kernel", TORCH + "self_attn.q_proj.weight", TRANSPOSE),
            ],
            "encoder_hidden_states_1",
            id="q and k swapped",
        ),
        pytest.param(
            [
                Rule("model/decoder/layers.1/final_layer_norm/gamma", "model.decoder.layers.1.final_layer_norm.bias"),
                Rule("model/decoder/layers.1/final_layer_norm/beta", "model.decoder.layers.1.final_layer_norm.weight"),
            ],
            "decoder_hidden_states_2",
            id="gamma and beta swapped",
        ),
        pytest.param(
            [Rule("model/decoder/embed_positions/embeddings", "model.decoder.embed_positions.weight", SHIFTED)],
            "decoder_hidden_states_0",
            id="positions shifted by two",
        ),
    ],
)
def test_wrong_both_ways(with_rules, tmp_path, capsys, rules, first):
    report = with_rules(*rules)
    assert {row["round_trip"] for row in report.tensors} == {"bit-equal"}  # which is no proof by itself
    assert not report.ok and not (tmp_path / "new").exists()
    difference = first_difference(report.outputs)
    assert difference is not None and difference["output"] == first and difference["max_difference"] > 1e-3
    assert f"the first that differs is {first}" in capsys.readouterr().out


def test_a_bias_that_no_output_shows(with_rules, capsys):
    """The bias of keys changes all scores of a query alike, so softmax hides it: tensors must be compared."""
    name = TORCH + "self_attn.k_proj.bias"
    report = with_rules(Rule(LAYER + "self_attn/k_proj/bias", name, ZEROED))
    assert all(row["equal"] for row in report.outputs)
    assert [row["target"] for row in report.tensors if row["round_trip"] == "not the source"] == [name]
    assert not report.ok and f"  {name}: not the source" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"layer_norm_eps": 1e-5}, "hidden_states_0"),
        ({"hidden_act": "gelu_new"}, "hidden_states_1"),
    ],
)
@pytest.mark.parametrize("to", ["torch", "hftk"])
def test_a_fact_that_no_weight_shows(artifacts, tmp_path, change, first, to):
    config = json.loads((artifacts / "bert/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    report = refused(artifacts / "bert", tmp_path / "new", "--to", to, "--config", str(tmp_path / "config.json"))
    difference = first_difference(report.outputs)
    assert not report.ok and difference is not None and difference["output"] == first
    [(name, value)] = change.items()
    assert report.facts[name] == f"{value} (config.json)"


def test_rows_are_dropped_where_they_are_not_read(artifacts, tmp_path, monkeypatch):
    """hftk has no rows for the offset: dropping the last two instead of the first shifts all positions."""
    bart = FAMILIES["bart"]
    wrong = Transform("", "", lambda x, config: np.concatenate([x, x[:2]]), lambda x, config: x[:-2], drops="two rows")
    rule = Rule("{stack}.embed_positions.weight", "model.{stack}.embed_positions.weight", wrong)
    naming = replace(bart.namings["hftk"], rules=(rule, *bart.namings["hftk"].rules))
    monkeypatch.setitem(FAMILIES, "bart", replace(bart, namings={**bart.namings, "hftk": naming}))
    report = refused(artifacts / "bart", tmp_path / "new", "--to", "hftk")
    difference = first_difference(report.outputs)
    assert not report.ok and difference is not None and difference["output"] == "encoder_hidden_states_0"
