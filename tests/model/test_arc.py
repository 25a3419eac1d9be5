"""The dependency parser: its scores against the paper's equations, its loss, and its backbones."""

import itertools

import pytest
import torch
from transformers import AutoModel, BartConfig, BertConfig, BertModel, RobertaConfig, T5Config

from hftk import HftkArcConfig, HftkConfig, HftkForArcPrediction, HftkForMaskedLM
from hftk.model.modeling_hftk_arc import encoder_of
from hftk.tasks.conllu import check_tree

from .conftest import SIZES, randomise

BERT_SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
BART_SIZES = {"d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 48, "decoder_layers": 1, "decoder_ffn_dim": 48}
BACKBONES = {
    "hftk": lambda: HftkConfig(**SIZES),
    "bert": lambda: BertConfig(**BERT_SIZES),
    "roberta": lambda: RobertaConfig(**BERT_SIZES),
    "t5": lambda: T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0),
    "bart": lambda: BartConfig(vocab_size=97, max_position_embeddings=40, dropout=0.0, **BART_SIZES),
}


def parser(backbone: str = "hftk", **fields) -> HftkForArcPrediction:
    fields = {"arc_dim": 12, "label_dim": 6, "num_labels": 5, **fields}
    model = HftkForArcPrediction(HftkArcConfig(backbone_config=BACKBONES[backbone](), **fields)).eval()
    randomise(model)
    return model


