"""
What a token costs in long rows with local attention (a window of 128), forward and backward, in turns.

    python benchmarks/window.py
"""

import time
from statistics import median

import torch
from turns import in_turns

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForMaskedLM
from hftk.training.runtime import RuntimeArguments, choose_runtime, keep_pages

TOKENS = 8192  # of a batch


def microseconds(length: int) -> dict[str, float]:
    keep_pages()
    config = HftkConfig.from_preset(
        "modern", vocab_size=8192, d_model=256, encoder_layers=4, attention_window=128, max_position_embeddings=length
    )
    model = HftkForMaskedLM(config).train()
    ids = torch.randint(5, 8192, (TOKENS // length, length))
    labels = ids.masked_fill(torch.rand(ids.shape) > 0.15, -100)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    runtime = choose_runtime(model, [batch, batch], RuntimeArguments(), torch.device("cpu"))
    assert runtime.attn_implementation is not None
    model.set_attn_implementation(runtime.attn_implementation)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=runtime.dtype == "bfloat16"):
            loss = model(**batch).loss
        loss.backward()
        times.append(time.perf_counter() - start)
    return {"microseconds a token": 1e6 * median(times) / TOKENS}


if __name__ == "__main__":
    lengths = (4096, 2048, 1024, 512)
    in_turns(
        {f"{length} tokens": lambda length=length: microseconds(length) for length in lengths}, "microseconds a token"
    )
