from __future__ import annotations

import subprocess
import sys
import threading

import pydantic
import pytest

from z4j_fastapi.settings import SETTINGS, load_settings
from z4j_fastapi.settings.conversion import EnvironmentText
from z4j_fastapi.settings.pydantic_compat import PYDANTIC_1, read_sources


def test_version_when_asked_then_is_the_installed_one():
    assert PYDANTIC_1 is (pydantic.VERSION.split(".")[0] == "1")


@pytest.mark.process
def test_import_when_settings_are_not_loaded_then_pydantic_settings_is_not_imported():
    code = "import sys, z4j_fastapi.settings; print('pydantic_settings' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_read_when_nothing_is_given_then_a_value_for_every_setting():
    loaded = read_sources({}, {})
    assert set(loaded.values) == set(SETTINGS)
    assert loaded.problems == []
    assert loaded.values["token"] is None


def test_read_when_keyword_and_environment_then_keyword_wins_as_a_whole():
    loaded = read_sources({"tags": {"a": "1"}}, {"tags": EnvironmentText("b=2")})
    assert dict(loaded.values["tags"]) == {"a": "1"}


def test_read_when_keyword_is_bad_then_one_problem_and_no_fall_back_to_the_environment():
    loaded = read_sources({"heartbeat_seconds": "x"}, {"heartbeat_seconds": EnvironmentText("30")})
    assert [problem.field for problem in loaded.problems] == ["heartbeat_seconds"]
    assert loaded.values["heartbeat_seconds"] == 10


def test_load_when_threads_load_different_environments_then_they_do_not_mix():
    results = {}

    def load(number):
        environ = {"Z4J_DISABLED": "1", "Z4J_PROJECT_ID": f"p{number}"}
        results[number] = {load_settings({}, environ=environ).project_id for _ in range(20)}

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {number: {f"p{number}"} for number in range(4)}
