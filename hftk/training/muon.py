"""Muon for the matrices of a model's layers and AdamW for all else, as one optimizer."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch.optim import AdamW, Muon
from transformers import PreTrainedModel


class MuonAdamW(torch.optim.Optimizer):
    """
    [`torch.optim.Muon`] (Jordan et al. 2024) moves each matrix of a layer by its momentum made orthogonal, so that
    directions that few rows ask for are learned as fast as the others. Embeddings, heads, norms and biases learn by the
    fused [`torch.optim.AdamW`]. Both have the same learning rate: Muon's updates are scaled to be as large as AdamW's
    (Liu et al. 2025, arXiv:2502.16982, equation 4).

    Args:
        model ([`PreTrainedModel`]):
            Its matrices are the parameters of two dimensions under `….layers.<number>.`; on several GPUs they may be
            sharded (FSDP2), but not flattened (DeepSpeed).
        lr (`float`), betas (`tuple[float, float]`), eps (`float`), weight_decay (`float`):
            As those of AdamW.
        decayed (collection of `str`):
            Names of the parameters that `weight_decay` is for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decayed: Collection[str] = (),
    ):
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                matrix = ".layers." in name and parameter.ndim == 2
                groups.setdefault((matrix, name in decayed), []).append(parameter)

        def part(matrices: bool) -> list[dict[str, Any]]:
            decays = ((decay, groups.get((matrices, decay), [])) for decay in (True, False))
            return [{"params": found, "weight_decay": weight_decay * decay} for decay, found in decays if found]

        self.muon = Muon(part(matrices=True), lr=lr, adjust_lr_fn="match_rms_adamw")
        self.adamw = AdamW(part(matrices=False), lr=lr, betas=betas, eps=eps, fused=True)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in (self.muon, self.adamw):  # whose groups and states a resume, or FSDP2, has replaced
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if ("ns_steps" in group) == (part is self.muon)]
            part.step()
