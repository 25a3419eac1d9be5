"""A model's parameters from the top down: the head, the layers of its backbone, and what is below them."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

BACKBONE = ("shared", "encoder", "decoder")  # of the classes of type hftk, which have no module around it


def backbone_of(model: PreTrainedModel) -> Any:
    """The module whose outputs a head of a task reads."""
    # classes of type hftk have no module round the backbone, and heads of their own read the encoder
    return model.encoder if model.base_model is model else model.base_model


def backbone_names(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that a pretrained model brings, whatever head stands on it."""
    inside = (
        [model.base_model]
        if model.base_model is not model
        else [module for name, module in model.named_children() if name in BACKBONE]
    )
    parameters = {id(parameter) for module in inside for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in parameters}


def stages(model: PreTrainedModel) -> list[list[str]]:
    """
    The names of all parameters from the top down: the head, if it has weights of its own, each layer (a decoder's
    stand above an encoder's), and last what is below all layers. What stands behind a stack of layers, its final norm,
    belongs to its top layer.
    """
    backbone = backbone_names(model)
    names = [name for name, _ in model.named_parameters()]
    found = [[name for name in names if name not in backbone]]
    for stack, layers in reversed(layer_stacks(model)):
        behind = [name for name in names if name in backbone and _is_behind(model, stack, name)]
        for index in reversed(range(len(layers))):
            found.append([name for name in names if name.startswith(f"{stack}.{index}.")] + behind)
            behind = []
    placed = {name for stage in found for name in stage}
    found.append([name for name in names if name not in placed])
    return [stage for stage in found if stage]


def layer_stacks(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The names and modules of the lists of layers, in the order in which they run."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and all(isinstance(m, GradientCheckpointingLayer) for m in module)
        and len(module)
    ]


def _is_behind(model: nn.Module, stack: str, name: str) -> bool:
    """Whether a parameter comes after the layers of `stack`: registered later, without layers or embeddings in it."""
    shared, path, own = "", stack.split("."), name.split(".")
    while path and own and path[0] == own[0]:
        shared, path, own = f"{shared}.{own[0]}".lstrip("."), path[1:], own[1:]
    if not path or "emb" in own[0]:
        return False
    parent = model.get_submodule(shared)
    order = [child for child, _ in parent.named_children()]
    if own[0] not in order or order.index(own[0]) < order.index(path[0]):
        return False
    return not layer_stacks(parent.get_submodule(own[0]))
