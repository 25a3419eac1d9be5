"""
Levels 2 and 3 of the proof: a converted model computes what the original computed, layer by layer, and generates the
same. `io.npz` holds arrays `in_…` and `out_…`; `docs/tf_reference.py` makes one where the original still runs.
"""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import hftk
from hftk.errors import UsageError

# What others call them.
INPUTS = {
    "encoder_token_ids": "input_ids",
    "encoder_padding_mask": "attention_mask",
    "decoder_token_ids": "decoder_input_ids",
    "decoder_padding_mask": "decoder_attention_mask",
}
OUTPUTS = {
    "mlm_logits": "logits",
    "prediction_logits": "logits",
    "nsp_logits": "seq_relationship_logits",
    "pooled": "pooler_output",
    "encoder_sequence_output": "encoder_last_hidden_state",
    "decoder_sequence_output": "decoder_hidden_states_-1",
}
GENERATED = "generate_greedy"
LEVELS = ("encoder", "decoder", "hidden", "last", "pooler", "logits", "seq", "generate")
Row = dict[str, Any]


def load_model(folder: Path) -> transformers.PreTrainedModel:
    """
    The model in a folder, in float32, with all its weights.

    Raises:
        UsageError: weights are missing, or are not its own.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    [name] = config.architectures
    model_class = getattr(hftk if config.model_type == "hftk" else transformers, name)
    model, info = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = [kind for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]]
    if wrong:
        raise UsageError(f"{folder}: {name} does not load all of it: {wrong[0]} {sorted(info[wrong[0]])[:3]}")
    return model.eval()


def _plain(name: str, aliases: dict[str, str]) -> str:
    name = aliases.get(name, name)
    return name.replace("hidden_", "hidden_states_") if name.startswith("hidden_") and name[7:].isdigit() else name


def _order(name: str) -> tuple[int, str, int]:
    stem, _, number = name.rpartition("_")
    rank = next((i for i, level in enumerate(LEVELS) if name.startswith(level)), len(LEVELS))
    last = "last" in name or number == "-1"
    return rank, stem if number.isdigit() else "~", 1 << 30 if last else int(number) if number.isdigit() else 0


def _output(outputs: Any, name: str) -> np.ndarray | None:
    """An output of the model by its name: `logits`, or `hidden_states_1` for one of several."""
    stem, _, number = name.rpartition("_")
    value = outputs.get(name)
    if value is None and name == "logits":
        value = outputs.get("prediction_logits")
    if value is None and number.lstrip("-").isdigit() and outputs.get(stem) is not None:
        value = outputs[stem][int(number)] if int(number) < len(outputs[stem]) else None
    return None if value is None else value.numpy()


def compare_outputs(folder: Path, reference: Path, atol: float) -> list[Row]:
    """
    Runs a converted model on the inputs of a reference.

    Args:
        folder (`Path`):
            The model, torch's or hftk's.
        reference (`Path`):
            `io.npz`.
        atol (`float`):
            By how much a number may differ.

    Returns:
        `list[dict]`: a row for each output, those nearest to the input first: `output`, `max_difference` (`None` if the
        model has no such output) and `equal`.

    Raises:
        UsageError: the reference cannot be read, or does not fit the model.
    """
    inputs, wanted = read_reference(reference)
    model = load_model(folder)
    known = {name: value for name, value in inputs.items() if name in _inputs(model)}
    # What the model has no input for must say nothing: segments, all 0.
    lost = [name for name, value in inputs.items() if name not in known and value.any()]
    if lost:
        raise UsageError(f"{reference}: {type(model).__name__} has no input {lost[0]}")
    with torch.no_grad():
        cache = {"use_cache": False} if "decoder_input_ids" in known else {}  # T5's is wrong for unlike stacks
        outputs = model(**known, output_hidden_states=True, **cache)
        rows = [_row(name, array, _output(outputs, name), atol) for name, array in wanted.items() if name != GENERATED]
        if GENERATED in wanted:
            rows.append(_compare_generation(model, inputs, wanted[GENERATED]))
    if all(row["equal"] is None for row in rows):
        raise UsageError(f"{reference}: {type(model).__name__} has none of its outputs ({', '.join(wanted)})")
    return rows


def read_reference(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """The inputs and outputs of `io.npz` under transformers' names. Nothing in it is unpickled."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # of many types for a damaged file
        raise UsageError(f"{file}: no .npz that can be read ({' '.join(str(error).split())})") from error
    inputs = {
        _plain(name[3:], INPUTS): torch.from_numpy(array.astype(np.int64))
        for name, array in found.items()
        if name.startswith("in_")
    }
    outputs = {_plain(name[4:], OUTPUTS): array for name, array in found.items() if name.startswith("out_")}
    if not inputs or not outputs:
        raise UsageError(f"{file}: has no arrays in_… and out_…; docs/tf_reference.py shows how to make them")
    return inputs, {name: outputs[name] for name in sorted(outputs, key=_order)}


def _inputs(model: Any) -> set[str]:
    """The inputs that a model takes."""
    names = set(inspect.signature(model.forward).parameters) | {"input_ids", "attention_mask"}
    if getattr(model.config, "type_vocab_size", 0):
        names.add("token_type_ids")  # hftk's classes hand it on to the encoder
    return names


def _row(name: str, wanted: np.ndarray, found: np.ndarray | None, atol: float) -> Row:
    if found is None:
        return {"output": name, "max_difference": None, "equal": None}
    if found.shape != wanted.shape:
        return {"output": name, "max_difference": float("inf"), "equal": False}
    difference = float(np.abs(found - wanted).max())
    return {"output": name, "max_difference": difference, "equal": bool(difference <= atol)}


def _compare_generation(model: Any, inputs: dict[str, torch.Tensor], wanted: np.ndarray) -> Row:
    source = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    found = model.generate(**source, max_new_tokens=wanted.shape[1] - 1, do_sample=False, num_beams=1).numpy()
    equal = found.shape == wanted.shape and bool((found == wanted).all())
    return {"output": GENERATED, "max_difference": 0.0 if equal else float("inf"), "equal": equal}


def first_difference(rows: list[Row]) -> Row | None:
    """The row nearest to the input that is not equal."""
    return next((row for row in rows if row["equal"] is False), None)
