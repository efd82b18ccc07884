"""What a pickle would do, found out without doing any of it."""

from __future__ import annotations

import pickletools
from typing import Any

__all__ = ["MAX_PICKLE", "check_pickle"]

MAX_PICKLE = 8 * 2**20  # bytes of the list of what is in a file of weights
MAX_STEPS = 10**6  # some four times those of the largest training
WHOLE = {"BININT", "BININT1", "BININT2", "LONG1"}
KEYS = {"BINUNICODE", *WHOLE}
PUTS, GETS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
MAKE = {*KEYS, "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "GLOBAL"}
TAKE = {"APPEND": 1, "BUILD": 1, "SETITEM": 2, "BINPERSID": 1, "REDUCE": 2, "NEWOBJ": 2, "STOP": 1}
TAKE |= {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
TAKE_MARKED = {"APPENDS", "SETITEMS", "TUPLE"}
FILL = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}  # leave what they fill
TENSOR, ORDERED, STORED = "torch._utils _rebuild_tensor_v2", "collections OrderedDict", "a stored tensor's place"
STORAGES = {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Int", "Long", "Byte", "Bool")}


def check_pickle(content: bytes, others: tuple[str, ...] = ()) -> None:
    r"""Refuse a pickle that would make anything but tensors and plain containers, or takes long.

    Keys are texts and whole numbers alone: other ones can be made that take hours to compare, or end the process.

    Args:
        content: the pickle, as ``torch.save`` writes it.
        others: how the names (``"module name"``) begin of what may be called beside tensors and ordered dictionaries.

    Raises:
        ValueError: it is none of these, or is damaged.

    Example:
        >>> check_pickle(b"\x80\x02}q\x00.")
        >>> check_pickle(b"\x80\x02c__builtin__\nbytearray\nK\x05\x85R.")
        Traceback (most recent call last):
            ...
        ValueError: the pickle holds something else than weights
    """
    if len(content) > MAX_PICKLE:
        raise ValueError("the pickle lists too much")
    stack: list[str] = []  # of each value the step that made it, or what is called
    marks: list[int] = []
    kept: dict[int, str] = {}
    try:
        value: Any
        for number, (step, value, _) in enumerate(pickletools.genops(content)):
            name = step.name
            if number > MAX_STEPS:
                raise ValueError("the pickle lists too much")
            if name == "LONG1" and abs(value) >= 2**63:
                raise ValueError("the pickle holds a number that is too large")
            if name == "MARK":
                marks.append(len(stack))
            elif name in PUTS:
                kept[value] = stack[-1]
            elif name in GETS:
                stack.append(kept[value])
            elif name in MAKE:
                stack.append(value if name == "GLOBAL" else name)
            elif name in TAKE or name in TAKE_MARKED:
                start = marks.pop() if name in TAKE_MARKED else len(stack) - TAKE[name]
                parts = stack[start:]
                del stack[start:]
                if not _is_plain(name, parts, others):
                    raise ValueError("the pickle holds something else than weights")
                if name not in FILL:
                    stack.append(STORED if name == "TUPLE" and _is_place(parts) else name)
            elif name != "PROTO":
                raise ValueError("the pickle holds something else than weights")
    except (IndexError, KeyError):
        raise ValueError("the pickle is damaged") from None


def _is_plain(name: str, parts: list[str], others: tuple[str, ...]) -> bool:
    """Tell whether a step may be taken with these values."""
    if name in ("SETITEM", "SETITEMS"):
        return KEYS.issuperset(parts[::2])
    if name == "BUILD":
        return parts == ["EMPTY_DICT"]
    if name == "BINPERSID":
        return parts == [STORED]
    if name in ("REDUCE", "NEWOBJ"):
        return parts[0] == TENSOR or parts == [ORDERED, "EMPTY_TUPLE"] or parts[0].startswith(others)
    return True


def _is_place(parts: list[str]) -> bool:
    """Tell whether a tuple names a stored tensor: its kind, its name, its device and its length."""
    return (
        len(parts) == 5
        and parts[0] == parts[2] == parts[3] == "BINUNICODE"
        and parts[1] in STORAGES
        and parts[4] in WHOLE
    )
