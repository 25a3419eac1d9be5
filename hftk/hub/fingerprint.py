"""
What a checkpoint is, kept beside it when it is saved, and looked at again elsewhere: other weights, another tokenizer,
another dtype or another version of transformers would otherwise answer wrongly and say nothing.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

import hftk
from hftk.errors import UsageError
from hftk.report.folder import CODE, FINGERPRINT, TOKENIZER, WEIGHTS
from hftk.tasks.task import ADAPTERS, loading_quietly, whole_checkpoint, with_saved_part

SENTENCES = ["나는 어제 그 영화를 봤다.", "The cat sat on the mat, twice!", "1,234.5 % of 漢字 & <b>ê</b>\n끝"]
OUTPUTS = 64  # numbers of the model's output that are kept, evenly spread
TOLERANCE = {
    "rtol": 1e-3,
    "atol": 1e-4,
}  # more than processors and kernels differ by in float32, less than bfloat16
NOT_COMPARED = {"base_model_name_or_path", "transformers_version", "peft_version"}


def save_fingerprint(folder: Path) -> None:
    """Writes `fingerprint.json` for the checkpoint in a folder."""
    unfinished = folder / f"{FINGERPRINT}.unfinished"
    unfinished.write_text(json.dumps(fingerprint(folder), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(folder / FINGERPRINT)


def verify(folder: Path) -> list[str]:
    """
    What of a checkpoint is not as it was when it was saved.

    Args:
        folder (`Path`): as [`save_fingerprint`] left it, or a copy.

    Returns:
        `list[str]`: a sentence for each difference; none if all is the same.

    Raises:
        UsageError: no fingerprint to compare with.
    """
    if not (folder / FINGERPRINT).is_file():
        raise UsageError(f"{folder}: no {FINGERPRINT} in it; `hftk pretrain` and `hftk finetune` write one")
    then = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    differences: list[str] = []
    try:
        differences += compare_stored(then, stored(folder))
        now = computed(folder)
    except Exception as error:  # a broken file makes tokenizers, safetensors and transformers raise anything
        return [*differences, f"it no longer loads: {' '.join(str(error).split())}"]
    for sentence, before, after in zip(then["sentences"], then["token_ids"], now["token_ids"], strict=True):
        if before != after:
            differences.append(f"tokenizer: {sentence!r} was {before}, is {after}")
    before, after = torch.tensor(then["outputs"]), torch.tensor(now["outputs"])
    if before.shape != after.shape:
        differences.append(f"outputs: {len(before)} numbers were kept, {len(after)} came out")
    elif not torch.allclose(after, before, equal_nan=True, **TOLERANCE):
        furthest = (after - before).abs().max().item()
        differences.append(f"outputs: up to {furthest:.2g} away from those that were saved")
    if differences:
        for name, version in versions().items():
            if then["versions"][name] != version:
                differences.append(f"versions: {name} was {then['versions'][name]}, is {version}")
    return differences


def fingerprint(folder: Path) -> dict[str, Any]:
    """What [`verify`] compares: what the files hold, and what the model that is loaded from them does."""
    return {"versions": versions(), **stored(folder), "sentences": SENTENCES, **computed(folder)}


def versions() -> dict[str, str]:
    return {"hftk": hftk.__version__, "torch": torch.__version__, "transformers": transformers.__version__}


def stored(folder: Path) -> dict[str, Any]:
    """What the files hold: hashes of each tensor and of whole files, the fields of configs."""
    files = {path.name: digest(path.read_bytes()) for name in [*TOKENIZER, *CODE] for path in sorted(folder.glob(name))}
    tensors = {}
    for path in sorted(path for name in WEIGHTS for path in folder.glob(name) if path.suffix == ".safetensors"):
        with safe_open(path, "pt") as weights:
            for name in weights.keys():
                tensor = weights.get_tensor(name).contiguous()
                data = tensor.flatten().view(torch.uint8).numpy().tobytes()
                tensors[name] = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), digest(data)]
    configs = {
        name: without_places(json.loads((folder / name).read_text(encoding="utf-8")))
        for name in ("config.json", "generation_config.json", ADAPTERS)
        if (folder / name).is_file()
    }
    return {"files": files, "configs": configs, "tensors": tensors}


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what may differ: where a backbone lies, and by what it was written."""
    return {key: value for key, value in config.items() if key not in NOT_COMPARED}


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]


