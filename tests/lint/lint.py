#!/usr/bin/env python3
"""Checks what no compiler checks: arrows between modules, owners of outside things, sizes, tests. Standard library only.

    tests/lint/lint.py [ROOT]      lists path:line: rule: message; exit status 1 when a rule is broken
"""
import pathlib
import sys

from rules import RULES
from source import Tree


def findings(tree):
    for name, rule in RULES.items():
        for path, line, message in rule(tree):
            yield name, f"{path}:{line}: {name}: {message}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    tree = Tree.of_folder(root)
    errors = [text for _, text in findings(tree)]
    for text in errors:
        print(text)
    print(f"lint: {len(tree.texts)} files, {len(errors)} errors")
    return 1 if errors or len(tree.cpp()) == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
