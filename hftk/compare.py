"""
`hftk compare RECIPE --vary KEY=A,B,…`: one recipe, a key varied: what each value scores, costs and forgets.

Each value is a run of `hftk pretrain` or `hftk finetune` in a process of its own: its speed and its peak memory are its
own, and one that fails takes no other with it. What was run before, with the same recipe and files, is not run again.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b, file_digest
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from hftk import __version__
from hftk.errors import UsageError
from hftk.finetune_recipe import load_finetune_recipe
from hftk.recipe import PretrainRecipe, load_recipe, save_recipe
from hftk.report.plots import layer_gradients, plot_curves, plot_layer_gradients, plot_tradeoff
from hftk.report.tables import NUMBERS, chosen_score, markdown_table
from hftk.training.trainer import read_log

PRINTED = "printed.txt"  # in a run's folder: all that the run printed, and the sign that a comparison made the folder
MODEL_FILES = (".json", ".yaml", ".txt", ".model", ".safetensors", ".bin")  # of a checkpoint: all but logs and the card


@dataclass
class Run:
    """The value of each varied key, what stands behind `hftk` on the command line, and what the outcome depends on."""

    values: dict[str, str]
    arguments: list[str]
    folder: Path
    depends: str
    error: str | None = None


def compare(
    path: str | Path, vary: dict[str, list[str]], overrides: list[str], score: str | None = None
) -> list[dict[str, Any]]:
    """
    Runs a recipe with each value of a key, or each combination of the values of several, in folders below its `output`,
    and leaves there a table, `compare.md` and `compare.json`, and a picture, `compare.png`: the losses, or, where
    forgetting was measured, the scores over it. Where the recipe has `measure.layer_gradients`, also `gradients.png`.

    Args:
        path (`str` or `Path`):
            A recipe of `hftk pretrain` or `hftk finetune`.
        vary (`dict[str, list[str]]`):
            Values by dotted key, as the command line writes them. A mapping, `{method: lora, merge: true}` of
            `transfer` for one, is laid over the recipe key by key; of the key `.` over the whole recipe, where methods
            need learning rates of their own: `{transfer.method: lora, training.learning_rate: 0.003}`.
        overrides (`list[str]`):
            What all runs have in common, as for [`hftk.recipe.load_recipe`].
        score (`str`, *optional*):
            A number of `metrics.json`. By default the first behind the loss, of the test rows if there are any.

    Returns:
        `list[dict[str, Any]]`: for each run its values by key, its `folder`, its `error` or `None`, and its numbers, or
        `None` for one that it lacks: the score, `minutes`, `trainable_parameters`, `peak_memory_gb` and `forgetting`
        (bits per byte of raw text, after less before); with several seeds their standard deviations as `…_std`.

    Raises:
        UsageError: a key or a value that the recipe does not take, or no such score.
    """
    if not vary or "output" in vary:  # of the output each run has a folder of its own
        raise UsageError("--vary takes a key of the recipe, but for output, and its values, as --vary KEY=A,B")
    runs = planned_runs(Path(path), vary, overrides)
    for run in runs:
        make(run)

    metrics = [{} if run.error else json.loads((run.folder / "metrics.json").read_text("utf-8")) for run in runs]
    score = chosen_score(metrics, score)
    rows = [row_of(run, numbers, score) for run, numbers in zip(runs, metrics, strict=True)]
    table, output = markdown_table(rows, list(vary), score), runs[0].folder.parent
    (output / "compare.md").write_text(table + "\n", "utf-8")
    (output / "compare.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
    for picture in ("compare.png", "gradients.png"):
        (output / picture).unlink(missing_ok=True)  # an earlier comparison's
    names = [", ".join(map(short, run.values.values())) for run in runs]
    logs = {name: read_log(run.folder) for name, run in zip(names, runs, strict=True) if not run.error}
    if any(row["forgetting"] is not None for row in rows):
        plot_tradeoff(dict(zip(names, rows, strict=True)), score, output / "compare.png")
    elif any(logs.values()):
        plot_curves(logs, output / "compare.png", ", ".join(vary))
    if any(layer_gradients(log) for log in logs.values()):
        plot_layer_gradients(logs, output / "gradients.png", ", ".join(vary))
    print(f"{table}\n{output}/compare.md")
    return rows


def read_vary(options: list[str]) -> dict[str, list[str]]:
    """
    The values by key of `KEY=A,B,…`, which are the items of a YAML list: `{…}`, `[…]` and quotes may hold commas.

    Raises:
        UsageError: a key without values, or no YAML.
    """
    vary: dict[str, list[str]] = {}
    for option in options:
        key, _, text = option.partition("=")
        try:
            node = yaml.compose(f"[{text}]", Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            node = None
        if node is None or not node.value:
            raise UsageError(f"--vary {option}: expected KEY=A,B,…; quote a value with signs that YAML reads otherwise")
        for item in node.value:
            written = text[item.start_mark.index - 1 : item.end_mark.index - 1]
            vary.setdefault(key, []).append(item.value if isinstance(item, yaml.ScalarNode) else written)
    return vary


def planned_runs(path: Path, vary: dict[str, list[str]], overrides: list[str]) -> list[Run]:
    """All runs. Each one's recipe is read before the first is made, so that a mistake shows at once."""
    command = "finetune" if re.search(rb"^task\s*:", path.read_bytes(), re.MULTILINE) else "pretrain"
    runs: list[Run] = []
    for combination in product(*(dict.fromkeys(values) for values in vary.values())):
        values = dict(zip(vary, combination, strict=True))
        arguments = [*overrides, *(argument for key, value in values.items() for argument in overrides_for(key, value))]
        if command == "finetune":
            recipe: Any = load_finetune_recipe(path, arguments)
        else:
            recipe = load_recipe(path, arguments, PretrainRecipe)
        plain = {key: re.sub(r"[^\w.+-]+", "_", value).strip("_") for key, value in values.items()}
        name = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in plain.items()).strip("-")[:60]
        while name in {run.folder.name for run in runs}:
            name += "_"
        folder = Path(recipe.output) / name
        if folder.exists() and not (folder / PRINTED).exists():
            raise UsageError(f"{folder} was not made by a comparison; move it away, or name another --output")
        runs.append(Run(values, [command, str(path), *arguments, f"--output={folder}"], folder, dependencies(recipe)))
    return runs


