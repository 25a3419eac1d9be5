"""A step that is no number changes nothing, and what a machine lacks is told in one line."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, TrainingArguments

from hftk.cli import main
from hftk.errors import UsageError
from hftk.finetune import finetune
from hftk.finetune_recipe import load_finetune_recipe
from hftk.tasks.rows import write_rows
from hftk.training.guards import FEWEST, Guard, GuardArguments, in_one_line
from hftk.training.trainer import read_log

ANIMALS, VERBS = ["고양이가", "개가", "새가"], ["잔다", "먹는다", "운다"]
ROWS = [{"text": f"{animal} {verb}", "label": verb} for animal in ANIMALS for verb in VERBS]
PRETRAIN = """
output: {folder}/run
model: {{d_model: 32, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2,
  encoder_ffn_dim: 48, decoder_ffn_dim: 48}}
tokenizer: {{vocab_size: 500}}
data: {{train_files: [{text}], validation_share: 0.2, max_source_length: 64, max_target_length: 64}}
runtime: {{dtype: float32, attn_implementation: sdpa, seconds_per_step: 1.0}}
training: {{max_steps: 500, per_device_train_batch_size: 4, learning_rate: 1.0e-3, logging_steps: 1, use_cpu: true,
  save_strategy: "no", disable_tqdm: true}}
"""
LIMITED = """
import resource, sys
import hftk.pretrain
from hftk.cli import main
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
sys.exit(main(sys.argv[1:]))
"""


@given(losses=st.lists(st.floats(0.5, 1.4), min_size=FEWEST, max_size=200), odd=st.floats(4.3, 1e6))
def test_a_loss_far_off_is_told_and_forgotten(losses, odd):
    guard = Guard(GuardArguments(spike=3.0))
    assert not any(guard.fault(loss, 1.0) for loss in losses)
    assert guard.fault(odd, 1.0) and guard.fault(odd, 1.0), "it must not become what is usual"
    assert guard.fault(losses[0], math.nan) and guard.in_a_row == 3
    assert guard.fault(losses[0], 1.0) is None and guard.in_a_row == 0
    assert Guard(GuardArguments()).fault(odd, 1.0) is None


DYING = 0.5  # seconds


class Dying(Dataset):
    """Does what the system does to a process that is killed, slowly, once its first row is out."""

    def __init__(self, folder: Path):
        self.sent, self.gone = folder / "sent", folder / "gone"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> torch.Tensor:
        if row == 1:
            wait_until(self.sent.exists)
            os.closerange(0, 1024)
            self.gone.touch()
            time.sleep(DYING)
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(1)


def wait_until(so: Callable[[], bool]) -> None:
    while not so():
        time.sleep(0.01)


def test_a_worker_that_dies_while_its_batch_is_fetched_is_told(tmp_path):
    """Once: its end is signalled after its files are closed, and must not be raised where nobody expects it."""
    training = TrainingArguments(output_dir=str(tmp_path), dataloader_num_workers=1, use_cpu=True)
    rows = Dying(tmp_path)
    batches: Any = iter(DataLoader(rows, num_workers=1))
    wait_until(lambda: not batches._data_queue.empty())
    rows.sent.touch()
    wait_until(rows.gone.exists)
    with pytest.raises(UsageError, match="training.dataloader_num_workers: a worker died"), in_one_line(training):
        next(batches)
    time.sleep(2 * DYING)


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A pretraining, not yet begun."""
    text = Path(__file__).parents[1] / "korean.txt"
    (tmp_path / "pretrain.yaml").write_text(PRETRAIN.format(folder=tmp_path, text=text))
    return tmp_path / "pretrain.yaml"


def hftk(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hftk", *map(str, arguments)]


def test_a_row_that_gives_no_number_is_left_out_and_told(recipe, tmp_path):
    """Of the embeddings one is NaN, and one row has its token."""
    assert main(["pretrain", str(recipe), "--training.max_steps", "2"]) == 0
    model = tmp_path / "run"
    rows = [*ROWS * 4, {"text": "zzz", "label": VERBS[0]}]
    *usual, odd = AutoTokenizer.from_pretrained(model)([row["text"] for row in rows])["input_ids"]
    [token] = set(odd).difference(*usual)
    weights = load_file(model / "model.safetensors")
    weights["shared.weight"][token] = math.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    write_rows(rows, tmp_path / "rows.jsonl")
    (tmp_path / "recipe.yaml").write_text(
        f"""
output: {tmp_path}/task
model: {model}
task: {{name: n21}}
data: {{train_files: [{tmp_path}/rows.jsonl], validation_files: [{tmp_path}/rows.jsonl]}}
training: {{num_train_epochs: 3, per_device_train_batch_size: 4, logging_steps: 1, save_strategy: "no", use_cpu: true,
  learning_rate: 1.0e-2, disable_tqdm: true}}
"""
    )
    finetune(load_finetune_recipe(tmp_path / "recipe.yaml", []))
    skipped = [line for line in read_log(tmp_path / "task") if "skipped" in line]
    assert len(skipped) == 3 and all(line["skipped"] == "the loss is nan" for line in skipped)
    assert len(set.intersection(*(set(line["rows"]) for line in skipped))) == 1
    weights = load_file(tmp_path / "task" / "model.safetensors")
    assert all(tensor.isfinite().all() for name, tensor in weights.items() if name != "shared.weight")


@pytest.mark.slow
def test_a_training_that_gives_no_number_any_more_ends(recipe):
    command = hftk("pretrain", recipe, "--training.learning_rate", "1e30", "--guard.patience", "3")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "3 steps one after another had to be left out (guard.patience); lower training.learn" in done.stderr
    [*_, last] = read_log(recipe.parent / "run")
    assert last["skipped"].endswith("nan") and last["rows"] == list(range(last["step"] * 4, last["step"] * 4 + 4))


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_told_with_one_that_does(recipe):
    command = [sys.executable, "-c", LIMITED, "pretrain", str(recipe), "--training.per_device_train_batch_size", "6000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "6000 rows do not fit into memory; the same steps in parts: --training.per_device_train_batch_size 3000 "
        "--training.gradient_accumulation_steps 2"
    )


@pytest.mark.slow
def test_a_worker_that_died_is_told_and_nothing_waits_for_it(recipe):
    command = hftk("pretrain", recipe, "--training.dataloader_num_workers", "1")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = recipe.parent / "run" / "log.jsonl"
    while not (log.exists() and log.read_text()):
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "training.dataloader_num_workers: a worker died" in said.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk that is small")
@pytest.mark.parametrize("size", ["300k", "600k"], ids=["weights", "optimizer"])
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(recipe, size):
    disk = recipe.parent / "run"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        command = hftk("pretrain", recipe, "--training.max_steps", "4", "--training.save_strategy", "steps")
        command += ["--training.save_steps", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2, done.stderr
        assert "full" in done.stderr.splitlines()[-1] or "No space" in done.stderr.splitlines()[-1], done.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["umount", disk], check=True)
