"""Pictures of a run."""

from pathlib import Path
from typing import Any

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


def plot_curves(logs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """
    The losses of several runs in one picture, a colour each: a line for validation, dots for training; as a PNG.

    Args:
        logs (`dict[str, list[dict[str, Any]]]`): by a run's name the lines of its `log.jsonl`.
        path (`Path`): the file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for name, log in logs.items():
        validation, training = ([line for line in log if key in line] for key in ("eval_loss", "loss"))
        steps, losses = [line["step"] for line in validation], [line["eval_loss"] for line in validation]
        [drawn] = axes.plot(steps, losses, marker="o", markersize=3, label=name)
        steps, losses = [line["step"] for line in training], [line["loss"] for line in training]
        axes.plot(steps, losses, ".", color=drawn.get_color(), alpha=0.3, markersize=3)
    axes.set(xlabel="step", ylabel="loss (nats a predicted token)", title="validation (line) and training (dots)")
    axes.grid(alpha=0.3)
    axes.legend()
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
    for name, row in rows.items():
        at = row["forgetting"], row[score]
        spread = row.get("forgetting_std", 0), row.get(f"{score}_std", 0)
        axes.errorbar(*at, xerr=spread[0], yerr=spread[1], marker="o", markersize=5, capsize=3)
        axes.annotate(name, at, xytext=(6, 5), textcoords="offset points", fontsize=8)
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