def compare_stored(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    differences = []
    for name in sorted({*then["files"], *now["files"]}):
        if then["files"].get(name) != now["files"].get(name):
            differences.append(f"{name}: {change(then['files'], now['files'], name)}")
    for file in sorted({*then["configs"], *now["configs"]}):
        before, after = then["configs"].get(file, {}), now["configs"].get(file, {})
        for key in sorted({*before, *after}):
            old, new = (fields.get(key, "not there") for fields in (before, after))
            if old != new:
                differences.append(f"{file}: {key} was {old!r}, is {new!r}")
    dtypes = [sorted({dtype for dtype, _, _ in tensors["tensors"].values()}) for tensors in (then, now)]
    if dtypes[0] != dtypes[1]:  # then each tensor differs
        differences.append(f"weights: were {', '.join(dtypes[0])}, are {', '.join(dtypes[1])}")
        return differences
    changed = [
        name
        for name in sorted({*then["tensors"], *now["tensors"]})
        if then["tensors"].get(name) != now["tensors"].get(name)
    ]
    differences += [f"weights: {name} {change(then['tensors'], now['tensors'], name)}" for name in changed[:8]]
    if len(changed) > 8:
        differences.append(f"weights: {len(changed) - 8} more tensors differ")
    return differences


def change(then: dict[str, Any], now: dict[str, Any], name: str) -> str:
    if name not in now:
        return "is gone"
    return "has changed" if name in then else "is new"


@torch.no_grad()
def computed(folder: Path) -> dict[str, Any]:
    """What the tokenizer and the model make of [`SENTENCES`]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(sentence, truncation=True)["input_ids"] for sentence in SENTENCES]
    model = load_saved(folder).eval()
    outputs = []
    for sentence in ids:
        inputs = {"input_ids": torch.tensor([sentence])}
        if model.config.model_type == "hftk_arc":
            inputs["word_ids"] = torch.arange(1, len(sentence) + 1)[None]
        elif model.config.is_encoder_decoder and model.can_generate():
            inputs["decoder_input_ids"] = inputs["input_ids"]
        found = model(**inputs)[0].float().flatten()
        outputs.append(found[torch.linspace(0, len(found) - 1, OUTPUTS).long()])
    finite = torch.cat(outputs).nan_to_num(neginf=0.0)  # a parser's own arcs
    return {"token_ids": ids, "outputs": [round(value, 6) for value in finite.tolist()]}


def load_saved(folder: Path) -> PreTrainedModel:
    """The model of a folder by the class that was saved, with adapters or a last layer on the checkpoint they need."""
    config = AutoConfig.from_pretrained(folder)
    [name] = config.architectures
    model_class = getattr(hftk if name in hftk.__all__ else transformers, name)
    whole = whole_checkpoint(str(folder))
    with loading_quietly():
        if whole == str(folder):
            return model_class.from_pretrained(folder, dtype="auto")
        if config.model_type == "hftk_arc":
            model = model_class.from_backbone(whole, config.backbone_config, **config_fields(config))
        else:
            model = model_class.from_pretrained(whole, config=config)
    return with_saved_part(model, str(folder))


def config_fields(config: Any) -> dict[str, Any]:
    """Of a parser's config all that is not its backbone's."""
    names = ("arc_dim", "label_dim", "head_dropout", "word_pooling", "scalar_mix", "id2label", "label2id")
    return {name: getattr(config, name) for name in names}
