"""An immutable, hashable map of text to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Tags(Mapping[str, str]):
    """What `AgentSettings.tags` holds.

    A plain dict could be changed behind the frozen settings' back, and `MappingProxyType` cannot be
    copied by `dataclasses.asdict`.

    Args:
        pairs: The tags; copied.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        self._pairs = dict(pairs or {})

    def __getitem__(self, key: str) -> str:
        return self._pairs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __hash__(self) -> int:
        return hash(frozenset(self._pairs.items()))

    def __copy__(self) -> Tags:
        return self

    def __deepcopy__(self, _memo: dict[int, object]) -> Tags:
        return self

    def __repr__(self) -> str:
        return repr(self._pairs)
