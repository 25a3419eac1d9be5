"""The model card of a run: its README.md, out of nothing but what the run itself left in its folder."""

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hftk.report.folder import CARD, RECIPE, RUN

# For each shape of task what the Hub calls it, and the pipeline that does it.
SHAPES = {
    "n21": ("a label for a text", "text-classification", "text-classification"),
    "n2n": ("a label for each word or character", "token-classification", "token-classification"),
    "morphemes": ("the tags of each word's morphemes", "token-classification", "token-classification"),
    "subjects": ("the subjects that a sentence drops", "token-classification", "token-classification"),
    "n2path": ("a dependency tree", "token-classification", "dependency-parsing"),
    "n2m": ("a text for a text", "text2text-generation", "text2text-generation"),
}
BY_PIPELINE = ("n21", "n2n", "n2path", "n2m")  # the others' labels are put together by `hftk predict`
HEADS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "dependency-parsing": "AutoModel",
}
EXAMPLE = "나는 어제 그 영화를 봤다 ."


@dataclass
class CardArguments:
    """
    What a card says that no run can know.

    Args:
        language (`list[str]`):
            Codes of the languages of the text, `ko`.
        license (`str`, *optional*):
            Under which others may use the model, as the Hub writes it: `apache-2.0`.
        data_license (`str`, *optional*):
            Of the text that it learned from.
        watts (`float`, *optional*):
            What the machine draws while it trains. The card estimates the energy from it and says so.
    """

    language: list[str] = field(default_factory=list)
    license: str | None = None
    data_license: str | None = None
    watts: float | None = None


def write_card(folder: Path) -> None:
    """
    Writes `README.md` from `recipe.yaml`, `metrics.json`, `run.json` and `config.json` of a run's folder. What was not
    measured is not in it, or the card says that it was not.
    """
    unfinished = folder / f"{CARD}.unfinished"
    unfinished.write_text(str(card(folder)), encoding="utf-8")
    unfinished.replace(folder / CARD)


def card(folder: Path) -> ModelCard:
    """The card of a run, out of the template of its kind."""
    recipe_text = (folder / RECIPE).read_text(encoding="utf-8")
    recipe = yaml.safe_load(recipe_text)
    metrics, run, config = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("metrics.json", RUN, "config.json")
    )
    template = kind(recipe)
    environment = Environment(
        loader=FileSystemLoader(templates()), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    text = environment.get_template(f"{template}.md").render(
        recipe=recipe,
        recipe_text=recipe_text.strip(),
        metrics=metrics,
        run=run,
        config=config,
        name=recipe["output"],
        title=Path(recipe["output"]).name,
        base=base_model(recipe),
        said={"language": [], "license": None, "data_license": None, "watts": None, **recipe.get("card", {})},
        trust=", trust_remote_code=True" if "auto_map" in config else "",
        seed=recipe.get("seed", 42),
        shape=SHAPES[recipe["task"]["name"]] if "task" in recipe else None,
        by_pipeline="task" in recipe and recipe["task"]["name"] in BY_PIPELINE,
        head=HEADS[SHAPES[recipe["task"]["name"]][2]] if "task" in recipe else None,
        scores=scores(metrics),
        earlier=earlier(metrics),
        data=recipe.get("data", {}),
        data_name=data_name(recipe),
        example=EXAMPLE,
        pictures=sorted(path.relative_to(folder).as_posix() for path in folder.glob("plots/*.png")),
    )
    return ModelCard(f"---\n{card_data(recipe, metrics, template).to_yaml()}\n---\n\n{text.strip()}\n")


def kind(recipe: dict[str, Any]) -> str:
    """The name of the template."""
    if "task" not in recipe:
        return "pretrained"
    transfer = recipe.get("transfer", {})
    if transfer.get("save_alone"):
        return "last_layer"
    return "adapters" if transfer.get("method") == "lora" and not transfer.get("merge") else "task"


def card_data(recipe: dict[str, Any], metrics: dict[str, Any], template: str) -> ModelCardData:
    """What the Hub reads of a card: its head."""
    said = recipe.get("card", {})
    shape = SHAPES[recipe["task"]["name"]] if "task" in recipe else None
    results: list[EvalResult] = []
    for split, values in scores(metrics).items():
        if shape is None:
            break  # the bits of a pretraining are no task's
        for metric, (value, _) in values.items():
            result = EvalResult(
                task_type=shape[1],
                dataset_type=recipe.get("data", {}).get("dataset") or "files",
                dataset_name=data_name(recipe, split),
                dataset_split=split,
                metric_type=metric,
                metric_value=value,
            )
            results += [result] if metric != "loss" else []
    base = base_model(recipe)
    return ModelCardData(
        language=said.get("language") or None,
        license=said.get("license"),
        library_name="peft" if template == "adapters" else "transformers",
        tags=["hftk"],
        datasets=recipe.get("data", {}).get("dataset"),
        base_model=base,
        pipeline_tag=shape[1] if shape else None,
        model_name=Path(recipe["output"]).name if results else None,
        eval_results=results or None,
    )


def base_model(recipe: dict[str, Any]) -> str | None:
    """The checkpoint that a run started from; None if it built its model."""
    return recipe["model"] if isinstance(recipe.get("model"), str) else None


def data_name(recipe: dict[str, Any], split: str = "train") -> str:
    """The data set, or the files, of a split; validation rows may come from those of the training."""
    data = recipe.get("data", {})
    if data.get("train_files"):
        return ", ".join(Path(file).name for file in data.get(f"{split}_files") or data["train_files"])
    return " ".join(filter(None, [data.get("dataset"), data.get("dataset_config")]))


def scores(metrics: dict[str, Any]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """By split (`validation`, `test`) and metric: the value, and its standard deviation over seeds if there is one."""
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for split, prefix in (("validation", "eval_"), ("test", "test_")):
        values = {
            name.removeprefix(prefix): (value, metrics.get(f"{name}_std"))
            for name, value in metrics.items()
            if name.startswith(prefix) and isinstance(value, int | float) and not name.endswith("_std")
        }
        if values:
            found[split] = values
    return found


def earlier(metrics: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """What earlier tasks scored over the backbone before and after this one."""
    names = [name.removesuffix("_before") for name in metrics if name.startswith("earlier_") and "_before" in name]
    return {name.removeprefix("earlier_"): (metrics[f"{name}_before"], metrics[f"{name}_after"]) for name in names}


def number(value: float) -> str:
    """As a reader wants it: 40,800; 0.9135."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def templates() -> Path:
    """The folder of the templates: in a checkout beside the package, in an installed hftk inside it."""
    package = Path(str(files("hftk")))
    installed = package / "hub_cards"
    return installed if installed.is_dir() else package.parent / "hub_cards"
