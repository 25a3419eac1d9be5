"""Pictures of a run."""

from pathlib import Path
from typing import Any

import numpy as np

LAYER_GRADIENT = "grad_norm_"  # how the names of layers' gradient norms begin in a log
LOWER_IS_BETTER = ("loss", "bits_per_byte", "mse")  # how the names of such scores end


def plot_losses(log: list[dict[str, Any]], path: Path) -> None:
    """
    Training loss of each logged step and the validation loss, as a PNG.

    Args:
        log (`list[dict[str, Any]]`): the lines of `log.jsonl`.
        path (`Path`): the file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    training = [(line["step"], line["loss"]) for line in log if "loss" in line]
    if training:
        # dots, since in a mixture each step is of one objective, and a line would jump between their losses
        axes.plot(*zip(*training, strict=True), ".", color="0.7", markersize=3, label="training, each logged step")
    for name in sorted({key for line in log for key in line if key.startswith("eval_") and key.endswith("loss")}):
        points = [(line["step"], line[name]) for line in log if name in line]
        label = "validation" + ("" if name == "eval_loss" else f", {name[5:-5]}")
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    axes.set(xlabel="step", ylabel="loss (nats a predicted token)")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plot_confusion(wanted: list[str], predicted: list[str], path: Path) -> None:
    """
    How often each label was predicted where another was right, as a PNG; rows sum to 1.

    Args:
        wanted (`list[str]`): the right label of each item.
        predicted (`list[str]`): the label that was predicted for it.
        path (`Path`): the file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from sklearn.metrics import ConfusionMatrixDisplay

    labels = sorted({*wanted, *predicted})
    size = 2.5 + 0.6 * len(labels)
    figure, axes = pyplot.subplots(figsize=(size, size), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        wanted,
        predicted,
        labels=labels,
        normalize="true",
        values_format=".2f",
        xticks_rotation="vertical",
        cmap="Blues",
        ax=axes,
        colorbar=False,
    )
    axes.set(xlabel="predicted", ylabel="right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plot_curves(logs: dict[str, list[dict[str, Any]]], path: Path, varied: str | None = None) -> None:
    """
    The losses of several runs in one picture, a colour each: a line for validation, a dashed one for validation with
    shuffled words where that was measured, dots for training; as a PNG.

    Args:
        logs (`dict[str, list[dict[str, Any]]]`): by a run's name the lines of its `log.jsonl`.
        path (`Path`): the file to write.
        varied (`str`, *optional*): what the names are values of, the legend's title.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for name, log in logs.items():
        [drawn] = axes.plot(*logged(log, "eval_loss"), marker="o", markersize=3, label=name)
        color = drawn.get_color()
        axes.plot(*logged(log, "eval_shuffled_loss"), "--", color=color)
        axes.plot(*logged(log, "loss"), ".", color=color, alpha=0.3, markersize=3)
    shuffled = any("eval_shuffled_loss" in line for log in logs.values() for line in log)
    title = f"validation (line){', with shuffled words (dashed)' if shuffled else ''} and training (dots)"
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    axes.legend(title=varied)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def logged(log: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """The steps at which `name` was logged, and what it was."""
    lines = [line for line in log if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def layer_gradients(log: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The logged gradient norms of each layer by its name, from the input to the output."""
    names = [name for name in next((line for line in log if "loss" in line), {}) if name.startswith(LAYER_GRADIENT)]
    return {name.removeprefix(LAYER_GRADIENT): logged(log, name)[1] for name in names}


def plot_layer_gradients(logs: dict[str, list[dict[str, Any]]], path: Path, varied: str | None = None) -> None:
    """
    The gradient norm of each layer, at the first logged step and in the median of all, a line for each run; as a PNG.

    Args:
        logs (`dict[str, list[dict[str, Any]]]`):
            By a run's name the lines of its `log.jsonl`. One that lacks the gradients of layers is left out.
        path (`Path`): the file to write.
        varied (`str`, *optional*): what the names are values of, the legend's title.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 4.2), sharey=True, layout="constrained")
    for name, log in logs.items():
        norms = layer_gradients(log)
        if not norms:
            continue
        layers = [layer.replace(".layers.", " ") for layer in norms]
        first, middle = zip(*((steps[0], np.median(steps)) for steps in norms.values()), strict=True)
        for axes, values in zip(panels, (first, middle), strict=True):
            axes.plot(layers, values, marker="o", markersize=4, label=name)
    for axes, title in zip(panels, ("at the first logged step", "median of all logged steps"), strict=True):
        axes.set(yscale="log", title=title)
        axes.tick_params(axis="x", rotation=45)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="gradient norm of the layer")
    panels[0].legend(title=varied)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plot_tradeoff(rows: dict[str, dict[str, Any]], score: str, path: Path) -> None:
    """
    What each run scores over what it forgot, and a line along those that no other one beats, as a PNG.

    Args:
        rows (`dict[str, dict[str, Any]]`):
            By a run's name its `forgetting` (bits per byte) and its score; with several seeds also `forgetting_std` and
            the score's `…_std`. A run that lacks one of the two is left out.
        score (`str`): the name of the score.
        path (`Path`): the file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {name: row for name, row in rows.items() if row["forgetting"] is not None and row[score] is not None}
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    most = max((row["forgetting"] for row in rows.values()), default=0)
    for name, row in rows.items():
        at = row["forgetting"], row[score]
        side = -1 if at[0] > 0.7 * most > 0 else 1  # names stay within the picture
        spread = row.get("forgetting_std", 0), row.get(f"{score}_std", 0)
        axes.errorbar(*at, xerr=spread[0], yerr=spread[1], marker="o", markersize=5, capsize=3)
        aligned = "right" if side < 0 else "left"
        axes.annotate(name, at, xytext=(6 * side, 5), textcoords="offset points", fontsize=8, ha=aligned)
    points = [(row["forgetting"], row[score]) for row in rows.values()]
    best = [points[index] for index in frontier(points, lower=score.endswith(LOWER_IS_BETTER))]
    # stairs: the best score that is to be had for so much forgetting
    axes.plot(*zip(*best, strict=True), drawstyle="steps-post", color="0.6", linestyle="--", zorder=0)
    axes.margins(0.15)  # room for the names
    axes.set(xlabel="forgetting (bits per byte of raw text)", ylabel=score)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def frontier(points: list[tuple[float, float]], lower: bool = False) -> list[int]:
    """
    The points that no other one beats: Pareto's frontier.

    Args:
        points (`list[tuple[float, float]]`): cost and score.
        lower (`bool`, *optional*, defaults to `False`): a lower score is the better one.

    Returns:
        `list[int]`: their places by rising cost; of equal points the first one's.
    """
    scores = [-score if lower else score for _, score in points]
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -scores[index])):
        if not kept or scores[index] > scores[kept[-1]]:
            kept.append(index)
    return kept
