"""
`hftk convert`: weights from one program's names and layouts to another's, without the program, one tensor in memory at
a time, and with a proof.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import transformers

import hftk
from hftk.convert.detection import Source, identify
from hftk.convert.expected import Expected, expected_by_hftk, expected_by_torch
from hftk.convert.families.hftk import HFTK, check_computed_by
from hftk.convert.greedy import greedy_settings
from hftk.convert.plan import make_plan, torch_names
from hftk.convert.programs import FROM_HFTK, RUN_BY_TENSORFLOW, write_with_ctranslate2, write_with_tensorflow
from hftk.convert.proof import Mover, check_plan_computed, is_proof, prove
from hftk.convert.readers import open_weights
from hftk.convert.rules import Config, Naming
from hftk.convert.vocabulary import read_vocabulary
from hftk.convert.weights import Weights
from hftk.convert.writing import checkpoint_key, h5_path, write_h5, write_safetensors
from hftk.errors import UsageError

TARGETS = {
    **{"torch": "model.safetensors", "hftk": "model.safetensors", "tf": "tf_model.h5"},
    **{"keras": "model.keras", "savedmodel": "saved_model.pb", "ctranslate2": "model.bin"},
}
DTYPES = ("float32", "float16", "bfloat16")
REPORT = "conversion.json"
# What belongs to a model beside its weights, and is the same for all programs.
COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "source.spm", "target.spm", "sentencepiece.bpe.model"),
)


@dataclass
class Report:
    """
    What was converted, and what proves it. `conversion.json` has the same.

    Args:
        source, target (`str`):
            The file that was read, and where it went.
        family, source_names, target_names, class_name (`str`):
            The type of model, whose names both sides have, and the class that loads the target.
        facts (`dict[str, str]`):
            What weights do not show and changes what is computed, each with where it comes from.
        tensors (`list[dict]`):
            Of [`prove`]; empty if nothing was written.
        unused, missing, defaults (`list[str]`), skipped (`dict[str, str]`):
            Of [`Plan`].
        outputs (`list[dict]`):
            Of [`compare_outputs`]; empty without a reference.
    """

    source: str
    target: str
    family: str
    source_names: str
    target_names: str
    class_name: str
    facts: dict[str, str]
    tensors: list[dict[str, Any]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    defaults: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is left over, and all that was checked is equal."""
        proved = all(is_proof(row["round_trip"]) for row in self.tensors)
        return (
            proved and not self.unused and not self.missing and all(row["equal"] is not False for row in self.outputs)
        )


