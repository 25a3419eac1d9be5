"""BERT: google-research's names, those of transformers' TensorFlow classes, and hftk."""

from hftk.convert.family import ConfigTable, Family, always
from hftk.convert.rules import TF_AROUND, Config, Naming, Rule, dense, norm


def _google_config(config: Config) -> Config:
    # Its code says 1e-12, where later ones have a field.
    return {"layer_norm_eps": 1e-12, **config, "model_type": "bert"}


GOOGLE = Naming(
    rules=(
        Rule("bert/embeddings/word_embeddings", "bert.embeddings.word_embeddings.weight"),
        Rule("bert/embeddings/position_embeddings", "bert.embeddings.position_embeddings.weight"),
        Rule("bert/embeddings/token_type_embeddings", "bert.embeddings.token_type_embeddings.weight"),
        *norm("bert/embeddings/LayerNorm", "bert.embeddings.LayerNorm"),
        *dense("bert/encoder/layer_{layer}/attention/self/{part}", "bert.encoder.layer.{layer}.attention.self.{part}"),
        *dense(
            "bert/encoder/layer_{layer}/attention/output/dense", "bert.encoder.layer.{layer}.attention.output.dense"
        ),
        *norm(
            "bert/encoder/layer_{layer}/attention/output/LayerNorm",
            "bert.encoder.layer.{layer}.attention.output.LayerNorm",
        ),
        *dense("bert/encoder/layer_{layer}/intermediate/dense", "bert.encoder.layer.{layer}.intermediate.dense"),
        *dense("bert/encoder/layer_{layer}/output/dense", "bert.encoder.layer.{layer}.output.dense"),
        *norm("bert/encoder/layer_{layer}/output/LayerNorm", "bert.encoder.layer.{layer}.output.LayerNorm"),
        *dense("bert/pooler/dense", "bert.pooler.dense"),
        *dense("cls/predictions/transform/dense", "cls.predictions.transform.dense"),
        *norm("cls/predictions/transform/LayerNorm", "cls.predictions.transform.LayerNorm"),
        Rule("cls/predictions/output_bias", "cls.predictions.bias"),
        # not a kernel: it is [out, in] there too
        Rule("cls/seq_relationship/output_weights", "cls.seq_relationship.weight"),
        Rule("cls/seq_relationship/output_bias", "cls.seq_relationship.bias"),
    ),
    read_config=_google_config,
)

TF = Naming(
    rules=(
        Rule("bert/embeddings/word_embeddings/weight", "bert.embeddings.word_embeddings.weight"),
        Rule("bert/embeddings/position_embeddings/embeddings", "bert.embeddings.position_embeddings.weight"),
        Rule("bert/embeddings/token_type_embeddings/embeddings", "bert.embeddings.token_type_embeddings.weight"),
        *norm("bert/embeddings/LayerNorm", "bert.embeddings.LayerNorm"),
        *dense(
            "bert/encoder/layer_._{layer}/attention/self/{part}", "bert.encoder.layer.{layer}.attention.self.{part}"
        ),
        *dense(
            "bert/encoder/layer_._{layer}/attention/output/dense", "bert.encoder.layer.{layer}.attention.output.dense"
        ),
        *norm(
            "bert/encoder/layer_._{layer}/attention/output/LayerNorm",
            "bert.encoder.layer.{layer}.attention.output.LayerNorm",
        ),
        *dense("bert/encoder/layer_._{layer}/intermediate/dense", "bert.encoder.layer.{layer}.intermediate.dense"),
        *dense("bert/encoder/layer_._{layer}/output/dense", "bert.encoder.layer.{layer}.output.dense"),
        *norm("bert/encoder/layer_._{layer}/output/LayerNorm", "bert.encoder.layer.{layer}.output.LayerNorm"),
        *dense("bert/pooler/dense", "bert.pooler.dense"),
        *dense("mlm___cls/predictions/transform/dense", "cls.predictions.transform.dense"),
        *norm("mlm___cls/predictions/transform/LayerNorm", "cls.predictions.transform.LayerNorm"),
        Rule("mlm___cls/predictions/bias", "cls.predictions.bias"),
        *dense("nsp___cls/seq_relationship", "cls.seq_relationship"),
        *dense("classifier", "classifier"),
    ),
    around=TF_AROUND,
)

