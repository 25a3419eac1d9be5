"""What a file of weights holds beside weights, told by the names that TensorFlow and Keras give it."""

import re
from collections.abc import Container

# A slot is named after its variable. That is no proof by itself: a layer may be called Momentum.
SLOT = re.compile(
    r"(.+?)(?:/(?:Adam|Adadelta|RMSProp|Ftrl)(?:_1)?|/(?:Adagrad|Momentum)|[/_](?:adam|lamb|lars|adamw)_[mv]|_slot_(?:v|vr|vc|m))"
)
MOVING_AVERAGE = "/ExponentialMovingAverage"
OPTIMIZERS = {"optimizer", "_optimizer", "optimizer_weights"}
COUNTERS = {"global_step", "save_counter"}
RANDOM = {"seed_generator", "seed_generator_state", "_random_generator"}
OPTIMIZER_NUMBERS = {"beta1_power", "beta2_power"}
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def why_skipped(name: str, names: Container[str]) -> str:
    """
    Why something is not a weight.

    Args:
        name (`str`):
            Its name, of a checkpoint or an HDF5 file.
        names (`Container[str]`):
            All names in the same file.

    Returns:
        `str`: the reason in a word or two; empty for a weight.
    """
    parts = name.partition("/.ATTRIBUTES")[0].split("/")
    slot = SLOT.fullmatch(name)
    if "/.OPTIMIZER_SLOT/" in name or (slot and slot[1] in names):
        return "optimizer slot"
    if not OPTIMIZERS.isdisjoint(parts) or parts[-1] in OPTIMIZER_NUMBERS or name.startswith("training/"):
        return "optimizer state"
    if parts[-1] in COUNTERS:
        return "step counter"
    if not RANDOM.isdisjoint(parts):
        return "random state"
    if name.startswith("keras_api/metrics/"):
        return "metric"
    if name.removesuffix(MOVING_AVERAGE) != name and name.removesuffix(MOVING_AVERAGE) in names:
        return "moving average"
    if name == OBJECT_GRAPH:
        return "object graph"
    return ""