def short(value: str) -> str:
    """A value for a legend: of a mapping's keys the last parts alone."""
    return re.sub(r"(?:\w+\.)+(\w+):", r"\1:", value.strip("{}"))


def overrides_for(key: str, value: Any) -> list[str]:
    """A value as overrides: one, or of a mapping one for each key in it."""
    if isinstance(value, str) and value.startswith("{"):
        value = yaml.safe_load(value)
    if isinstance(value, dict):
        before = "" if key == "." else f"{key}."
        return [argument for name, below in value.items() for argument in overrides_for(f"{before}{name}", below)]
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"]


def dependencies(recipe: Any) -> str:
    """What a run's outcome depends on, as JSON: hftk, the recipe but for its folder, the contents of its files."""
    with TemporaryDirectory() as folder:
        save_recipe(recipe, f"{folder}/recipe.yaml")
        values = yaml.safe_load(Path(folder, "recipe.yaml").read_text("utf-8"))
    del values["output"]
    sections = [section for section in values.values() if isinstance(section, dict)]
    places = [place for section in sections for key in section if key.endswith("_files") for place in section[key]]
    places += [f"{section['dataset']}/**" for section in sections if "dataset" in section]  # none, for one on the Hub
    models = [place for place in (values["model"], values.get("tokenizer", {}).get("path")) if isinstance(place, str)]
    files = {file for place in places for file in files_of(place)}
    files |= {file for place in models for file in files_of(place) if file.endswith(MODEL_FILES)}
    digests = {file: digest(file, os.stat(file).st_mtime_ns) for file in sorted(files)}
    return json.dumps({"hftk": __version__, "recipe": values, "files": digests}, indent=2, ensure_ascii=False) + "\n"


def files_of(place: str) -> list[str]:
    """The files that a path, a folder or a glob stands for."""
    if os.path.exists(place):
        place = os.path.join(glob.escape(place), "*") if os.path.isdir(place) else glob.escape(place)
    return [file for file in glob.glob(place, recursive=True) if os.path.isfile(file)]


@cache  # what all runs read is read once here
def digest(file: str, changed: int) -> str:
    """Of a file's contents; `changed` is when they last did."""
    with open(file, "rb") as opened:
        return file_digest(opened, lambda: blake2b(digest_size=16)).hexdigest()


def make(run: Run) -> None:
    """Runs it, or finds that it was run before, be it as a value of another key. One that fails keeps its error."""
    name, depends, printed = ", ".join(run.values.values()), run.folder / "depends.json", run.folder / PRINTED
    for known in [depends, *sorted(run.folder.parent.glob("*/depends.json"))]:
        if known.exists() and known.with_name("metrics.json").exists() and known.read_text("utf-8") == run.depends:
            run.folder = known.parent
            print(f"{name}: taken from before, {run.folder}")
            return
    print(f"{name}: runs, and prints to {printed}", flush=True)
    # one of another recipe or other files, or cut off
    if run.folder.exists():
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True)
    with printed.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "hftk", *run.arguments]
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file).returncode
    if status == 0:
        depends.write_text(run.depends, "utf-8")
        return
    lines = [line for line in printed.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    told = [line.removeprefix("hftk: ") for line in lines if line.startswith("hftk: ")]
    run.error = f"exit status {status}: {(told or lines or ['–'])[-1]}"
    print(f"{name}: {run.error}", flush=True)


def row_of(run: Run, metrics: dict[str, Any], score: str) -> dict[str, Any]:
    """What the table says of a run."""
    row: dict[str, Any] = {**run.values, "folder": str(run.folder), "error": run.error}
    if "retention_after" in metrics:
        metrics["forgetting"] = metrics["retention_after"] - metrics["retention_before"]
    if "retention_after_std" in metrics:  # before it, all seeds are the same model
        metrics["forgetting_std"] = metrics["retention_after_std"]
    for name in (score, *NUMBERS):
        row[name] = metrics.get(name)
        if f"{name}_std" in metrics and name != "trainable_parameters":
            row[f"{name}_std"] = metrics[f"{name}_std"]
    return row
