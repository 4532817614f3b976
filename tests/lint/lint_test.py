#!/usr/bin/env python3
"""The lint's own test: every rule catches its bad snippets, and lets the good tree pass."""
import unittest

from lint import findings
from rules import RULES
from source import Tree, functions, strip

HEADER = "core/include/lockstep/core/base/thing.h"
GOOD = {
    HEADER: "#pragma once\n// A thing.\n/// Makes. Errors: kIoError.\nStatus make(int x);\nstd::string rename(int);\n",
    "core/src/base/thing.cc": '#include "lockstep/core/base/thing.h"\nStatus make(int x) { return file.rename("a"); }\n',
    "core/src/base/posix_file_system.cc": "#include <fcntl.h>\nint f() { return ::open(path, 0); }\n",
    "core/src/base/deadline.cc": "auto now() { return std::chrono::steady_clock::now(); }\n",
    "core/src/base/environment.cc": "auto get() { return std::getenv(name); }\n",
    "core/src/base/log.cc": "#include <spdlog/spdlog.h>\n",
    "distributed/src/mpi_world.cc": '#include <mpi.h>\n#include "lockstep/core/base/thing.h"\n#include "near.h"\n',
    "distributed/src/near.h": "#pragma once\n",
    "checkpoint/src/save.cc": '#include "lockstep/distributed/world.h"\n',
    "launch/src/main.cc": '#include "lockstep/checkpoint/save.h"\nint main() { return 0; }\n',
    "tests/core/base/thing_test.cc": '#include "lockstep/core/base/thing.h"\n'
        "// Covers: posix_file_system.cc, deadline.cc, environment.cc, log.cc\n",
    "tests/core/base/CMakeLists.txt": "lockstep_add_test(NAME core.base SOURCES thing_test.cc)\n",
    "tests/distributed/near_test.cc": '#include "near.h"\n// Covers: mpi_world.cc\n',
    "tests/distributed/CMakeLists.txt": "lockstep_add_test(NAME d SOURCES near_test.cc)\n",
    "tests/checkpoint/save_test.cc": "",
    "tests/checkpoint/CMakeLists.txt": "lockstep_add_test(NAME c SOURCES\n  save_test.cc)\n",
    "README.md": "See `core/src/base/thing.cc`, `core/src/` and `build/release/bin/x`.\n",
    **{f"{module}/README.md": "# It\n" for module in ("core", "distributed", "checkpoint", "launch")},
}
LONG_BODY = "  x += 1;\n" * 101
SOURCE = "core/src/base/thing.cc"

# (rule, path, text): each is put into the good tree alone and must be found by that rule.
BAD = [
    ("arrows", SOURCE, '#include "lockstep/distributed/world.h"\n'),
    ("arrows", "distributed/src/near.h", '#pragma once\n#include "lockstep/checkpoint/save.h"\n'),
    ("arrows", "checkpoint/src/save.cc", '#include "lockstep/launch/trainer.h"\n'),
    ("arrows", SOURCE, '#include "lockstep/core/flat/layout.h"\n'),
    ("arrows", "core/src/optim/adamw.cc", '#include "lockstep/core/data/batch.h"\n'),
    ("private-headers", "launch/src/main.cc", '#include "../../distributed/src/near.h"\n'),
    ("private-headers", "launch/src/main.cc", '#include "near.h"\n'),
    ("private-headers", "tests/checkpoint/save_test.cc", '#include "near.h"\n'),
    ("light-headers", HEADER, "#pragma once\n#include <torch/torch.h>\n"),
    ("light-headers", "distributed/src/near.h", "#pragma once\n#include <torch/torch.h>\n"),
    ("light-headers", HEADER, "#pragma once\n#include <nlohmann/json.hpp>\n"),
    ("light-headers", HEADER, "#pragma once\nusing namespace std;\n"),
    ("light-headers", HEADER, "// no guard\n"),
    ("owners", "core/src/base/thing.cc", "#include <mpi.h>\n"),
    ("owners", "tests/distributed/near_test.cc", "#include <mpi.h>\n"),
    ("owners", "launch/src/main.cc", "#include <nccl.h>\n"),
    ("owners", SOURCE, 'auto f() { return std::getenv("HOME"); }\n'),
    ("owners", SOURCE, "auto f() { return std::chrono::system_clock::now(); }\n"),
    ("owners", SOURCE, "void f() { std::this_thread::sleep_for(1s); }\n"),
    ("owners", SOURCE, "#include <fmt/format.h>\n"),
    ("file-seam", SOURCE, "#include <fstream>\n"),
    ("file-seam", SOURCE, "#include <filesystem>\n"),
    ("file-seam", SOURCE, "void f() { ::rename(a, b); }\n"),
    ("file-seam", SOURCE, "void f() { if (fsync(fd) != 0) g(); }\n"),
    ("file-seam", "checkpoint/src/save.cc", "void f() { std::fopen(a, b); }\n"),
    ("keyed-random", "core/src/data/order.cc", "std::mt19937_64 g(1);\n"),
    ("keyed-random", "core/src/data/order.cc", "auto x = torch::randperm(5);\n"),
    ("keyed-random", "core/src/data/order.cc", "void f() { t.normal_(0, 1); }\n"),
    ("sizes", SOURCE, "int x;\n" * 601),
    ("sizes", "tests/tool.py", "x = 1\n" * 601),
    ("sizes", SOURCE, "void f(int x) {\n" + LONG_BODY + "}\n"),
    ("sizes", SOURCE, "namespace a {\nclass B {\n int f(int x) const {\n" + LONG_BODY + "}\n};\n}\n"),
    ("sizes", "launch/src/main.cc", "int main() {\n" + "  x += 1;\n" * 81 + "}\n"),
    ("readmes", "core/README.md", "line\n" * 61),
    ("documented-paths", "README.md", "see `core/src/gone.cc`\n"),
    ("documented-paths", "core/README.md", "see `tests/core/gone/`\n"),
    ("plain-text", SOURCE, "// caf\u00e9\n"),
    ("plain-text", SOURCE, "// TO" "DO: later\n"),
    ("plain-text", SOURCE, "// FIX" "ME\n"),
    ("plain-text", SOURCE, "int x; \n"),
    ("registered-tests", "tests/core/base/other_test.cc", ""),
    ("registered-tests", "tests/core/base/thing_test2/CMakeLists_test.py", ""),
    ("registered-tests", "tests/core/base/hing_test.cc", ""),
    ("sources-have-tests", "core/src/base/alone.cc", ""),
    ("sources-have-tests", "distributed/src/thing.cc", ""),
    ("documented-errors", HEADER, "#pragma once\n// A thing.\n\n/// Makes.\nStatus make(int x);\n"),
    ("documented-errors", HEADER, "#pragma once\n// A thing.\n\nstatic Result<std::vector<int>> make(int x);\n"),
]


