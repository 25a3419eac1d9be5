"""Pipelines for the shapes of task that transformers has none for. They travel with a checkpoint's weights."""

from typing import Any

import torch
from transformers import Pipeline

WINDOW = 512  # tokens, for a tokenizer that tells no limit


class HftkText2TextPipeline(Pipeline):
    """
    A text for a text, by any encoder-decoder: `pipe("How are you?")` gives `[{"generated_text": …}]`. Further arguments
    go to `generate()`. A `prefix` is put before each text.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(self, prefix: str = "", **generate_kwargs: Any) -> tuple[dict, dict, dict]:
        return {"prefix": prefix}, generate_kwargs, {}

    def preprocess(self, text: str, prefix: str = "") -> Any:
        return self.tokenizer(prefix + text, truncation=True, return_tensors="pt")

    def _forward(self, inputs: Any, **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return {"output_ids": self.model.generate(**ids, **generate_kwargs)}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> list[dict[str, str]]:
        texts = self.tokenizer.batch_decode(outputs["output_ids"], skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]


class HftkParsingPipeline(Pipeline):
    """
    The dependency tree of a sentence, by an [`HftkForArcPrediction`]: `pipe("나는 갔다 .")`, with spaces between words,
    or `pipe([["나는", "갔다", "."]])` gives `{"word": …, "head": …, "deprel": …}` for each word; heads are counted from
    1, and 0 is the root.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        return {}, {}, {}

    def preprocess(self, sentence: str | list[str]) -> dict[str, Any]:
        words = sentence.split() if isinstance(sentence, str) else sentence
        spaced = [word if i == 0 else f" {word}" for i, word in enumerate(words)]  # as in running text
        limit = min(self.tokenizer.model_max_length, WINDOW)
        inputs = self.tokenizer(
            spaced, is_split_into_words=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        word_ids = [0 if word is None else word + 1 for word in inputs.word_ids()]
        return {
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
            "word_ids": torch.tensor([word_ids]),
            "word_counts": torch.tensor([len(words)]),
            "words": words,
        }

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        words = inputs.pop("words")
        outputs = self.model(**inputs)
        heads, labels = self.model.decode(outputs.arc_scores, outputs.label_scores)  # (1, words) each
        return {"words": words, "heads": heads[0], "labels": labels[0]}

    def postprocess(self, outputs: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"word": word, "head": head, "deprel": self.model.config.id2label[label]}
            for word, head, label in zip(
                outputs["words"], outputs["heads"].tolist(), outputs["labels"].tolist(), strict=True
            )
        ]
