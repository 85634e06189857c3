# SPDX-License-Identifier: Apache-2.0
"""The error of this package: it says what, where, expected, found and a hint."""

from __future__ import annotations


class Dsv4Error(Exception):
    """A problem the user can act on."""

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        hint: str = "",
    ):
        lines = [what]
        for label, value in (
            ("where", where),
            ("expected", expected),
            ("found", found),
            ("hint", hint or None),
        ):
            if value is not None:
                lines.append(f"  {label + ':':10}{value}")
        super().__init__("\n".join(lines))