class Rules(unittest.TestCase):
    def test_the_good_tree_passes(self):
        self.assertEqual([text for _, text in findings(Tree(GOOD))], [])

    def test_each_bad_snippet_is_caught_by_its_rule(self):
        for rule, path, text in BAD:
            found = {name for name, _ in findings(Tree({**GOOD, path: text}))}
            self.assertIn(rule, found, f"{rule} did not see {path}: {text[:60]!r}")

    def test_every_rule_has_a_bad_snippet(self):
        self.assertEqual({rule for rule, _, _ in BAD}, set(RULES))

    def test_a_third_user_of_mpi_is_one_too_many(self):
        more = {f"distributed/src/{name}.cc": "#include <mpi.h>\n" for name in ("b", "c")}
        texts = [text for name, text in findings(Tree({**GOOD, **more})) if name == "owners"]
        self.assertEqual(len(texts), 1)
        self.assertIn("3 files, at most 2", texts[0])

    def test_a_missing_module_readme_is_found(self):
        tree = {path: text for path, text in GOOD.items() if path != "launch/README.md"}
        self.assertEqual([name for name, _ in findings(Tree(tree))], ["readmes"])

    def test_errors_are_said_once_and_only_in_public(self):
        for text in ("/// A thing. Errors: kIoError.\nclass Thing {\n public:\n  Status make();\n};\n",
                     "class Thing {\n public:\n  Status make() override;\n};\n",
                     "class Thing {\n private:\n  Status make();\n};\n"):
            tree = Tree({**GOOD, HEADER: "#pragma once\n// A thing.\n\n" + text})
            self.assertEqual([name for name, _ in findings(tree)], [], text)

    def test_comments_and_literals_are_no_code(self):
        quiet = '// getenv(x) and ::open(y)\n/* std::fopen(z) */ auto s = "fsync(fd)"; auto r = R"(::rename(a))";\n'
        self.assertEqual(list(findings(Tree({**GOOD, SOURCE: quiet}))), [])


class Parsing(unittest.TestCase):
    def test_strip_keeps_the_lines(self):
        text = 'a /* x\n y */ b "q\\"uo{te" c // d\n1\'000 R"(\n)" e\n'
        self.assertEqual(strip(text).count("\n"), text.count("\n"))
        self.assertEqual(strip(text), 'a \n b "" c \n1\'000 ""\n e\n')

    def test_functions_are_found_where_they_are(self):
        code = ("namespace {\nstruct S {\n  int get() const { return x; }\n  int x = 0;\n};\n"
                "Status S::run(int a,\n              int b) {\n  if (a) {\n    auto f = [&](int c) { return c; };\n  }\n}\n"
                "constexpr int kTable[] = {1, 2};\nTEST(A, B) {\n}\n}  // namespace\n")
        self.assertEqual(list(functions(code)), [("get", 3, 1), ("S::run", 6, 6), ("TEST", 13, 2)])


if __name__ == "__main__":
    unittest.main()
