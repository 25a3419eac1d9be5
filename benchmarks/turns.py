"""
Contenders in turns: each in a process of its own, one after the other, and that several times, so that all of them get
the same share of what else the machine does.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from statistics import median

Contender = Callable[[], dict[str, float]]


def in_turns(contenders: dict[str, Contender], figure: str, rounds: int = 3) -> None:
    """
    Prints each contender's medians, and the ratio of the first one's `figure` to its own: the median over the rounds
    and, in brackets, the lowest and the highest of them.

    Args:
        contenders (`dict[str, Callable]`): by name; each returns its figures, of which more is better in `figure`.
        figure (`str`): what the ratios compare.
        rounds (`int`, defaults to 3): turns of each; `--rounds N` on the command line goes before.
    """
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        print(json.dumps(contenders[arguments[1]]()))
        return
    if arguments[:1] == ["--rounds"]:
        rounds = int(arguments[1])
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            command = [sys.executable, sys.argv[0], "--one", name]
            ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if ran.returncode:
                sys.exit(f"{name}: {ran.stderr}")
            runs[name].append(json.loads(ran.stdout.splitlines()[-1]))
    first, *_ = runs.values()
    names = list(first[0])
    print("|", " | ".join(["", *names, f"ours / its {figure}"]), "|")
    print("|---" * (len(names) + 2) + "|")
    for name, figures in runs.items():
        ratios = sorted(ours[figure] / its[figure] for ours, its in zip(first, figures, strict=True))
        cells = [f"{median(run[column] for run in figures):,.4g}" for column in names]
        print(f"| {name} | {' | '.join(cells)} | {median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |", flush=True)
