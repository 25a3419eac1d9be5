"""Small runs of every kind, made by the commands as a user makes them, and processes that have no hftk."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hftk.cli import main
from hftk.tasks.rows import write_rows
from tests.hub.loopback import Hub

KOREAN = Path(__file__).parents[1] / "korean.txt"
ANIMALS, VERBS = ["고양이가", "개가", "새가"], ["잔다", "먹는다", "운다"]
PAIRS = [(animal, verb) for animal in ANIMALS for verb in VERBS] * 2
ROWS: dict[str, list[dict[str, Any]]] = {
    "n21": [{"text": f"{animal} {verb}", "label": verb} for animal, verb in PAIRS],
    "n2n": [{"tokens": [animal, verb], "labels": ["N", "V"]} for animal, verb in PAIRS],
    "n2m": [{"source": animal, "target": verb} for animal, verb in PAIRS],
}
CONLLU = "".join(
    f"1\t{animal}\t_\tNOUN\t_\t_\t2\tnsubj\t_\t_\n2\t{verb}\t_\tVERB\t_\t_\t0\troot\t_\t_\n\n" for animal, verb in PAIRS
)
PRETRAIN = """
output: {folder}/pretrained
model: {{d_model: 32, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2,
  encoder_ffn_dim: 64, decoder_ffn_dim: 64}}
tokenizer: {{vocab_size: 500}}
data: {{train_files: [{text}], validation_share: 0.2, max_source_length: 64, max_target_length: 64}}
runtime: {{dtype: float32, attn_implementation: sdpa, seconds_per_step: 1.0}}
training: {{max_steps: 3, per_device_train_batch_size: 2, learning_rate: 0.01, logging_steps: 1, save_strategy: steps,
  save_steps: 2}}
"""
FINETUNE = """
output: {folder}/{name}
model: {folder}/pretrained
task: {{name: {shape}}}
data: {{train_files: [{rows}], validation_files: [{rows}], test_files: [{rows}]}}
transfer: {transfer}
runtime: {{dtype: float32, attn_implementation: sdpa}}
training: {{max_steps: 3, learning_rate: 0.01, per_device_train_batch_size: 4, logging_steps: 1, save_strategy: "no",
  use_cpu: true, disable_tqdm: true}}
"""
TASKS = {
    "n21": ("n21", {}),
    "n2n": ("n2n", {}),
    "n2path": ("n2path", {}),
    "n2m": ("n2m", {}),
    "adapters": ("n21", {"method": "lora"}),
    "last_layer": ("n2n", {"method": "last_layer", "save_alone": True}),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """The folder of these runs: `pretrained`, and over it all of `TASKS`. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "pretrain.yaml").write_text(PRETRAIN.format(folder=folder, text=KOREAN))
    assert main(["pretrain", str(folder / "pretrain.yaml")]) == 0
    for shape, rows in ROWS.items():
        write_rows(rows, folder / f"{shape}.jsonl")
    (folder / "n2path.conllu").write_text(CONLLU, encoding="utf-8")
    for name, (shape, transfer) in TASKS.items():
        rows = folder / f"{shape}.{'conllu' if shape == 'n2path' else 'jsonl'}"
        recipe = FINETUNE.format(folder=folder, name=name, shape=shape, rows=rows, transfer=json.dumps(transfer))
        (folder / f"{name}.yaml").write_text(recipe)
        assert main(["finetune", str(folder / f"{name}.yaml")]) == 0
    return folder


COMMANDS = """
import json, os, sys
from hftk.cli import main
for line in json.loads(sys.argv[1]):
    os.environ.update(line["environment"])
    print(json.dumps(main(line["command"])))
"""


def start(commands: list[list[str]], *environments: dict[str, str], **more: Any) -> subprocess.Popen:
    """A fresh process that runs commands of hftk one after another, with an environment each or one for all."""
    lines = [
        {"command": command, "environment": environments[min(place, len(environments) - 1)]}
        for place, command in enumerate(commands)
    ]
    started = [sys.executable, "-c", COMMANDS, json.dumps(lines)]
    environment = {**os.environ, **environments[0], **more}
    return subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.Popen]:
    return start


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.server.shutdown()


@pytest.fixture(scope="module")
def pushed(runs, hub) -> Hub:
    """A Hub to which all runs were pushed by one process, `n21` also to the branch `second`."""
    names = ["pretrained", *TASKS]
    commands = [["push", f"{runs}/{name}", f"me/{name}", "--base", "me/pretrained"] for name in names]
    commands.append(["push", f"{runs}/n21", "me/n21", "--revision", "second", "--base", "me/pretrained"])
    process = start(commands, hub.environment())
    said, errors = process.communicate(timeout=600)
    assert [line for line in said.splitlines() if line.isdigit()] == ["0"] * len(commands), errors
    return hub


WITHOUT_HFTK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hftk":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def elsewhere(tmp_path) -> Callable[..., str]:
    """Runs Python code in a fresh process that has no hftk and caches of its own; gives back what it prints."""

    def run(code: str, *arguments: object, **environment: str) -> str:
        command = [sys.executable, "-c", WITHOUT_HFTK + code, *map(str, arguments)]
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hf_home"), **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
