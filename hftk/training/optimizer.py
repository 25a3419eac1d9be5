"""One optimizer of three rules: Muon for the matrices of layers, RMSprop for the rows of tables, AdamW for all else."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch.optim import AdamW, Muon
from transformers import PreTrainedModel, TrainingArguments

from hftk.model.modeling_hftk import HftkNgramEmbeddings


class HftkOptimizer(torch.optim.Optimizer):
    """
    A table of n-grams learns by [`RowRMSprop`]. With `muon`, [`StackedMuon`] moves each matrix of a layer by its
    momentum made orthogonal, so that directions that few rows ask for are learned as fast as the others. What is left
    learns by the fused [`torch.optim.AdamW`]. All have the same learning rate.

    Args:
        model ([`PreTrainedModel`]):
            Its matrices are the parameters of two dimensions under `….layers.<number>.`; on several GPUs they may be
            sharded (FSDP2), but not flattened (DeepSpeed).
        lr (`float`), betas (`tuple[float, float]`), eps (`float`), weight_decay (`float`):
            As those of AdamW.
        decayed (collection of `str`):
            Names of the parameters that `weight_decay` is for.
        muon (`bool`, defaults to `False`):
            Whether matrices learn by Muon.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decayed: Collection[str] = (),
        muon: bool = False,
    ):
        rules: dict[str, Callable[..., torch.optim.Optimizer]] = {
            "adamw": partial(AdamW, lr=lr, betas=betas, eps=eps, fused=True),
            "muon": partial(StackedMuon, lr=lr),
            "rows": partial(RowRMSprop, lr=lr, alpha=betas[1], eps=eps),
        }
        tables = {id(table.weight) for table in ngram_tables(model)}
        groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                matrix = muon and ".layers." in name and parameter.ndim == 2
                rule = "rows" if id(parameter) in tables else "muon" if matrix else "adamw"
                groups.setdefault((rule, name in decayed), []).append(parameter)
        self.parts: dict[str, torch.optim.Optimizer] = {}
        for rule, build in rules.items():
            found = [
                {"params": groups[rule, decays], "weight_decay": weight_decay * decays, "rule": rule}
                for decays in (True, False)
                if (rule, decays) in groups
            ]
            if found:
                self.parts[rule] = build(found)
        super().__init__([group for part in self.parts.values() for group in part.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for rule, part in self.parts.items():  # whose groups and states a resume, or FSDP2, has replaced
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group["rule"] == rule]
            part.step()


class StackedMuon(Muon):
    """
    [`torch.optim.Muon`] (Jordan et al. 2024) with updates as large as AdamW's (`adjust_lr_fn="match_rms_adamw"`; Liu et
    al. 2025, arXiv:2502.16982, equation 4), but matrices of one shape are made orthogonal together: products of stacks
    keep all cores busy, those of small matrices do not.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            updates: dict[torch.Size, dict[torch.nn.Parameter, torch.Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                    momentum = self.state[matrix]["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                    update = matrix.grad.lerp(momentum, group["momentum"]).bfloat16()
                    updates.setdefault(matrix.shape, {})[matrix] = update
            for shape, of_shape in updates.items():
                stack = _orthogonal(torch.stack(list(of_shape.values())), group)
                for matrix, update in zip(of_shape, stack, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


def _orthogonal(stack: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """(matrices, rows, columns), of each its nearest orthogonal matrix, by the iteration that torch's Muon has."""
    a, b, c = group["ns_coefficients"]
    tall = stack.shape[1] > stack.shape[2]
    stack = stack.mT.contiguous() if tall else stack
    stack.div_(stack.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"]))
    for _ in range(group["ns_steps"]):
        gram = stack @ stack.mT
        stack = torch.baddbmm(stack, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), stack, beta=a)
    return stack.mT if tall else stack


class RowRMSprop(torch.optim.Optimizer):
    """
    RMSprop for tables of which a step reads few rows: a row with a gradient moves by it, over the root of the running
    mean of its squares, which is one number a row (as in the row-wise Adagrad of Naumov et al. 2019, arXiv:1906.00091);
    it decays as in AdamW. Rows without one stay as they are, so that where gradients are sparse a step costs what it
    reads, whatever the size of the table. There is no momentum: it would move a row once for each time it is read, too.

    Args:
        params (iterable): parameters of shape `(rows, width)`, or groups of them; their gradients may be sparse.
        lr (`float`): learning rate.
        alpha (`float`, defaults to 0.99): how much of the mean of squares stays, each time that a row is read.
        eps (`float`, defaults to 1e-8): is added to its root.
        weight_decay (`float`, defaults to 0.0): times `lr`, the share of a row that is taken from it when it is read.
    """

    def __init__(self, params: Any, lr: float, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                if not self.state[table]:
                    self.state[table]["square"] = torch.zeros_like(table[:, :1])
                square = self.state[table]["square"]
                if table.grad.is_sparse:
                    gradient = table.grad.coalesce()
                    places = gradient.indices()[0]
                    rows, squares = table[places], square[places]
                    _move(rows, squares, gradient.values(), group)
                    table[places], square[places] = rows, squares
                else:
                    _move(table, square, table.grad, group)


def _move(rows: torch.Tensor, squares: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
    """(rows, width), (rows, 1), (rows, width); a row whose gradient is 0, as padding's is, stays as it is."""
    square = gradient.square().mean(-1, keepdim=True)
    read = square > 0
    squares.add_((square - squares) * read, alpha=1 - group["alpha"])
    rows.mul_(1 - group["lr"] * group["weight_decay"] * read)
    rows.addcdiv_(gradient, squares.sqrt().add_(group["eps"]), value=-group["lr"])


def ngram_tables(model: torch.nn.Module) -> list[torch.nn.Embedding]:
    """The tables of hashed n-grams in a model; none in one of another type."""
    return [module.table for module in model.modules() if isinstance(module, HftkNgramEmbeddings)]


def let_gradients_be_sparse(model: torch.nn.Module, training: TrainingArguments) -> None:
    """
    Tables of n-grams get gradients of the rows that a batch reads alone, where that is faster and everything that sees
    gradients knows of it: in one process on a CPU that learns by [`HftkOptimizer`].
    """
    alone = training.world_size == 1 and training.device.type == "cpu" and not training.torch_compile
    for table in ngram_tables(model):
        table.sparse = alone and training.optim == "adamw_torch_fused"


class PlainGradients:
    """
    A model for those who look at gradients alone: in place of a parameter with a sparse one, of which torch knows no
    norm, it has one whose gradient is the rows of that, in the same memory.

    Args:
        model (`nn.Module`)
    """

    def __init__(self, model: torch.nn.Module):
        self.model = model

    def parameters(self) -> Iterator[torch.Tensor]:
        for parameter in self.model.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                rows = parameter.grad.values()  # (rows that were read, width)
                stand_in = torch.empty_like(rows)
                stand_in.grad = rows
                yield stand_in
            else:
                yield parameter
