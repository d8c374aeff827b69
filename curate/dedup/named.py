"""The barriers that `curate dedup` knows, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from curate.dedup.exact import exact, url
from curate.dedup.near import containment, near
from curate.dedup.paragraphs import paragraphs
from curate.errors import RecipeError
from curate.errors import near as nearest
from curate.stage import Barrier

BARRIERS: dict[str, Callable[..., Barrier]] = {
    "exact": exact,
    "url": url,
    "near": near,
    "containment": containment,
    "line": paragraphs,
}


def barriers(by: str, settings: Mapping[str, str]) -> list[Barrier]:
    """The barriers of a list such as "exact,near", with `{"near.threshold": "0.7"}` changed; over all files."""
    names = [x.strip() for x in by.split(",") if x.strip()]
    for name in names:
        if name not in BARRIERS:
            raise RecipeError(f"--by {name}: no such way to find duplicates{nearest(name, BARRIERS)}")
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"--by {by!r}: name each way once, such as exact,near")
    given: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, value in settings.items():
        name, _, setting = key.partition(".")
        if name not in given or not setting:
            raise RecipeError(f"--set {key}: must begin with one of --by, such as {names[0]}.max_removed=1")
        given[name][setting] = value
    return [BARRIERS[name](**{"scope": "run", **given[name]}) for name in names]
