"""What ends a training before its last step, and how a resume knows of it."""

import signal
from typing import Any

import torch
from torch import distributed
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.training_args import ParallelMode

TERMINATED = 128 + signal.SIGTERM  # exit status


class EarlyStopping(EarlyStoppingCallback):
    """[`transformers.EarlyStoppingCallback`] that a resume goes on with: the original would count from 0 again."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        attributes = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.early_stopping_patience_counter = attributes["early_stopping_patience_counter"]
        control.should_training_stop = self.early_stopping_patience_counter >= self.early_stopping_patience


class Interruption(TrainerCallback):
    """
    SIGTERM ends the training behind the step that is being made, which is saved. Of several processes it is enough that
    one gets the signal; all stop behind the same step.

    The step that ends an epoch is saved behind the evaluation that the epoch's end asks for, which a resume from it
    would never make. An interruption within an epoch is no end of it, and evaluates nothing.

    Attributes:
        stopped (`bool`): the signal came.
        saved (`int`): the last step that was saved.
    """

    def __init__(self) -> None:
        self.stopped, self.saved = False, 0
        self.asked, self.ends_epoch, self.save = False, False, False
        self.group: Any = None
        self.handler: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.handler = signal.signal(signal.SIGTERM, self.ask)
        if args.parallel_mode == ParallelMode.DISTRIBUTED:
            # of its own, on the processors: to ask a GPU would make each step wait for the one before
            self.group = distributed.new_group(backend="gloo", timeout=args.ddp_timeout_delta)

    def ask(self, *_: Any) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        asked = torch.tensor(int(self.asked))
        if self.group is not None:
            distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self.group)
        self.stopped = bool(asked)
        if self.stopped:
            control.should_save = control.should_training_stop = True
        self.ends_epoch = state.epoch.is_integer()
        self.save = control.should_save and (self.ends_epoch or control.should_training_stop)
        if self.save:
            control.should_save = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped and not self.ends_epoch:
            control.should_evaluate = control.should_log = control.should_save = False
        if self.save:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.save, self.saved = False, state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, self.handler)
        if self.group is not None:
            distributed.destroy_process_group(self.group)
