import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.convert import crc32c as module
from hftk.convert.crc32c import crc32c, masked_crc32c


def of(data: bytes) -> int:
    return crc32c(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ("data", "checksum"),
    [  # RFC 3720, B.4; and the check value of the CRC catalogue
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_known_checksums(data, checksum):
    assert of(data) == checksum


@given(st.binary(max_size=40), st.sampled_from([2, 8, 512]), st.sampled_from([4, 16, 1 << 22]))
def test_lanes_and_pieces_change_nothing(data, lane, piece):
    whole = of(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LANE", lane)
        patch.setattr(module, "PIECE", piece)
        assert of(data) == whole


def test_long_data_is_in_several_lanes():
    # Zeros after the data shift the register in a way that is known without lanes, so 5,000 bytes can be taken in two.
    data = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    joined = module._after_zeros(np.array([crc32c(data[:3001])], np.uint32), 1999)
    assert int(joined[0]) ^ crc32c(data[3001:]) == crc32c(data)


def test_masked_as_in_tensorflow():
    assert masked_crc32c(np.frombuffer(b"foo", np.uint8)) != of(b"foo")
    crc = of(b"foo")
    unmasked = masked_crc32c(np.frombuffer(b"foo", np.uint8)) - 0xA282EAD8 & 0xFFFFFFFF
    assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == crc
