# SPDX-License-Identifier: Apache-2.0
"""What the dump tools use of the project's Python package, which lies in python/ and need not be installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from dsv4.errors import Dsv4Error  # noqa: E402
from dsv4.names import aliases_of, tap_of  # noqa: E402
from dsv4.trace_file import TraceReader, TraceWriter  # noqa: E402
from dsv4.transforms import Call, Place, as_array, transform  # noqa: E402

__all__ = [
    "Call", "Dsv4Error", "Place", "TraceReader", "TraceWriter", "aliases_of", "as_array", "tap_of", "transform",
]
