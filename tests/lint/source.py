"""The tree of files that the rules look at, and the little C++ that they must understand."""
import functools
import os
import pathlib
import re

MODULES = ("core", "distributed", "checkpoint", "launch")
_SKIPPED_FOLDERS = {".git", ".deps", "build", "runs", "__pycache__"}
_TEXT_SUFFIXES = {".h", ".cc", ".py", ".sh", ".sbatch", ".cmake", ".toml", ".md", ".txt", ".json", ".in"}


class Tree:
    """Files by path (with /), each with its text. Made from a folder, or from a dict in tests of the lint."""

    def __init__(self, texts):
        self.texts = dict(sorted(texts.items()))

    @staticmethod
    def of_folder(root):
        texts = {}
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
            for name in names:
                path = pathlib.Path(folder, name)
                if path.suffix in _TEXT_SUFFIXES and path.is_file():
                    key = path.relative_to(root).as_posix()
                    texts[key] = path.read_bytes().decode("utf-8", errors="replace")
        return Tree(texts)

    def paths(self, *patterns):
        """Paths that match one of the regular expressions (from the start)."""
        return [path for path in self.texts if any(re.match(pattern, path) for pattern in patterns)]

    def cpp(self):
        return self.paths(r".*\.(h|cc)$")

    def module_cpp(self):
        return [path for path in self.cpp() if path.split("/")[0] in MODULES]

    def lines(self, path):
        return self.texts[path].splitlines()

    def code(self, path):
        """The text without comments and without the insides of literals; same lines."""
        return strip(self.texts[path])

    def includes(self, path):
        """(line number, header name, is quoted) of each #include."""
        for number, line in enumerate(self.lines(path), 1):
            found = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if found:
                yield number, found[2], found[1] == '"'

    def matches(self, path, pattern):
        """(line number, matched text) of each place in the code of `path`."""
        for number, line in enumerate(self.code(path).splitlines(), 1):
            for found in re.finditer(pattern, line):
                yield number, found[0].strip()


_LITERAL_OR_COMMENT = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])*'""",
    re.DOTALL)


@functools.lru_cache(maxsize=None)
def strip(text):
    def blank(found):
        kept = "\n" * found[0].count("\n")
        return kept if found[0].startswith("/") else '""' + kept

    return _LITERAL_OR_COMMENT.sub(blank, text)


def functions(code):
    """(name, first line, number of lines) of each function body, by braces; nested lambdas count for their function."""
    open_blocks = []  # (kind, name, first line)
    head, line, head_line = "", 1, 1
    for character in re.sub(r"^[ \t]*#.*$", "", code, flags=re.MULTILINE):
        if character == "{":
            inside = open_blocks[-1][0] if open_blocks else "scope"
            kind, name = _block(head) if inside == "scope" else ("other", "")
            open_blocks.append((kind, name, head_line))
            head = ""
        elif character == "}":
            if open_blocks:
                kind, name, first = open_blocks.pop()
                if kind == "function":
                    yield name, first, line - first + 1
            head = ""
        elif character == ";":
            head = ""
        else:
            if not head.strip():
                head_line = line
                head = head.strip()
            head += character
        line += character == "\n"


def _block(head):
    if re.search(r"\b(namespace|extern)\b", head) and "(" not in head:
        return "scope", ""
    called = re.search(r"([\w:~]+)\s*\(", head)
    if re.search(r"\b(class|struct|union|enum)\b[^()]*$", head):
        return "scope", ""
    if called and "=" not in head[:called.start()]:
        return "function", called[1]
    return "other", ""
