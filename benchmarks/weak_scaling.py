"""
Tokens per second of a pretraining on one process and on several, each with the same rows (weak scaling).

    python benchmarks/weak_scaling.py --data.train_files 'texts/*.txt'      # two processes, on a core each
    python benchmarks/weak_scaling.py --processes 8 --launch accelerate/ddp --recipe pretrain/korean \
      --data.train_files $DATA/korean.txt --training.per_device_train_batch_size 64

The runs take turns, so that what else the machine does falls on both; medians are printed, and the efficiency, which is
the tokens per second of a process among several over those of one alone. Keys of the recipe follow the options.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from hftk.recipe_files import find_recipe

# of the recipe, which is to measure steps alone, and to take no choice of its own
FIXED = {
    "budget.steps": "100",
    "runtime.dtype": "float32",
    "runtime.attn_implementation": "sdpa",
    "runtime.seconds_per_step": "1",
    "training.save_strategy": "no",
    "training.eval_strategy": "no",
    "training.disable_tqdm": "true",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--launch", default="accelerate/cpu", help="file for accelerate launch")
    parser.add_argument("--recipe", default="pretrain/debug")
    parser.add_argument("--turns", type=int, default=5)
    arguments, keys = parser.parse_known_args()

    speeds: dict[int, list[float]] = {1: [], arguments.processes: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.turns):
            for processes, measured in speeds.items():
                measured.append(tokens_per_second(arguments, keys, processes, f"{folder}/{turn}-{processes}"))
                print(f"turn {turn + 1}, processes {processes}: {measured[-1]:,.0f} tokens a second", flush=True)
    medians = {processes: statistics.median(measured) for processes, measured in speeds.items()}
    for processes, median in medians.items():
        low, high = min(speeds[processes]), max(speeds[processes])
        efficiency = median / processes / medians[1]
        print(f"processes {processes}: {median:,.0f} tokens a second ({low:,.0f} to {high:,.0f}), {efficiency:.3f}")


def tokens_per_second(arguments: argparse.Namespace, keys: list[str], processes: int, output: str) -> float:
    """Of one run; all of its processes together."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(find_recipe(arguments.launch))]
    launch += ["--num_processes", str(processes), "--main_process_port", "0"]
    fixed = [word for key, value in FIXED.items() for word in (f"--{key}", value)]
    command = ["-m", "hftk", "pretrain", arguments.recipe, "--output", output, *fixed, *keys]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    launched = [*(launch if processes > 1 else [sys.executable]), *command]
    subprocess.run(launched, env=environment, check=True, stdout=subprocess.DEVNULL)
    with open(f"{output}/metrics.json") as metrics:
        return json.load(metrics)["tokens_per_second"]


if __name__ == "__main__":
    main()
