"""What importing costs, and which names there are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import z4j_fastapi

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.process

NEVER_AT_IMPORT = {
    "anyio",
    "arq",
    "celery",
    "dependency_injector",
    "dramatiq",
    "fastapi",
    "httpx",
    "httpx2",
    "huey",
    "opentelemetry",
    "orjson",
    "pydantic",
    "pydantic_settings",
    "redis",
    "rich",
    "rq",
    "sqlite3",
    "starlette",
    "structlog",
    "taskiq",
    "websockets",
}


def modules_after(statement):
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_package_when_imported_loads_nothing_heavy_and_few_modules_of_its_own():
    loaded = modules_after("import z4j_fastapi")
    assert not {name.partition(".")[0] for name in loaded} & NEVER_AT_IMPORT
    assert len([name for name in loaded if name.startswith("z4j_fastapi")]) < 10


def test_lifespan_when_imported_loads_neither_container_nor_libraries():
    loaded = modules_after("from z4j_fastapi import z4j_lifespan")
    assert not {name.partition(".")[0] for name in loaded} & NEVER_AT_IMPORT
    assert "z4j_fastapi.containers" not in loaded


def test_agent_when_built_without_handles_loads_no_engine_and_no_http_client():
    loaded = modules_after("from z4j_fastapi import AgentContainer; AgentContainer()")
    tops = {name.partition(".")[0] for name in loaded}
    # (structlog itself imports rich where it is installed.)
    assert not tops & {"arq", "taskiq", "redis", "celery", "rq", "dramatiq", "huey"}
    assert not tops & {"httpx", "httpx2", "aiohttp", "requests"}


@pytest.mark.parametrize("name", sorted(z4j_fastapi.__all__))
def test_public_name_when_asked_for_is_there(name):
    assert getattr(z4j_fastapi, name) is not None
    assert name in dir(z4j_fastapi)


def test_public_name_when_unknown_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(z4j_fastapi, "no_such_name")  # noqa: B009 - the name is the point


def test_public_names_agree_between_all_table_and_type_checking_block():
    tree = ast.parse((ROOT / "z4j_fastapi" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == z4j_fastapi._HOME_OF
    assert set(z4j_fastapi.__all__) == {*typed, "__version__"}


def test_only_wrapping_assigns_to_classes_of_third_parties():
    offenders = []
    for path in (ROOT / "z4j_fastapi").rglob("*.py"):
        if path.name == "wrapping.py":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip().startswith(("ArqRedis.", "Worker.", "AsyncBroker.")) and " = " in line:
                offenders.append(f"{path.name}:{number}")
    assert offenders == []
