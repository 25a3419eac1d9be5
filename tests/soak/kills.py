"""
Trainings that are killed (SIGKILL) at random moments, half of them while a checkpoint is written, and resumed until
they are finished: a pretraining and a slow start, each on one process and on two, of which one dies or both. No loss
differs from those of a run that nobody killed, no checkpoint is lost, and the final weights are equal to the bit.

    make soak
    python -m tests.soak.kills 100 runs/soak/kills              # so many kills, from seed 0
    python -m tests.soak.kills 1 runs/soak/kills --seed 17      # the trainings from this seed on, to see one again

The seed chooses the training, the moments and the victims; what a process is doing at a moment is the machine's choice.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers.trainer_utils import get_last_checkpoint

from hftk.recipe_files import find_recipe
from hftk.tasks.rows import write_rows
from hftk.training.checkpoints import UNFINISHED, fault
from hftk.training.trainer import read_log

SENTENCES = Path(__file__).parents[1] / "korean.txt"
STEPS = 60
TRAINING = {
    "max_steps": STEPS,
    "save_steps": 3,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 10,
    "learning_rate": 0.005,
    "per_device_train_batch_size": 2,
    "use_cpu": True,
    "disable_tqdm": True,
}
PRETRAINING = """
output: {folder}/backbone
model: {{d_model: 32, encoder_layers: 2, decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2,
  encoder_ffn_dim: 64, decoder_ffn_dim: 64, dropout: 0.2}}
tokenizer: {{vocab_size: 500}}
data: {{train_files: [{folder}/text.txt], validation_share: 0.1, max_source_length: 64, max_target_length: 64}}
runtime: {{dtype: float32, attn_implementation: sdpa, seconds_per_step: 1.0}}
muon: true
training: {training}
"""
FINETUNING = """
output: {folder}/finetune
model: {folder}/backbone
task: {{name: n21}}
data: {{train_files: [{folder}/rows.jsonl], validation_share: 0.1, word_dropout: 0.2}}
transfer: {{method: slow_start, thaw_every: 9, retention_rows: 0}}
config_overrides: {{dropout: 0.3}}
runtime: {{dtype: float32, attn_implementation: sdpa}}
training: {training}
"""
TRAININGS = [("pretrain", 1), ("finetune", 1), ("pretrain", 2), ("finetune", 2)]
LONGEST = 120  # seconds for a process to begin or to end: many times what the slowest takes
SAVING = 0.04  # seconds that a checkpoint takes
SHARE = 0.6  # of the time that a training takes: the latest moment for a kill


def make_recipes(folder: Path) -> None:
    """Text, labelled rows, a backbone to start from, and the recipes of both trainings."""
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()
    (folder / "text.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    write_rows([{"text": text, "label": str(len(text) % 2)} for text in texts[:64]], folder / "rows.jsonl")
    kept = {"save_total_limit": 2}
    for name, text, training in (("pretrain", PRETRAINING, TRAINING), ("finetune", FINETUNING, TRAINING | kept)):
        recipe = text.format(folder=folder, training=json.dumps(training))
        (folder / f"{name}.yaml").write_text(recipe, encoding="utf-8")
    finish(start("pretrain", 1, folder, folder / "backbone"), folder / "backbone")


def start(command: str, processes: int, folder: Path, output: Path, *more: str) -> subprocess.Popen:
    """A training in a process group of its own; what it prints goes to a file beside its folder."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", str(find_recipe("accelerate/cpu"))]
    arguments = ["-m", "hftk", command, f"{folder}/{command}.yaml", "--output", str(output), *more]
    with open(f"{output}.txt", "a") as printed:
        return subprocess.Popen(
            [*([sys.executable] if processes == 1 else launch), *arguments],
            stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True,
        )  # fmt: skip


def end(process: subprocess.Popen, output: Path) -> int:
    """The exit status."""
    try:
        return process.wait(LONGEST)
    except subprocess.TimeoutExpired as error:
        kill_all(process)
        raise AssertionError(f"no end after {LONGEST} seconds; see {output}.txt") from error


def finish(process: subprocess.Popen, output: Path) -> None:
    """Waits for the end of a training that nobody kills."""
    status = end(process, output)
    assert status == 0, f"exit status {status}; see {output}.txt"


def children(process: subprocess.Popen) -> list[int]:
    """The processes that a launcher has started."""
    return list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def kill_all(process: subprocess.Popen) -> None:
    """A training on all its processes, as the end of a machine would."""
    for victim in [process.pid, *children(process)]:
        os.kill(victim, signal.SIGKILL)


