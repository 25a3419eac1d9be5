"""What `hftk inspect` prints."""

from collections import Counter
from collections.abc import Iterator

from hftk.convert.weights import Weights


def listing(weights: Weights) -> Iterator[str]:
    """
    Weights in lines: the format, a line for each tensor (shape, type, name, and the variable's own name where it has
    another), what was skipped and why, and the sums. No tensor is read.
    """
    yield f"{weights.source}: {weights.container} ({weights.family})"
    rows = [
        (str(list(tensor.shape)), tensor.dtype, name, f"  ({tensor.full_name})" if tensor.full_name else "")
        for name, tensor in weights.tensors.items()
    ]
    width = max((len(shape) for shape, *_ in rows), default=0)
    for shape, dtype, name, full_name in rows:
        yield f"{shape:{width}}  {dtype:8}  {name}{full_name}"
    for reason, count in Counter(weights.skipped.values()).most_common():
        yield f"skipped: {count} ({reason})"
    tensors = weights.tensors.values()
    yield (
        f"{len(tensors):,} tensors, {sum(tensor.count for tensor in tensors):,} parameters, "
        f"{sum(tensor.size for tensor in tensors):,} bytes"
    )
