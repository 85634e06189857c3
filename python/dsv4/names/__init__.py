# SPDX-License-Identifier: Apache-2.0
"""Tables of other implementations' names for our taps: three columns, separated by tabs.

    their_name                            our_name                  transform
    model.layers.L.self_attn.q_b_norm     layers.L.attn.q_normed    drop_batch heads_second

Their name is a module's; L stands for any layer number; a line that begins with # is a comment, and so is the
line of column names. Transforms are those of `dsv4.transforms`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable, Iterable, Mapping, NamedTuple, Union

from dsv4.errors import Dsv4Error

NAMES = Path(__file__).parent
Transform = Union[str, Callable[..., object]]
Names = Union[str, os.PathLike, Mapping[str, Union[str, "tuple[str, Transform]"]], Iterable["tuple[str, str, Transform]"]]


class Alias(NamedTuple):
    """`transform` of what the module `theirs` gives is the tap `ours`."""

    theirs: str
    ours: str
    transform: Transform


def aliases_of(names: Names) -> list[Alias]:
    """From "transformers" (a bundled table), the path of a table, a dict {theirs: ours} or
    {theirs: (ours, transform)}, or triples (theirs, ours, transform), several of which may name one module."""
    if isinstance(names, (str, os.PathLike)):
        return _read(Path(names))
    if isinstance(names, Mapping):
        return [Alias(theirs, *((to, "-") if isinstance(to, str) else to)) for theirs, to in names.items()]
    return [Alias(*triple) for triple in names]


def _read(path: Path) -> list[Alias]:
    bundled = NAMES / f"{path}.tsv"
    table = bundled if len(path.parts) == 1 and bundled.exists() else path
    if not table.is_file():
        known = ", ".join(sorted(p.stem for p in NAMES.glob("*.tsv")))
        raise Dsv4Error("there is no such table of names", where=table, hint=f"give a file, or one of: {known}")
    aliases = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith(("#", "their_name\t")):
            continue
        columns = line.split("\t")
        if len(columns) != 3:
            raise Dsv4Error(
                "cannot read this line of the table of names",
                where=f"{table}:{number}",
                expected="three columns: their name, our name, transform, separated by tabs",
                found=f"{len(columns)}",
            )
        aliases.append(Alias(*columns))
    return aliases


def tap_of(alias: Alias, module: str) -> str | None:
    """The tap that `module` gives, with its layer number; None if the alias names another module."""
    pattern = re.escape(alias.theirs).replace(r"\.L\.", r"\.(\d+)\.")
    pattern = re.sub(r"\\\.L$", r"\\.(\\d+)", pattern)
    match = re.fullmatch(pattern, module)
    if match is None:
        return None
    numbers = set(match.groups())
    if len(numbers) > 1:
        return None
    number = numbers.pop() if numbers else None
    return alias.ours if number is None else re.sub(r"(?<=\.)L(?=\.|$)", number, alias.ours)
