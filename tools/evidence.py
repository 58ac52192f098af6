"""Whether a remedy helps the demo's fine-tune: runs the studies, keeps their results, writes docs/evidence.md and what the advice of a drift report reads.

    python tools/evidence.py                  # about two hours of a core; broken off, the same command goes on
    python tools/evidence.py --write-only     # docs/evidence.md and the advice's file anew, from studies/results/*.json

Every sentence of docs/evidence.md that says what won is made from the numbers by `verdict`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout_studio.core.look.drift.evidence import Result, write_results
from rollout_studio.core.study.evidence import results_of
from rollout_studio.core.study.measures import KINDS
from rollout_studio.core.study.plan import control_name
from rollout_studio.core.study.table import number

ROOT = Path(__file__).resolve().parents[1]
STUDIES = {"demo": "the flow model", "demo-epsilon": "the epsilon model"}
"""Study files, without their ending, and whom they train."""
MODELS: dict[str, dict[str, Any]] = {
    "demo": {"family": "lumina2", "prediction_type": "flow_matching"},
    "demo-epsilon": {"family": "sd1x", "prediction_type": "epsilon"},
}
RESULTS = ROOT / "studies" / "results"
PAGE = ROOT / "docs" / "evidence.md"
_DIGITS = 5
_ALSO = ("thing", "thing_few", "thing_unguided", "thing_few_unguided", "old_shape", "drift_short", "drift_long", "spread", "train_seconds")  # fmt: skip

Record = Mapping[str, Any]


def kept(record: Record) -> dict[str, Any]:
    """A study.json with its numbers rounded: what goes into the repository."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.{_DIGITS}g}")
        if isinstance(value, Mapping):
            return {key: rounded(each) for key, each in value.items()}
        return [rounded(each) for each in value] if isinstance(value, list) else value

    return {key: rounded(value) for key, value in record.items() if key != "runs"}


