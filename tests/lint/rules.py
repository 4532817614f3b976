"""The rules: each looks at a Tree and yields (path, line, message). RULES lists them by name."""
import re

from source import MODULES, functions

# Who may include whom: core <- distributed <- checkpoint <- launch.
_BELOW = {module: set(MODULES[: index + 1]) for index, module in enumerate(MODULES)}
# Rooms of core that a room of core must not know (design: what each "must not know").
_ROOMS_OF_CORE = {"base", "recipe", "data", "model", "flat", "device", "optim", "train"}
_UNKNOWN_ROOMS = {
    "base": _ROOMS_OF_CORE - {"base"},
    "recipe": _ROOMS_OF_CORE - {"base", "recipe"},
    "flat": _ROOMS_OF_CORE - {"base", "flat"},
    "device": _ROOMS_OF_CORE - {"base", "flat", "device"},
    "data": {"model", "optim", "train"},
    "model": {"optim", "train"},
    "optim": {"data", "model", "train"},
}
_POSIX_OWNERS = r"core/src/base/posix_\w+\.cc"
_ENVIRONMENT_OWNER = "core/src/base/environment.cc"
_CLOCK_OWNER = "core/src/base/deadline.cc"
_LOG_OWNER = "core/src/base/log.cc"
_MAX_FILE_LINES = 600
_MAX_FUNCTION_LINES = 100
_MAX_MAIN_LINES = 80
_MAX_README_LINES = 60


def arrows(tree):
    for path in tree.module_cpp():
        module = path.split("/")[0]
        for line, header, _ in tree.includes(path):
            found = re.match(r"lockstep/(\w+)/(?:(\w+)/)?", header)
            if not found:
                continue
            if found[1] not in _BELOW[module]:
                yield path, line, f"{module} must not include {header}: core <- distributed <- checkpoint <- launch"
            room = re.match(r"core/(?:src|include/lockstep/core)/(\w+)/", path)
            if room and found[1] == "core" and found[2] in _UNKNOWN_ROOMS.get(room[1], ()):
                yield path, line, f"room core/{room[1]} must not know {header}"


def private_headers(tree):
    for path in tree.cpp():
        top = path.split("/")[0]
        folder = path.rsplit("/", 1)[0]
        homes = [folder, "tests"] if top in ("tests", "benchmarks") else [folder]
        # A test sees the insides of the module that it mirrors; the crash campaign mirrors two.
        module = path.split("/")[1] if top == "tests" else top
        for seen in {"crash": ("distributed", "checkpoint")}.get(module, (module,)):
            if seen in MODULES:
                homes += sorted({other.rsplit("/", 1)[0] for other in tree.paths(rf"{seen}/src/")})
        for line, header, quoted in tree.includes(path):
            if not quoted or header.startswith("lockstep/"):
                continue
            if ".." in header or not any(f"{home}/{header}" in tree.texts for home in homes):
                yield path, line, f'"{header}" is not a header of this module, or is reached through ..'


def public_headers_are_light(tree):
    heavy = re.compile(r"(mpi\.h|nccl\.h|nlohmann/.*|spdlog/.*|fmt/.*|asio.*|toml\+\+/.*|CLI/.*)$")
    for path in tree.paths(r"\w+/include/.*\.h$"):
        for line, header, _ in tree.includes(path):
            if heavy.match(header):
                yield path, line, f"{header} in a public header: keep it in a source file"
    for path in tree.paths(r".*\.h$"):
        for line, header, _ in tree.includes(path):
            if header in ("torch/torch.h", "torch/all.h", "torch/extension.h"):
                yield path, line, f"{header} costs 27 s for each file that sees it: include ATen/core/Tensor.h"
        for line, text in tree.matches(path, r"\busing\s+namespace\b"):
            yield path, line, f"{text} in a header"
        if not tree.texts[path].lstrip().startswith("#pragma once"):
            yield path, 1, "does not start with #pragma once"


