"""A comparison in words: the verdict, and the table of the terminal. Percent and percentage points."""

from __future__ import annotations

from typing import Any

from sosr_det.evaluation.bootstrap import FEWEST_SEEDS

TITLES = {"map_11point": "mAP (11-point)", "map_area": "mAP (area)", "top1": "top-1 accuracy"}
OF_A_CLASS = {"map_11point": "AP (11-point)", "map_area": "AP (area)", "top1": "accuracy"}
_IN_VERDICT = {"map_11point": ("mAP", "11-point, "), "map_area": ("mAP", "area, "), "top1": ("top-1", "")}


def verdict(pair: dict[str, Any], metric: str, *, paired: bool) -> str:
    """One line about one difference: ``+0.40 ± 0.60 mAP (11-point, 95 %, 3 seeds): not distinguishable``.

    "Distinguishable" only if the twins are proven to have had the same batches, there are at least three seeds, and the
    interval over images and seeds does not contain 0.
    """
    unit, kind = _IN_VERDICT[metric]
    if pair["difference"] is None:
        return f"no {unit}: the test set has nothing to be found"
    count = pair["num_seeds"]
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    if not paired:
        return f"{points(pair['difference'])} {unit} ({kind}{seeds}): NOT PAIRED, no verdict"
    if pair["half_width"] is None:
        images = pair["images"]
        return (
            f"{points(pair['difference'])} {unit} ({kind}one seed; {points(images['percentile_low'])} to "
            f"{points(images['percentile_high'])} over images alone): not distinguishable, since the spread over seeds "
            "is unknown"
        )
    start = (
        f"{points(pair['difference'])} ± {100 * pair['half_width']:.2f} {unit} "
        f"({kind}{100 * pair['level']:g} %, {seeds})"
    )
    if count < FEWEST_SEEDS:
        return f"{start}: not distinguishable, as {seeds} are fewer than {FEWEST_SEEDS}"
    return f"{start}: {'' if pair['distinguishable'] else 'not '}distinguishable"


def points(fraction: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"  # never -0.00


def percent(value: float | None, std: float | None = None) -> str:
    """``12.34``, ``12.34 ± 0.56``, or a dash."""
    if value is None:
        return "–"
    return f"{100 * value:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def with_half_width(pair: dict[str, Any] | None) -> str:
    """``+0.40 ± 0.60``, without the second where it is unknown."""
    if pair is None or pair.get("difference") is None:
        return "–"
    half = pair["half_width"]
    return points(pair["difference"]) + ("" if half is None else f" ± {100 * half:.2f}")


def main_table(result: dict[str, Any]) -> list[list[str]]:
    """Heading and one row per arm: n, then per metric mean ± std and the difference to the first arm ± half width."""
    metrics = result["metrics"]
    rows = [["arm", "n", *(c for m in metrics for c in (TITLES[m], "difference"))]]
    first = result["study"]["arms"][0]["name"]
    for arm in (each["name"] for each in result["study"]["arms"]):
        row = [arm, str(len(result["seeds"]))]
        for numbers in metrics.values():
            spread = numbers["arms"][arm]
            pair = next((p for p in numbers["pairs"] if (p["reference"], p["arm"]) == (first, arm)), None)
            row += [percent(spread["mean"], spread["std"]), "" if arm == first else with_half_width(pair)]
        rows.append(row)
    return rows


def plain_table(rows: list[list[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def verdicts(result: dict[str, Any]) -> list[str]:
    """The verdict of every arm against the first, in the metric of the verdict; of the effects too."""
    metric = result["verdict_metric"]
    numbers, paired = result["metrics"][metric], result["pairing"]["paired"]
    first = result["study"]["arms"][0]["name"]
    lines = [
        f"{pair['arm']} against {first}: {verdict(pair, metric, paired=paired)}"
        for pair in numbers["pairs"]
        if pair["reference"] == first
    ]
    lines += [f"{each['effect']}: {verdict(each, metric, paired=paired)}" for each in numbers["effects"]]
    return lines


def terminal(result: dict[str, Any], folder: str) -> str:
    """What the command prints."""
    if not result["metrics"]:
        return f"\nno seed of which every arm is finished; not yet: {', '.join(result['missing'])}"
    lines = ["", plain_table(main_table(result)), ""]
    lines.append(
        "± after a mean: standard deviation over seeds (n - 1); after a difference: half of its 95 % interval over "
        "test images and seeds"
    )
    if result["missing"]:
        lines.append(f"NOT FINISHED, left out: {', '.join(result['missing'])}")
    lines += [f"note: {note}" for note in result["notes"]]
    lines += ["", *verdicts(result), f"report: {folder}"]
    return "\n".join(lines)
