"""
Files that went bad: recipes, corpora, labelled rows, CoNLL-U, tokenizers and checkpoints, each changed at random, given
to the command that reads it. It does its work, or says in one line what is wrong; never a traceback, never a hang. And
never a wrong success: every row that a reader of its own finds is answered, every tree is one, and no change of a
checkpoint goes unnoticed by `hftk verify`.

    make soak
    python -m tests.soak.malformed runs/soak/malformed 500              # so many inputs, from seed 0
    python -m tests.soak.malformed runs/soak/malformed 1 --seed 217     # one of them again, with its traceback
"""

import argparse
import contextlib
import csv
import io
import json
import random
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import conllu
import yaml
from datasets import Dataset

from hftk.cli import main
from hftk.tasks.rows import write_rows

SECONDS = 120  # for one input: many times what the slowest takes
CONTEXT = 400  # characters of an error line that are shown
STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    10**30,
    "",
    " ",
    "x" * 5000,
    "\x00",
    "../..",
    [],
    {},
    [[1]],
]
CPU = ["--training.use_cpu", "true", "--training.disable_tqdm", "true"]
SENTENCES = Path(__file__).parents[1] / "korean.txt"


def make_seeds(folder: Path) -> None:
    """Good files of each kind, and two task models over one backbone, all of them tiny."""
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()[:60]
    rows: list[dict[str, Any]] = [{"text": text, "label": str(len(text) % 2)} for text in texts]
    write_rows(rows, folder / "rows.jsonl")
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    for name, delimiter in (("rows.csv", ","), ("rows.tsv", "\t")):
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    (folder / "text.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    trees = ""
    for text in texts:
        words = text.split()
        trees += f"# text = {text}\n"
        for place, word in enumerate(words):
            head, relation = (place, "dep") if place else (0, "root")
            trees += f"{place + 1}\t{word}\t_\tX\t_\t_\t{head}\t{relation}\t_\t_\n"
        trees += "\n"
    (folder / "trees.conllu").write_text(trees, encoding="utf-8")

    run(["recipes", "cp", "pretrain/debug", f"{folder}/pretrain.yaml"])
    backbone = str(folder / "backbone")
    steps = ["--budget.steps", "2", "--tokenizer.vocab_size", "400"]
    run(
        [
            "pretrain",
            f"{folder}/pretrain.yaml",
            "--data.train_files",
            f"{folder}/text.txt",
            "--output",
            backbone,
            *steps,
            *CPU,
        ]
    )
    for task, data in (("n21", "rows.jsonl"), ("n2path", "trees.conllu")):
        run(["recipes", "cp", f"{task}/debug", f"{folder}/{task}.yaml"])
        columns = ["--task.text_column", "text", "--task.label_column", "label"] if task == "n21" else []
        files = ["--data.train_files", f"{folder}/{data}", "--data.test_files", "[]"]
        output = ["--output", f"{folder}/{task}", "--model", backbone, "--training.max_steps", "1"]
        run(["finetune", f"{folder}/{task}.yaml", *output, *files, *columns, *CPU])


def run(arguments: list[str]) -> tuple[int, str]:
    """The exit status of a command, and what it said on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = main(arguments)
    return status, said.getvalue()


def change_bytes(data: bytes, order: random.Random) -> bytes:
    """Cut off, or a piece of it lost, doubled, moved, or replaced."""
    first, last = sorted(order.randrange(len(data) + 1) for _ in range(2))
    last = min(last, first + order.choice([1, 3, 40, 4000]))
    piece = data[first:last]
    stray = order.choice([b"\x00", b"\xff", b"\xed\xa0\x80", b"\r", b"\t", b'"', b"\n\n", b"{"])
    noise = bytes(order.randrange(256) for _ in piece)
    middle = order.choice([b"", piece + piece, noise, stray])
    return order.choice([data[:first] + middle + data[last:], data[:first], data[last:] + piece])


def change_lines(data: bytes, order: random.Random) -> bytes:
    """One field of one line is another."""
    lines = data.split(b"\n")
    place = order.randrange(len(lines))
    fields = lines[place].split(b"\t")
    fields[order.randrange(len(fields))] = order.choice(
        [b"", b"_", b"0", b"-1", b"99999999999999999999", b"1-2", b"3.1", b"x y"]
    )
    lines[place] = b"\t".join(fields)
    return b"\n".join(lines)


def change_value(data: bytes, order: random.Random, yamlish: bool) -> bytes:
    """One value of a JSON or YAML document is of another kind, or its key is gone, or another."""
    document = yaml.safe_load(data) if yamlish else json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        keys = inner.keys() if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        for key in keys:
            places.append((inner, key))
            walk(inner[key])

    walk(document)
    inner, key = order.choice(places[: order.choice([30, len(places)])])  # those at the top matter more
    kind = order.randrange(4)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, dict):
        inner[f"{key}x"] = inner.pop(key)
    else:
        inner[key] = order.choice([strange for strange in STRANGE if strange != inner[key]])  # 0 is no other than 0.0
    return (yaml.safe_dump(document, allow_unicode=True) if yamlish else json.dumps(document)).encode()


def changed(path: Path, order: random.Random) -> bytes:
    data = path.read_bytes()
    if path.suffix in (".json", ".yaml") and order.random() < 0.7:
        return change_value(data, order, path.suffix == ".yaml")
    if path.suffix in (".conllu", ".tsv", ".csv", ".jsonl", ".txt") and order.random() < 0.5:
        return change_lines(data, order)
    return change_bytes(data, order)


def damage(seeds: Path, work: Path, order: random.Random) -> tuple[str, Path, list[str]]:
    """Changes one file, and tells what kind it is of, where it is, and the command that is to read it."""
    kind = order.choice(["corpus", "rows", "trees", "recipe", "checkpoint", "checkpoint", "verify"])
    if kind in ("checkpoint", "verify"):
        task, data = order.choice([("n21", "rows.jsonl"), ("n2path", "trees.conllu")])
        shutil.copytree(seeds / task, work / task)
        names = ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"]
        bad = work / task / order.choice(names if kind == "verify" else [*names, "recipe.yaml"])
        write_changed(bad, bad, order)
        if kind == "verify":
            return kind, bad, ["verify", str(work / task)]
        out = f"{work}/out{Path(data).suffix}"
        return kind, bad, ["predict", str(work / task), "--input", str(seeds / data), "--output", out]
    name = {
        "corpus": order.choice(["text.txt", "rows.jsonl", "rows.parquet"]),
        "rows": order.choice(["rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet"]),
        "trees": "trees.conllu",
        "recipe": order.choice(["pretrain.yaml", "n21.yaml", "n2path.yaml"]),
    }[kind]
    bad = work / name
    write_changed(seeds / name, bad, order)
    tokenizer = ["--output", str(work / "run"), "--tokenizer.vocab_size", "400"]
    if kind == "corpus":
        column = [] if name == "text.txt" else ["--data.text_column", "text"]
        return (
            kind,
            bad,
            ["tokenizer", str(seeds / "pretrain.yaml"), "--data.train_files", str(bad), *tokenizer, *column],
        )
    if kind == "recipe" and name == "pretrain.yaml":
        return kind, bad, ["tokenizer", str(bad), "--data.train_files", str(seeds / "text.txt"), *tokenizer]
    if kind == "recipe":
        data = str(seeds / ("rows.jsonl" if name == "n21.yaml" else "trees.conllu"))
        files = ["--data.train_files", data, "--data.test_files", "[]"]
        output = ["--output", str(work / "run"), "--model", str(seeds / "backbone"), "--training.max_steps", "1"]
        return kind, bad, ["finetune", str(bad), *files, *output, *CPU]
    model = str(seeds / ("n2path" if kind == "trees" else "n21"))
    return kind, bad, ["predict", model, "--input", str(bad), "--output", f"{work}/out{bad.suffix}"]


def write_changed(good: Path, bad: Path, order: random.Random) -> None:
    data = good.read_bytes()
    while (other := changed(good, order)) == data:
        pass
    bad.write_bytes(other)


def one_input(seeds: Path, work: Path, order: random.Random) -> tuple[str, str]:
    """Which file was changed, and what its command made of it; raises if that is wrong."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    kind, bad, command = damage(seeds, work, order)
    status, said = run(command)
    if status == 0:
        assert kind != "verify", "a changed file was found to be as it was saved"
        if kind == "trees":
            found = conllu.parse((work / "out.conllu").read_text(encoding="utf-8"))
            asked = [block for block in bad.read_text(encoding="utf-8").split("\n\n") if block.strip()]
            assert len(found) == len(asked), f"{len(found)} sentences of {len(asked)}"
            for sentence in found:
                sentence.to_tree()
        if kind == "rows" and bad.suffix == ".jsonl":
            answered, asked = (path.read_text(encoding="utf-8").split("\n") for path in (work / "out.jsonl", bad))
            assert sum(map(bool, answered)) == sum(bool(line.strip()) for line in asked), "rows were lost"
    elif status == 2:
        last = said.strip().split("\n")[-1]
        assert last.startswith("hftk: ") and last.isprintable() and len(last) < 2_000, said
        return f"{kind} {bad.name}", last[:CONTEXT]
    else:
        assert kind == "verify" and status == 1, f"exit status {status}"
    return f"{kind} {bad.name}", "done" if status == 0 else "differs"


def too_slow(*_: Any) -> None:
    raise TimeoutError(f"no end after {SECONDS} seconds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("inputs", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    options = parser.parse_args()
    seeds = options.folder / "seeds"
    if not seeds.is_dir():
        seeds.mkdir(parents=True)
        make_seeds(seeds)
    signal.signal(signal.SIGALRM, too_slow)
    found = 0
    for seed in range(options.seed, options.seed + options.inputs):
        signal.alarm(SECONDS)
        try:
            print(seed, *one_input(seeds, options.folder / "work", random.Random(seed)), flush=True)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            found += 1
            print(seed, "FOUND", f"{type(error).__name__}: {error}"[:CONTEXT], flush=True)
            traceback.print_exc()
        signal.alarm(0)
    print(f"{options.inputs} inputs, {found} found")
    sys.exit(found > 0)
