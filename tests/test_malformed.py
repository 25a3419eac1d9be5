"""Files that went bad: a few of the inputs of `make soak`."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_files_that_went_bad_are_refused_in_one_line_or_read_rightly(tmp_path):
    arguments = [sys.executable, "-m", "tests.soak.malformed", str(tmp_path / "soak"), "25"]
    done = subprocess.run(arguments, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("25 inputs, 0 found\n")