def run(runs_dir: Path) -> None:
    """Both studies to their ends, and their results into the repository."""
    for name in STUDIES:
        file = ROOT / "studies" / f"{name}.yaml"
        command = [sys.executable, "-m", "rollout_studio.app", "study", str(file), "--runs-dir", str(runs_dir)]
        subprocess.run(command, check=True)
        study = json.loads(file_of_results(file, runs_dir).read_text("utf-8"))
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps({"ended": time.strftime("%Y-%m-%d"), **kept(study)}, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def file_of_results(file: Path, runs_dir: Path) -> Path:
    from rollout_studio.core.study.plan import read_study
    from rollout_studio.core.study.table import FOLDER

    return runs_dir / FOLDER / read_study(file, runs_dir).name / "study.json"


def for_the_advice(records: Mapping[str, Record]) -> list[Result]:
    return [
        each for name, record in records.items() for each in results_of(record, date=record["ended"], **MODELS[name])
    ]


# -- what the numbers say ---------------------------------------------------------------------------------------------------


def remedies(record: Record) -> list[str]:
    """Its variants that are neither the reference nor a control."""
    return [
        each["name"] for each in record["variants"] if not each["control_of"] and each["name"] != record["reference"]
    ]


def comparison(record: Record, variant: str, kind: str) -> Record | None:
    """Of a variant with `plain` (equal steps), its control at equal time, or that at the noise of its source; None where it has none."""
    ends = {
        "plain": record["reference"],
        "time": control_name(variant, "plain-time"),
        "noise": control_name(variant, "source-noise"),
    }
    against = ends[kind]
    return next(
        (each for each in record["comparisons"] if (each["variant"], each["against"]) == (variant, against)), None
    )


def verdict(record: Record, variant: str) -> str:
    """Over the measures that decide: "better" where one is better than plain training at equal steps *and* at equal time, and none is worse than either;
    "worse" where one is worse than either and none is better; "mixed"; "open".

    Both count because plain training that is stopped at equal steps takes less time still: what is not better than that has not earned its time.
    """
    found = [
        each for each in (comparison(record, variant, "plain"), comparison(record, variant, "time")) if each is not None
    ]
    if not found:
        raise ValueError(f"{record['study']['study']}: {variant} is compared with nothing.")
    said = [
        [each["differences"][name]["verdict"] for each in found if name in each["differences"]]
        for name in record["study"]["deciding"]
    ]
    better = any(all(word == "better" for word in words) for words in said if words)
    worse = any("worse" in words for words in said)
    return "mixed" if better and worse else "better" if better else "worse" if worse else "open"


def winners(record: Record) -> list[str]:
    return [name for name in remedies(record) if verdict(record, name) == "better"]


# -- the page ---------------------------------------------------------------------------------------------------------------


def page(records: Mapping[str, Record]) -> str:
    return (
        "\n\n".join([_HEAD, _summary(records), *(_study(name, record) for name, record in records.items()), _TAIL])
        + "\n"
    )


_HEAD = """<!-- made by tools/evidence.py; do not edit -->
# Evidence: does a remedy help a fine-tune?

Nobody has published whether scheduled sampling or ReflexFlow helps a *fine-tune*, as opposed to training from scratch. This page is what we measured, on
[the demo](demo.md): five pictures of a new thing, a LoRA, small models. It says nothing of other models, data sets or numbers of steps;
[a study](studies.md) of your own does."""

_WORDS = {
    "better": "better than both in one measure, worse in none",
    "worse": "worse in one measure, better than both in none",
    "mixed": "better than both in one measure, worse in another",
    "open": "not better than both in any measure, worse in none",
}


def _summary(records: Mapping[str, Record]) -> str:
    lines = [
        "## In short",
        "",
        "Against plain training at equal steps and at equal time, over the measures that were named before the studies began:",
        "",
        "| | remedy | is |",
        "|---|---|---|",
    ]
    for name, record in records.items():
        lines += [f"| {STUDIES[name]} | {each} | {_WORDS[verdict(record, each)]} |" for each in remedies(record)]
    won = [f"{each} ({STUDIES[name]})" for name, record in records.items() for each in winners(record)]
    rule = (
        f"**Won: {', '.join(won)}.**"
        if won
        else "**Nothing won.** So every preset trains plainly: a remedy is one choice away, and a study tells whether it helps with your model and pictures."
    )
    return "\n".join([*lines, "", rule])


def _study(name: str, record: Record) -> str:
    study = record["study"]
    judge, steps = study["judge"], study["set"]["max_train_steps"]
    deciding = study["deciding"]
    tested = max(d["comparisons"] for each in record["comparisons"] for d in each["differences"].values())
    lines = [
        f"## {STUDIES[name][0].upper()}{STUDIES[name][1:]}", "",
        (f"`studies/{name}.yaml`: {steps} steps, seeds {', '.join(map(str, record['seeds']))}; {judge['pictures']} prompts that name the new thing and {judge['old_pictures']} old ones, "
        f"sampled with {judge['steps']} and with {judge['few_steps']} steps, with and without guidance. Deciding: {', '.join(KINDS[each].title for each in deciding)}. "
        f"{tested} differences are tested together; ± is half of an interval that holds for all of them with 95 %."), "",
    ]  # fmt: skip
    for measure in deciding:
        better = f"{KINDS[measure].better} is better"
        lines += [
            f"### {KINDS[measure].title[0].upper()}{KINDS[measure].title[1:]} ({better})",
            "",
            "| remedy | plain, equal steps | plain, equal time | plain, at the noise of its source |",
            "|---|---|---|---|",
        ]
        for variant in remedies(record):
            cells = [_cell(comparison(record, variant, kind), measure) for kind in ("plain", "time", "noise")]
            lines.append(f"| {variant} | {' | '.join(cells)} |")
        lines.append("")
    lines += [_means(record)]
    if record["missing"]:
        lines += ["", *(f"- {each}" for each in record["missing"])]
    return "\n".join(lines)


def _cell(found: Record | None, measure: str) -> str:
    if found is None or measure not in found["differences"]:
        return "–"
    one = found["differences"][measure]
    unit = KINDS[measure].unit
    half = f" ± {number(one['half_interval'], unit)}" if one["half_interval"] is not None else ""
    word = f" **{one['verdict']}**" if one["verdict"] in ("better", "worse") else ""
    return f"{'+' if one['mean'] >= 0 else '−'}{number(abs(one['mean']), unit)}{half}{word}"


def _means(record: Record) -> str:
    """Means over the seeds, of every variant and control; not tested."""
    names = [*record["study"]["deciding"], *_ALSO]
    head = [f"{KINDS[name].title}{f', {KINDS[name].unit}' if KINDS[name].unit else ''}" for name in names]
    lines = ["### Means over the seeds (not tested)", "", f"| | {' | '.join(head)} |", f"|---|{'---|' * len(names)}"]
    for variant, seeds in record["values"].items():
        cells = [_mean([each[name] for each in seeds.values() if name in each]) for name in names]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4g}" if values else "–"


_TAIL = """## How to read it

- *Equal time* is the fair question: the steps that a remedy's extra forwards cost are given to plain training instead. *Equal steps* counts too, because
  plain training that is stopped there took less time still: what is not better than that has not earned its time. On five pictures the held-out loss has its minimum early
  and the likeness grows long after; a plain run that is given more steps is past the first, so against it alone everything that trains less would seem to gain.
- *At the noise of its source* is plain training on rows as noisy as those from which the remedy starts. Where it does as well, it was the noise and not the remedy.
- An interval that holds 0 does not say that there is no effect; it says that one smaller than that cannot be seen with three seeds.
- Seeds change the training's noise and order; pictures, prompts and the noise of the samples are the same in all runs.

```
python tools/evidence.py
```"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs", help="where the runs are made")
    parser.add_argument(
        "--write-only", action="store_true", help="only docs/evidence.md, from the results that are there"
    )
    given = parser.parse_args()
    if not given.write_only:
        run(given.runs_dir)
    records = read_results()
    PAGE.write_text(page(records), encoding="utf-8", newline="\n")
    write_results(for_the_advice(records))
    print(f"{PAGE}")


def read_results() -> dict[str, Record]:
    return {name: json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in STUDIES}


if __name__ == "__main__":
    main()
