# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V4's conformance suite from Python, without a compiler: `dsv4.trace`, `dsv4.cases`."""