def owners(tree):
    for header, most in (("mpi.h", 2), ("nccl.h", 1)):
        # What stands for NCCL in tests implements the header.
        users = [(path, line) for path in tree.cpp() if not path.startswith("tests/emulated_gpu/")
                 for line, name, _ in tree.includes(path) if name == header]
        for path, line in users:
            if not path.startswith("distributed/src/"):
                yield path, line, f"{header} belongs to distributed/src"
        if len(users) > most:
            names = ", ".join(path for path, _ in users)
            yield users[-1][0], users[-1][1], f"{header} is included by {len(users)} files, at most {most}: {names}"
    checked = tree.module_cpp() + tree.paths(r"benchmarks/.*\.(h|cc)$")
    for path in checked:
        if path != _ENVIRONMENT_OWNER:
            for line, text in tree.matches(path, r"\b(secure_getenv|getenv|setenv|putenv|unsetenv)\s*\("):
                yield path, line, f"{text}...): use core/base/environment.h"
        if path != _CLOCK_OWNER:
            clock = r"\b(\w+_clock::now|clock_gettime|gettimeofday|MPI_Wtime|std::time|sleep_for|usleep|nanosleep)\b"
            for line, text in tree.matches(path, clock):
                yield path, line, f"{text}: use core/base/deadline.h"
        if path != _LOG_OWNER:
            for line, header, _ in tree.includes(path):
                if re.match(r"(spdlog|fmt)/", header):
                    yield path, line, f"{header}: use core/base/log.h and cat()"


def files_through_the_seam(tree):
    # /proc is the kernel talking, not a file of the user's: the environment room may read it directly.
    headers = {"fcntl.h", "dirent.h", "sys/stat.h", "sys/mman.h", "sys/file.h", "fstream", "filesystem"}
    calls = (r"(?<![\w>.:])(?:::)(open|openat|creat|read|pread|write|pwrite|rename|renameat2?|fsync|fdatasync|unlink|"
             r"unlinkat|mkdir|rmdir|ftruncate|posix_fallocate|stat|fstat|mmap)\s*\(|"
             r"(?<![\w>.])(?:std::)?(fopen|fwrite|fread|gzopen|gzread|fsync|fdatasync|pwrite|pread)\s*\(")
    for path in tree.module_cpp():
        if re.fullmatch(_POSIX_OWNERS, path) or path == _ENVIRONMENT_OWNER:
            continue
        for line, header, _ in tree.includes(path):
            if header in headers:
                yield path, line, f"<{header}>: files are reached through core/base/file_system.h"
        for line, text in tree.matches(path, calls):
            yield path, line, f"{text}...): files are reached through core/base/file_system.h"


def keyed_random_numbers(tree):
    library = (r"\b(?:torch|at)::(?:rand\w*|normal|bernoulli|manual_seed)\s*\(|\bstd::(?:rand|srand|mt19937(?:_64)?|"
               r"random_device|default_random_engine|shuffle)\b|(?:\.|->)(?:uniform_|normal_|random_|bernoulli_)\s*\(")
    for path in tree.paths(r"core/(src|include/lockstep/core)/data/.*\.(h|cc)$"):
        for line, text in tree.matches(path, library):
            yield path, line, f"{text}: data draws from the Rng keyed by (seed, sample), or order would depend on N"


def sizes(tree):
    for path in tree.paths(r".*\.(h|cc|py|sh|sbatch|cmake)$", r".*CMakeLists\.txt$"):
        if len(tree.lines(path)) > _MAX_FILE_LINES:
            yield path, len(tree.lines(path)), f"{len(tree.lines(path))} lines, at most {_MAX_FILE_LINES}"
    for path in tree.cpp():
        for name, first, count in functions(tree.code(path)):
            most = _MAX_MAIN_LINES if name == "main" else _MAX_FUNCTION_LINES
            if count > most:
                yield path, first, f"{name} has {count} lines, at most {most}"


def readmes(tree):
    for module in MODULES:
        path = f"{module}/README.md"
        if path not in tree.texts:
            yield path, 1, "missing: purpose, table of types, invariants, arrow, how to add something"
        elif len(tree.lines(path)) > _MAX_README_LINES:
            yield path, len(tree.lines(path)), f"{len(tree.lines(path))} lines, at most {_MAX_README_LINES}"


def documented_paths(tree):
    """A path in back quotes in a page is a file, or a folder, that exists."""
    quoted = re.compile(r"`((?:core|distributed|checkpoint|launch|benchmarks|tests|cmake)/[\w./-]*)`")
    for path in tree.paths(r".*\.md$"):
        for number, line in enumerate(tree.lines(path), 1):
            for named in quoted.findall(line):
                folder = named.rstrip("/") + "/"
                if named not in tree.texts and not any(other.startswith(folder) for other in tree.texts):
                    yield path, number, f"`{named}` does not exist"


