"""How often is a verdict on a release wrong, and after how many trips is there one? Releases whose truth is known.

Run: python tests/benchmarks/bench_release.py [--runs 1000]; a promise that is not kept is exit code 3.
"""

import argparse
import sys

import numpy as np
from tqdm import tqdm

from mlops_course import rehearsals
from mlops_course.plans import Plan
from mlops_course.rehearsals import by_confidence, by_evidence, by_peeking, by_ratio, rehearsed

SHARES = (0.05, 0.25, 0.5)
LOST = 0.07  # of the trips; a loss that should be found within WITHIN of them
WITHIN = 3_000
MOST, MARGIN = 8_000, Plan().margin


def trips(median: float) -> str:
    return f"{median:,.0f}" if np.isfinite(median) else "-"


def verdicts(runs: int) -> list[tuple[bool, str]]:
    "The plan's rule at each share: a table, and the promises."
    print(f"{runs} releases a row, of {MOST:,} trips at most; the margin is {MARGIN:g} of the trips:\n")
    print(
        "| challenger | its share | completed, champion | promoted | back | no verdict | promoted after, trips at the median | back after |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    promises, luck = [], 2 * np.sqrt(0.05 * 0.95 / runs) if runs < 1_000 else 0.0
    worlds = [(0.55, share) for share in SHARES] + [(0.45, 0.25), (0.6, 0.25), (0.95, 0.05), (0.9, 0.25), (0.1, 0.25)]
    rows = [(base, share, worse) for base, share in worlds for worse in (0.0, MARGIN)]
    rows += [(0.55, share, LOST) for share in SHARES] + [(0.55, share, -0.03) for share in (0.25, 0.5)]
    names = {0.0: "equal", MARGIN: "worse by the margin", LOST: f"{LOST:g} worse", -0.03: "0.03 better"}
    for base, share, worse in tqdm(rows, "releases", file=sys.stderr):
        ended = rehearsed(by_evidence(MARGIN), share, worse, base, MOST, runs)
        good, back = ended.by("promoted"), ended.by("back")
        medians = f"{trips(ended.median('promoted'))} | {trips(ended.median('back'))}"
        print(f"| {names[worse]} | {share:.0%} | {base:.2f} | {good:.1%} | {back:.1%} | {abs(1 - good - back):.1%} | {medians} |")
        what = f"{names[worse]}, a share of {share:.0%}, {base:.2f} completed"
        if worse == 0:
            promises.append((back <= 0.05 + luck, f"{what}: {back:.1%} are rolled back, at most 5%"))
        elif worse == MARGIN:
            promises.append((good <= 0.05 + luck, f"{what}: {good:.1%} are promoted, at most 5%"))
        elif worse == LOST and share >= 0.25:
            after = ended.median("back")
            promises.append((after <= WITHIN, f"{what}: back after {trips(after)} trips at the median, at most {WITHIN:,}"))
    small = rehearsed(by_evidence(MARGIN), 0.05, LOST, 0.55, 40_000, runs).median("back")
    print(f"\nAt a share of 5 % a loss of {LOST:g} is found after {trips(small)} trips at the median, if the release may last so long.\n")
    return promises


def margins(runs: int) -> None:
    "What a margin costs."
    print("What a margin costs, at a share of 25 %:\n")
    print("| margin | trips at most | equal: promoted | after, at the median | 0.03 better: promoted | after, at the median |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for margin in tqdm((0.03, 0.05, 0.07), "margins", file=sys.stderr):
        pair = [rehearsed(by_evidence(margin), 0.25, worse, trips=12_000, runs=runs) for worse in (0.0, -0.03)]
        for most in (4_000, 8_000, 12_000):
            within = [np.where(each.promoted <= most, each.promoted, np.inf) for each in pair]
            words = [f"{np.isfinite(each).mean():.1%} | {trips(np.median(each))}" for each in within]
            print(f"| {margin:g} | {most:,} | {words[0]} | {words[1]} |")


def wrong_ways(runs: int) -> None:
    "The same releases by rules of public courses."
    print("\nThe same by rules that are wrong, at a share of 25 %:\n")
    print("| rule | equal: back | worse by the margin: promoted |\n| --- | ---: | ---: |")
    rules = {"ratio of rates on 100": by_ratio(), "z test, peeked": by_peeking(), "the plan's": by_evidence()}
    for name, rule in rules.items():
        equal, worse = (rehearsed(rule, 0.25, loss, trips=MOST, runs=runs) for loss in (0.0, MARGIN))
        print(f"| {name} | {equal.by('back'):.1%} | {worse.by('promoted'):.1%} |")
    print("\n| mean confidence of 1,000 | trips lost | promoted |\n| --- | ---: | ---: |")
    for noise in (0.05, 0.1, 0.2):
        promoted, lost = by_confidence(noise, runs=min(runs, 200))
        print(f"| noise of {noise:g}, the champion's is 0.05 | {lost:+.3f} | {promoted:.0%} |")


def falling_back(runs: int) -> list[tuple[bool, str]]:
    "The control: false alarms, and how soon a loss of five points is seen."
    print("\nA control that the fallback answers, one look a day; the champion falls from 0.09 ahead to 0.05 behind:\n")
    print("| control | false alarms a month | seen after, trips at the median | not in 120 days | cost before, of 1,000 trips |")
    print("| --- | ---: | ---: | ---: | ---: |")
    promises, luck = [], 2 * np.sqrt(0.05 * 0.95 / runs) if runs < 1_000 else 0.0
    for share in tqdm((0.05, 0.1, 0.2), "controls", file=sys.stderr):
        alarms = float(np.isfinite(rehearsals.watched(share, 0.0, days=30, runs=runs)).mean())
        after = rehearsals.watched(share, 0.05, days=120, runs=max(runs // 5, 20))
        print(f"| standing, {share:.0%} | {alarms:.1%} | {trips(np.median(after))} | {np.isinf(after).mean():.1%} | {90 * share:.1f} |")
        promises.append((alarms <= 0.05 + luck, f"a control of {share:.0%}: {alarms:.1%} false alarms a month, at most 5%"))
    equal, worse = (rehearsed(by_evidence(), 0.5, loss, 0.49, 12_000, runs) for loss in (0.0, 0.05))
    after = trips(worse.median("back"))
    print(f"| after an alert, a half | {equal.by('back'):.1%} an alert | {after} | {1 - worse.by('back'):.1%}, in 30 | 0 |")
    return promises


def main(runs: int = 1_000) -> int:
    "Measure, print Markdown tables and a line for each promise; 3 if one was not kept."
    promises = verdicts(runs)
    margins(runs)
    wrong_ways(runs)
    promises += falling_back(runs)
    print("\n" + "\n".join(f"- {text}: {'kept' if kept else 'MISSED'}" for kept, text in promises))
    return 0 if all(kept for kept, _ in promises) else 3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    sys.exit(main(parser.parse_args().runs))
