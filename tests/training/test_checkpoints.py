"""What a kill or a bad disk leaves of a checkpoint is not resumed from, and what is whole is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from hftk.errors import UsageError
from hftk.training.checkpoints import MANIFEST, UNFINISHED, clear, fault, last_checkpoint, publish


def last(run: Path, resume: bool, **training) -> str | None:
    return last_checkpoint(TrainingArguments(output_dir=str(run), use_cpu=True, **training), resume)


def write(aside: Path) -> None:
    """What a Trainer writes, and a folder as those of a sharded model."""
    (aside / "shards").mkdir(parents=True)
    (aside / "shards" / "0.distcp").write_bytes(b"first")
    torch.save({"step": 1}, aside / "optimizer.pt")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run's folder with the checkpoints of steps 3, 6 and 12."""
    for step in (3, 6, 12):
        aside = tmp_path / UNFINISHED / f"checkpoint-{step}"
        write(aside)
        publish(aside, tmp_path / f"checkpoint-{step}", rows_per_step=8, minutes=step / 2)
    return tmp_path


def test_what_is_being_written_is_no_checkpoint(tmp_path):
    write(tmp_path / UNFINISHED / "checkpoint-3")
    assert get_last_checkpoint(str(tmp_path)) is None and last(tmp_path, resume=True) is None
    assert not (tmp_path / UNFINISHED).exists()
    assert last(tmp_path / "missing", resume=True) is None


def spoil_hash(checkpoint: Path) -> None:
    data = (checkpoint / "optimizer.pt").read_bytes()
    (checkpoint / "optimizer.pt").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def cut_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_bytes((checkpoint / MANIFEST).read_bytes()[:-9])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_hash, "optimizer.pt is not what was saved"),
        (lambda checkpoint: (checkpoint / "shards" / "0.distcp").unlink(), "shards/0.distcp is missing"),
        (lambda checkpoint: (checkpoint / MANIFEST).unlink(), "manifest.json is missing"),
        (cut_manifest, "manifest.json is no JSON"),
    ],
)
def test_a_broken_checkpoint_is_told_in_one_line_and_the_one_before_it_taken(run, capsys, spoil, words):
    assert last(run, resume=True) == str(run / "checkpoint-12")
    assert capsys.readouterr().out == ""
    spoil(run / "checkpoint-12")
    assert last(run, resume=True) == str(run / "checkpoint-6")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{run}/checkpoint-12: {words}") and "broken-checkpoint-12" in line
    assert sorted(path.name for path in run.iterdir()) == ["broken-checkpoint-12", "checkpoint-3", "checkpoint-6"]
    spoil(run / "checkpoint-6")
    spoil(run / "checkpoint-3")
    assert last(run, resume=True) is None


def test_a_new_run_over_an_unfinished_one_is_refused_and_over_a_finished_one_starts_afresh(run):
    write(run / UNFINISHED / "checkpoint-15")
    for name in ("metrics.json", "run.json"):  # written before the card
        (run / name).write_text("{}")
    with pytest.raises(UsageError, match=r"unfinished run \(checkpoint-12\); add --resume"):
        last(run, resume=False)
    (run / "README.md").write_text("")
    (run / "recipe.yaml").write_text("")
    assert last(run, resume=False) is None
    clear(run)
    assert [path.name for path in run.iterdir()] == ["recipe.yaml"]


def test_a_readme_that_no_run_has_written_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert last(tmp_path, resume=False) is None
    clear(tmp_path)
    assert (tmp_path / "README.md").exists()


def test_on_other_processes_a_step_has_the_rows_that_it_had(run):
    for size, accumulated in ((8, 1), (2, 4)):
        training = TrainingArguments(output_dir=str(run), per_device_train_batch_size=size, use_cpu=True)
        last_checkpoint(training, resume=True)
        assert training.gradient_accumulation_steps == accumulated
    with pytest.raises(UsageError, match="checkpoint-12 has steps of 8 rows, which cannot be read 1 × 3 at once"):
        last(run, resume=True, per_device_train_batch_size=3)
    with pytest.raises(UsageError, match="leave it out and give --resume"):
        last(run, resume=True, resume_from_checkpoint=str(run / "checkpoint-3"))


def test_a_copy_of_a_checkpoint_is_whole_elsewhere(run, tmp_path_factory):
    copy = tmp_path_factory.mktemp("elsewhere") / "checkpoint-3"
    shutil.copytree(run / "checkpoint-3", copy)
    assert fault(copy) is None
    assert set(json.loads((copy / MANIFEST).read_text())) == {"steps.json", "optimizer.pt", "shards/0.distcp"}
