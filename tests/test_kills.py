"""Trainings that die: a few of the kills of `make soak`, and what two processes do when one is told to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hftk.training.trainer import read_log
from tests.soak.kills import begins, children, end, finish, make_recipes, newest, start


@pytest.mark.slow
def test_a_training_that_is_killed_and_resumed_ends_as_one_that_nobody_killed(tmp_path):
    arguments = [sys.executable, "-m", "tests.soak.kills", "4", str(tmp_path), "--seed", "3"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 found\n")


def losses(run: Path) -> dict[float, float]:
    return {line["step"]: line["loss"] for line in read_log(run) if "loss" in line}


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_saves_and_one_process_goes_on_with_the_same_rows(tmp_path):
    make_recipes(tmp_path)
    more = (
        "--muon false --model.dropout 0.0 --training.save_steps 1000 --training.per_device_train_batch_size 1".split()
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish(start("pretrain", 2, tmp_path, whole, *more), whole)
    since = time.time_ns()
    process = start("pretrain", 2, tmp_path, run, *more)
    assert begins(process, run, since)
    time.sleep(0.5)
    os.kill(children(process)[1], signal.SIGTERM)
    assert end(process, run) != 0
    step = newest(run)
    assert 0 < step < 60
    printed = Path(f"{run}.txt").read_text()
    assert f"hftk: SIGTERM: step {step} is saved in {run}; add --resume to go on from it\n" in printed
    assert "exitcode  : 143" in printed
    finish(start("pretrain", 1, tmp_path, run, "--resume", *more), run)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-3)
