"""Pictures of a run."""

from pathlib import Path
from typing import Any


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
