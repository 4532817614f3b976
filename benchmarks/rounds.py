"""What comparisons that take turns share: the ratio of each round, and the result that is kept and told."""
import statistics
import sys

from machine import add_run, machine, result_path


def spread(ratios):
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def run_comparison(name, compare, cases, out, ratios_key, title):
    """Adds one run to `out`, or to today's result file of `name`: compare(case) of every case, with its ratios."""
    result = machine()
    result["command"] = " ".join(["python", f"benchmarks/{name}.py", *sys.argv[1:]])
    result["results"] = [compare(case) for case in cases]
    out = out or result_path(name, result["date"])
    add_run(out, result)
    for each in result["results"]:
        for ratio_name, ratio in each[ratios_key].items():
            print(f"{title(each)}{ratio_name}: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    print(f"written: {out}")
