from __future__ import annotations

import asyncio

import pytest

import z4j_fastapi
from z4j_fastapi import ConfigError, declarative
from z4j_fastapi.reconcile import areconcile_schedules, reconcile_schedules

OPTIONS = {"brain_url": "http://b", "api_key": "secret-key", "project_slug": "shop"}


def test_reconcile_says_that_it_is_for_later_and_what_to_do_until_then():
    with pytest.raises(ConfigError, match="not in this version") as caught:
        reconcile_schedules(**OPTIONS)
    assert "dashboard" in str(caught.value)
    assert "secret-key" not in str(caught.value)


def test_reconcile_when_awaited_says_the_same():
    with pytest.raises(ConfigError, match="not in this version"):
        asyncio.run(areconcile_schedules(**OPTIONS))


def test_reconcile_is_found_where_users_import_it_from():
    assert z4j_fastapi.reconcile_schedules is reconcile_schedules
    assert z4j_fastapi.areconcile_schedules is areconcile_schedules
    assert declarative.reconcile_schedules is reconcile_schedules
