from __future__ import annotations

import pytest
from support.agents import options

from z4j_fastapi.containers.settings import settings_from
from z4j_fastapi.errors import ConfigError


def test_settings_are_loaded_from_everything_but_the_handles(tmp_path):
    settings = settings_from(
        options(tmp_path, arq_redis_settings=object(), taskiq_brokers=[object()], agent_name="a")
    )
    assert settings.agent_name == "a"


@pytest.mark.parametrize("name", ["z4j_schedules", "celery_beat_schedules", "reconcile_autorun"])
def test_schedule_option_when_given_is_for_later_and_when_empty_does_not_matter(tmp_path, name):
    with pytest.raises(ConfigError, match=f"^{name}: "):
        settings_from(
            options(tmp_path, **{name: {"nightly": {}} if name != "reconcile_autorun" else True})
        )


def test_settings_when_wrong_raise_every_problem(tmp_path):
    with pytest.raises(ConfigError) as caught:
        settings_from(options(tmp_path, token="", brain_url="x"))
    assert len(caught.value.problems) >= 2
