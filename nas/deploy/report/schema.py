"""What a results.json of schema 1 must hold before anything is drawn from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces import Architecture

SCHEMA = 1


class ResultsError(ValueError):
    """A results file that is foreign, damaged, or of another schema."""


def load(path: str | Path) -> dict[str, Any]:
    """Read and check a results file.

    Args:
        path: ``results.json``, or the run folder that holds it.

    Returns:
        The checked results.

    Raises:
        FileNotFoundError: if there is no such file.
        ResultsError: if it is not JSON, or not results of schema 1.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a results.json, found none at {path}; `nas search --out DIR` writes one"
        )
    try:
        results = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ResultsError(
            f"expected JSON in {path}, got: {error}; the file is damaged or foreign, run `nas search` again"
        ) from None
    return validate(results, source=str(path))


def validate(results: object, source: str = "results") -> dict[str, Any]:
    """Check that ``results`` is schema 1, with every number finite and every architecture valid.

    Args:
        results: the parsed JSON value.
        source: what to call it in errors, for example the file's path.

    Returns:
        ``results`` itself, unchanged.

    Raises:
        ResultsError: naming the first place that does not fit, as a path such as ``winners[2].measured``.
    """
    if not isinstance(results, dict) or "schema" not in results:
        raise ResultsError(
            f"expected {source} to be the results of `nas search` (an object with 'schema': {SCHEMA}), got "
            f"{_kind(results)}; pass the results.json of a run folder"
        )
    schema = results["schema"]
    if schema != SCHEMA or isinstance(schema, bool):
        age = "a newer version wrote it: upgrade sparse-gpt-nas"
        if not isinstance(schema, int) or schema < SCHEMA:
            age = "it is not one of ours, or too old: run `nas search` again"
        raise ResultsError(f"expected schema {SCHEMA} in {source}, got {schema!r}; {age}")
    check = _Checker(source)
    check.finite(results, "")
    objectives = check.field(results, "", "objectives", list)
    if not objectives:
        check.fail("objectives", "at least one objective", "none")
    names = [
        check.field(check.mapping(o, f"objectives[{i}]"), f"objectives[{i}]", "name", str)
        for i, o in enumerate(objectives)
    ]
    if len(set(names)) != len(names):
        check.fail("objectives", "each objective once", str(names))
    baseline = check.field(results, "", "baseline", dict)
    check.architecture(baseline, "baseline")
    check.values(baseline, "baseline", "measured")
    for name, kind in (
        ("trials", list),
        ("hypervolume_trace", list),
        ("provenance", dict),
        ("surrogate", dict),
    ):
        if results.get(name) is not None:
            check.field(results, "", name, kind)
    for i, trial in enumerate(results.get("trials") or []):
        check.architecture(check.mapping(trial, f"trials[{i}]"), f"trials[{i}]")
        check.values(trial, f"trials[{i}]", "values")
    for i, winner in enumerate(check.field(results, "", "winners", list)):
        _check_winner(check, check.mapping(winner, f"winners[{i}]"), f"winners[{i}]")
    check.number_list(results, "", "hypervolume_trace")
    check.optional_number(results, "", "hypervolume")
    if (random := results.get("random_search")) is not None:
        _check_random(check, check.mapping(random, "random_search"))
    for name, quality in (results.get("surrogate") or {}).items():
        for key in ("num_records", "kendall_tau", "mape", "coverage", "interval_level"):
            check.optional_number(
                check.mapping(quality, f"surrogate.{name}"), f"surrogate.{name}", key
            )
    return results


def _check_winner(check: _Checker, winner: dict[str, Any], at: str) -> None:
    check.architecture(winner, at)
    if winner.get("measured") is not None:
        check.values(winner, at, "measured")
    for name, claim in check.field(winner, at, "predicted", dict).items():
        place = f"{at}.predicted.{name}"
        for key in ("mean", "low", "high"):
            check.field(check.mapping(claim, place), place, key, (int, float))
    check.field(winner, at, "verified", bool)
    for key in ("speedup", "perplexity_ratio", "size_ratio"):
        check.optional_number(winner, at, key)
    for i, item in enumerate(winner.get("checks") or []):
        place = f"{at}.checks[{i}]"
        check.field(check.mapping(item, place), place, "name", str)
        check.field(item, place, "passed", bool)
        for key in ("measured", "low", "high", "tolerance"):
            check.optional_number(item, place, key)


def _check_random(check: _Checker, random: dict[str, Any]) -> None:
    for key in ("hypervolume", "std"):
        check.optional_number(random, "random_search", key)
    for key in ("hypervolumes", "trace_mean", "trace_std"):
        check.number_list(random, "random_search", key)
    for i, point in enumerate(random.get("front") or []):
        check.architecture(
            check.mapping(point, f"random_search.front[{i}]"), f"random_search.front[{i}]"
        )
        check.values(point, f"random_search.front[{i}]", "values")


class _Checker:
    """Raises a :class:`ResultsError` that names the place."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, at: str, expected: str, got: str) -> None:
        raise ResultsError(
            f"expected {expected} at {at} of {self.source}, got {got}; "
            "the file is damaged or was edited: run `nas search` again"
        )

    def mapping(self, value: object, at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(at, "an object", _kind(value))
        assert isinstance(value, dict)
        return value

    def field(self, fields: Mapping[str, Any], at: str, name: str, kind: Any) -> Any:
        place = f"{at}.{name}" if at else name
        if name not in fields:
            self.fail(place, f"the field {name!r}", f"only {sorted(fields)}")
        value = fields[name]
        # bool is an int to Python and a mistake in a results file
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            self.fail(place, " or ".join(k.__name__ for k in kinds), _kind(value))
        return value

    def values(self, fields: Mapping[str, Any], at: str, name: str) -> None:
        for metric in self.field(fields, at, name, dict):
            self.field(fields[name], f"{at}.{name}", metric, (int, float))

    def optional_number(self, fields: Mapping[str, Any], at: str, name: str) -> None:
        if fields.get(name) is not None:
            self.field(fields, at, name, (int, float))

    def number_list(self, fields: Mapping[str, Any], at: str, name: str) -> None:
        for i, value in enumerate(fields.get(name) or []):
            if isinstance(value, bool) or not isinstance(value, int | float):
                self.fail(f"{at}.{name}[{i}]".lstrip("."), "a number", _kind(value))

    def architecture(self, fields: Mapping[str, Any], at: str) -> None:
        try:
            Architecture.from_json(self.field(fields, at, "architecture", dict))
        except ResultsError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            self.fail(f"{at}.architecture", "a valid architecture", f"one refused with: {error}")

    def finite(self, value: Any, at: str) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            self.fail(at, "a finite number", str(value))
        elif isinstance(value, dict):
            for key, item in value.items():
                self.finite(item, f"{at}.{key}" if at else str(key))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                self.finite(item, f"{at}[{i}]")


def _kind(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"
