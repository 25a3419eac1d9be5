"""
Every table, for every name of a model with several layers: there and back is the same name and the same numbers. hftk's
names are those of hftk's models, torch's those of transformers' classes.
"""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import hftk
from hftk.convert.expected import expected_by_hftk, expected_by_torch, torch_config
from hftk.convert.families import FAMILIES
from hftk.convert.rules import PLACEHOLDERS, Rule
from hftk.errors import UsageError

SIZES = {"vocab_size": 50, "d_model": 24, "max_position_embeddings": 12, "pad_token_id": 0, "decoder_start_token_id": 1}
STACKS = {"encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
STACKS |= {"encoder_ffn_dim": 40, "decoder_ffn_dim": 36}
BERT = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
T5 = {"vocab_size": 50, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2}
T5_1_1 = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForPreTraining", BERT),
    "bart": ("BartForConditionalGeneration", {**SIZES, **STACKS}),
    "marian": ("MarianMTModel", {**SIZES, **STACKS}),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_1_1": ("T5ForConditionalGeneration", T5_1_1),
}


def case(name: str):
    class_name, config = CONFIGS[name]
    family = FAMILIES[name.partition("_")[0]]
    return family, class_name, torch_config(family, config)


TABLES = [
    (name, naming)
    for name in CONFIGS
    for naming in case(name)[0].namings
    if (naming == "hftk-gated") == (name == "t5_1_1") or not naming.startswith("hftk")
]


@pytest.mark.parametrize(("name", "naming_name"), TABLES)
def test_there_and_back(name, naming_name):
    family, class_name, config = case(name)
    naming = family.namings[naming_name]
    rng = np.random.default_rng(0)
    seen = set()
    for torch_name, shape in expected_by_torch(family, class_name, config).shapes.items():
        renamed = naming.from_torch(torch_name)
        if renamed is None:  # what this program's model does not have
            assert naming_name.startswith(("hftk", "keras-hub")) and (
                "pooler" in torch_name or "seq_relationship" in torch_name or torch_name == "final_logits_bias"
            )
            continue
        theirs, transform = renamed
        assert theirs not in seen
        seen.add(theirs)
        assert naming.to_torch(theirs) == (torch_name, transform)
        array = rng.normal(size=shape).astype(np.float32)
        again = transform.to_torch(transform.from_torch(array, config), config)
        if transform.drops:
            array[:2] = 0
        assert again.dtype == array.dtype and np.array_equal(again, array)


@pytest.mark.parametrize("name", CONFIGS)
def test_hftk_has_just_these_tensors(name):
    """Of the same shapes."""
    family, class_name, config = case(name)
    expected = expected_by_torch(family, class_name, config, stored_only=False)
    ours = family.to_hftk(config, set(expected.shapes))
    naming = family.namings["hftk-gated" if ours.gated_feed_forward else "hftk"]
    found = {}
    for torch_name, shape in expected.shapes.items():
        if renamed := naming.from_torch(torch_name):
            zeros = np.zeros(shape, np.float32)
            found[renamed[0]] = renamed[1].from_torch(zeros, config).shape
    assert found == expected_by_hftk(family.hftk_classes[class_name], ours).shapes


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_go_there_and_back(name):
    family, class_name, config = case(name)
    ours = family.to_hftk(config, set(family.shown))
    again = family.from_hftk(ours)
    for key, value in again.items():
        assert config.get(key) == value, key


@pytest.mark.parametrize("preset", ["bart", "t5"])
def test_presets_have_a_family(preset):
    """What hftk pretrains in these architectures can be given to those who have transformers alone."""
    assert FAMILIES[preset].from_hftk(hftk.HftkConfig.from_preset(preset))["d_model"] == 512


@pytest.mark.parametrize(
    ("preset", "changes", "field"),
    [
        ("modern", {}, "norm_type"),
        ("bart", {"norm_position": "pre", "final_norm": False}, "norm_position"),
        ("bart", {"ngram_order": 2}, "ngram_order"),
        ("bart", {"norm_eps": 1e-6}, "norm_eps"),
        ("bart", {"attention_window": 3}, "attention_window"),
        ("bart", {"head_dim": 16}, "head_dim"),
    ],
)
def test_what_a_family_cannot_compute_is_refused(preset, changes, field):
    with pytest.raises(UsageError, match=f"bart has no {field}="):
        FAMILIES["bart"].from_hftk(hftk.HftkConfig.from_preset(preset, **changes))


def test_what_hftk_cannot_compute_is_refused():
    bert = {**case("bert")[2], "is_decoder": True}
    with pytest.raises(UsageError, match="hftk has no is_decoder=True"):
        FAMILIES["bert"].to_hftk(bert, set())
    t5 = {**case("t5")[2], "feed_forward_proj": "gelu"}
    with pytest.raises(UsageError, match="hftk has no feed_forward_proj='gelu'; it can take 'relu', 'gated-gelu'"):
        FAMILIES["t5"].to_hftk(t5, set())


def test_marian_computes_the_same_table():
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    family, _, config = case("marian")
    theirs = MarianSinusoidalPositionalEmbedding(config["max_position_embeddings"], config["d_model"]).create_weight()
    for make in family.computed.values():
        assert torch.equal(torch.from_numpy(make(config)), theirs)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["encoder", "decoder"]))
def test_keras_counts_from_nothing(layer, stack):
    rule = Rule("transformer_{stack}{_layer}/x", "{stack}.layers.{layer}.x")
    from hftk.convert.rules import Naming

    naming, torch_name = Naming((rule,)), f"{stack}.layers.{layer}.x"
    renamed = naming.from_torch(torch_name)
    assert renamed is not None and renamed[0] == f"transformer_{stack}{f'_{layer}' if layer else ''}/x"
    again = naming.to_torch(renamed[0])
    assert again is not None and again[0] == torch_name
    assert "_layer" in PLACEHOLDERS


def test_families_are_types_of_transformers():
    assert set(FAMILIES) <= set(transformers.CONFIG_MAPPING)
