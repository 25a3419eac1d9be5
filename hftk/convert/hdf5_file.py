"""
The structure of HDF5 files (support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html), in the form that h5py writes
unless it is told otherwise, and so Keras: superblock 0, groups as trees of symbols, object headers 1.

Read here and not by the library, which a changed byte can send round in circles forever.
"""

from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from

from hftk.convert.weights import read_bytes

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NOWHERE = (1 << 64) - 1  # the address of what is not there
# Types of messages in the header of an object.
SPACE, LINK_INFO, TYPE, LINK, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE, MORE, SYMBOLS = 1, 2, 3, 6, 7, 8, 11, 12, 16, 17
SHARED = 2  # a flag: the message says where it stands
SYMBOL = 40  # bytes of an entry in a group
SOFT_LINK = 2
MAX_STRUCTURE = 1 << 28  # bytes
Messages = dict[int, list[bytes]]


class Hdf5File:
    """
    The objects of a file, by address. Everything raises `ValueError` or `struct.error` for what is damaged.

    Args:
        file (`Path`):
            The file.
        start, size (`int`):
            Where in it the HDF5 file starts, and its bytes.
    """

    def __init__(self, file: Path, start: int, size: int):
        self.file, self.start, self.size = file, start, size
        # In a good file all parts lie apart. Parts that lie in each other could keep a reader busy forever.
        self.left = min(4 * size, MAX_STRUCTURE)
        head = self.at(0, 96)
        if head[:8] != SIGNATURE or head[8] or head[13:15] != b"\x08\x08":
            raise ValueError("not HDF5 in the form that Keras writes; if h5dump reads it: h5repack FILE NEW")
        base, _, end, _, _, self.root = unpack_from("<6Q", head, 24)
        if base or end > size:
            raise ValueError(f"it should have {end} bytes, and has {size}: cut off")

    def at(self, address: int, size: int) -> bytes:
        """Bytes of the structure."""
        self.left -= size
        if address + size > self.size or self.left < 0:
            raise ValueError(f"a part at byte {address} ends outside of the file, or lies in others")
        return read_bytes(self.file, self.start + address, size, "its structure").tobytes()

    def messages(self, address: int) -> Messages:
        """What the header of an object says, by type."""
        version, _, _, size = unpack_from("<BxHII", self.at(address, 16))
        if version != 1:
            raise ValueError(f"the object at byte {address} is damaged, or in a newer form: h5repack FILE NEW")
        found: Messages = {}
        blocks = [(address + 16, size)]
        while blocks:
            block, place = self.at(*blocks.pop()), 0
            while place < len(block):
                kind, length, flags = unpack_from("<HHBxxx", block, place)
                message = block[place + 8 : place + 8 + length]
                if len(message) < length or (flags & SHARED and kind in (SPACE, TYPE, LAYOUT)):
                    raise ValueError(f"the object at byte {address} is damaged, or shares its type with others")
                if kind == MORE:
                    where, more = unpack_from("<QQ", message)
                    blocks.append((where, more))
                found.setdefault(kind, []).append(message)
                place += 8 + length
        return found

    def links(self, group: bytes) -> Iterator[tuple[bytes, int, int]]:
        """For each entry of a group its name, the address of its object, and its kind, given the message of symbols."""
        tree, heap = unpack_from("<QQ", group)
        signature, size, _, names_at = unpack_from("<4sxxxxQQQ", self.at(heap, 32))
        if signature != b"HEAP":
            raise ValueError("the names of a group are damaged")
        names = self.at(names_at, size)
        nodes = [tree]
        while nodes:
            node = nodes.pop()
            signature, kind, level, count = unpack_from("<4sBBH", self.at(node, 8))
            if signature == b"TREE" and kind == 0:
                pairs = self.at(node + 24, 16 * count)
                nodes += [unpack_from("<QQ", pairs, 16 * i)[1] for i in range(count)]
            elif signature == b"SNOD":
                entries = self.at(node + 8, SYMBOL * count)
                for i in range(count):
                    offset, address, cached = unpack_from("<QQI", entries, SYMBOL * i)
                    yield names[offset : names.index(b"\0", offset)], address, cached
            else:
                raise ValueError("a group is damaged")

    def text(self, reference: bytes) -> bytes:
        """A text of any length, which lies elsewhere in the file."""
        length, heap, wanted = unpack_from("<IQI", reference)
        signature, size = unpack_from("<4sxxxxQ", self.at(heap, 16))
        place, end = heap + 16, heap + size
        while signature == b"GCOL" and place + 16 <= end:
            number, stored = unpack_from("<HxxxxxxQ", self.at(place, 16))
            if number == wanted and length <= stored:
                return self.at(place + 16, length)
            if number == 0:
                break
            place += 16 + padded(stored)
        raise ValueError("a text is damaged")


def attribute(message: bytes) -> tuple[bytes, bytes, bytes]:
    """The name of an attribute, the message of its type, and its value."""
    version, name_size, type_size, space_size = unpack_from("<BxHHH", message)
    parts, place = [], 9 if version == 3 else 8
    for size in (name_size, type_size, space_size):
        parts.append(message[place : place + size])
        place += padded(size) if version == 1 else size
    return parts[0].rstrip(b"\0"), parts[1], message[place:]


def padded(size: int) -> int:
    """The bytes that something takes where the next starts at a multiple of 8."""
    return size + -size % 8


def shape_of(space: bytes) -> tuple[int, ...] | None:
    """The shape in the message of a space; `None` if it has none."""
    version, rank, _, kind = unpack_from("<4B", space)
    if version not in (1, 2):
        raise ValueError(f"its space is of version {version}")
    if version == 2 and kind == 2:
        return None
    return unpack_from(f"<{rank}Q", space, 8 if version == 1 else 4)
