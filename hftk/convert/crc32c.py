"""
The checksum of TensorFlow's files: CRC-32C, by numpy, since a loop over bytes would take minutes for a model.

The register of a CRC is linear over the field of two elements. So the data is cut into lanes of equal length, all go
through the table side by side, and neighbours are then joined in pairs: what the left one would be after as many zero
bytes as the right one has, plus (exclusive or) the right one. Zeros in front of the data change no register that starts
at 0, so they fill up the first lanes.
"""

import numpy as np

POLYNOMIAL = 0x82F63B78  # reflected
LANE = 512  # bytes
PIECE = 1 << 22  # bytes at once: some megabytes of working memory


def _table() -> np.ndarray:
    """The register after two more bytes, by its lower half. [65536] uint32"""
    table: np.ndarray = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> 1) ^ (table & 1) * np.uint32(POLYNOMIAL)
    return table


TABLE = _table()
BITS = np.arange(32, dtype=np.uint32)


def _apply(matrix: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """A linear map, given as its value for each single bit [32], of each register [n]."""
    bits = registers >> BITS[:, None] & 1  # [32, n]
    return np.bitwise_xor.reduce(matrix[:, None] * bits, axis=0)


def _doublings() -> list[np.ndarray]:
    """The maps of a register to that after 1, 2, 4, … zero bytes; [32] uint32 each."""
    single_bits = np.uint32(1) << BITS
    one = TABLE[single_bits << 8 & 0xFFFF] ^ single_bits >> 8  # a byte is half of the table's step
    matrices = [one]
    for _ in range(40):
        matrices.append(_apply(matrices[-1], matrices[-1]))
    return matrices


DOUBLINGS = _doublings()


def _after_zeros(register: np.ndarray, count: int) -> np.ndarray:
    """Registers [n] after as many zero bytes."""
    for place in range(count.bit_length()):
        if count >> place & 1:
            register = _apply(DOUBLINGS[place], register)
    return register


def _register(piece: np.ndarray) -> np.ndarray:
    """The register [1] after the bytes [at most PIECE], from 0."""
    lanes = 1 << (max(len(piece) - 1, 0) // LANE).bit_length()
    width = LANE if lanes > 1 else len(piece) + len(piece) % 2
    padded = np.zeros(lanes * width, np.uint8)
    padded[len(padded) - len(piece) :] = piece
    steps = np.ascontiguousarray(padded.view("<u2").reshape(lanes, -1).T)  # [width / 2, lanes]
    registers = np.zeros(lanes, "<u4")
    lower = registers.view("<u2")[0::2]
    index, change = np.empty_like(lower), np.empty_like(registers)
    # Into the same arrays at each step: fresh ones would cost more than the arithmetic.
    for step in steps:
        np.bitwise_xor(lower, step, out=index)
        np.take(TABLE, index, out=change, mode="clip")
        registers >>= 16
        registers ^= change
    while len(registers) > 1:
        registers = _after_zeros(registers[0::2], width) ^ registers[1::2]
        width *= 2
    return registers


def crc32c(data: np.ndarray) -> int:
    """
    The CRC-32C of bytes.

    Args:
        data (`np.ndarray`):
            [n] uint8.

    Returns:
        `int`: 32 bits.
    """
    register = np.full(1, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        register = _after_zeros(register, len(piece)) ^ _register(piece)
    return int(register[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: np.ndarray) -> int:
    """As TensorFlow stores it: turned and shifted, so that it is still good for data with checksums in it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
