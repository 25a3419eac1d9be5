"""`hftk prepare`: raw text of any size becomes the corpus that `hftk pretrain` with the same recipe opens."""

import json
import logging
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftk.data.corpus import Corpus, open_corpus
from hftk.data.preparation import check_data, check_sides, corpus_folder, encoding_backend, write_manifest
from hftk.data.writing import SPLITS
from hftk.errors import UsageError
from hftk.pretrain import make_tokenizer
from hftk.recipe import PretrainRecipe, save_recipe

if TYPE_CHECKING:
    from hftk.data.deduplication import Preparation

ENGINES = ("local", "ray", "slurm")
COUNTS = ("documents", "tokens", "bytes", "characters")
BATCH = """#!/bin/bash
#SBATCH --job-name=hftk-{stage}
#SBATCH --array=0-{last}%{workers}
#SBATCH --chdir={here}
#SBATCH --output={folder}/%x-%a.txt
exec {python} -m hftk prepare {recipe} --tasks {tasks} --stage {stage} --rank "$SLURM_ARRAY_TASK_ID"
"""


def prepare(
    recipe: PretrainRecipe,
    engine: str = "local",
    tasks: int | None = None,
    workers: int | None = None,
    stage: str | None = None,
    rank: int | None = None,
) -> Corpus | None:
    """
    Read, clean, keep the languages that are asked for, drop copies and near-duplicates, tokenise, and write shards.

    Every task leaves a mark when it is done: the same call after an end halfway goes on with those that are not.

    Args:
        recipe ([`PretrainRecipe`]):
            `data.near_duplicates` and `data.languages` say what is dropped beside exact copies.
        engine (`str`, defaults to `"local"`):
            `"local"` for processes of this machine, `"ray"` for a Ray cluster (that of `RAY_ADDRESS`, or one that is
            started here), `"slurm"` to write batch scripts and not to run them.
        tasks (`int`, defaults to `workers`):
            Parts of the text, and shards.
        workers (`int`, defaults to the number of processors):
            Tasks at once.
        stage (`str`, *optional*), rank (`int`, *optional*):
            One task of one stage alone, as the batch scripts do; the stage `"index"` ends the preparation.

    Returns:
        [`Corpus`], or `None` where the corpus is not ready yet.

    Raises:
        UsageError: The extra `prepare` is not installed, the text cannot be read, or a task failed.
    """
    try:
        from hftk.data.deduplication import STAGES, Preparation, check_languages
    except ImportError as error:
        raise UsageError("hftk prepare needs datatrove: pip install 'hftk[prepare]'") from error
    if engine not in ENGINES:
        raise UsageError(f"--engine: {engine} is none of {', '.join(ENGINES)}")
    workers = workers or len(os.sched_getaffinity(0))
    tasks = tasks or workers
    check_data(recipe.data)
    if recipe.data.languages:
        check_languages(recipe.data.languages)
    tokenizer = encoding_backend(make_tokenizer(recipe, reuse=stage is not None))
    cache_dir = Path(recipe.data.cache_dir or Path(recipe.output) / "data")
    folder, manifest = corpus_folder(recipe.data, tokenizer, cache_dir)
    if folder.exists():
        print(f"{folder}: is there")
        return open_corpus(folder)
    unfinished = folder.with_suffix(f".{tasks}-tasks")
    preparation = Preparation(recipe.data, tokenizer.to_str(), unfinished, tasks)
    if engine == "slurm":
        write_scripts(recipe, preparation, [*STAGES, "index"], workers)
        return None
    if stage == "index":
        return write_index(preparation, manifest, folder)
    if stage is not None:
        if stage not in STAGES or rank is None or not 0 <= rank < preparation.tasks_of(stage):
            raise UsageError(f"--stage: {stage} {rank} is no task of {', '.join(STAGES)} or index")
        run_stage(preparation, stage, engine, 1, rank)
        return None
    for stage in STAGES:
        run_stage(preparation, stage, engine, workers)
    return write_index(preparation, manifest, folder)