def convert(
    source: str | Path,
    target: str | Path,
    *,
    names: str | None = None,
    to: str | None = None,
    arch: str | None = None,
    config: str | Path | None = None,
    reference: str | Path | None = None,
    atol: float = 2e-5,
    dtype: str | None = None,
    allow: list[str] | None = None,
    max_new_tokens: int | None = None,
    dry_run: bool = False,
) -> Report:
    """
    Converts weights.

    Args:
        source (`str` or `Path`):
            What [`open_weights`] opens.
        target (`str` or `Path`):
            A folder that is not there yet. It is there afterwards if the report is `ok`.
        names (`str`, *optional*):
            Whose names the source has: `torch`, `hftk`, `tf`, `google`, …; by default those that fit most tensors.
        to (`str`, *optional*):
            `torch`, `hftk` or `tf`; from hftk also `keras` or `savedmodel`, which need TensorFlow, and `ctranslate2`.
            By default `torch`, unless the source is torch's; from hftk's Keras model `hftk`.
        arch (`str`, *optional*):
            transformers' class to convert to or from; by default that of the config, or the one with the most
            parts that are there. For `hftk` its class that has the same parts.
        config (`str` or `Path`, *optional*):
            By default `config.json` or `bert_config.json` beside the weights, or what an archive holds.
        reference (`str` or `Path`, *optional*):
            `io.npz`: the outputs of the original.
        atol (`float`, defaults to 2e-5):
            By how much outputs may differ from it.
        dtype (`str`, *optional*):
            `float32`, `float16` or `bfloat16`; by default as it is.
        allow (`list[str]`, *optional*):
            Names or patterns (`cls.*`) of tensors that may be left over or missing.
        max_new_tokens (`int`, *optional*):
            How many the signature `generate` of a SavedModel gives at the most; by default what
            `generation_config.json` says.
        dry_run (`bool`, defaults to `False`):
            Decide everything, and read and write no tensor.

    Returns:
        [`Report`]

    Raises:
        UsageError: the source cannot be read, or the target cannot be.
    """
    target = Path(target)
    _check_options(target, to, dtype, reference, max_new_tokens, dry_run)
    weights = open_weights(source)
    found = identify(weights, names, config, arch, to in FROM_HFTK)
    to = to or found.default_target
    if to == found.naming_name:
        raise UsageError(f"{weights.source}: its names are {to}'s already; choose another --to")
    family, naming = found.family, found.naming
    theirs, expected, by_torch, target_config = _target(found, to, arch, weights)
    plan = make_plan(weights, family, (naming, theirs), expected, by_torch, found.config, dtype)
    plan.allow(allow or [])
    if to == "tf" and any(step.dtype == "bfloat16" for step in plan.steps):
        raise UsageError(f"{weights.source}: holds bfloat16, which tf_model.h5 does not; add --dtype float32")
    if to in FROM_HFTK and any(step.dtype != "float32" for step in plan.steps):
        raise UsageError(f"{weights.source}: what --to {to} writes is of float32; add --dtype float32")
    greedy = vocabulary = None
    if to == "savedmodel":
        greedy = greedy_settings(found.folder, hftk.HftkConfig(**found.config), max_new_tokens)
    if to == "ctranslate2":
        if plan.defaults:
            raise UsageError(f"{weights.source}: lacks {plan.defaults[0]}, without which CTranslate2 has no model")
        vocabulary = read_vocabulary(found.folder, hftk.HftkConfig(**found.config))
    report = Report(
        str(weights.source), str(target), family.model_type, found.naming_name, to, expected.class_name, found.facts(),
        unused=plan.unused, missing=plan.missing, defaults=plan.defaults, skipped=plan.skipped,
    )  # fmt: skip
    if dry_run or not report.ok:
        return report

    mover = Mover(weights, family, found.config)
    check_plan_computed(plan, weights, family, found.config)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        folder = Path(temporary, "out")
        folder.mkdir()
        file = folder / TARGETS[to]
        if vocabulary is not None:
            report.outputs = write_with_ctranslate2(file, found.config, plan.steps, mover.read, vocabulary)
        elif to in RUN_BY_TENSORFLOW:
            write_with_tensorflow(file, found.config, plan.steps, mover.read, greedy)
        else:
            (write_h5 if to == "tf" else write_safetensors)(file, plan.steps, mover.read)
        _write_beside(folder, found, to, target_config, expected.class_name)
        if to != "ctranslate2":  # which joins tensors, and is proved by what comes out of it
            path_of = {"tf": h5_path, "savedmodel": checkpoint_key}.get(to, str)
            report.tensors = prove(plan, mover, open_weights(file), path_of)
        if reference is not None:
            from hftk.convert.reference import compare_outputs  # loads models

            report.outputs = compare_outputs(folder, Path(reference), atol)
        write_report(report, folder / REPORT)
        if report.ok:
            folder.rename(target)
    return report


def _check_options(
    target: Path, to: str | None, dtype: str | None, reference: Any, max_new_tokens: int | None, dry_run: bool
) -> None:
    if to is not None and to not in TARGETS:
        raise UsageError(f"--to {to}: no such target; choose one of {', '.join(TARGETS)}")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    if to == "tf" and dtype == "bfloat16":
        raise UsageError("--dtype bfloat16: tf_model.h5 has none; choose float32 or float16")
    if reference is not None and to in ("tf", *RUN_BY_TENSORFLOW):
        raise UsageError(f"--reference: {TARGETS[to]} runs in TensorFlow only; compare it with its torch source")
    if reference is not None and to == "ctranslate2":
        raise UsageError("--reference: what CTranslate2 computes is compared with its source anyway; leave it out")
    if max_new_tokens is not None and to != "savedmodel":
        raise UsageError("--max-new-tokens: only a SavedModel has it inside; add --to savedmodel")
    if target.exists() and not dry_run:
        raise UsageError(f"{target}: is there already; name a new folder")


