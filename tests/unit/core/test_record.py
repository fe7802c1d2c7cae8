"""Records: arguments, defaults, equality, and that they do not change."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import pytest

from rawservers.core.record import Field, Record, replace, required


class Point(Record):
    """For the tests."""

    x: int
    y: int = 0
    name: str = required("kept")

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x")


POINT = Point(1, name="p")


@pytest.mark.parametrize(
    "point", [Point(1, 0, "p"), Point(x=1, name="p"), Point(1, name="p", y=0), replace(Point(2, 0, "p"), x=1)]
)
def test_by_position_and_by_name(point: Point) -> None:
    assert point == POINT
    assert hash(point) == hash(POINT)
    assert (point.x, point.y, point.name) == (1, 0, "p")
    assert list(vars(point)) == ["x", "y", "name"]


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1,), {}), ((1, 2), {}), ((1, 2, "p", 4), {}), ((1,), {"x": 1, "name": "p"}), ((1,), {"name": "p", "z": 1})],
)
def test_wrong_arguments(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Point takes x, y, name, not "):
        Point(*values, **named)


@pytest.mark.parametrize(
    ("values", "named", "why"),
    [
        ((), {}, "missing: name, x"),
        ((1,), {"name": "p", "z": 1, "a": 1}, "unknown: a, z"),
        ((1,), {"x": 1, "name": "p"}, "given twice: x"),
        ((1, 2, "p", 4), {}, "too many"),
    ],
)
def test_what_is_wrong_with_arguments_is_told(values: tuple[Any, ...], named: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=rf" \({why}\)$"):
        Point(*values, **named)


def test_a_subclass_has_the_fields_of_its_class() -> None:
    class Place(Point):
        y: int = 7
        height: int = 0
        COUNT: ClassVar[int] = 3

    place = Place(1, name="p", height=2)
    assert vars(place) == {"x": 1, "y": 7, "name": "p", "height": 2}
    assert list(Place.FIELDS) == ["x", "y", "name", "height"]
    assert Place.FIELDS["name"].metadata == "kept"
    assert (Place.COUNT, list(Point.FIELDS)) == (3, ["x", "y", "name"])
    with pytest.raises(ValueError, match="x"):
        Place(-1, name="p")


def test_it_is_checked_when_it_is_made_and_when_it_is_replaced() -> None:
    with pytest.raises(ValueError, match="x"):
        Point(-1, name="p")
    with pytest.raises(ValueError, match="x"):
        replace(POINT, x=-1)
    with pytest.raises(TypeError):
        replace(POINT, z=1)


def test_it_is_immutable() -> None:
    with pytest.raises(AttributeError, match="Point is immutable: x"):
        POINT.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="Point is immutable: x"):
        del POINT.x
    assert POINT.x == 1


def test_what_is_no_equal() -> None:
    class Other(Record):
        x: int
        y: int
        name: str

    assert Point(1, 1, "p") != POINT
    assert Other(1, 0, "p") != POINT
    assert POINT != (1, 0, "p")


def test_copies_and_its_text() -> None:
    assert copy.copy(POINT) == pickle.loads(pickle.dumps(POINT)) == POINT
    assert repr(POINT) == "Point(x=1, y=0, name='p')"


def test_what_is_known_of_a_field() -> None:
    assert [(name, field.metadata) for name, field in Point.FIELDS.items()] == [("x", None), ("y", None), ("name", "kept")]
    assert isinstance(Point.FIELDS["y"], Field)
    assert Point.FIELDS["y"].default == 0
    assert not hasattr(Point, "y")
