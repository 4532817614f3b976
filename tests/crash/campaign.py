#!/usr/bin/env python3
"""Hurts checkpoints in every way of checkpoint/DESIGN.md, "How it is proven", and writes what came of it.

    python3 tests/crash/campaign.py --build build/release                   the long form, about half an hour
    python3 tests/crash/campaign.py --build build/release --short           a sample of each part, at most 90 s
    python3 tests/crash/campaign.py --build build/release --only model,flips

Writes NAME.json and NAME.md (--out NAME). Exit status 1 when anything was lost, a wrong protocol passed or a minimum
was not reached. A part that this machine can't do is reported as not run, never as passed.
"""
import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

import parts

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Bar:
    """One line that says what runs and how far it is; a line for each part where nobody watches."""

    def __init__(self):
        self._is_seen = sys.stderr.isatty()
        self._start = time.monotonic()

    def show(self, name, fraction):
        if not self._is_seen:
            return
        filled = int(30 * fraction)
        elapsed = time.monotonic() - self._start
        print(f"\r{name:28s} [{'#' * filled}{'.' * (30 - filled)}] {100 * fraction:3.0f} %  {elapsed:5.0f} s ",
              end="", file=sys.stderr, flush=True)

    def done(self, row):
        if self._is_seen:
            print("\r" + " " * 90 + "\r", end="", file=sys.stderr)
        print(parts.line_of(row), file=sys.stderr, flush=True)


def machine_of():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from machine import machine
        return machine()
    except Exception as error:  # a report without the machine's name is still a report
        return {"machine": f"unknown: {error}"}


def report_of(rows, is_short):
    lines = [f"# Crash campaign, {'short' if is_short else 'long'} form", "",
             "| part | what was tried | tried | at least | lost | seconds | verdict |", "|---|---|---:|---:|---:|---:|---|"]
    for row in rows:
        least = "" if row.get("at_least") is None else f"{row['at_least']:,}"
        if row["verdict"].startswith("not run"):
            lines.append(f"| {row['part']} | {row['what']} | | {least} | | | {row['verdict']} |")
        else:
            lines.append(f"| {row['part']} | {row['what']} | {row['tried']:,} | {least} | {row['lost']} | "
                         f"{row['seconds']:.0f} | {row['verdict']} |")
    for row in rows:
        for table, entries in sorted(row.get("tables", {}).items()):
            if len(entries) <= 40:
                lines += ["", f"## {row['part']}: {table}", "", "| | |", "|---|---|"]
                lines += [f"| {name} | {value} |" for name, value in sorted(entries.items())]
        if row.get("violations"):
            lines += ["", f"## {row['part']}: what was lost", ""] + [f"- {each}" for each in row["violations"]]
    return "\n".join(lines) + "\n"


def with_other_parts(out, rows, ran, order):
    """The rows of a report that is there already for parts that did not run now, in the order of the parts."""
    try:
        with open(out + ".json", encoding="utf-8") as file:
            rows = [row for row in json.load(file)["parts"] if row["part"] not in ran] + rows
    except FileNotFoundError:
        pass
    return sorted(rows, key=lambda row: order.index(row["part"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build/release", help="the build folder")
    parser.add_argument("--short", action="store_true", help="a sample of each part, at most 90 s")
    parser.add_argument("--only", default="", help="these parts, by comma")
    parser.add_argument("--folder", help="where runs are made; a disk to be proven (default: the system's folder for "
                                         "temporary files)")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--most-minutes", type=float, default=60, help="for each part over the real program; it then says "
                                                                       "how far it came")
    parser.add_argument("--out", help="report: OUT.json and OUT.md; with --only the other parts of a report that is there "
                                      "stay in it")
    chosen = parser.parse_args()
    chosen.build = str(pathlib.Path(chosen.build).resolve())
    wanted = [name for name in chosen.only.split(",") if name]
    all_parts = parts.all_parts()
    unknown = set(wanted) - {part.name for part in all_parts}
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in all_parts)}")
    folder = tempfile.mkdtemp(prefix="lockstep-crash-", dir=chosen.folder)
    bar = Bar()
    rows = []
    try:
        for part in all_parts:
            if wanted and part.name not in wanted:
                continue
            for row in part.run(parts.Context(chosen, folder, lambda done, part=part: bar.show(part.name, done))):
                rows.append(row)
                bar.done(row)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = [row for row in rows if row["verdict"].startswith("FAILED")]
    if chosen.out:
        if wanted:
            rows = with_other_parts(chosen.out, rows, {row["part"] for row in rows}, [part.name for part in all_parts])
        report = dict(machine_of(), form="short" if chosen.short else "long", parts=rows)
        pathlib.Path(chosen.out + ".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        pathlib.Path(chosen.out + ".md").write_text(report_of(rows, chosen.short), encoding="utf-8")
    print(report_of(rows, chosen.short))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