def plain_text(tree):
    marker = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    for path in tree.texts:
        for number, line in enumerate(tree.lines(path), 1):
            if not line.isascii():
                odd = next(character for character in line if not character.isascii())
                yield path, number, f"not ASCII: U+{ord(odd):04X}"
            if marker.search(line):
                yield path, number, f"{marker.search(line)[0]}: do it, or open an issue"
            if line != line.rstrip() and not path.endswith(".md"):
                yield path, number, "white space at the end of the line"


def tests_are_registered(tree):
    for path in tree.paths(r"tests/.*_test\.(cc|py|sh)$"):
        folder, name = path.rsplit("/", 1)
        lists = [f"{folder}/CMakeLists.txt", f"{folder.rsplit('/', 1)[0]}/CMakeLists.txt"]
        registered = any(re.search(rf"(?<![\w.]){re.escape(name)}\b", tree.texts.get(each, "")) for each in lists)
        if not registered:
            yield path, 1, f"not registered in {lists[0]}"


def sources_have_tests(tree):
    """A source is tested when below tests/<its module>/ there is <stem>_test.cc, or a test that includes <stem>.h, or
    one with a line `// Covers: stem.cc` (for sources without a header of their own; `# Covers:` in Python, also in
    tests/scripts and tests/consumer; those of a GPU in tests/gpu). Mains are tested by being run."""
    for path in tree.module_cpp():
        found = re.match(r"(\w+)/src/(?:.*/)?(\w+)\.cc$", path)
        if not found or found[2].endswith("main"):
            continue
        module, stem = found[1], found[2]
        tests = tree.paths(rf"tests/({module}|scripts|consumer|gpu)/.*\.(cc|h|py)$")
        covered = any(
            test.endswith(f"/{stem}_test.cc")
            or any(header.split("/")[-1] == f"{stem}.h" for _, header, _ in tree.includes(test))
            or re.search(rf"(//|#) Covers:.*\b{stem}\.cc\b", tree.texts[test])
            for test in tests)
        if not covered:
            yield path, 1, f"no {stem}_test.cc, no test that includes {stem}.h or says '// Covers: {stem}.cc' in tests/{module}/"


def errors_are_documented(tree):
    """A public function that returns a Status or Result says 'Errors' in its comment, in its class's comment, or in the
    header's opening comment. Overloads stand together under one comment; overrides have that of their base."""
    declaration = re.compile(r"^\s*(?:virtual |static |\[\[nodiscard\]\] )*(?:Status|Result<.+>)\s+(\w+)\(")

    def comment_above(lines, index):
        first = index
        while first > 0 and (lines[first - 1].lstrip().startswith("///") or declaration.match(lines[first - 1])):
            first -= 1
        return " ".join(lines[first:index])

    for path in tree.paths(r"\w+/include/.*\.h$"):
        lines = tree.lines(path)
        if path.endswith("core/base/status.h") or "Errors" in tree.texts[path].split("\n\n")[0]:
            continue
        is_exempt_class = is_private = False
        for index, line in enumerate(lines):
            if re.match(r"(class|struct) \w", line) and not line.endswith(";"):
                is_exempt_class, is_private = "Errors" in comment_above(lines, index), False
            elif line == "};":
                is_exempt_class = is_private = False
            elif re.match(r" (public|protected|private):$", line):
                is_private = line != " public:"
            found = declaration.match(line)
            if not found or is_exempt_class or is_private or " override" in " ".join(lines[index:index + 3]).split(";")[0]:
                continue
            if "Errors" not in comment_above(lines, index):
                yield path, index + 1, f"{found[1]} returns a Status or Result and has no 'Errors:'"


RULES = {
    "arrows": arrows,
    "private-headers": private_headers,
    "light-headers": public_headers_are_light,
    "owners": owners,
    "file-seam": files_through_the_seam,
    "keyed-random": keyed_random_numbers,
    "sizes": sizes,
    "readmes": readmes,
    "documented-paths": documented_paths,
    "plain-text": plain_text,
    "registered-tests": tests_are_registered,
    "sources-have-tests": sources_have_tests,
    "documented-errors": errors_are_documented,
}
