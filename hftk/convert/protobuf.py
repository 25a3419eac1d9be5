"""The wire format of protocol buffers (protobuf.dev/programming-guides/encoding), as much of it as checkpoints need."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 64 bits without sign, and where the next thing starts. Raises `ValueError` if it is cut off."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number is cut off")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number has no end")


class Message:
    """
    A parsed message.

    Args:
        data (`bytes`):
            What it is encoded to. Raises `ValueError` if that is no message.

    Attributes:
        numbers (`dict[int, list[int]]`): the numbers of each field, by the field's number, without sign.
        parts (`dict[int, list[bytes]]`): the strings, bytes and messages of each field.
    """

    def __init__(self, data: bytes):
        self.numbers: dict[int, list[int]] = {}
        self.parts: dict[int, list[bytes]] = {}
        at = 0
        while at < len(data):
            tag, at = read_varint(data, at)
            field, wire = tag >> 3, tag & 7
            if wire == 0:
                number, at = read_varint(data, at)
                self.numbers.setdefault(field, []).append(number)
                continue
            if wire == 2:
                size, at = read_varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"a field of type {wire}")
            if size > len(data) - at:
                raise ValueError("a field is cut off")
            part, at = data[at : at + size], at + size
            if wire == 2:
                self.parts.setdefault(field, []).append(part)
            else:
                self.numbers.setdefault(field, []).append(int.from_bytes(part, "little"))

    def number(self, field: int) -> int:
        """The number in a field; 0 if there is none."""
        return self.numbers.get(field, [0])[-1]

    def messages(self, field: int) -> "list[Message]":
        """The messages in a field."""
        return [Message(part) for part in self.parts.get(field, [])]

    def text(self, field: int) -> str:
        """The string in a field; empty if there is none."""
        return self.parts.get(field, [b""])[-1].decode()