HFTK = Naming(
    rules=(
        Rule("shared.weight", "bert.embeddings.word_embeddings.weight"),
        Rule("encoder.embed_positions.weight", "bert.embeddings.position_embeddings.weight"),
        Rule("encoder.embed_token_types.weight", "bert.embeddings.token_type_embeddings.weight"),
        Rule("encoder.layernorm_embedding.{leaf}", "bert.embeddings.LayerNorm.{leaf}"),
        Rule(
            "encoder.layers.{layer}.self_attn.q_proj.{leaf}", "bert.encoder.layer.{layer}.attention.self.query.{leaf}"
        ),
        Rule("encoder.layers.{layer}.self_attn.k_proj.{leaf}", "bert.encoder.layer.{layer}.attention.self.key.{leaf}"),
        Rule(
            "encoder.layers.{layer}.self_attn.v_proj.{leaf}", "bert.encoder.layer.{layer}.attention.self.value.{leaf}"
        ),
        Rule(
            "encoder.layers.{layer}.self_attn.out_proj.{leaf}",
            "bert.encoder.layer.{layer}.attention.output.dense.{leaf}",
        ),
        Rule(
            "encoder.layers.{layer}.self_attn_layer_norm.{leaf}",
            "bert.encoder.layer.{layer}.attention.output.LayerNorm.{leaf}",
        ),
        Rule("encoder.layers.{layer}.feed_forward.fc1.{leaf}", "bert.encoder.layer.{layer}.intermediate.dense.{leaf}"),
        Rule("encoder.layers.{layer}.feed_forward.fc2.{leaf}", "bert.encoder.layer.{layer}.output.dense.{leaf}"),
        Rule("encoder.layers.{layer}.final_layer_norm.{leaf}", "bert.encoder.layer.{layer}.output.LayerNorm.{leaf}"),
        Rule("lm_head_transform.dense.{leaf}", "cls.predictions.transform.dense.{leaf}"),
        Rule("lm_head_transform.layer_norm.{leaf}", "cls.predictions.transform.LayerNorm.{leaf}"),
        Rule("lm_head.bias", "cls.predictions.bias"),
        Rule("classifier.{leaf}", "classifier.{leaf}"),
    )
)

BERT = Family(
    model_type="bert",
    prefix="bert.",
    hftk_classes={
        "BertForPreTraining": "HftkForMaskedLM",
        "BertForMaskedLM": "HftkForMaskedLM",
        "BertModel": "HftkEncoderModel",
    },
    namings={"google": GOOGLE, "tf": TF, "hftk": HFTK},
    config=ConfigTable(
        fields=(
            ("vocab_size", "vocab_size"),
            ("hidden_size", "d_model"),
            ("num_hidden_layers", "encoder_layers"),
            ("num_attention_heads", "encoder_attention_heads"),
            ("intermediate_size", "encoder_ffn_dim"),
            ("num_attention_heads", "decoder_attention_heads"),
            ("max_position_embeddings", "max_position_embeddings"),
            ("type_vocab_size", "type_vocab_size"),
            ("layer_norm_eps", "norm_eps"),
            ("hidden_act", "activation_function"),
            ("hidden_dropout_prob", "dropout"),
            ("attention_probs_dropout_prob", "attention_dropout"),
            ("initializer_range", "init_std"),
            ("pad_token_id", "pad_token_id"),
        ),
        choices=(
            always(
                norm_type="layer_norm",
                norm_position="post",
                embedding_norm=True,
                position_embedding_type="learned",
                gated_feed_forward=False,
                use_bias=True,
                bos_token_id=None,
                eos_token_id=None,
                decoder_start_token_id=None,
                trained_objectives=["masked_lm"],
            ),
        ),
        required={"is_decoder": False, "add_cross_attention": False},
    ),
    shown={"cls.predictions.bias": "lm_head_bias", "cls.predictions.transform.dense.weight": "lm_head_transform"},
    facts=("layer_norm_eps", "hidden_act", "type_vocab_size", "max_position_embeddings"),
    left_out=(
        (r"bert\.pooler\..*", "read only by the head for next sentences"),
        (r"cls\.seq_relationship\..*", "the head for next sentences"),
        (r"bert\.embeddings\.position_ids", "computed"),
    ),
)
