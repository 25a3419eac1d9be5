"""
Contenders in turns: each in a process of its own, one after the other, and that several times, so that all of them get
the same share of what else the machine does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from statistics import median

Contender = Callable[[], dict[str, float]]


def arguments_of(count: int) -> list[str]:
    """The benchmark's own arguments; without them it says how it is called, and ends."""
    if len(sys.argv) <= count:
        sys.exit(sys.modules["__main__"].__doc__)
    return sys.argv[1 : count + 1]


def in_turns(contenders: dict[str, Contender], *compared: str, rounds: int = 3) -> None:
    """
    Prints each contender's medians, and the ratios of the first one's figures to its own: the median over the rounds
    and, in brackets, the lowest and the highest of them. `TURN` in the environment tells a contender which round it is.

    Args:
        contenders (`dict[str, Callable]`): by name; each returns its figures.
        compared (`str`): the figures whose ratios are told.
        rounds (`int`, defaults to 3): turns of each.
    """
    if sys.argv[-2:-1] == ["--one"]:
        print(json.dumps(contenders[sys.argv[-1]]()))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in contenders:
            command, environment = [sys.executable, *sys.argv, "--one", name], os.environ | {"TURN": str(turn)}
            ran = subprocess.run(command, capture_output=True, text=True, env=environment)
            if ran.returncode:
                sys.exit(f"{name}: {ran.stderr}")
            runs[name].append(json.loads(ran.stdout.splitlines()[-1]))
    first, *_ = runs.values()
    columns = list(first[0])
    print("|", " | ".join(["", *columns, *(f"ratio of {figure}" for figure in compared)]), "|")
    print("|---" * (1 + len(columns) + len(compared)) + "|")
    for name, figures in runs.items():
        cells = [f"{median(run[column] for run in figures):,.4g}" for column in columns]
        for figure in compared:
            ratios = sorted(one[figure] / other[figure] for one, other in zip(first, figures, strict=True))
            cells.append(f"{median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
