"""
What it costs to begin, in turns: seconds of a Python that imports and ends.

    python benchmarks/start.py
"""

import subprocess
import sys
import time

from turns import in_turns


def seconds(*arguments: str) -> dict[str, float]:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - start
    return {"starts a second": 1 / taken, "seconds": taken}


if __name__ == "__main__":
    in_turns(
        {
            "from transformers import AutoModel": lambda: seconds("-c", "from transformers import AutoModel"),
            "import hftk": lambda: seconds("-c", "import hftk"),
            "hftk --help": lambda: seconds("-m", "hftk", "--help"),
        },
        "starts a second",
        rounds=7,
    )
