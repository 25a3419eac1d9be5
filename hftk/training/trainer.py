"""`transformers.Trainer`, less what a run folder must not hold and plus a log that tells each step's own loss."""

import json
import sys
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import distributed
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput, rotate_checkpoints
from transformers.training_args import OptimizerNames, ParallelMode
from transformers.utils import PushInProgress

from hftk.errors import UsageError
from hftk.report.folder import CODE, CONFIGS, TOKENIZER, WEIGHTS
from hftk.tasks.task import ADAPTERS
from hftk.training.checkpoints import UNFINISHED, minutes_until, publish, sync
from hftk.training.guards import Guard, GuardArguments, forget_gradients, in_one_line
from hftk.training.optimizer import HftkOptimizer, PlainGradients, ngram_tables
from hftk.training.runtime import give_back_pages
from hftk.training.stopping import TERMINATED, Interruption

LOG_FILE = "log.jsonl"


class HftkTrainer(Trainer):
    """
    [`transformers.Trainer`] with these differences: it leaves no `training_args.bin` (a pickle that holds the Hub
    token), it logs the loss of the step itself (the original logs an average over the steps since the last line, which
    a resume changes), it writes what it logs to `log.jsonl`, a checkpoint is whole or not there, SIGTERM ends it with
    its last step saved, a step whose loss is no number changes nothing, and with `push_to_hub` it sends no more than
    the model of a checkpoint while it trains; `hftk pretrain` and `hftk finetune` push the whole folder, once that is
    written.

    Args:
        guard ([`GuardArguments`]): which steps change nothing.
        others: those of [`transformers.Trainer`], as the methods are.
    """

    optimizer: torch.optim.Optimizer | None
    push_in_progress: PushInProgress | None
    muon = False

    def __init__(self, *args: Any, guard: GuardArguments, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.guard = Guard(guard)
        if self.args.device.type == "cpu":
            self.args.dataloader_pin_memory = False  # nothing to pin for, and torch warns
            if self.args.parallel_mode == ParallelMode.DISTRIBUTED:  # transformers keeps ddp_timeout to GPUs
                distributed.distributed_c10d._set_pg_timeout(self.args.ddp_timeout_delta)
        self.add_callback(LogFile(Path(self.args.output_dir)))
        self.add_callback(FirstStep())
        self.interruption = Interruption()
        self.add_callback(self.interruption)
        self._checkpoints = self.args.output_dir
        self._step_of_loss = -1
        self._step_loss = torch.zeros((), device=self.args.device)

    def train(self, resume_from_checkpoint: str | None = None) -> TrainOutput:
        self._started = time.monotonic()
        if resume_from_checkpoint is not None:
            self._started -= 60 * minutes_until(resume_from_checkpoint)
        with in_one_line(self.args):
            self.before_training()
            outcome = super().train(resume_from_checkpoint)
        if self.interruption.stopped:
            if self.is_world_process_zero():
                step = self.interruption.saved
                said = f"SIGTERM: step {step} is saved in {self.args.output_dir}; add --resume to go on from it"
                print("hftk:", said, file=sys.stderr)
            sys.exit(TERMINATED)
        return outcome

    def before_training(self) -> None:
        """What is to be computed before the first step, after a resume again."""

    def minutes(self) -> float:
        """What the training has taken, over all resumes, but for steps that were lost and made again."""
        return (time.monotonic() - self._started) / 60

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        """A resume from the last step makes none; the original makes one, if that step is within an epoch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(epoch=epoch, **kwargs)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._step_of_loss != self.state.global_step:  # the first of a step's accumulated batches
            self._step_of_loss = self.state.global_step
            self._step_loss = torch.zeros_like(loss)
        self._step_loss += loss
        return loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        model, args = model or self.model, self.args
        if self.muon and self.is_deepspeed_enabled:
            raise UsageError("muon: DeepSpeed flattens the matrices that it is for; set it to false, or take FSDP2")
        fused = args.optim == OptimizerNames.ADAMW_TORCH_FUSED and not self.is_deepspeed_enabled
        if self.optimizer is None and fused and (self.muon or ngram_tables(model)):
            betas, decayed = (args.adam_beta1, args.adam_beta2), frozenset(self.get_decay_parameter_names(model))
            rates = args.learning_rate, betas, args.adam_epsilon, args.weight_decay
            self.optimizer = HftkOptimizer(model, *rates, decayed, self.muon)
        return super().create_optimizer(model)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        return super()._clip_grad_norm(PlainGradients(model))

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Here, before the optimizer's step, the loss and the gradients of all processes are known."""
        grad_norm = super()._get_grad_norm(PlainGradients(model), grad_norm)
        self._step_loss = self.accelerator.gather(self._step_loss).mean()
        scaled = self.accelerator.scaler is not None  # it leaves out steps itself, to find its scale
        if not scaled and (fault := self.guard.fault(self._step_loss.item(), float(grad_norm))):
            forget_gradients(model)
            step = self.state.global_step + 1
            skipped: dict[str, Any] = {"skipped": fault, "rows": self.rows_of_step(self.state.global_step)}
            self.log(skipped)
            self.guard.check_patience(step, fault)
        return grad_norm

    def rows_of_step(self, step: int) -> list[int]:
        """Which rows of `train_dataset` a step reads, on all processes."""
        raise NotImplementedError

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["loss"] = self._step_loss.item()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _get_output_dir(self, trial: Any) -> str:
        return self._checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written aside, and renamed when all processes have written their part; older ones go after that."""
        output, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._checkpoints = str(output / UNFINISHED)
        super()._save_checkpoint(model, trial)
        self._checkpoints = str(output)
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(output / name)
        if self.is_world_process_zero():
            sync(output / LOG_FILE)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            aside = output / UNFINISHED / name
            self.state.save_to_json(str(aside / TRAINER_STATE_NAME))  # with the name of the best one as it will be
            publish(aside, output / name, self.get_total_train_batch_size(self.args), self.minutes())
            rotate_checkpoints(str(output), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._send(output / name)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in transformers, and makes the branch `hub_revision`, without which pushes would fail unseen."""
        super().init_hf_repo(token, private)
        if self.args.hub_revision and self.is_world_process_zero():
            api = HfApi(token=token or self.args.hub_token)
            api.create_branch(self.hub_model_id, branch=self.args.hub_revision, exist_ok=True)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the command that trains pushes when the recipe, the scores and the card are written too."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """
        Nothing: the folder is about to be renamed. The original would send all that lies in the output folder, the
        prepared corpus for one, and a pickle that holds the Hub token.
        """

    def _send(self, checkpoint: Path) -> None:
        """The model of a checkpoint to the Hub, in the background."""
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END or busy:
            return
        if (checkpoint / ADAPTERS).exists():  # they tell where on this machine their backbone lies
            return
        job = HfApi(token=self.args.hub_token).upload_folder(
            repo_id=self.hub_model_id,
            folder_path=checkpoint,
            allow_patterns=[*WEIGHTS, *CONFIGS, *TOKENIZER, *CODE],
            commit_message=f"Step {self.state.global_step}",
            revision=self.args.hub_revision,
            run_as_future=True,
        )
        self.push_in_progress = PushInProgress([job])


class FirstStep(TrainerCallback):
    """
    Behind the first step, what it and the measurements before it left free goes back to the kernel: moments and kernels
    that have come to stay cut it into pieces, into which the next steps' tensors do not fit.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = state.global_step + 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.first:
            give_back_pages()


class LogFile(TrainerCallback):
    """
    One line of JSON for each logging step: `step`, and `loss`, `grad_norm`, `learning_rate` or the evaluation's
    metrics.

    Args:
        folder (`Path`): the run's folder.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOG_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        # a resume goes on from a checkpoint; what was logged after it will be logged again
        kept = read_log(self.path.parent)[: len(state.log_history)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(f"{self.path}.unfinished")
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept))
        unfinished.replace(self.path)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        # the totals that end a training are no step's
        if state.is_world_process_zero and "train_runtime" not in logs:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`, but for one that the end of a process cut off; none if there is no log."""
    path = folder / LOG_FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def peak_memory_gb() -> float:
    """Of the GPU where there is one, otherwise of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return getrusage(RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
