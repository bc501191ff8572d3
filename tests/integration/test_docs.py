"""Every Python block of the documentation runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.agents import SECRET

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.process

#: A snippet that makes an application must also start and stop it.
TRAILER = """
from fastapi import FastAPI as _FastAPI
from fastapi.testclient import TestClient as _TestClient

if isinstance(globals().get("app"), _FastAPI):
    with _TestClient(app):
        pass
"""

BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text()), 1)
]


def test_documentation_when_collected_has_snippets():
    assert len(BLOCKS) >= 10


@pytest.mark.parametrize("block", BLOCKS)
def test_snippet_when_run_as_it_stands_works(block, tmp_path):
    script = tmp_path / "snippet.py"
    script.write_text(block + TRAILER)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("Z4J_")}
    environ |= {
        "Z4J_BRAIN_URL": "http://127.0.0.1:9",
        "Z4J_TOKEN": "a-token",
        "Z4J_HMAC_SECRET": SECRET,
        "Z4J_PROJECT_ID": "shop",
        "Z4J_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_links_when_relative_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
