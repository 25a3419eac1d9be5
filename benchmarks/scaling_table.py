"""
What each of many GPUs holds and sends in a step: computed from a model's sizes, with the formulas of docs/scaling.md.

    python benchmarks/scaling_table.py --gpus 8 64 1024 --gbit 400
    python benchmarks/scaling_table.py --model '{d_model: 1024, encoder_layers: 24, decoder_layers: 24, …}'

Nothing is built but shapes.
"""

import argparse

import torch
import yaml

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForPreTraining

MODELS = {
    "base": "{d_model: 768, encoder_layers: 12, decoder_layers: 12, encoder_ffn_dim: 3072, decoder_ffn_dim: 3072, "
    "encoder_attention_heads: 12, decoder_attention_heads: 12, vocab_size: 32768}",
    "large": "{d_model: 2048, encoder_layers: 24, decoder_layers: 24, encoder_ffn_dim: 8192, decoder_ffn_dim: 8192, "
    "encoder_attention_heads: 16, decoder_attention_heads: 16, vocab_size: 65536}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=list(MODELS), help=f"{', '.join(MODELS)}, or fields in YAML")
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 64, 1024])
    parser.add_argument("--gbit", type=float, default=400, help="that a GPU can send in a second")
    arguments = parser.parse_args()

    print("| model | GPUs | | GB held by each | GB sent by each in a step | seconds to send them |")
    print("|---|---|---|---|---|---|")
    for name in arguments.model:
        with torch.device("meta"):
            model = HftkForPreTraining(HftkConfig.from_preset("modern", **yaml.safe_load(MODELS.get(name, name))))
        layers = [sum(map(torch.Tensor.numel, layer.parameters())) for layer in model.encoder.layers]
        layers += [sum(map(torch.Tensor.numel, layer.parameters())) for layer in model.decoder.layers]
        parameters = model.num_parameters()
        label = f"{name if name in MODELS else 'given'}, {parameters / 1e6:,.0f} M"
        for gpus in arguments.gpus:
            share = (gpus - 1) / gpus  # of what all hold together, that one must be sent
            gathered = 2 * (parameters - sum(layers)) + 2 * 2 * max(layers)  # bf16: the root, and two layers at once
            rows = {
                "DDP": (20 * parameters, 2 * share * 4 * parameters),
                "FSDP2": (16 * parameters / gpus + 2 * gathered, 3 * share * 2 * parameters),
            }
            for kind, (held, sent) in rows.items():
                seconds = sent * 8 / (arguments.gbit * 1e9)
                print(f"| {label} | {gpus:,} | {kind} | {held / 1e9:.2f} | {sent / 1e9:.2f} | {seconds:.3f} |")


if __name__ == "__main__":
    main()
