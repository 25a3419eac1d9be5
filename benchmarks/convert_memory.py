"""
Peak memory and CPU time of `hftk convert` on a checkpoint of 1 GB, each way in a process of its own.

    python benchmarks/convert_memory.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

SIZES = {"vocab_size": 60_000, "hidden_size": 1024, "num_hidden_layers": 15, "num_attention_heads": 16}
WAYS = [("torch", "tf"), ("torch", "hftk"), ("tf", "torch"), ("tf", "hftk")]
CONVERT = [sys.executable, "-m", "hftk", "convert"]
# A process takes over the peak of the one that started it, if it is not started through another.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


def measure(command: list[str]) -> tuple[float, float]:
    """Megabytes at the most, and seconds of a core."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True)
    kibibytes, seconds = done.stdout.split()
    return int(kibibytes) * 1024 / 1e6, float(seconds)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        config = transformers.BertConfig(**SIZES, intermediate_size=4096)
        transformers.BertForMaskedLM(config).save_pretrained(folder / "torch", max_shard_size="4GB")
        size = (folder / "torch/model.safetensors").stat().st_size / 1e6
        alone, seconds = measure([*CONVERT, str(folder / "torch"), str(folder / "none"), "--to", "tf", "--dry-run"])
        print(f"{size:.0f} MB; no tensor read: {alone:.0f} MB, {seconds:.0f} s")
        for source, to in WAYS:
            target = folder / (to if to == "tf" else f"{to} from {source}")
            peak, seconds = measure([*CONVERT, str(folder / source), str(target), "--to", to])
            print(f"{source} -> {to}: {peak:.0f} MB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
