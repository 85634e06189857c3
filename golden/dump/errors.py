# SPDX-License-Identifier: Apache-2.0
"""What a dump tool does with an error: print it and exit with code 2."""

from __future__ import annotations

import sys
from typing import Callable, Optional

from package import Dsv4Error as DumpError


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