def _target(
    found: Source, to: str, arch: str | None, weights: Weights
) -> tuple[Naming | None, Expected, Expected, Config]:
    """The names, the tensors and the configuration of the target, and the tensors of torch's class with its parts."""
    family = found.family
    if family is HFTK:
        return _target_of_hftk(found, to)
    if to in FROM_HFTK:
        raise UsageError(f"--to {to}: takes hftk's weights; first `hftk convert {weights.source} NEW --to hftk`")
    there = {renamed[0] for renamed in torch_names(weights, family, found.naming).values() if renamed}
    asked = [arch] if arch else [*found.architectures, *family.hftk_classes]
    if to == "hftk":
        asked = [name for name in asked if name in family.hftk_classes] or [*family.hftk_classes]
    classes = [expected_by_torch(family, name, found.config, stored_only=to == "torch") for name in asked]
    by_torch = _fullest(classes, there | set(family.computed))
    if to != "hftk":
        config = {**found.raw_config, "architectures": [by_torch.class_name]}
        config.pop("auto_map", None)  # it names code that lies beside the source
        return (None if to == "torch" else family.namings["tf"]), by_torch, by_torch, config
    hftk_config = family.to_hftk(found.config, there)
    class_name = family.hftk_classes[by_torch.class_name]
    if class_name == "HftkEncoderModel":
        hftk_config.trained_objectives = []  # its head is not there
    return (
        found.hftk_naming(hftk_config),
        expected_by_hftk(class_name, hftk_config),
        by_torch,
        {**hftk_config.to_dict(), "architectures": [class_name]},
    )


def _target_of_hftk(found: Source, to: str) -> tuple[Naming | None, Expected, Expected, Config]:
    """The same for hftk's own model, in another program or out of Keras."""
    if to not in ("hftk", *FROM_HFTK):
        raise UsageError(f"--to {to}: out of Keras only into hftk; from there `hftk convert NEW OTHER --to {to}`")
    config = hftk.HftkConfig(**found.config)
    if to != "hftk":
        check_computed_by("hftk's Keras model" if to in RUN_BY_TENSORFLOW else "CTranslate2", config)
    expected = expected_by_hftk("HftkForConditionalGeneration", config)
    written = {name: value for name, value in found.raw_config.items() if name != "auto_map"}  # no code lies beside it
    return HFTK.namings["keras"] if to in RUN_BY_TENSORFLOW else None, expected, expected, written


def _fullest(candidates: list[Expected], there: set[str]) -> Expected:
    """The first of which nothing is missing; otherwise the first."""
    whole = [expected for expected in candidates if expected.shapes.keys() - expected.optional <= there]
    return (whole or candidates)[0]


def _write_beside(folder: Path, found: Source, to: str, config: Config, class_name: str) -> None:
    """The configuration, the tokenizer's files, and how to generate."""
    if to == "hftk":
        hftk.HftkConfig(**config).save_pretrained(folder)
    elif to != "ctranslate2":  # it has one of its own
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for name in COPIED:
        if (found.folder / name).is_file():
            shutil.copyfile(found.folder / name, folder / name)
    generation = found.folder / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)
    elif to == "hftk" and "Conditional" in class_name:
        theirs = transformers.CONFIG_MAPPING[found.family.model_type](**found.config)
        transformers.GenerationConfig.from_model_config(theirs).save_pretrained(folder)


def write_report(report: Report, file: Path) -> None:
    """As JSON, with `ok`. Of numbers that JSON does not have, infinite ones, it says `null`; `equal` is false there."""
    outputs = [
        {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in row.items()}
        for row in report.outputs
    ]
    content = {"ok": report.ok, **vars(report), "outputs": outputs}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
