from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def test_folder_when_imported_by_its_own_name_says_which_name_to_use():
    finished = subprocess.run(
        [sys.executable, "-c", "import containers"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert "import z4j_fastapi.containers, not containers" in finished.stderr
