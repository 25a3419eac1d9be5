import numpy as np
import pytest

from hftk.data.vocabulary import Vocabulary
from hftk.training.pretraining import HeldOut, unigram_bits_per_byte


def test_the_unigram_guess_is_the_cross_entropy_of_frequencies_over_the_bytes():
    token_bytes = np.array([0, 1, 3])  # the first is special
    vocabulary = Vocabulary(
        token_bytes=token_bytes,
        starts_word=np.ones(3, dtype=bool),
        ends_sentence=np.zeros(3, dtype=bool),
        pad=0, bos=0, eos=0, mask=None, sentinels=np.array([], dtype=np.int64), modes={},
        random_tokens=np.array([1, 2]),
    )  # fmt: skip
    counts = np.array([7, 2, 1])
    held_out = HeldOut(rows=None, weight=1.0, label_counts=counts, label_bytes=int((counts * token_bytes).sum()))  # type: ignore[arg-type]
    # after smoothing the text held 6 of the second and 2 of the third token
    bits = 2 * -np.log2(6 / 8) + 1 * -np.log2(2 / 8)
    assert unigram_bits_per_byte(held_out, np.array([0, 5, 1]), vocabulary) == pytest.approx(bits / 5)
