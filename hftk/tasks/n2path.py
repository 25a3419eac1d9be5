"""N→path: the head of each word of a sentence, and its relation to it (dependency trees)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.model.modeling_hftk_arc import HftkForArcPrediction
from hftk.tasks.alignment import encode_units, running_text
from hftk.tasks.conllu import check_tree, with_tree
from hftk.tasks.parsing_scores import ParsingScores
from hftk.tasks.rows import Row, column
from hftk.tasks.task import IGNORED, Example, Features, Task, pad_labels

Tree = dict[str, Any]  # `head` (list[int], 0 for the root) and `deprel` (list[str])


@dataclass
class N2Path(Task[Tree]):
    """
    Rows are sentences with the columns of the data set universal_dependencies, which CoNLL-U files have: `tokens`,
    `head`, `deprel` and, for the spaces between words, `misc`.

    Args:
        name (`"n2path"`):
            The shape of the task: a path from each unit.
        scalar_mix (`bool`, defaults to `False`):
            Read a learned mean of all layers instead of the last one; see [`HftkArcConfig`].
    """

    name: Literal["n2path"]
    scalar_mix: bool = False

    head: ClassVar[Any] = AutoModel
    pipelines: ClassVar[dict[str, dict[str, Any]]] = {
        "dependency-parsing": {"impl": "pipeline_hftk.HftkParsingPipeline", "pt": ["AutoModel"]}
    }
    lists: ClassVar[bool] = True
    trees: ClassVar[bool] = True

    def check_inputs(self, row: Row, where: str) -> None:
        words = column(row, "tokens", "the column of words", where)
        if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
            raise UsageError(f"{where}: column 'tokens' must hold a list of words, not {words!r:.60}")

    def check_targets(self, row: Row, where: str) -> None:
        heads, deprels = column(row, "head", "the heads", where), column(row, "deprel", "the relations", where)
        if not len(row["tokens"]) == len(heads) == len(deprels):
            raise UsageError(
                f"{where}: {len(row['tokens'])} words, {len(heads)} heads, {len(deprels)} relations; give each word one"
            )
        if None in heads:
            raise UsageError(f"{where}: word {heads.index(None) + 1} has no head; give it one, or 0 for the root")
        row["head"] = heads = [int(head) for head in heads]
        if fault := check_tree(heads):
            raise UsageError(f"{where}: {fault[1]}; heads must make a tree with one root")

    def label_names(self, rows: list[Row]) -> list[str]:
        return sorted({label for row in rows for label in row["deprel"]})

    def labels(self, row: Row) -> list[str]:
        return row["deprel"]

    def text(self, row: Row) -> str:
        return "".join(running_text(row["tokens"], row.get("misc")))

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, names: list[str] | None) -> Example:
        """
        `input_ids`, and for each token `word_ids`, the word that it belongs to, counted from 1; with `names`,
        `heads` and `labels` of the words. Words beyond `max_length` get heads too, though the model does not see them.
        """
        words = row["tokens"]
        encoded = encode_units(running_text(words, row.get("misc")), tokenizer, max_length)
        features: Features = {
            "input_ids": encoded.windows[0],
            "word_ids": [0 if unit is None else unit + 1 for unit in encoded.units[0]],
            "word_counts": [len(words)],
        }
        if names is not None:
            ids_of = {name: i for i, name in enumerate(names)}
            features["labels"] = [ids_of.get(name, IGNORED) for name in row["deprel"]]
            features["heads"] = row["head"]
        return Example([features], cut=len(encoded.windows) > 1)

    def collate(
        self, features: list[Features], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> dict[str, torch.Tensor]:
        batch = dict(tokenizer.pad([{"input_ids": item["input_ids"]} for item in features], return_tensors="pt"))
        tokens = batch["input_ids"].shape[1]
        batch["word_ids"] = torch.tensor(
            [item["word_ids"] + [0] * (tokens - len(item["word_ids"])) for item in features]
        )
        batch["word_counts"] = torch.tensor([count for item in features for count in item["word_counts"]])
        if "heads" in features[0]:
            words = int(batch["word_counts"].max())
            for name in ("heads", "labels"):
                batch[name] = pad_labels([item[name] for item in features], words)
        return batch

    def forward(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, Any]:
        outputs = model(**batch, num_items_in_batch=num_items_in_batch)
        return outputs.loss, outputs

    def predict(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], outputs: Any, tokenizer: PreTrainedTokenizerBase
    ) -> list[Any]:
        """For each sentence the heads and relations of its words."""
        heads, labels = HftkForArcPrediction.decode(outputs.arc_scores, outputs.label_scores)  # (batch, words) each
        counts = batch["word_counts"].tolist()
        return [
            (sentence_heads[:count], sentence_labels[:count])
            for sentence_heads, sentence_labels, count in zip(heads.tolist(), labels.tolist(), counts, strict=True)
        ]

    def join(self, example: Example, raw: list[Any], names: list[str]) -> Tree:
        [(heads, labels)] = raw
        return {"head": heads, "deprel": [names[label] for label in labels]}

    def columns(self, prediction: Tree, row: Row) -> Row:
        """The tree and, for a sentence out of CoNLL-U, its text with the tree in it."""
        if "conllu" not in row:
            return prediction
        return {**prediction, "conllu": with_tree(row["conllu"], prediction["head"], prediction["deprel"])}

    def references(self, rows: list[Row]) -> list[Tree]:
        return [{"head": row["head"], "deprel": row["deprel"]} for row in rows]

    def score(self, predictions: list[Tree], rows: list[Row]) -> dict[str, float]:
        return ParsingScores(keep_in_memory=True).compute(predictions=predictions, references=self.references(rows))

    def load_model(
        self, checkpoint: str, config: PreTrainedConfig, names: list[str] | None, from_scratch: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        if names is None:
            return HftkForArcPrediction.from_pretrained(checkpoint), []
        model = HftkForArcPrediction.from_backbone(
            checkpoint, config, not from_scratch, scalar_mix=self.scalar_mix, **self.head_config(names)
        )
        return model, []
