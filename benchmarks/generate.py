"""
Generating, ours and BART of the same sizes with transformers' `generate()`, and ours in CTranslate2, in turns: new
tokens a second.

    python benchmarks/generate.py

Width 256, 4 + 4 layers, vocabulary 8,192, random weights; 32 rows of 64 source tokens and exactly 64 new ones, greedy
and with 4 beams. `as documented` is float32; `at its best` is bfloat16 autocast where that is faster; CTranslate2 has
the weights of ours, as `hftk convert --to ctranslate2` writes them, and is told what to compute in.
"""

import tempfile
import time
from collections.abc import Callable

import ctranslate2
import torch
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel
from turns import in_turns

from hftk.convert.ctranslate2_model import build_spec
from hftk.convert.vocabulary import Vocabulary
from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForConditionalGeneration
from hftk.training.runtime import faster_dtype, keep_pages

ROWS, SOURCE, NEW = 32, 64, 64
SIZES = {
    "vocab_size": 8192,
    "d_model": 256,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 1024,
    "decoder_ffn_dim": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def model() -> HftkForConditionalGeneration:
    config = HftkConfig.from_preset("modern", gated_feed_forward=False, decoder_start_token_id=1, **SIZES)
    return HftkForConditionalGeneration(config)


def ours() -> dict[str, float]:
    keep_pages()
    return generated(model(), best=True)


def bart(best: bool) -> dict[str, float]:
    if best:
        keep_pages()
    return generated(BartForConditionalGeneration(BartConfig(decoder_start_token_id=2, **SIZES)), best)


def in_ctranslate2(compute_type: str) -> dict[str, float]:
    keep_pages()
    of, tokens = model(), [str(place) for place in range(SIZES["vocab_size"])]
    arrays = {name: parameter.detach().numpy() for name, parameter in of.named_parameters()}
    spec = build_spec(of.config, arrays, Vocabulary(tokens, start=1, end=2, unknown=0))
    spec.validate()
    spec.optimize()
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        threads = torch.get_num_threads()
        translator = ctranslate2.Translator(folder, "cpu", compute_type=compute_type, intra_threads=threads)
    rows = [[tokens[place] for place in row] for row in sources().tolist()]

    def run(beams: int) -> None:
        found = translator.translate_batch(rows, beam_size=beams, min_decoding_length=NEW, max_decoding_length=NEW)
        assert all(len(one.hypotheses[0]) == NEW for one in found)

    return rates(run)


def sources() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(5, SIZES["vocab_size"], (ROWS, SOURCE))


@torch.no_grad()
def generated(model: PreTrainedModel, best: bool) -> dict[str, float]:
    source = sources()
    inputs = {"input_ids": source, "attention_mask": torch.ones_like(source)}
    bfloat16 = best and faster_dtype(torch.device("cpu")) == "bfloat16"

    def run(beams: int) -> None:
        options = {"num_beams": beams, "do_sample": False, "min_new_tokens": NEW, "max_new_tokens": NEW}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            model.eval().generate(**inputs, **options)  # type: ignore[operator]

    return rates(run)


def rates(run: Callable[[int], None]) -> dict[str, float]:
    """Of a run with as many beams as it is told: the fastest of three."""
    rates = {}
    for name, beams in (("greedy", 1), ("4 beams", 4)):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            run(beams)
            seconds.append(time.perf_counter() - start)
        rates[f"{name}, tokens a second"] = ROWS * NEW / min(seconds)
    return rates


if __name__ == "__main__":
    in_turns(
        {
            "hftk": ours,
            "BART as documented": lambda: bart(best=False),
            "BART at its best": lambda: bart(best=True),
            "CTranslate2, float32": lambda: in_ctranslate2("float32"),
            "CTranslate2, int8": lambda: in_ctranslate2("int8"),
        },
        "greedy, tokens a second",
        "4 beams, tokens a second",
    )
