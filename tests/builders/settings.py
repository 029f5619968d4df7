"""Every field of the settings classes: its dotted key and its type."""

from collections.abc import Iterator
from typing import Any

from cann_jax.config.schema import field_types, named_section_type, section_type
from cann_jax.config.scorers import KINDS, ScorerConfig, scorer_kind


def fields_of(schema: type, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the type of every field; a scorer's fields are those of every kind."""
    for name, hint in field_types(schema).items():
        here = f"{key}.{name}" if key else name
        inner = section_type(hint) or named_section_type(hint)
        if inner is None:
            yield here, hint
            continue
        below = f"{here}.NAME" if named_section_type(hint) else here
        kinds = [scorer_kind(kind) for kind in KINDS] if inner is ScorerConfig else [inner]
        for each in kinds:
            yield from fields_of(each, below)


def classes_of(schema: type) -> set[type]:
    """Return a settings class and all that its fields hold, the class of every scorer kind included."""
    found = {schema}
    for hint in field_types(schema).values():
        inner = section_type(hint) or named_section_type(hint)
        if inner is ScorerConfig:
            found = found.union(*(classes_of(scorer_kind(kind)) for kind in KINDS))
        elif inner is not None:
            found |= classes_of(inner)
    return found


def type_at(schema: type, key: str) -> Any:
    """Return the type of the field at a dotted key of a configuration."""
    hint: Any = schema
    for name in key.split("."):
        section = section_type(hint) or hint
        if named := named_section_type(hint):
            hint = named
        elif section is ScorerConfig:
            types = [field_types(scorer_kind(kind)) for kind in KINDS]
            hint = next(each[name] for each in types if name in each)
        else:
            hint = field_types(section)[name]
    return hint
