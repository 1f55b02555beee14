"""Do the estimators and tests of an experiment keep their promises? Coverage and false alarms over many simulated logs.

Run: python tests/benchmarks/bench_experiments.py [--runs 500]; a promise that is not kept is exit code 3.
"""

import argparse
import sys

import numpy as np
from tqdm import tqdm

from mlops_course import experiments, models, policy
from mlops_course.contracts import read_project
from mlops_course.toy import company

CONTRACT = read_project("projects/ride_hailing.yaml").contract
LOOKS, TRIPS = 20, 2_000
WORSE = 0.07  # trips a booking that a challenger loses


def uplifts(runs: int) -> dict[str, list[tuple[bool, float]]]:
    "Does the interval of the uplift hold the truth, and by how much is its middle off? A company a run, 14 days each."
    results = {"doubly_robust": [], "self_normalized": []}
    for seed in tqdm(range(runs), "uplifts", file=sys.stderr):
        frame, truth = company(CONTRACT, days=28, bookings=150, seed=seed)
        windows = models.windows_of(frame, 14, 7, CONTRACT)
        model = models.fit("logistic regression", models.labelled(frame, None, windows.test, CONTRACT), 7, CONTRACT)
        ahead = frame[frame.event_timestamp >= windows.test]
        chosen = policy.choices(ahead, models.probability(model, ahead, CONTRACT), CONTRACT)
        known = ahead.assign(truth=truth[ahead.index]).set_index(["request_id", "driver_id"]).truth
        pairs = [list(zip(chosen.request_id, chosen[who], strict=True)) for who in ("picked", "driver_id")]
        true = known[pairs[0]].mean() / known[pairs[1]].mean() - 1
        gain = policy.uplift(chosen, seed, CONTRACT)
        for name, kept in results.items():
            interval = getattr(gain, name)
            kept.append((interval.low <= true <= interval.high, interval.estimate - true))
    return results


def peeked(runs: int, worse: float, share: float = 0.5) -> tuple[float, float, float]:
    "Of tests that are looked at 20 times: how many ring by z, how many by the sequential test, and its median trips."
    rng, by_z, by_path = np.random.default_rng(7), [], []
    trips = TRIPS if not worse else 6 * TRIPS
    for _ in tqdm(range(runs), f"tests, {worse:+.2f}", file=sys.stderr):
        treated = rng.random(trips) < share
        done = rng.random(trips) < 0.6 - worse * treated
        z = []
        for n in np.linspace(trips / LOOKS, trips, LOOKS).astype(int):
            one, zero = done[:n][treated[:n]], done[:n][~treated[:n]]
            if not len(one):  # a small share, and nobody yet
                continue
            both = done[:n].mean()
            z.append(abs(one.mean() - zero.mean()) / np.sqrt(both * (1 - both) * (1 / len(one) + 1 / len(zero))))
        by_z.append(max(z) > 1.96)
        path = experiments.sequential(done, treated, share)
        outside = ((path.low > 0) | (path.high < 0)).to_numpy()
        by_path.append(int(outside.argmax()) + 1 if outside.any() else np.inf)
    return float(np.mean(by_z)), float(np.mean(np.isfinite(by_path))), float(np.median(by_path))


def main(runs: int = 500) -> int:
    "Measure, print Markdown tables and a line for each promise; 3 if one was not kept."
    print(f"{runs} companies of the simulator, 14 days each; the interval of the uplift, by days:\n")
    print("| estimator | holds the truth | mean error | spread of the error |\n| --- | ---: | ---: | ---: |")
    promises = []
    for name, results in uplifts(runs).items():
        held, errors = np.mean([h for h, _ in results]), np.array([e for _, e in results])
        print(f"| {name.replace('_', ' ')} | {held:.1%} | {errors.mean():+.4f} | {errors.std():.4f} |")
        promises.append(
            (
                held >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / runs),
                f"{name.replace('_', ' ')}: {held:.1%} of the intervals hold the truth, 95% promised",
            )
        )
    print(f"\n{runs} tests, looked at {LOOKS} times; the sequential one after each trip:\n")
    print("| challenger | share of the challenger | z test rings | sequential test rings | after, trips at the median |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for worse, share in [(0.0, 0.5), (0.0, 0.05), (WORSE, 0.5), (WORSE, 0.25)]:
        by_z, by_path, median = peeked(runs, worse, share)
        what = f"{worse:.2f} worse" if worse else "equal"
        print(f"| {what} | {share:.0%} | {by_z:.1%} | {by_path:.1%} | {'-' if np.isinf(median) else f'{median:,.0f}'} |")
        if not worse:
            promises.append((by_path <= 0.05, f"equal, a share of {share:.0%}: the sequential test rings in {by_path:.1%}, at most 5%"))
    print("\n" + "\n".join(f"- {text}: {'kept' if kept else 'MISSED'}" for kept, text in promises))
    return 0 if all(kept for kept, _ in promises) else 3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    sys.exit(main(parser.parse_args().runs))
