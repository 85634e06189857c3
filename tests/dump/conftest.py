# SPDX-License-Identifier: Apache-2.0
"""Makes golden/dump importable, as it is for its own scripts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "golden" / "dump"))
