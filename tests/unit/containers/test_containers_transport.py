from __future__ import annotations

from support.agents import options

from z4j_fastapi._version import __version__
from z4j_fastapi.containers.transport import build_transport
from z4j_fastapi.settings import load_settings
from z4j_fastapi.transport.websocket import WebSocketTransport


def transport(directory, **more):
    return build_transport(settings=load_settings(options(directory, **more)))


def test_transport_goes_to_the_brains_agent_endpoint(tmp_path):
    made = transport(tmp_path, brain_url="https://brain.example.com/base/")
    assert isinstance(made, WebSocketTransport)
    assert made.name == "ws"
    assert made._url == "wss://brain.example.com/base/ws/agent"
    assert made._token() == "a-token"
    assert made._user_agent == f"z4j-fastapi/{__version__}"


def test_transport_holds_no_secret_that_shows(tmp_path):
    assert "a-token" not in repr(transport(tmp_path))


def test_proxy_of_the_environment_is_used_but_never_for_a_loopback_brain(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.example.com:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert transport(tmp_path, brain_url="https://brain.example.com")._proxy is not None
    assert transport(tmp_path)._proxy is None
