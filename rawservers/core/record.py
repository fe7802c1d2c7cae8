"""Records: frozen classes of typed fields, as those of `dataclasses`, for what every start needs.

    class Point(Record):
        x: int
        y: int = 0

`dataclasses` imports `inspect`, and compiles the methods of each class anew: a quarter of the time to the first answer. Here
all records share theirs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

R = TypeVar("R", bound="Record")

REQUIRED = object()  # the default of a field that has none


class Field:
    """A field as the body of a class gives it. metadata: whatever the class wants to know of it."""

    __slots__ = ("default", "metadata")

    def __init__(self, default: Any, metadata: Any = None) -> None:
        self.default, self.metadata = default, metadata


def required(metadata: Any) -> Any:
    """A field without a default."""
    return Field(REQUIRED, metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(required,))
class Record:
    """A class of records. FIELDS: by name, in the order of positional arguments, with those of the class that it extends.

    Records of one class are equal if their fields are. `__post_init__` may check them, and raise. Raises TypeError for
    arguments that are not those of the class, and AttributeError when a field is set.
    """

    FIELDS: ClassVar[dict[str, Field]] = {}

    def __init_subclass__(cls) -> None:
        body, cls.FIELDS = dict(vars(cls)), dict(cls.FIELDS)
        for name in (name for name, kind in cls.__annotations__.items() if "ClassVar" not in str(kind)):
            default, inherited = body.get(name, REQUIRED), cls.FIELDS.get(name)
            metadata = inherited.metadata if inherited else None
            cls.FIELDS[name] = default if isinstance(default, Field) else Field(default, metadata)
            if name in body:
                delattr(cls, name)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(self.FIELDS, args)) | kwargs  # noqa: B905  # their number is checked next
        values = {name: given.get(name, field.default) for name, field in self.FIELDS.items()}
        if len(given) < len(args) + len(kwargs) or given.keys() - values or REQUIRED in values.values():
            twice = {*[*values][: len(args)]} & kwargs.keys()
            missing = [name for name in values if values[name] is REQUIRED]
            why = {"unknown": given.keys() - values, "given twice": twice, "missing": missing}
            said = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in why.items() if names) or "too many"
            raise TypeError(f"{type(self).__name__} takes {', '.join(values)}, not {len(args)} values and {[*kwargs]} ({said})")
        vars(self).update(values)
        self.__post_init__()

    def __replace__(self, **changes: Any) -> Self:  # for copy.replace of Python 3.13
        return type(self)(**{**vars(self), **changes})

    def __post_init__(self) -> None:
        """Called once the fields are set."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def replace(record: R, **changes: Any) -> R:
    """The same record, but for these fields. Raises as its class does."""
    return record.__replace__(**changes)
