"""A condition of the user's own over the columns of a log: SQL text to an Ibis expression, so that every engine means the same.

Only what reads a row is understood (comparisons, and/or/not, like, in, between, arithmetic, a few functions): no text of
the user's is ever sent to the store, so that no condition can write, call or read anything else there.
"""

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ibis
import sqlglot
from sqlglot import exp

from monitoring.sources.mapping import COLUMNS, TYPES
from retrain.errors import DataError, ParamsError
from retrain.records import parse_time

if TYPE_CHECKING:
    from monitoring.sources import Rows

WHERE = "failures.where (params.yaml)"
LONGEST = 4000  # characters of a condition
DEEPEST = 100  # brackets and operators inside one another
COMPARED: dict[type, Callable[[Any, Any], Any]] = {
    exp.EQ: lambda a, b: a == b,
    exp.NEQ: lambda a, b: a != b,
    exp.GT: lambda a, b: a > b,
    exp.GTE: lambda a, b: a >= b,
    exp.LT: lambda a, b: a < b,
    exp.LTE: lambda a, b: a <= b,
}
COUNTED: dict[type, Callable[[Any, Any], Any]] = {
    exp.Add: lambda a, b: a + b,
    exp.Sub: lambda a, b: a - b,
    exp.Mul: lambda a, b: a * b,
    exp.Div: lambda a, b: a / b.nullif(0),  # PostgreSQL would raise, DuckDB has no value
}
FUNCTIONS: dict[type, Callable[[Any], Any]] = {
    exp.Lower: lambda a: a.lower(),
    exp.Upper: lambda a: a.upper(),
    exp.Length: lambda a: a.length(),
    exp.Trim: lambda a: a.strip(),
}
KNOWN = "and or not, = <> < <= > >=, like, ilike, in (...), between, is null, + - * /, lower, upper, length, trim, coalesce"


def condition(rows: "Rows", text: str) -> Any:
    """The condition as a column of bool over the rows; unknown is False.

    ParamsError, with what stands there and what can, where it is no condition, names no column of ours or compares a
    number with a text.
    """
    found = _Reader(rows).read(parsed(text))
    if not found.type().is_boolean():
        raise ParamsError(f"{WHERE} is {text!r}, a {_kind(found)}: must be true or false, such as latency_ms > 2000")
    return found.fill_null(False)


def parsed(text: str) -> Any:
    """The one expression that a text is; ParamsError where it is none."""
    if len(text) > LONGEST:
        raise ParamsError(f"{WHERE} has {len(text)} characters, must have at most {LONGEST}")
    try:
        trees = sqlglot.parse(text, dialect="duckdb")
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ParamsError(f"{WHERE} is {text!r}, no condition in SQL: {first}") from error
    if len(trees) != 1 or trees[0] is None:
        raise ParamsError(f"{WHERE} is {text!r}: must be one condition, such as latency_ms > 2000; null for none")
    if max(node.depth for node in trees[0].walk()) > DEEPEST:
        raise ParamsError(f"{WHERE} has more than {DEEPEST} brackets and operators inside one another: `in (...)` has a list")
    return trees[0]


