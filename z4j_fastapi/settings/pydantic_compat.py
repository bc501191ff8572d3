"""The one place that knows which pydantic is installed.

On pydantic 2 the settings class comes from pydantic-settings, on 1.10 (FastAPI 0.95 to 0.99) from
pydantic itself. Both read keyword arguments over environment over defaults and hand each value to
`convert`; the environment is a source of our own, since the built-in ones parse lists as JSON.
Imported only when settings are loaded: pydantic-settings costs 23 ms.

Spec: config-and-cli.md section 2.5, style.md part 7.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, get_type_hints

import pydantic

from z4j_fastapi.settings.conversion import ConversionError, convert
from z4j_fastapi.settings.description import Problem
from z4j_fastapi.settings.fields import SETTINGS, SettingFields
from z4j_fastapi.settings.tags import Tags

PYDANTIC_1 = pydantic.VERSION.startswith("1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What pydantic made of the sources.

    Args:
        values: A value for every setting; the default where a problem was found.
        problems: One for each value that could not be converted.
    """

    values: dict[str, object]
    problems: list[Problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """One load under way: what sources and validators, built by pydantic, have to know."""

    environment: Mapping[str, object]
    problems: list[Problem]


_load: ContextVar[_Load] = ContextVar("z4j_fastapi_settings_load")


def read_sources(keywords: Mapping[str, object], environment: Mapping[str, object]) -> Loaded:
    """Merge keyword arguments over environment over defaults, and convert.

    Args:
        keywords: Values by setting name; none of them None or empty text.
        environment: Texts by setting name.
    """
    problems: list[Problem] = []
    token = _load.set(_Load(environment=environment, problems=problems))
    try:
        loaded = _settings_class()(**keywords)
    finally:
        _load.reset(token)
    return Loaded(values={name: getattr(loaded, name) for name in SETTINGS}, problems=problems)


def _convert_all(merged: Mapping[str, object]) -> dict[str, object]:
    """Convert every value that a source gave. A bad one is left out, so its default applies.

    Not by a validator a field: pydantic would then stop with an error that holds every value, give
    no values beside it, and take twice as long to build the class.
    """
    converted: dict[str, object] = {}
    problems = _load.get().problems
    for name, value in merged.items():
        setting = SETTINGS[name]
        try:
            converted[name] = convert(setting, value)
        except ConversionError as error:
            problems.append(Problem(field=name, text=str(error), environment=setting.environment))
    return converted


@cache
def _settings_class() -> Callable[..., Any]:
    return _pydantic_1_class() if PYDANTIC_1 else _pydantic_2_class()


def _definitions() -> dict[str, Any]:
    hints = get_type_hints(SettingFields)
    definitions: dict[str, Any] = {}
    for item in fields(SettingFields):
        default: object = item.default
        if item.default_factory is not MISSING:
            default = item.default_factory()
        elif default is MISSING:  # required: absence is a problem that `checks` words
            default = None
        # An abstract mapping would be rebuilt as a dict, and differently by each version.
        wanted = Tags if item.name == "tags" else hints[item.name]
        definitions[item.name] = (wanted | None, default)
    return definitions


def _pydantic_2_class() -> Callable[..., Any]:
    from pydantic import model_validator  # noqa: PLC0415 - not in pydantic 1
    from pydantic_settings import (  # noqa: PLC0415 - see the module docstring
        BaseSettings,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

    class Environment(PydanticBaseSettingsSource):
        def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
            del field
            return _load.get().environment.get(field_name), field_name, False

        def __call__(self) -> dict[str, Any]:
            return dict(_load.get().environment)

    class Base(BaseSettings):
        model_config = SettingsConfigDict(
            arbitrary_types_allowed=True,
            extra="forbid",
            hide_input_in_errors=True,
            validate_default=False,
        )

        @model_validator(mode="before")
        @classmethod
        def convert_all(cls, merged: Mapping[str, object]) -> dict[str, object]:
            return _convert_all(merged)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del env_settings, dotenv_settings, file_secret_settings
            return init_settings, Environment(settings_cls)

    return pydantic.create_model("AgentSettingsSources", __base__=Base, **_definitions())


def _pydantic_1_class() -> Callable[..., Any]:
    # By name and untyped: these do not exist in the pydantic that type checkers see.
    old: Any = importlib.import_module("pydantic")

    def convert_all(cls: object, merged: dict[str, object]) -> dict[str, object]:
        del cls
        return _convert_all(merged)

    def environment(_settings: object) -> dict[str, object]:
        return dict(_load.get().environment)

    def customise_sources(
        cls: object, init_settings: Any, env_settings: Any, file_secret_settings: Any
    ) -> tuple[Any, ...]:
        del cls, env_settings, file_secret_settings
        return init_settings, environment

    config = type(
        "Config",
        (),
        {
            "arbitrary_types_allowed": True,
            "extra": "forbid",
            "validate_all": False,
            "customise_sources": classmethod(customise_sources),
        },
    )
    base: Any = type(
        "Base",
        (old.BaseSettings,),
        {
            "__module__": __name__,
            "Config": config,
            "convert_all": old.root_validator(pre=True, allow_reuse=True)(convert_all),
        },
    )
    made: Callable[..., Any] = old.create_model(
        "AgentSettingsSources", __base__=base, **_definitions()
    )
    return made
