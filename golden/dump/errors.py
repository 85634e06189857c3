# SPDX-License-Identifier: Apache-2.0
"""One error type for the dump tools: it says what, where, expected, found and a hint; the tools then exit
with code 2."""

from __future__ import annotations

import sys
from typing import Callable, Optional


class DumpError(Exception):
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


def run_main(main: Callable[[Optional[list[str]]], int]) -> None:
    """Run a command's `main`, turning `DumpError` and I/O errors into exit code 2."""
    try:
        code = main(None)
    except DumpError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
