"""Checks: thresholds for the figures of outputs, held as the command holds them (``src/verify.rs``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._errors import InputError
from ._flags import Checks

Json = dict[str, Any]

KINDS = ("max-abs", "max-nmse", "min-snr", "min-agreement", "max-kl")


@dataclass(frozen=True)
class Check:
    """A bound on a figure, of one output or of all that have no bound of their own."""

    kind: str
    output: str | None
    limit: float

    @property
    def is_minimum(self) -> bool:
        return self.kind.startswith("min-")


def parse(checks: Checks | None) -> list[Check]:
    """The checks in a mapping of ``{"min_snr": 20}`` or ``{"min_snr": {"logits": 20}}``."""
    parsed = []
    for name, bound in (checks or {}).items():
        kind = name.replace("_", "-")
        if kind not in KINDS:
            known = ", ".join(kind.replace("-", "_") for kind in KINDS)
            raise InputError(f"check '{name}' is unknown, expected one of {known}")
        if isinstance(bound, Mapping):
            parsed += [Check(kind, output, float(limit)) for output, limit in bound.items()]
        else:
            parsed.append(Check(kind, None, float(bound)))
    # In the order of the kinds, as the command holds them.
    return sorted(parsed, key=lambda check: KINDS.index(check.kind))


def hold(checks: Sequence[Check], outputs: Sequence[Json]) -> Json:
    """Holds every check against the outputs that it is for: ``gates``, ``unbound`` and ``failures`` of the JSON.

    A check that cannot be held against any output fails.
    """
    gates: list[Json] = []
    unbound: list[Json] = []
    failures: list[str] = []
    for check in checks:
        own = {other.output for other in checks if other.kind == check.kind and other.output is not None}
        bound = False
        for figures in outputs:
            name = figures["name"]
            if name != check.output if check.output is not None else name in own:
                continue
            value = _value(check.kind, figures)
            counted = counts(figures) and not _is_constant(figures)
            if value is None or (check.output is None and not counted):
                unbound.append({"output": name, "gate": check.kind, "reason": _unbound_reason(check.kind, figures)})
                continue
            bound = True
            passed = value >= check.limit if check.is_minimum else value <= check.limit
            if not passed:
                failures.append(_failure(check, name, value))
            shown = value if math.isfinite(value) else None
            gates.append({"output": name, "gate": check.kind, "limit": check.limit, "value": shown, "passed": passed})
        counted_outputs = [figures for figures in outputs if counts(figures)]
        spoken_for = check.output is None and counted_outputs and all(f["name"] in own for f in counted_outputs)
        if not bound and not spoken_for:
            of = "any output" if check.output is None else f"output '{check.output}'"
            which = "" if counted_outputs else " and depends on what differs between the models"
            failures.append(f"--{check.kind} does not apply to {of} that was run{which}")
    return {"gates": gates, "unbound": unbound, "failures": failures}


def incomparable(figures: Json) -> str | None:
    """Why an output fails whatever the checks are."""
    name, non_finite, missing = figures["name"], figures["non_finite"], figures["nan"] + figures["infinite"]
    if non_finite:
        return f"output '{name}': {non_finite} elements are NaN or infinite in one of the models only"
    if counts(figures) and figures["elements"] == 0 and missing:
        return f"output '{name}': all {missing} elements are NaN or infinite in both models: nothing was compared"
    return None


def counts(figures: Json) -> bool:
    """Whether an output counts where nobody names it: it depends on what differs, or differs itself."""
    max_abs, agreement = figures["max_abs"], figures["agreement"]
    differs = (max_abs is not None and max_abs > 0.0) or (agreement is not None and agreement < 1.0)
    return bool(figures["reached"] or differs or figures["non_finite"] > 0)


def _is_constant(figures: Json) -> bool:
    """Whether both models give one number and nothing else: what they compute is lost on the way."""
    return bool(figures["constant"] and figures["max_abs"] == 0.0)


def _value(kind: str, figures: Json) -> float | None:
    """The figure that is bounded; infinite for an exact match, ``None`` where it is undefined."""
    measured: float | None
    if kind == "max-abs":
        measured = figures["max_abs"]
    elif kind == "min-agreement":
        measured = figures["agreement"]
    elif kind == "max-kl":
        measured = figures["kl"]
    elif figures["rmse"] is None:
        # Integers have no mean error, and with it neither a normalised one nor a noise.
        measured = None
    elif kind == "max-nmse":
        measured = math.inf if figures["nmse"] is None else figures["nmse"]
    elif figures["snr_db"] is not None:
        measured = figures["snr_db"]
    else:
        measured = math.inf if figures["max_abs"] == 0.0 else -math.inf
    return measured


def _unbound_reason(kind: str, figures: Json) -> str:
    if not counts(figures):
        return "nothing that differs between the models reaches it"
    if figures["elements"] == 0:
        return "no element of it could be compared"
    if _is_constant(figures):
        return "both models give one constant"
    if kind in ("max-nmse", "min-snr"):
        return "it holds integers: use --min-agreement"
    if kind == "min-agreement":
        return "it has fewer than two classes"
    return "it has no such figure"


def _failure(check: Check, name: str, value: float) -> str:
    figure = check.kind.split("-")[1]
    label, unit = {"abs": "max abs", "snr": "snr"}.get(figure, figure), " dB" if figure == "snr" else ""
    side = "below" if check.is_minimum else "above"
    by = short(abs(check.limit - value))
    return f"output '{name}': {label} {short(value)}{unit} is {side} --{check.kind} {short(check.limit)} (by {by})"


def short(value: float) -> str:
    """A number in four significant digits."""
    if value == 0.0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    if 1e-3 <= abs(value) < 1e6:
        digits = max(3 - math.floor(math.log10(abs(value))), 0)
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def warnings(checks: Sequence[Check], unbound: Sequence[Json], outputs: Sequence[Json]) -> list[str]:
    """What the user should know: outputs to which a check of all does not apply, and elements that were not counted."""
    lines = []
    for check in checks:
        entries = [u for u in unbound if check.output is None and u["gate"] == check.kind]
        if entries:
            named = ", ".join(f"'{u['output']}' ({u['reason']})" for u in entries)
            lines.append(f"--{check.kind} {short(check.limit)} does not apply to {named}")
    for figures in outputs:
        if figures["nan"] > 0:
            total = sum(figures[key] for key in ("elements", "nan", "infinite", "non_finite"))
            undecided = figures["undecided"]
            rows = f"; {undecided} rows with NaN have no decision" if undecided else ""
            name, nan = figures["name"], figures["nan"]
            lines.append(f"output '{name}': {nan} of {total} elements are NaN in both models and not counted{rows}")
    return lines