def run_stage(preparation: "Preparation", stage: str, engine: str, workers: int, rank: int | None = None) -> None:
    """Runs those tasks of a stage that are not done yet, or one of them."""
    from datatrove.utils.logging import logger

    logger.remove()  # each task has a log of its own
    logs, tasks, start = preparation.folder / "logs" / stage, preparation.tasks_of(stage), time.perf_counter()
    arguments: dict[str, Any] = {"tasks": tasks, "workers": min(workers, tasks), "logging_dir": str(logs)}
    if engine == "ray":
        executor = ray_executor(preparation.steps(stage), arguments)
    else:
        from hftk.data.deduplication import QuietExecutor

        if rank is not None:
            arguments |= {"local_tasks": 1, "local_rank_offset": rank}
        executor = QuietExecutor(preparation.steps(stage), **arguments)
    executor.run()
    ranks = range(tasks) if rank is None else [rank]
    if left := executor.get_incomplete_ranks(ranks, skip_completed=True):
        raise UsageError(f"{logs}: {len(left)} of {len(ranks)} tasks failed; correct it, then the same call goes on")
    print(f"{stage}: {len(ranks)} tasks, {time.perf_counter() - start:.0f} s", flush=True)


def ray_executor(steps: list[Any], arguments: dict[str, Any]) -> Any:
    """Of the cluster that `RAY_ADDRESS` names, or of one that is started here."""
    import ray
    from datatrove.executor.ray import RayPipelineExecutor

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    return RayPipelineExecutor(steps, **arguments)


def write_scripts(recipe: PretrainRecipe, preparation: "Preparation", stages: list[str], workers: int) -> None:
    """A batch script for each stage, an array of tasks, and one that submits them, each after the one before."""
    folder = preparation.folder.resolve() / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, folder / "recipe.yaml")
    submit = ["#!/bin/bash", "set -e", "# sbatch takes partition, account and time from SBATCH_PARTITION and the like"]
    for number, stage in enumerate(stages, start=1):
        tasks = 1 if stage == "index" else preparation.tasks_of(stage)
        script = folder / f"{number}-{stage}.sbatch"
        script.write_text(
            BATCH.format(
                stage=stage,
                last=tasks - 1,
                workers=workers,
                here=shlex.quote(os.getcwd()),
                folder=shlex.quote(str(folder)),
                python=shlex.quote(sys.executable),
                recipe=shlex.quote(str(folder / "recipe.yaml")),
                tasks=preparation.tasks,
            )
        )
        after = ' --dependency="afterok:$job"' if number > 1 else ""
        submit.append(f"job=$(sbatch --parsable{after} {shlex.quote(str(script))})")
    (folder / "submit.sh").write_text("\n".join([*submit, 'echo "the last of them is job $job"', ""]))
    print(f"{folder}: {len(stages)} scripts; start them with bash {shlex.quote(str(folder / 'submit.sh'))}")


def write_index(preparation: "Preparation", manifest: dict[str, Any], folder: Path) -> Corpus:
    """Where each document of the shards lies, and what they hold together; then the folder is whole."""
    unfinished = preparation.folder
    shards = sorted((unfinished / "shards").iterdir())
    manifests = [json.loads((shard / "manifest.json").read_text()) for shard in shards]
    dropped: Counter[str] = Counter()
    first: dict[str, str] = {}
    for of_shard in manifests:
        dropped.update(of_shard["dropped"])
        first = of_shard["first_dropped"] | first
    for split in SPLITS:
        manifest[split] = {name: sum(of_shard[split][name] for of_shard in manifests) for name in COUNTS}
        tokens = 0
        with open(unfinished / f"{split}.starts", "wb") as starts, open(unfinished / f"{split}.lengths", "wb") as all:
            for shard in shards:
                starts.write((np.fromfile(shard / f"{split}.starts", dtype="<i8") + tokens).tobytes())
                all.write((shard / f"{split}.lengths").read_bytes())
                tokens += (shard / f"{split}.tokens").stat().st_size // np.dtype(manifests[0]["dtype"]).itemsize
    manifest |= {
        "dtype": manifests[0]["dtype"],
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "first_dropped": first,
        "shards": [
            {split: of_shard[split] | {"file": f"shards/{shard.name}/{split}.tokens"} for split in SPLITS}
            for shard, of_shard in zip(shards, manifests, strict=True)
        ],
    }
    check_sides(manifest, preparation.data)
    for stage in ("signatures", "duplicates", "clusters"):
        shutil.rmtree(unfinished / stage, ignore_errors=True)  # where nothing is alike there are no clusters
    write_manifest(manifest, unfinished)
    unfinished.rename(folder)
    corpus = open_corpus(folder)
    print(corpus.summary())
    return corpus
