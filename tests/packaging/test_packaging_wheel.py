"""What is built: the wheel holds the containers, and nothing that does not belong to it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    build = (
        "import sys, hatchling.build as b; "
        "print(b.build_sdist(sys.argv[1])); print(b.build_wheel(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", build, str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def names_in_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_when_built_holds_the_containers_once(built):
    names = names_in_wheel(built[1])
    assert "z4j_fastapi/containers/agent.py" in names
    assert "z4j_fastapi/py.typed" in names
    assert not [name for name in names if name.startswith(("containers/", "tests/"))]


def test_wheel_when_built_from_the_sdist_is_the_same(built, tmp_path):
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = next(tmp_path.iterdir())
    out = tmp_path / "again"
    out.mkdir()
    build = "import sys, hatchling.build as b; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=tree, check=True)
    again = names_in_wheel(next(out.glob("*.whl")))
    assert again == names_in_wheel(wheel)


def test_wheel_when_installed_offers_the_container_and_no_stray_packages(built, tmp_path):
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(tmp_path)
    look = (
        "import sys; sys.path[:0] = [sys.argv[1]]; "
        "import z4j_fastapi; assert z4j_fastapi.__file__.startswith(sys.argv[1]); "
        "from z4j_fastapi.containers import AgentContainer; AgentContainer(); "
        "import importlib.machinery as m; "
        "assert m.PathFinder.find_spec('containers', [sys.argv[1]]) is None; "
        "assert m.PathFinder.find_spec('tests', [sys.argv[1]]) is None; print('ok')"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "ok", done.stderr


def test_containers_when_imported_by_their_folder_name_say_the_right_name():
    done = subprocess.run(
        [sys.executable, "-c", "import containers"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "import z4j_fastapi.containers" in done.stderr
