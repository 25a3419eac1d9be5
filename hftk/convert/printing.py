"""What `hftk convert` prints."""

from collections import Counter
from collections.abc import Iterator

from hftk.convert.conversion import Report
from hftk.convert.proof import is_proof
from hftk.convert.reference import first_difference

SHOWN = 5  # names of a list


def summary(report: Report) -> Iterator[str]:
    """A report in lines."""
    yield (
        f"{report.source} ({report.family}, names of {report.source_names}) -> {report.target} "
        f"({report.class_name}, {report.target_names})"
    )
    for name, value in report.facts.items():
        yield f"  {name}: {value}"
    for title, names in (
        ("unused", report.unused),
        ("missing", report.missing),
        ("left to the class", report.defaults),
    ):
        if names:
            yield f"{title}: {len(names)} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
    for reason, count in Counter(report.skipped.values()).most_common():
        yield f"skipped: {count} ({reason})"
    merged = sum(isinstance(row["source"], list) and len(row["source"]) > 1 for row in report.tensors)
    if merged:
        yield f"tied: {merged} compared with their copies and merged"
    for result, count in Counter(row["round_trip"] for row in report.tensors).most_common():
        yield f"there and back: {count} of {len(report.tensors)} tensors {result}"
    for row in report.tensors:
        if not is_proof(row["round_trip"]):
            yield f"  {row['target']}: {row['round_trip']}"
    compared = [row for row in report.outputs if row["equal"] is not None]
    if compared:
        first = first_difference(compared)
        largest = max(row["max_difference"] for row in compared)
        yield f"reference: {len(compared)} outputs, largest difference {largest:.1e}" + (
            f"; the first that differs is {first['output']} ({first['max_difference']:.1e})" if first else ""
        )
    yield "equal" if report.ok else "NOT converted"
