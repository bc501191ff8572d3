"""Every error that z4j_fastapi raises.

    Z4JError
    |-- ConfigError (a RuntimeError and ValueError too)  wrong or missing configuration
    |   |-- RedactionConfigError                         a redaction pattern is unusable
    |   `-- EngineNotInstalledError                      a handle whose library is missing
    |-- ProtocolError
    |   |-- LocalProtocolError                           we misused the session: our bug
    |   `-- RemoteProtocolError                          the brain, or somebody between, did
    |-- TransportError                                   no connection; `failure` says which kind
    |-- OutboxError                                      a record was refused, nothing written
    `-- CommandError                                     a command cannot be carried out

Messages name the field, what is wrong and the fix, and never hold the value of a secret.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Z4JError(Exception):
    """Base of all errors of this package.

    Args:
        message: One line for a person: what is wrong and what to do.
        details: Machine-readable facts; never a secret.
    """

    code: ClassVar[str] = "z4j_error"

    def __init__(self, message: str, *, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, object] = dict(details or {})


class ConfigError(Z4JError, RuntimeError, ValueError):
    """The configuration cannot be used. Lists every problem at once.

    Args:
        message: The whole text shown to the user.
        problems: One line a problem, each beginning with the field's name.
        details: Machine-readable facts; never a secret.
    """

    code = "config_error"

    def __init__(
        self,
        message: str,
        *,
        problems: Sequence[str] = (),
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.problems: tuple[str, ...] = tuple(problems) or (message,)


class RedactionConfigError(ConfigError):
    """A redaction pattern is empty, invalid or too slow."""

    code = "redaction_config_error"


class EngineNotInstalledError(ConfigError):
    """A handle was given for an engine whose library cannot be imported.

    Args:
        engine: The engine's name, which is also the name of the extra to install.
        handle: The keyword argument or call that asked for it.
    """

    code = "engine_not_installed"

    def __init__(self, engine: str, *, handle: str) -> None:
        message = (
            f"{handle}: the library of engine {engine!r} is not installed; "
            f"install it with: pip install 'z4j-fastapi[{engine}]'"
        )
        super().__init__(message, details={"engine": engine, "handle": handle, "extra": engine})
        self.engine = engine


class ProtocolError(Z4JError):
    """Base of protocol violations."""

    code = "protocol_error"


class LocalProtocolError(ProtocolError):
    """Our own code asked the session for something that the protocol forbids."""

    code = "local_protocol_error"


class RemoteProtocolError(ProtocolError):
    """The peer sent something that must not be acted upon; the session is over.

    `details["reason"]` is one of a small fixed set (`signature`, `replay`, `clock`, `malformed`,
    `version`, `handshake`), fit for a metric label.
    """

    code = "remote_protocol_error"


class Failure(str, enum.Enum):
    """Classes of connection failure, each with its own backoff (wire-protocol 1)."""

    AUTH = "auth"
    PROTOCOL = "protocol"
    TRANSIENT = "transient"
    TERMINAL = "terminal"
    DISPLACED = "displaced"
    IDLE = "idle"
    THROTTLED = "throttled"


class TransportError(Z4JError):
    """No connection, or not any more.

    Args:
        message: What happened, with the URL's password hidden.
        failure: What kind of trouble this is; decides the backoff.
        close_code: WebSocket close code, when there was one.
        http_status: Status of a refused upgrade, when there was one.
    """

    code = "transport_error"

    def __init__(
        self,
        message: str,
        *,
        failure: Failure = Failure.TRANSIENT,
        close_code: int | None = None,
        http_status: int | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.failure = failure
        self.close_code = close_code
        self.http_status = http_status


class OutboxError(Z4JError):
    """The outbox refused a record, or its directory cannot be used. Nothing was written."""

    code = "outbox_error"


class CommandError(Z4JError):
    """A command cannot be carried out. The text becomes the `error` of its result.

    Args:
        reason: A code of ours: `unsupported`, `engine_not_loaded`, `not_found`, `refused`,
            `timeout`, `invalid`, `failed`.
        message: One line an operator can act on, cause first.
        indeterminate: The command may have had its effect all the same.
        result: Details for the command's result object.
    """

    code = "command_error"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        indeterminate: bool = False,
        result: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.indeterminate = indeterminate
        self.result: dict[str, object] = dict(result or {})
