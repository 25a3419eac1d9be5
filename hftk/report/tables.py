"""The runs of a comparison as a table."""

from typing import Any

from hftk.errors import UsageError

NUMBERS = {"minutes": ".2f", "trainable_parameters": ",.0f", "peak_memory_gb": ".2f", "forgetting": "+.3f"}


def chosen_score(metrics: list[dict[str, Any]], score: str | None) -> str:
    """The name of what the runs are compared by, of all the numbers that they have."""
    numbers = [name for run in metrics for name, value in run.items() if isinstance(value, int | float)]
    names = [name for name in dict.fromkeys(numbers) if not name.endswith("_std")]
    if score and names and score not in names:
        raise UsageError(f"--score {score}: metrics.json has no such number; it has {', '.join(names)}")
    scores = [name for part in ("test_", "eval_") for name in names if name.startswith(part) and name[-4:] != "loss"]
    return score or next(iter(scores), "score")


def markdown_table(rows: list[dict[str, Any]], keys: list[str], score: str) -> str:
    """A Markdown table that is aligned as it stands."""
    forms = {score: ".4g"} | NUMBERS
    cells = [[*keys, *forms]]
    for row in rows:
        cells.append([row[key].replace("|", "\\|") for key in keys])
        for name, form in forms.items():
            spread = f" ± {row[f'{name}_std']:.2g}" if f"{name}_std" in row else ""
            cells[-1].append("–" if row[name] is None else f"{row[name]:{form}}{spread}")
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    lines = [" | ".join(map(str.ljust, row, widths)) for row in cells]
    return "\n".join(f"| {line} |" for line in lines)
