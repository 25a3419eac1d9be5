"""Several heads over one frozen backbone."""

import json

import pytest

from hftk.errors import UsageError
from hftk.model.modeling_hftk import HftkEncoder
from hftk.predict import predict
from hftk.tasks.rows import write_rows

from .conftest import ROWS, SHARED


def test_heads_over_one_backbone_read_it_once_and_predict_what_each_predicts_alone(run, tmp_path, monkeypatch):
    rows = [{**one, **two, **three} for one, two, three in zip(*(ROWS[shape] for shape in SHARED), strict=True)]
    data, alone = tmp_path / "all.jsonl", []
    write_rows(rows, data)
    for shape in SHARED:
        run("method: last_layer, save_alone: true", shape, output=shape)
        assert not (tmp_path / shape / "model.safetensors").exists()
        predict(str(tmp_path / shape), str(data), str(tmp_path / "alone.jsonl"))
        alone.append([json.loads(line) for line in (tmp_path / "alone.jsonl").read_text().splitlines()])
    batches: list[object] = []
    monkeypatch.setattr(HftkEncoder, "enter", count_calls(HftkEncoder.enter, batches))
    predict([str(tmp_path / shape) for shape in SHARED], str(data), str(tmp_path / "together.jsonl"))
    assert len(batches) == len(rows) / 32
    together = [json.loads(line) for line in (tmp_path / "together.jsonl").read_text().splitlines()]
    for shape, predicted in zip(SHARED, alone, strict=True):
        for column in set(predicted[0]) & {"label", "labels", "head", "deprel"} & set(ROWS[shape][0]):
            assert [row[column] for row in together] == [row[column] for row in predicted]


def count_calls(function, calls):
    def counted(*args, **kwargs):
        calls.append(function)
        return function(*args, **kwargs)

    return counted


def test_heads_over_another_backbone_are_refused(run, tmp_path):
    run("method: last_layer", output="one")
    run(output="other")
    with pytest.raises(UsageError, match="other: its backbone is not that of"):
        predict([str(tmp_path / "one"), str(tmp_path / "other")], str(tmp_path / "n21.jsonl"), str(tmp_path / "out"))
