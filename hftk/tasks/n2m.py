"""N→M: a text for a text (translation, dialogue, summaries)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.tasks.metrics import TranslationScores
from hftk.tasks.rows import Row, column
from hftk.tasks.task import IGNORED, Example, Features, Task, pad_labels

Texts = list[str]  # one for each direction that the row has the source of
Offered = list[tuple[str, float]]  # texts to choose from, and how much the source is like that which each was said to
LIKELY = 0.05  # what a nat for each token weighs beside a cosine


@dataclass
class N2M(Task[Texts]):
    """
    Args:
        name (`"n2m"`):
            The shape of the task: a text for a text.
        directions (`list[dict[str, str]]`, defaults to one from `source` to `target`):
            What is written for what, by columns: `{source: en, target: ko}`. A model may learn several, which it tells
            apart by a `prefix` before each source: `{source: en, target: ko, prefix: "to Korean: "}`.
        max_target_length (`int`, defaults to 128):
            Most tokens of a target, in training and in generation.
        num_beams (`int`, defaults to 4):
            Beams of the search; 1 is greedy.
        label_smoothing (`float`, defaults to 0.1):
            Share of the probability that the loss spreads over all tokens (Szegedy et al. 2016); evaluation has none.
        candidates (`int`, defaults to 0):
            Do not write a target but choose it: of those of so many training rows whose source is most like the given
            one, that with the greatest sum of the likeness (cosine of TF-IDF) and the mean log-probability of its
            tokens, weighed 0.05. The training rows are then a part of the model: its folder has them, and `hftk push`
            takes them along.
    """

    name: Literal["n2m"]
    directions: list[dict[str, str]] = field(default_factory=lambda: [{"source": "source", "target": "target"}])
    max_target_length: int = 128
    num_beams: int = 4
    label_smoothing: float = 0.1
    candidates: int = 0

    head: ClassVar[Any] = AutoModelForSeq2SeqLM
    pipelines: ClassVar[dict[str, dict[str, Any]]] = {
        "text2text-generation": {"impl": "pipeline_hftk.HftkText2TextPipeline", "pt": ["AutoModelForSeq2SeqLM"]}
    }

    def __post_init__(self) -> None:
        for direction in self.directions:
            if not {"source", "target"} <= direction.keys() <= {"source", "target", "prefix"}:
                raise UsageError(f"task.directions: {direction} must have source, target and, if you like, prefix")
        if self.candidates < 0:
            raise UsageError(f"task.candidates: among {self.candidates} nothing can be chosen; give 0 or more")

    def _present(self, row: Row) -> list[dict[str, str]]:
        return [direction for direction in self.directions if direction["source"] in row]

    def check_inputs(self, row: Row, where: str) -> None:
        if not self._present(row):
            column(row, self.directions[0]["source"], "task.directions", where)
        for direction in self._present(row):
            self._check_text(row, direction["source"], where)

    def check_targets(self, row: Row, where: str) -> None:
        for direction in self.directions:
            self._check_text(row, direction["source"], where)
            self._check_text(row, direction["target"], where)

    def _check_text(self, row: Row, name: str, where: str) -> None:
        text = column(row, name, "task.directions", where)
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{where}: column {name!r} must hold a text, not {text!r:.60}")

    def label_names(self, rows: list[Row]) -> list[str]:
        return []

    def text(self, row: Row) -> str:
        return "\n".join(row[direction["source"]] for direction in self._present(row))

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, names: list[str] | None) -> Example:
        """`input_ids` for each direction and, with `names`, `labels`: the target without a start symbol."""
        example = Example([])
        for direction in self._present(row):
            ids = tokenizer(direction.get("prefix", "") + row[direction["source"]], verbose=False)["input_ids"]
            features: Features = {"input_ids": _cut(ids, max_length)}
            example.cut |= len(ids) > max_length
            if names is not None:
                labels = _labels(row[direction["target"]], tokenizer)
                features["labels"] = _cut(labels, self.max_target_length)
                example.cut |= len(labels) > self.max_target_length
            example.features.append(features)
        return example

    def offer(self, example: Example, offered: list[Offered], tokenizer: PreTrainedTokenizerBase) -> None:
        """Has the targets of an encoded row chosen, each among texts of its own."""
        for features, texts in zip(example.features, offered, strict=True):
            features["texts"] = [text for text, _ in texts]
            features["likeness"] = [likeness for _, likeness in texts]
            features["offered"] = [_cut(_labels(text, tokenizer), self.max_target_length) for text, _ in texts]

    def collate(
        self, features: list[Features], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> dict[str, torch.Tensor]:
        batch = dict(tokenizer.pad([{"input_ids": item["input_ids"]} for item in features], return_tensors="pt"))
        if "labels" in features[0]:
            labels = [item["labels"] for item in features]
            batch["labels"] = pad_labels(labels, max(map(len, labels)))
            batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        if "offered" in features[0]:
            offered = [labels for item in features for labels in item["offered"]]
            batch["offered"] = pad_labels(offered, max(map(len, offered)))  # (items * candidates, length)
            batch["likeness"] = torch.tensor([item["likeness"] for item in features])  # (items, candidates)
        return batch

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None) -> torch.Tensor:
        """Smoothed while it trains."""
        if num_items_in_batch is None:
            return super().loss(logits, labels, None)
        total = cross_entropy(
            logits.flatten(0, -2).float(), labels.flatten(), reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / num_items_in_batch

    def forward(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, Any]:
        """Without targets there is nothing to run the decoder on."""
        if "labels" not in batch:
            return None, None
        batch = {name: tensor for name, tensor in batch.items() if name not in ("offered", "likeness")}
        return super().forward(model, batch, num_items_in_batch)

    def predict(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], outputs: Any, tokenizer: PreTrainedTokenizerBase
    ) -> list[Any]:
        """Texts, by beam search; where some are offered, the place of the one that is chosen."""
        if "offered" in batch:
            return self._choose(model, batch)
        generated = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            num_beams=self.num_beams,
            max_new_tokens=self.max_target_length,
            early_stopping=self.num_beams > 1,
        )
        return [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]

    def _choose(self, model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> list[int]:
        likeness, mask = batch["likeness"], batch["attention_mask"]
        read = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=mask)
        nats_a_token = []
        for labels in batch["offered"].unflatten(0, likeness.shape).unbind(1):  # a candidate of each item at a time
            decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels=labels)
            logits = model(encoder_outputs=read, attention_mask=mask, decoder_input_ids=decoder_input_ids).logits
            nats = cross_entropy(logits.mT.float(), labels, reduction="none").sum(dim=1)  # 0 where there is no token
            nats_a_token.append(nats / (labels != IGNORED).sum(dim=1))
        return (likeness - LIKELY * torch.stack(nats_a_token, dim=1)).argmax(dim=1).tolist()

    def join(self, example: Example, raw: list[Any], names: list[str]) -> Texts:
        if not self.candidates:
            return raw
        return [features["texts"][place] for features, place in zip(example.features, raw, strict=True)]

    def columns(self, prediction: Texts, row: Row) -> Row:
        targets = [direction["target"] for direction in self._present(row)]
        return dict(zip(targets, prediction, strict=True))

    def score(self, predictions: list[Texts], rows: list[Row]) -> dict[str, Any]:
        """BLEU and chrF++ over all directions and, where there are several, of each one."""
        written = {d["target"]: [texts[place] for texts in predictions] for place, d in enumerate(self.directions)}
        wanted = {d["target"]: [row[d["target"]] for row in rows] for d in self.directions}
        scores = _scores(sum(written.values(), []), sum(wanted.values(), []))
        if len(self.directions) > 1:
            for direction in self.directions:
                of_it = _scores(written[direction["target"]], wanted[direction["target"]])
                scores |= {
                    f"{name}_{direction['source']}_{direction['target']}": value for name, value in of_it.items()
                }
        return scores


def _scores(written: Texts, wanted: Texts) -> dict[str, Any]:
    return TranslationScores(keep_in_memory=True).compute(predictions=written, references=wanted)


def _labels(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a target, without a start symbol."""
    ids = tokenizer(text_target=text, verbose=False)["input_ids"]
    return ids[1:] if ids[0] == tokenizer.bos_token_id else ids


def _cut(ids: list[int], length: int) -> list[int]:
    """The first ids, and the last one, which ends every sequence."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
