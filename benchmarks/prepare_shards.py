"""
Corpora made by recombining real sentences, with copies and near-copies planted: what `hftk prepare` keeps of them, its
memory, and that of a pretraining that reads them.

    python benchmarks/prepare_shards.py FOLDER $DATA/nsmc/raw_train.parquet 500 1000

FOLDER holds the corpora of that many megabytes; what is there is not made again. Of ten documents one is an exact copy
of another one and one a copy with another last word. Memory is the peak of all processes together (proportional set
size, in which a shared page counts once).
"""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
from turns import arguments_of

from hftk.data.sources import read_documents

SENTENCES = 12  # of a document
KINDS = ["new"] * 8 + ["copy", "near"]
RECIPE = """
model: {d_model: 64, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2,
  encoder_ffn_dim: 128, decoder_ffn_dim: 128}
tokenizer: {vocab_size: 8192}
data: {near_duplicates: true, validation_share: 0.005}
training: {max_steps: 50, per_device_train_batch_size: 2, per_device_eval_batch_size: 2, disable_tqdm: true}
"""


def main() -> None:
    folder, texts, _ = arguments_of(3)
    sizes = sys.argv[3:]
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    sentences = [text for text, _, _ in read_documents([texts], "text")]
    print("| MB | documents | distinct | kept | prepare: peak, MiB | pretrain: peak, MiB |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        corpus = root / f"{size}.txt"
        documents, distinct = write(sentences, corpus, float(size) * 1e6)
        recipe = root / f"{size}.yaml"
        recipe.write_text(RECIPE)
        options = [str(recipe), "--output", str(root / f"run-{size}"), "--data.train_files", f"[{corpus}]"]
        prepared = run("prepare", *options, "--tasks", "4", "--workers", "2")
        (manifest,) = (root / f"run-{size}" / "data").glob("*/manifest.json")
        counts = json.loads(manifest.read_text())
        kept = counts["train"]["documents"] + counts["validation"]["documents"]
        assert abs(kept / distinct - 1) < 0.001, (kept, distinct)
        trained = run("pretrain", *options)
        print(
            f"| {size} | {documents:,} | {distinct:,} | {kept:,} | {prepared:,.0f} | {trained:,.0f} |",
            flush=True,
        )


def write(sentences: list[str], file: Path, size: float) -> tuple[int, int]:
    """Returns how many documents there are, and how many are neither copies nor near-copies."""
    order = random.Random(0)
    documents = distinct = 0
    recent: list[str] = []
    with open(file, "w") as lines:
        while lines.tell() < size:
            kind = order.choice(KINDS) if len(recent) == 1000 else "new"
            if kind == "new":
                text = " ".join(" ".join(order.choices(sentences, k=SENTENCES)).split())
                distinct += 1
                recent = [*recent[-999:], text]
            else:
                text = order.choice(recent)
                if kind == "near":
                    text = f"{text.rpartition(' ')[0]} {order.choice(sentences).split()[0]}"
            lines.write(text + "\n")
            documents += 1
    return documents, distinct


def run(*command: str) -> float:
    """The peak in MiB."""
    peak = 0
    process = psutil.Popen([sys.executable, "-m", "hftk", *command], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        memory = 0
        for one in [process, *process.children(recursive=True)]:
            try:
                memory += one.memory_full_info().pss
            except psutil.NoSuchProcess:  # it has just ended
                pass
        peak = max(peak, memory)
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"hftk {command[0]} ended with {process.returncode}")
    return peak / 2**20


if __name__ == "__main__":
    main()
