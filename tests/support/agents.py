"""Containers for unit tests: real parts, but a transport to a brain in memory."""

from __future__ import annotations

import base64

from dependency_injector import providers
from support.brain_side import KEY

from z4j_fastapi import AgentContainer

SECRET = base64.urlsafe_b64encode(KEY).decode()


def options(directory, **more):
    """Settings that pass validation and reach nobody."""
    return {
        "brain_url": "http://127.0.0.1:9",
        "token": "a-token",
        "hmac_secret": SECRET,
        "project_id": "shop",
        "buffer_path": str(directory / "outbox"),
    } | more


def memory_container(brain, directory, **more):
    """A container whose transport ends in `brain`."""
    container = AgentContainer()
    container.overrides.override(providers.Object(options(directory, **more)))
    container.transport.override(providers.Object(brain.transport))
    return container


def agent_container(credentials, directory, **more):
    """A container for a minted agent of a real brain."""
    container = AgentContainer()
    given = {
        "brain_url": credentials.brain_url,
        "token": credentials.token,
        "hmac_secret": credentials.hmac_secret,
        "project_id": credentials.project_slug,
        "buffer_path": str(directory / "outbox"),
    } | more
    container.overrides.override(providers.Object(given))
    return container
