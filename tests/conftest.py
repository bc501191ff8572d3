"""Makes `tests/support` importable as `support` and registers its fixtures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent

if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

if not (TESTS.parent / "z4j_fastapi" / "containers").is_dir():
    raise pytest.UsageError(
        "z4j_fastapi/containers is not a link to the folder containers/: this checkout was made "
        "without symbolic links (CONTRIBUTING.md says how to get them)"
    )

# A busy machine must not fail a property: there is no deadline an example.
settings.register_profile("ci", deadline=None)
settings.load_profile("ci")

pytest.register_assert_rewrite("support")

pytest_plugins = ["support.fixtures"]
