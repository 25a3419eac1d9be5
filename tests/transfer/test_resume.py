"""A fine-tuning that is resumed ends as one that was never cut off, to the bit, wherever the cut was."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hftk.errors import UsageError
from hftk.training.finetuning import TaskTrainer
from hftk.training.trainer import read_log

# 64 rows: epochs of 8 steps, of which the cut after step 12 is within the second
DROPOUT = "config_overrides: {dropout: 0.3}"
STEPS = {"max_steps": 20, "save_strategy": "steps", "save_steps": 4, "logging_steps": 1}


def cut_off(whole: Path, cut: Path, step: int) -> None:
    """A copy of a run as a kill behind a step would have left it."""
    shutil.copytree(whole, cut)
    for checkpoint in cut.glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    for name in ("README.md", "metrics.json", "model.safetensors", "adapter_model.safetensors"):
        (cut / name).unlink(missing_ok=True)
    with (cut / "log.jsonl").open("a") as log:
        log.write('{"step": 21, "lo')


def weights(run: Path) -> dict[str, torch.Tensor]:
    [file] = [*run.glob("model.safetensors"), *run.glob("adapter_model.safetensors")]
    return load_file(file)


def assert_same(whole: Path, cut: Path) -> None:
    assert read_log(whole) == read_log(cut)
    expected, found = weights(whole), weights(cut)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert sorted(path.name for path in whole.iterdir()) == sorted(path.name for path in cut.iterdir())


@pytest.mark.parametrize(
    ("transfer", "training", "cuts"),
    [
        ("method: slow_start, thaw_every: 3", {}, [8, 12, 20]),
        ("method: slow_start, thaw_patience: 1", {"eval_strategy": "epoch", "learning_rate": 0.3}, [8, 12, 20]),
        (
            "method: slow_start, thaw_patience: 1",
            {"eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.3},
            [12],
        ),
        ("method: lora", {}, [12]),
        ("replay: 0.3, l2: 0.01, wise: 0.5", {"gradient_accumulation_steps": 3}, [8]),
        ("", {"train_sampling_strategy": "random", "save_total_limit": 1}, [20]),
    ],
    ids=["thaw_every", "thaw_patience_epochs", "thaw_patience_steps", "lora", "replay", "random"],
)
def test_a_resumed_fine_tuning_ends_as_one_that_was_never_cut_off(transfer, training, cuts, run, tmp_path):
    training = STEPS | training
    run(transfer, output="whole", top=DROPOUT, **training)
    for step in cuts:
        cut = f"cut-{step}"
        cut_off(tmp_path / "whole", tmp_path / cut, step)
        with pytest.raises(UsageError, match=f"unfinished run .checkpoint-{step}.; add --resume"):
            run(transfer, output=cut, top=DROPOUT, **training)
        run(transfer, output=cut, top=DROPOUT, resume=True, **training)
        assert_same(tmp_path / "whole", tmp_path / cut)


def test_the_step_that_ends_an_epoch_is_saved_behind_the_evaluation_of_the_epoch(run, tmp_path):
    run("method: slow_start, thaw_patience: 1", **STEPS | {"max_steps": 8, "eval_strategy": "epoch"})
    state = json.loads((tmp_path / "run" / "checkpoint-8" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["SlowStart"]["attributes"]["best"] == state["log_history"][-1]["eval_loss"]


@pytest.mark.parametrize("last", [12, 16])  # within an epoch, and the last step of one
def test_sigterm_saves_the_step_and_leaves_and_a_resume_ends_as_if_it_had_not_come(
    last, run, tmp_path, monkeypatch, capsys
):
    class Terminate(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == last - 1:
                os.kill(os.getpid(), signal.SIGTERM)

    training = STEPS | {"save_strategy": "epoch", "eval_strategy": "epoch"}
    run(output="whole", top=DROPOUT, **training)
    handler, original = signal.getsignal(signal.SIGTERM), TaskTrainer.__init__
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as left:
        patched.setattr(
            TaskTrainer,
            "__init__",
            lambda self, *args, callbacks, **kwargs: original(
                self, *args, callbacks=[*callbacks, Terminate()], **kwargs
            ),
        )
        run(output="cut", top=DROPOUT, **training)
    assert left.value.code == 143 and signal.getsignal(signal.SIGTERM) == handler
    assert capsys.readouterr().err.endswith(
        f"hftk: SIGTERM: step {last} is saved in {tmp_path}/cut; add --resume to go on from it\n"
    )
    run(output="cut", top=DROPOUT, resume=True, **training)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-12", ignore_errors=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_early_stopping_counts_on_and_stops_where_it_had_stopped(run, tmp_path):
    training = {"max_steps": 20, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    training |= {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}
    # after two steps the rate is 0: on any processor the first evaluation stays the best, the third after it the last
    training |= {"lr_scheduler_type": "warmup_stable_decay"}
    training |= {"lr_scheduler_kwargs": {"num_stable_steps": 0, "num_decay_steps": 2}}
    top = f"{DROPOUT}\nearly_stopping_patience: 3"
    run(output="whole", top=top, **training)
    assert read_log(tmp_path / "whole")[-1]["step"] == 8
    for step in (6, 8):
        cut_off(tmp_path / "whole", tmp_path / f"cut-{step}", step)
        run(output=f"cut-{step}", top=top, resume=True, **training)
        assert_same(tmp_path / "whole", tmp_path / f"cut-{step}")


def test_a_resume_takes_the_dtype_that_the_run_had(run, tmp_path):
    run(output="whole", dtype="bfloat16", **STEPS)
    cut_off(tmp_path / "whole", tmp_path / "cut", 8)
    run(output="cut", dtype="float32", resume=True, **STEPS)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_several_seeds_go_on_with_the_one_that_was_cut_off(run, tmp_path):
    top = f"{DROPOUT}\nseeds: 2"
    metrics = run(output="run", top=top, **STEPS)
    whole = tmp_path / "run"
    run(output="run", top=top, **STEPS)  # over what is finished
    shutil.copytree(whole, tmp_path / "copy")
    (whole / "metrics.json").unlink()
    shutil.rmtree(whole / "seed-43")
    with pytest.raises(UsageError, match="unfinished seeds .seed-42.; add --resume"):
        run(output="run", top=top, **STEPS)
    cut_off(tmp_path / "copy" / "seed-43", whole / "seed-43", 8)
    first = (whole / "seed-42" / "model.safetensors").stat()
    resumed = run(output="run", top=top, resume=True, **STEPS)
    assert (whole / "seed-42" / "model.safetensors").stat() == first
    assert_same(tmp_path / "copy" / "seed-43", whole / "seed-43")
    assert resumed["eval_loss"] == metrics["eval_loss"] and resumed["eval_loss_std"] == metrics["eval_loss_std"]
    assert resumed == json.loads((whole / "metrics.json").read_text())
