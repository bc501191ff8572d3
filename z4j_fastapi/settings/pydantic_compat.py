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
from typing import Any, cast, get_type_hints

import pydantic

from z4j_fastapi.settings.conversion import ConversionError, convert
from z4j_fastapi.settings.description import Problem
from z4j_fastapi.settings.fields import SETTINGS, SettingFields
from z4j_fastapi.settings.tags import Tags

PYDANTIC_1 = pydantic.VERSION.startswith("1.")

#: The environment of the load that runs in this context; sources are built by pydantic without
#: arguments of ours.
_environment: ContextVar[Mapping[str, object]] = ContextVar("z4j_fastapi_settings_environment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What pydantic made of the sources.

    Args:
        values: A value for every setting; the default where a problem was found.
        problems: One for each value that could not be converted.
    """

    values: dict[str, object]
    problems: list[Problem]


def read_sources(keywords: Mapping[str, object], environment: Mapping[str, object]) -> Loaded:
    """Merge keyword arguments over environment over defaults, and convert.

    Args:
        keywords: Values by setting name; none of them None or empty text.
        environment: Texts by setting name.
    """
    problems: list[Problem] = []
    kept, seen = dict(keywords), dict(environment)
    # pydantic gives all problems at once but no values beside them: leave the bad ones out and
    # load again, so that the checks that follow see the good ones.
    while True:
        values, found = _attempt(kept, seen)
        if values is not None:
            return Loaded(values=values, problems=problems)
        problems += found
        for problem in found:
            kept.pop(problem.field, None)
            seen.pop(problem.field, None)


def _attempt(
    keywords: Mapping[str, object], environment: Mapping[str, object]
) -> tuple[dict[str, object] | None, list[Problem]]:
    token = _environment.set(environment)
    try:
        loaded = _settings_class()(**keywords)
    except pydantic.ValidationError as error:
        # Only field name and message leave this handler: the error itself holds every value.
        return None, [_problem(detail) for detail in error.errors()]
    finally:
        _environment.reset(token)
    return {name: getattr(loaded, name) for name in SETTINGS}, []


def _problem(detail: Mapping[str, Any]) -> Problem:
    name = str(detail["loc"][0])
    setting = SETTINGS[name]
    context: Mapping[str, object] = detail.get("ctx") or {}
    original = context.get("error")
    if isinstance(original, ConversionError):
        text = str(original)
    elif PYDANTIC_1 and detail["type"] == "value_error.conversion":
        text = str(detail["msg"])
    else:  # pydantic's own check behind `convert`: its message may show the value
        text = f"must be {setting.type_text}; correct it"
    return Problem(field=name, text=text, environment=setting.environment)


def _convert_field(name: str, value: object) -> object:
    return convert(SETTINGS[name], value)


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
    from pydantic import ValidationInfo, field_validator  # noqa: PLC0415 - see the module docstring
    from pydantic_settings import (  # noqa: PLC0415 - see the module docstring
        BaseSettings,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

    class Environment(PydanticBaseSettingsSource):
        def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
            del field
            return _environment.get().get(field_name), field_name, False

        def __call__(self) -> dict[str, Any]:
            return dict(_environment.get())

    class Base(BaseSettings):
        model_config = SettingsConfigDict(
            arbitrary_types_allowed=True,
            extra="forbid",
            hide_input_in_errors=True,
            validate_default=False,
        )

        @field_validator("*", mode="before")
        @classmethod
        def convert_field(cls, value: object, info: ValidationInfo) -> object:
            return _convert_field(cast("str", info.field_name), value)

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

    def convert_field(cls: object, value: object, field: Any) -> object:
        del cls
        return _convert_field(field.name, value)

    def environment(_settings: object) -> dict[str, object]:
        return dict(_environment.get())

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
            "convert_field": old.validator("*", pre=True, allow_reuse=True)(convert_field),
        },
    )
    made: Callable[..., Any] = old.create_model(
        "AgentSettingsSources", __base__=base, **_definitions()
    )
    return made