# Sentences of 4 and 2 words between special tokens; a word of the first has two tokens, another has none.
BATCH = {
    "input_ids": torch.tensor([[3, 10, 11, 12, 13, 4], [3, 20, 21, 4, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
    "word_ids": torch.tensor([[0, 1, 1, 2, 4, 0], [0, 1, 2, 0, 0, 0]]),
}
TARGETS = {
    "heads": torch.tensor([[2, 0, 4, 2], [0, 1, -100, -100]]),
    "labels": torch.tensor([[1, 0, 3, 2], [0, 4, -100, -100]]),
}


def sentence(row: int, tokens: int, words: int) -> dict[str, torch.Tensor]:
    """One sentence of the batch, without its padding."""
    inputs = {name: value[row : row + 1, :tokens] for name, value in BATCH.items()}
    return inputs | {name: value[row : row + 1, :words] for name, value in TARGETS.items()}


def test_decode_takes_the_best_relations_of_the_tree_and_pads():
    arc_scores = torch.full((2, 3, 4), -torch.inf)
    arc_scores[0] = torch.tensor([[5.0, -torch.inf, 9, 0], [4, 8, -torch.inf, 0], [9, 0, 7, -torch.inf]])
    arc_scores[1, :1, 0] = -2.0
    label_scores = torch.randn(2, 3, 4, 6)
    heads, labels = HftkForArcPrediction.decode(arc_scores, label_scores)
    # greedily [2, 1, 0] has a cycle; of the trees with one root, 2 ← 3 ← root (7 is given up) loses to 3 ← 2 ← 1 ← root
    assert heads.tolist() == [[0, 1, 2], [0, -100, -100]]
    expected = [[label_scores[0, word, head].argmax().item() for word, head in enumerate([0, 1, 2])]]
    expected.append([label_scores[1, 0, 0].argmax().item(), -100, -100])
    assert labels.tolist() == expected


def test_scores_that_are_no_numbers_make_no_arcs():
    arc_scores = torch.tensor([[[2.0, -torch.inf, 0], [1, torch.nan, -torch.inf]]])
    heads, _ = HftkForArcPrediction.decode(arc_scores, torch.zeros(1, 2, 3, 1))
    assert heads.tolist() == [[2, 0]]  # not [0, 1], though a maximum takes what is no number


# ---- scores


def test_scores_are_those_of_the_paper():
    """Dozat & Manning 2017, equations 4 to 10, with the relations of every arc and not only of the predicted one."""
    model = parser()
    with torch.no_grad():
        outputs = model(**BATCH)
        states = model.backbone(BATCH["input_ids"], BATCH["attention_mask"]).last_hidden_state[0]  # (tokens, width)
        nodes = [model.root.weight, states[1:3].mean(dim=0), states[3], torch.zeros(32), states[4]]

        def mlp(projection, node):
            projected = projection.weight @ node + projection.bias
            return torch.where(projected > 0, projected, 0.1 * projected)

        arc_weight = model.arc_biaffine.weight[0]  # (12 + 1, 12): the matrix, and below it the vector of head alone
        label_weight = model.label_biaffine.weight  # (labels, 6 + 1, 6 + 1)
        for word, head in itertools.product(range(1, 5), range(5)):
            dependent_arc, head_arc = mlp(model.arc_dependent, nodes[word]), mlp(model.arc_head, nodes[head])
            dependent_label, head_label = mlp(model.label_dependent, nodes[word]), mlp(model.label_head, nodes[head])
            score = dependent_arc @ arc_weight[:12] @ head_arc + head_arc @ arc_weight[12]
            if word == head:
                score = torch.tensor(-torch.inf)
            torch.testing.assert_close(outputs.arc_scores[0, word - 1, head], score, rtol=1e-4, atol=1e-4)
            for label, matrix in enumerate(label_weight):
                score = dependent_label @ matrix[:6, :6] @ head_label + matrix[6, 6]
                score = score + dependent_label @ matrix[:6, 6] + matrix[6, :6] @ head_label
                found = outputs.label_scores[0, word - 1, head, label]
                torch.testing.assert_close(found, score, rtol=1e-4, atol=1e-4)


def test_a_word_is_the_mean_or_the_first_of_its_tokens():
    states = torch.randn(1, 5, 32)
    word_ids = torch.tensor([[0, 2, 2, 1, 2]])
    mean, first = parser(), parser(word_pooling="first")
    torch.testing.assert_close(mean.word_states(states, word_ids, 3)[0, 2], states[0, [1, 2, 4]].mean(dim=0))
    expected = torch.stack([first.root.weight, states[0, 3], states[0, 1], torch.zeros(32)])
    torch.testing.assert_close(first.word_states(states, word_ids, 3)[0], expected)


def test_the_scalar_mix_weighs_all_layers():
    model = parser(scalar_mix=True)
    with torch.no_grad():
        model.layer_mix.weight.copy_(torch.tensor([0.0, 40.0, 0.0]))  # all but only the first layer's output
        mixed = model(**BATCH)
        assert mixed.hidden_states is None  # nobody asked for them
        assert len(model(**BATCH, output_hidden_states=True).hidden_states) == 3
        model.config.scalar_mix = False
        model.backbone.layers = model.backbone.layers[:1]
        model.backbone.layer_norm = torch.nn.Identity()
        model.backbone.layer_norm.forward = lambda states, mask: torch.nn.functional.layer_norm(states, (32,))
        torch.testing.assert_close(mixed.arc_scores, model(**BATCH).arc_scores)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_padding_changes_nothing_and_a_batch_weighs_its_words(backbone):
    model = parser(backbone)
    with torch.no_grad():
        both = model(**BATCH, **TARGETS)
        alone = [model(**sentence(0, 6, 4)), model(**sentence(1, 4, 2))]
    for row, words in ((0, 4), (1, 2)):
        scores = both.arc_scores[row, :words, : words + 1]
        torch.testing.assert_close(scores, alone[row].arc_scores[0], rtol=1e-4, atol=1e-4)
        scores = both.label_scores[row, :words, : words + 1]
        torch.testing.assert_close(scores, alone[row].label_scores[0], rtol=1e-4, atol=1e-4)
    assert (both.arc_scores[1, 2:] == -torch.inf).all() and (both.arc_scores[1, :, 3:] == -torch.inf).all()
    torch.testing.assert_close(both.loss, (4 * alone[0].loss + 2 * alone[1].loss) / 6)
    with torch.no_grad():
        accumulated = sum(
            model(**sentence(*which), num_items_in_batch=torch.tensor(6)).loss for which in ((0, 6, 4), (1, 4, 2))
        )
    torch.testing.assert_close(both.loss, accumulated)


def test_the_loss_is_of_the_given_heads_and_of_the_labels_at_them():
    model = parser()
    heads, labels = (
        torch.tensor([[2, -100, 4, -100], [0, 1, -100, -100]]),
        torch.tensor([[1, 4, -100, 4], [0, 2, 4, 4]]),
    )
    with torch.no_grad():
        outputs = model(**BATCH, heads=heads, labels=labels)
        arcs_alone = model(**BATCH, heads=heads).loss
        model.train()  # in which the labels of other arcs are not scored; without dropout the loss is the same
        for module in model.modules():
            if hasattr(module, "dropout"):
                module.dropout = 0.0
        trained = model(**BATCH, heads=heads, labels=labels)
        nothing = model(**BATCH, heads=torch.full((2, 4), -100), labels=labels)
    arcs = outputs.arc_scores.log_softmax(dim=-1)
    relations = outputs.label_scores.log_softmax(dim=-1)
    arc_loss = -(arcs[0, 0, 2] + arcs[0, 2, 4] + arcs[1, 0, 0] + arcs[1, 1, 1]) / 4
    label_loss = -(relations[0, 0, 2, 1] + relations[1, 0, 0, 0] + relations[1, 1, 1, 2]) / 4
    torch.testing.assert_close(arcs_alone, arc_loss)
    torch.testing.assert_close(outputs.loss, arc_loss + label_loss)
    torch.testing.assert_close(trained.loss, outputs.loss)
    assert trained.label_scores is None
    assert nothing.loss == 0


def test_words_that_were_cut_still_get_heads():
    model = parser()
    with torch.no_grad():
        outputs = model(**BATCH, word_counts=torch.tensor([6, 2]))
        heads, _ = model.decode(outputs.arc_scores, outputs.label_scores)
        # in training their heads say that they are there, in whatever way
        cut = {"heads": torch.tensor([[2, 0, 6, 2, -100, -100], [0, 1, 1, -100, -100, -100]])}
        trained = model(**BATCH, **cut)
    assert check_tree(heads[0].tolist()) is None and check_tree(heads[1, :2].tolist()) is None
    assert (heads[1, 2:] == -100).all()
    assert trained.loss.isfinite()
    assert (trained.arc_scores != -torch.inf).any(dim=-1).sum(dim=1).tolist() == [6, 3]


# ---- the model as users of transformers meet it


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_saved_parser_comes_back_and_every_parameter_learns(backbone, tmp_path):
    model = parser(backbone, id2label={0: "root", 1: "nsubj", 2: "obj"}, label2id={"root": 0, "nsubj": 1, "obj": 2})
    model.save_pretrained(tmp_path)
    back = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(back) is HftkForArcPrediction
    assert type(back.config.backbone_config) is type(model.config.backbone_config)
    assert back.config.id2label == model.config.id2label
    assert back.backbone.config._attn_implementation == "eager"
    back = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        before, after = model(**BATCH), back(**BATCH)
    assert torch.equal(before.arc_scores, after.arc_scores)
    assert torch.equal(before.label_scores, after.label_scores)

    labels = {"heads": TARGETS["heads"], "labels": TARGETS["labels"].clamp(max=2)}
    back.train()(**BATCH, **labels).loss.backward()
    unused = [name for name, parameter in back.named_parameters() if parameter.grad is None]
    assert unused == []
    assert not any("decoder" in name or "pooler" in name for name in back.state_dict())


def test_a_new_parser_scores_all_alike_and_keeps_the_norms_of_states():
    model = HftkForArcPrediction(HftkArcConfig(backbone_config=BACKBONES["hftk"](), arc_dim=40, num_labels=3)).eval()
    projection = model.arc_head.weight  # (40, 32)
    torch.testing.assert_close(projection.T @ projection, torch.eye(32), rtol=0, atol=1e-5)
    assert 0.5 < model.root.weight.std() < 1.5
    with torch.no_grad():
        scores = model(**BATCH).arc_scores
    assert set(scores.unique().tolist()) == {-torch.inf, 0.0}


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_parser_starts_over_a_checkpoint(pretrained, build, tmp_path):
    # whose decoder was never trained
    checkpoint = build(HftkForMaskedLM, attention="sdpa", trained_objectives=["masked_lm"])
    checkpoint.save_pretrained(tmp_path / "hftk")
    torch.manual_seed(0)
    bert = BertModel(BACKBONES["bert"]()).to(torch.bfloat16)
    bert.save_pretrained(tmp_path / "bert")
    for name, encoder in (("hftk", checkpoint.encoder), ("bert", encoder_of(bert))):
        model = HftkForArcPrediction.from_backbone(str(tmp_path / name), pretrained=pretrained, num_labels=4, arc_dim=7)
        assert (model.config.num_labels, model.config.arc_dim) == (4, 7)
        assert model.dtype == torch.float32 and model.backbone.dtype == torch.float32
        theirs = encoder.state_dict()
        same = [torch.equal(value, theirs[key].float()) for key, value in model.backbone.state_dict().items()]
        assert all(same) if pretrained else not all(same)


def test_the_kernel_and_checkpointing_reach_the_backbone():
    config = HftkConfig(**SIZES, attn_implementation="eager")
    assert HftkArcConfig(backbone_config=config).backbone_config._attn_implementation == "eager"
    assert (
        HftkArcConfig(backbone_config=config, attn_implementation="sdpa").backbone_config._attn_implementation == "sdpa"
    )
    gradients = []
    for checkpointing in (False, True):
        model = parser(head_dropout=0.0).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert all(layer.gradient_checkpointing for layer in model.backbone.layers)
        model(**BATCH, **TARGETS).loss.backward()
        gradients.append(model.backbone.embed_tokens.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    with pytest.raises(ValueError, match="batch_norm"):
        HftkForArcPrediction(
            HftkArcConfig(backbone_config=HftkConfig(**SIZES, norm_type="batch_norm"))
        ).activation_checkpointing_enable()


def test_dropout_takes_the_same_features_of_all_words():
    torch.manual_seed(0)
    projection = parser(head_dropout=0.5).train().arc_head
    states = torch.randn(3, 7, 32)
    dropped = projection(states) == 0  # (3, 7, 12)
    assert (dropped == dropped[:, :1]).all()
    assert 0 < dropped.float().mean() < 1 and not (dropped[0] == dropped[1]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"word_pooling": "last"}, "choose one of mean, first"),
        ({"arc_dim": 0}, "arc_dim=0 must be"),
        ({"head_dropout": 1.0}, "head_dropout=1.0 must be"),
        ({"backbone_config": None}, "backbone_config is missing"),
    ],
)
def test_nonsense_is_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        HftkArcConfig(**{"backbone_config": HftkConfig(**SIZES), **fields})
    assert "\n" not in str(error.value)


def test_four_sentences_are_learned():
    torch.manual_seed(0)
    config = HftkArcConfig(backbone_config=HftkConfig(**SIZES), num_labels=3, arc_dim=32, label_dim=16)
    model = HftkForArcPrediction(config).train()
    input_ids = torch.randint(5, 97, (4, 5))
    inputs = {"input_ids": input_ids, "word_ids": torch.arange(1, 6).expand(4, 5)}
    heads = torch.tensor([[2, 0, 2, 3, 3], [0, 1, 1, 5, 3], [5, 1, 4, 5, 0], [3, 3, 0, 3, 4]])
    labels = torch.tensor([[1, 0, 2, 1, 2], [0, 1, 2, 2, 1], [1, 2, 1, 2, 0], [2, 1, 0, 1, 2]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(**inputs, heads=heads, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    found_heads, found_labels = model.decode(outputs.arc_scores, outputs.label_scores)
    assert torch.equal(found_heads, heads)
    assert torch.equal(found_labels, labels)