class _Reader:
    def __init__(self, rows: "Rows") -> None:
        self.table, self.engine = rows.expr, rows.engine

    def read(self, tree: Any) -> Any:
        kind = type(tree)
        if kind in (exp.And, exp.Or):
            one, other = (self._bool(part) for part in (tree.this, tree.expression))
            return one & other if kind is exp.And else one | other
        if kind is exp.Not:
            return ~self._bool(tree.this)
        if kind is exp.Paren:
            return self.read(tree.this)
        if kind is exp.Column:
            return self._column(tree)
        if kind is exp.Literal:
            return ibis.literal(tree.this if tree.is_string else _number(tree.this))
        if kind is exp.Boolean:
            return ibis.literal(bool(tree.this))
        if kind in COMPARED:
            return COMPARED[kind](*self._alike(tree, tree.this, tree.expression))
        if kind is exp.Between and not tree.args.get("symmetric"):
            value, low, high = self._alike(tree, tree.this, tree.args["low"], tree.args["high"])
            return (value >= low) & (value <= high)
        if kind is exp.In and tree.expressions:
            value, *among = self._alike(tree, tree.this, *tree.expressions)
            return value.isin(among)
        if kind is exp.Is and isinstance(tree.expression, exp.Null):
            return self.read(tree.this).isnull()
        if kind in (exp.Like, exp.ILike):
            return self._like(tree)
        return self._computed(tree, kind)

    def _computed(self, tree: Any, kind: type) -> Any:
        if kind in COUNTED:
            return COUNTED[kind](*(self._of(part, "number") for part in (tree.this, tree.expression)))
        if kind is exp.Neg:
            return -self._of(tree.this, "number")
        if kind in FUNCTIONS and not (kind is exp.Trim and len([v for v in tree.args.values() if v]) > 1):
            return FUNCTIONS[kind](self._of(tree.this, "text"))
        if kind is exp.Coalesce:
            return ibis.coalesce(*self._alike(tree, tree.this, *tree.expressions))
        raise ParamsError(f"{WHERE} has {_sql(tree)}, which is not understood here: it can have {KNOWN}")

    def _column(self, tree: Any) -> Any:
        steps = [part.name for part in tree.parts]
        name = steps[0] if tree.parts[0].quoted else steps[0].lower()
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f": did you mean {near[0]}?" if near else ";"
            raise ParamsError(f"{WHERE} names {_sql(tree)}, no column{hint} columns are {', '.join(COLUMNS)}")
        if len(steps) == 1:
            return self.table[name]
        if name != "metadata":
            raise ParamsError(f"{WHERE} has {_sql(tree)}: only metadata has fields, {name} is a {TYPES[name]}")
        try:
            return self.engine.at(self.table.metadata, steps[1:])
        except ParamsError as error:
            raise ParamsError(f"{WHERE} has {_sql(tree)}, which cannot be read from {self.engine.name}: {error}") from error

    def _like(self, tree: Any) -> Any:
        if not (isinstance(tree.expression, exp.Literal) and tree.expression.is_string):
            raise ParamsError(f"{WHERE} has {_sql(tree)}: the pattern must be a text in quotes, such as '%refund%'")
        value, pattern = self._of(tree.this, "text"), tree.expression.this
        return value.like(pattern) if type(tree) is exp.Like else value.ilike(pattern)

    def _bool(self, tree: Any) -> Any:
        return self._of(tree, "condition")

    def _of(self, tree: Any, kind: str) -> Any:
        value = self.read(tree)
        if _kind(value) != kind:
            raise ParamsError(f"{WHERE} has {_sql(tree)}, a {_kind(value)}, where a {kind} must stand")
        return value

    def _alike(self, whole: Any, *trees: Any) -> list[Any]:
        """Values that can be compared: all of one kind; a text beside a time is an instant."""
        values = [self.read(tree) for tree in trees]
        if any(_kind(value) == "time" for value in values):
            pairs = zip(values, trees, strict=True)
            values = [_instant(tree) if isinstance(tree, exp.Literal) and tree.is_string else value for value, tree in pairs]
        kinds = sorted({_kind(value) for value in values})
        if len(kinds) > 1:
            raise ParamsError(f"{WHERE} has {_sql(whole)}, which compares a {' with a '.join(kinds)}")
        return values


def _instant(tree: Any) -> Any:
    try:
        return ibis.literal(parse_time(tree.this, f"the time in {WHERE}"))
    except DataError as error:
        raise ParamsError(str(error)) from error


def _number(text: str) -> int | float:
    return int(text) if text.isdigit() and len(text) < 18 else float(text)


def _kind(value: Any) -> str:
    kind = value.type()
    if kind.is_boolean():
        return "condition"
    return "number" if kind.is_numeric() else "time" if kind.is_timestamp() else "text"


def _sql(tree: Any) -> str:
    return str(tree.sql(dialect="duckdb"))[:120]
