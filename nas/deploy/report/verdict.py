"""The verdict: one sentence and four figures, all measured."""

from __future__ import annotations

from nas.deploy.report.describe import plural
from nas.deploy.report.units import NBSP, percent, ratio
from nas.deploy.report.view import PERPLEXITY_LIMIT, View, best_of


def limit_text() -> str:
    """The perplexity limit in words."""
    return f"{ratio(PERPLEXITY_LIMIT)} the dense baseline's perplexity"


def verdict(view: View) -> str:
    """One sentence: what was found, in measured figures."""
    if not view.winners:
        return "The search ended without a winner: no architecture was better than the reference point."
    best = view.fastest or view.smallest
    if best is None:
        if not view.verified:
            measured = any(w.measured for w in view.winners)
            why = "none passed its checks on the device" if measured else "none has been measured"
            return f"No claim can be made yet: of {plural(len(view.winners), 'winner')}, {why}."
        closest = best_of(view.verified, lambda w: w.perplexity_ratio)
        if closest is None:
            return (
                "Perplexity was not measured, so no winner can be compared with the dense baseline."
            )
        at = ratio(closest.perplexity_ratio)
        return f"No verified winner stays within {limit_text()}; the closest has {at}."
    quality = f"at {ratio(best.perplexity_ratio)} its perplexity" if best.perplexity_ratio else ""
    if view.fastest and best.speedup and view.latency:
        name = view.latency.name
        times = ""
        if name in best.measured and name in view.baseline:
            fast, dense = (view.latency.format(m[name]) for m in (best.measured, view.baseline))
            times = f" ({fast} against {dense})"
        faster = "as fast as" if best.speedup >= 1 else "the speed of"
        size = f" and {ratio(best.size_ratio)} its size" if best.size_ratio else ""
        comma = ", " if quality else ""
        return (
            f"Measured on the device, {best.name} is {ratio(best.speedup)} {faster} the fastest dense "
            f"path{times}{comma}{quality}{size}."
        )
    return f"Measured on the device, {best.name} is {ratio(best.size_ratio)} the dense baseline's size {quality}."


def key_figures(view: View) -> list[tuple[str, str, str]]:
    """The four figures beside the verdict: title, value, what it means."""
    figures = []
    if view.latency:
        best = view.fastest
        detail = (
            f"{best.name}, at {ratio(best.perplexity_ratio)} the perplexity"
            if best
            else f"no verified winner within {ratio(PERPLEXITY_LIMIT)} perplexity"
        )
        figures.append(("Fastest", ratio(best.speedup if best else None), detail))
    best = view.smallest
    detail = (
        f"of the dense bytes: {best.name}, at {ratio(best.perplexity_ratio)} the perplexity"
        if best
        else f"no verified winner within {ratio(PERPLEXITY_LIMIT)} perplexity"
    )
    figures.append(("Smallest", ratio(best.size_ratio if best else None), detail))
    if view.hypervolume is not None:
        figures.append(("Hypervolume", f"{view.hypervolume:.3f}", random_text(view)))
    passed, total = len(view.verified), len(view.winners)
    hits, claims = view.intervals
    detail = "winners passed every check on the device"
    if claims:
        detail += f"; {hits} of {claims} values in their {percent(view.interval_level)} interval"
    figures.append(("Verified", f"{passed} of {total}", detail))
    return figures


def random_text(view: View) -> str:
    """Random search's hypervolume with its spread, where more than one seed makes a spread."""
    value = view.random.get("hypervolume")
    if value is None:
        return "random search was not run"
    seeds = len(view.random.get("hypervolumes") or [])
    text = f"random search {value:.3f}"
    if view.random.get("std") is not None and seeds != 1:
        text += f"{NBSP}\N{PLUS-MINUS SIGN}{NBSP}{view.random['std']:.3f}"
    return f"{text} ({plural(seeds, 'seed')})".replace(" seed", f"{NBSP}seed") if seeds else text
