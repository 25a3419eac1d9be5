"""Checkpoints that are whole or not there: written aside, hashed, then renamed; a resume takes the newest whole one."""

import json
import os
import shutil
from hashlib import file_digest
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from hftk.errors import UsageError
from hftk.report.folder import CARD, METRICS, RUN

UNFINISHED = "checkpoint.unfinished"  # in a run's folder: where a checkpoint is written
BROKEN = "broken-"  # before the name of a checkpoint that is not what was saved
MANIFEST = "manifest.json"  # in a checkpoint: the SHA-256 of every other file
STEPS = "steps.json"  # in a checkpoint: how many rows a step takes, and how long all steps took


def publish(aside: Path, checkpoint: Path, rows_per_step: int, minutes: float) -> None:
    """
    Gives a checkpoint its name once it is whole and on the disk.

    Args:
        aside (`Path`): the folder in which all processes have written it, in one of its own.
        checkpoint (`Path`): its name, which none has yet.
        rows_per_step (`int`): over all processes and accumulated batches.
        minutes (`float`): what the training took until here.
    """
    (aside / STEPS).write_text(json.dumps({"rows_per_step": rows_per_step, "minutes": minutes}))
    digests = {str(path.relative_to(aside)): digest(path) for path in sorted(aside.rglob("*")) if path.is_file()}
    (aside / MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")
    for path in [*aside.rglob("*"), aside]:
        sync(path)
    aside.rename(checkpoint)
    shutil.rmtree(aside.parent)
    sync(checkpoint.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def fault(checkpoint: Path) -> str | None:
    """What about a checkpoint is not as it was saved; None if it is whole."""
    manifest = checkpoint / MANIFEST
    if not manifest.is_file():
        return f"{MANIFEST} is missing"
    try:
        digests = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return f"{MANIFEST} is no JSON"
    for name, saved in digests.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if digest(checkpoint / name) != saved:
            return f"{name} is not what was saved"
    return None


def last_checkpoint(training: TrainingArguments, resume: bool) -> str | None:
    """
    The checkpoint to go on from; without `resume` there is none. All processes call it, the main one looks.

    Args:
        training ([`TrainingArguments`]):
            their `output_dir` is the run's folder; their `gradient_accumulation_steps` become what gives the
            checkpoint's steps on this number of processes, so that no row is skipped or read twice.
        resume (`bool`):
            take the newest whole checkpoint. A broken one is told of, and renamed out of the way.

    Raises:
        UsageError: there is an unfinished run, and `resume` is false; or the rows of a step cannot be shared.
    """
    if training.resume_from_checkpoint:
        raise UsageError("training.resume_from_checkpoint: leave it out and give --resume, which finds the last one")
    output = Path(training.output_dir)
    found: list[str | None] = [None]
    if PartialState().is_main_process:
        if resume:
            found = [newest_whole(output)]
        elif (started := begun(output)) and not finished(output):
            raise UsageError(
                f"output: {output} holds an unfinished run ({Path(started).name}); add --resume, or name another "
                "--output"
            )
    [checkpoint] = broadcast_object_list(found)
    if checkpoint:
        keep_rows_per_step(training, checkpoint)
    return checkpoint


def newest_whole(output: Path) -> str | None:
    """The last checkpoint that is what was saved. Those after it get another name; one half-written goes."""
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    while found := begun(output):
        wrong = fault(Path(found))
        if wrong is None:
            return found
        kept = output / f"{BROKEN}{Path(found).name}"
        shutil.rmtree(kept, ignore_errors=True)
        Path(found).rename(kept)
        print(f"{found}: {wrong}; it is now {kept.name}, and the run goes on from before it", flush=True)
    return None


def begun(output: Path) -> str | None:
    """The last checkpoint in a run's folder, whole or not."""
    return get_last_checkpoint(str(output)) if output.is_dir() else None


def finished(output: Path) -> bool:
    """Whether a run in a folder came to its end: the card is what it writes last."""
    return (output / RUN).exists() and (output / CARD).exists()


def clear(output: Path) -> None:
    """Takes away what an earlier run left: its checkpoints, then what tells that it was finished."""
    for stale in [*output.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), *output.glob(UNFINISHED)]:
        shutil.rmtree(stale)
    if (output / RUN).exists():  # otherwise the README.md is somebody else's
        for file in (CARD, METRICS, RUN):
            (output / file).unlink(missing_ok=True)


def clear_seeds(output: Path, folders: list[Path]) -> None:
    """
    Clears the runs of several seeds, all before one of them is made again, so that a resume mixes no old with new ones.

    Raises:
        UsageError: they are not finished.
    """
    found = [folder for folder in folders if begun(folder) or finished(folder)]
    if found and not (output / METRICS).exists():
        raise UsageError(
            f"output: {output} has unfinished seeds ({found[-1].name}); add --resume, or name another --output"
        )
    for folder in found:
        clear(folder)
    (output / METRICS).unlink(missing_ok=True)


def keep_rows_per_step(training: TrainingArguments, checkpoint: str) -> None:
    """Lets each process accumulate as many batches as make the steps of a checkpoint."""
    rows = json.loads(Path(checkpoint, STEPS).read_text())["rows_per_step"]
    at_once = training.train_batch_size * training.world_size
    if rows % at_once:
        raise UsageError(
            f"training.per_device_train_batch_size: {checkpoint} has steps of {rows} rows, which cannot be read "
            f"{training.world_size} × {training.train_batch_size} at once; give a number that divides them"
        )
    training.gradient_accumulation_steps = rows // at_once


def minutes_until(checkpoint: str) -> float:
    """What a training took until a checkpoint, over all resumes."""
    return json.loads(Path(checkpoint, STEPS).read_text())["minutes"]