def begins(process: subprocess.Popen, output: Path, since: int) -> bool:
    """Waits for the first step, or for the end of a process that makes none; tells which."""
    log, until = output / "log.jsonl", time.monotonic() + LONGEST
    while process.poll() is None and time.monotonic() < until:
        if log.exists() and log.stat().st_mtime_ns > since:
            return True
        time.sleep(0.002)
    assert process.poll() is not None, f"no step after {LONGEST} seconds; see {output}.txt"
    return False


def kill(process: subprocess.Popen, output: Path, order: random.Random) -> None:
    """Kills all processes at once, or of two one, which the launcher finds out and ends the other."""
    if (workers := children(process)) and order.random() < 0.7:
        os.kill(order.choice(workers), signal.SIGKILL)
    else:
        kill_all(process)
    end(process, output)


def newest(output: Path) -> int:
    """The step of the last checkpoint, which is whole."""
    found = get_last_checkpoint(str(output)) if output.is_dir() else None
    if found is None:
        return 0
    wrong = fault(Path(found))
    assert wrong is None, f"{found}: {wrong}"
    return int(found.rpartition("-")[2])


def differences(whole: Path, killed: Path) -> list[str]:
    """What of a run is not as in one that nobody killed."""
    log, other_log = read_log(whole), read_log(killed)
    found = [f"{line} became {other}" for line, other in zip(log, other_log, strict=False) if line != other]
    if len(log) != len(other_log):
        found.append(f"{len(log)} lines of log.jsonl became {len(other_log)}")
    weights, others = (load_file(run / "model.safetensors") for run in (whole, killed))
    found += [f"weights: {name} differs" for name in weights if not torch.equal(weights[name], others[name])]
    for checkpoint in sorted(whole.glob("checkpoint-*")):
        if wrong := fault(killed / checkpoint.name):
            found.append(f"{checkpoint.name}: {wrong}")
    return found + [f"{path.name} was left" for path in killed.glob("broken-*")]


def one_training(
    command: str, processes: int, folder: Path, order: random.Random, kills: int, seconds: float
) -> tuple[int, int]:
    """
    Kills and resumes a training, `kills` times at the most.

    Returns:
        How often it was killed, and how often of these while it saved.
    """
    whole, output = folder / f"whole-{command}-{processes}", folder / "work" / f"{command}-{processes}"
    shutil.rmtree(output.parent, ignore_errors=True)
    output.parent.mkdir()
    done = saving = step = 0
    while done < kills:
        since = time.time_ns()
        process = start(command, processes, folder, output, "--resume")
        if begins(process, output, since):
            time.sleep(order.uniform(0, SHARE * seconds))
            if order.random() < 0.5:
                while process.poll() is None and not (output / UNFINISHED).exists():
                    time.sleep(0.0005)
                time.sleep(order.uniform(0, SAVING))
        if process.poll() is not None:
            break
        kill(process, output, order)
        done += 1
        saving += (output / UNFINISHED).exists()
        assert newest(output) >= step, f"step {step} was saved, and now the last one is {newest(output)}"
        step = newest(output)
    else:
        process = start(command, processes, folder, output, "--resume")
    finish(process, output)
    found = differences(whole, output)
    assert not found, f"{len(found)} differences: {'; '.join(found[:3])}"
    return done, saving


def main(kills: int, folder: Path, seed: int) -> bool:
    """Makes the runs that nobody kills, then kills others of the same recipes; tells whether all were equal."""
    seconds = {}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "backbone" / "README.md").exists():
        make_recipes(folder)
    for command, processes in TRAININGS:
        whole = folder / f"whole-{command}-{processes}"
        shutil.rmtree(whole, ignore_errors=True)
        finish(start(command, processes, folder, whole), whole)
        seconds[command, processes] = 60 * json.loads((whole / "metrics.json").read_text())["minutes"]
    done = saving = runs = wrong = 0
    while done < kills:
        command, processes = TRAININGS[(seed + runs) % len(TRAININGS)]
        order, left = random.Random(seed + runs), kills - done
        name = f"{seed + runs} {command} on {processes}"
        try:
            killed, while_saving = one_training(command, processes, folder, order, left, seconds[command, processes])
            print(f"{name}: {killed} kills, {while_saving} while it saved: equal", flush=True)
        except AssertionError as error:
            killed, while_saving, wrong = 1, 0, wrong + 1
            print(f"{name}: FOUND {error}", flush=True)
            shutil.copytree(folder / "work", folder / f"found-{seed + runs}", dirs_exist_ok=True)
        done, saving, runs = done + killed, saving + while_saving, runs + 1
    print(f"{done} kills in {runs} trainings, {saving} while they saved, {wrong} found")
    return not wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the first training")
    options = parser.parse_args()
    sys.exit(not main(options.kills, options.folder, options.seed))
