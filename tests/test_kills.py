"""Trainings that die: a few of the kills of `make soak`."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_training_that_is_killed_and_resumed_ends_as_one_that_nobody_killed(tmp_path):
    arguments = [sys.executable, "-m", "tests.soak.kills", "4", str(tmp_path), "--seed", "3"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 found\n")
