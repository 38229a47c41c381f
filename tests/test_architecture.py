"""The rules of the house that no linter knows, read off the syntax tree of every source file.

Arithmetic in `billing/` is exact, so floats are told apart by what makes them: a literal, the
name `float`, the built-in `round`, and true division. Dividing a `Fraction(…)` is exact to see;
any other exact division says so on its line (`# exact: …`), and so does a float that a library
asks for, built from integers on that line (`# float: …`).
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("api", "billing", "migrations", "tests", "workers")
SOURCES = sorted(
    path for package in PACKAGES for path in ROOT.joinpath(package).rglob("*.py") if path.is_file()
)
BILLING = [path for path in SOURCES if path.is_relative_to(ROOT.joinpath("billing"))]

CORE_ROOMS = ("admission", "catalog", "exports", "invoicing", "ledger", "margin", "metering")
CORE_ROOMS += ("outcomes", "rating", "tenancy")
CORE_VALUES = ("errors.py", "money.py", "period.py")
CORE = [
    path
    for path in BILLING
    if (inside := path.relative_to(ROOT.joinpath("billing"))).parts[0] in CORE_ROOMS + CORE_VALUES
]
# Of the standard library, what touches the world: files, clocks, chance, threads, logs.
WORLDLY = {"asyncio", "concurrent", "http", "logging", "multiprocessing", "os", "pathlib", "random"}
WORLDLY |= {"secrets", "select", "shutil", "signal", "socket", "sqlite3", "subprocess", "sys"}
WORLDLY |= {"tempfile", "threading", "time", "urllib"}
WORLDLY_CALLS = {"now", "utcnow", "today", "uuid1", "uuid4", "uuid6", "uuid7"}

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
FORBIDDEN_NAMES = {"common", "data", "handle", "helper", "helpers", "manager", "misc", "process"}
FORBIDDEN_NAMES |= {"util", "utils"}
FORBIDDEN_WORDS = re.compile(r"(Manager|Helper|Utils?|Misc|Common)$|^(Handle|Process|Data)$")
INDEX_HOSTS = re.compile(r"pypi\.|pythonhosted\.|registry\.npm|index-url\s*[= ]\s*\S*://")
MOCKS = ("unittest.mock", "mock")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What the rules ask of one source file; each thing with where it stands.

    Attributes:
        imports: full names.
        functions: names and lines, of methods too.
        named: classes, and functions with names of their own.
    """

    imports: tuple[tuple[str, str], ...]
    functions: tuple[tuple[str, str, int], ...]
    named: tuple[tuple[str, str], ...]
    documented: bool


@functools.cache
def outline(path: Path) -> Outline:
    """Read once for all rules; the tree itself is too large to keep."""
    module = tree(path)
    nodes = list(ast.walk(module))
    return Outline(
        imports=tuple((where(path, node), name) for node, name in imported(nodes)),
        functions=tuple(
            (where(path, node), node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
            for node in nodes
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ),
        named=tuple((where(path, node), name) for node, name in named(nodes)),
        documented=bool(ast.get_docstring(module)),
    )


def imported(nodes: list[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def named(nodes: list[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    """Classes and functions with names of their own; a subclass's methods may be its base's."""
    given = {
        id(method)
        for node in nodes
        if isinstance(node, ast.ClassDef) and node.bases
        for method in node.body
    }
    for node in nodes:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if id(node) not in given:
                    yield node, node.name
            case _:
                pass


def is_fraction(node: ast.expr) -> bool:
    """Whether an expression is a Fraction whatever its other operands (ints, Fractions) are."""
    match node:
        case ast.Call(func=ast.Name(id="Fraction")):
            return True
        case ast.BinOp(left=left, right=right):
            return is_fraction(left) or is_fraction(right)
        case _:
            return False


def makes_float(node: ast.AST, marked_lines: set[int]) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, float | complex)
        case ast.Call(func=ast.Name(id="float" | "round" | "complex")):
            return True
        case ast.BinOp(op=ast.Div()) if is_fraction(node):
            return False
        case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
            return node.lineno not in marked_lines and node.end_lineno not in marked_lines
        case _:
            return False


def floats_in(source: str) -> list[int]:
    """Line numbers on which a float is made without saying why."""
    marked = {
        number
        for number, line in enumerate(source.splitlines(), start=1)
        if re.search(r"# (float|exact): \S", line)
    }
    found = [node for node in ast.walk(ast.parse(source)) if makes_float(node, marked)]
    return sorted(node.lineno for node in found if isinstance(node, ast.expr | ast.stmt))


def test_sources_are_found():
    assert len(BILLING) > 50
    assert len(CORE) > 30
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize(
    "source",
    [
        "x = 0.5",
        "x = 1e3",
        "x = float(y)",
        "x = round(y)",
        "x = a / b",
        "x /= b",
        "x = a / b  # why",
    ],
)
def test_float_rule_sees(source):
    assert floats_in(source) == [1]


@pytest.mark.parametrize(
    "source",
    [
        "x = a // b",
        "x = ms / 1000  # float: sleep wants seconds",
        "x = Fraction(a) * c / b",
        "x = total / whole  # exact: both are Fraction",
        "def f(x: float) -> None: ...",
        "x = isinstance(y, float)",
        "x = y.round()",
    ],
)
def test_float_rule_lets_pass(source):
    assert floats_in(source) == []


def test_no_float_in_billing():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in BILLING
        for line in floats_in(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_pure_core_imports_the_standard_library_and_itself():
    allowed = {f"billing.{room}" for room in CORE_ROOMS}
    allowed |= {f"billing.{name.removesuffix('.py')}" for name in CORE_VALUES}
    strangers: list[str] = []
    for path in CORE:
        for place, name in outline(path).imports:
            top = name.partition(".")[0]
            own = ".".join(name.split(".")[:2]) in allowed
            pure = top in sys.stdlib_module_names and top not in WORLDLY
            if not own and not pure:
                strangers.append(f"{place} {name}")
    assert strangers == []


def test_pure_core_asks_no_clock_no_chance_and_no_file():
    found: list[str] = []
    for path in CORE:
        for node in ast.walk(tree(path)):
            match node:
                case ast.Call(func=ast.Attribute(attr=name)) if name in WORLDLY_CALLS:
                    found.append(f"{where(path, node)} {name}")
                case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                    found.append(f"{where(path, node)} {name}")
                case _:
                    pass
    assert found == []


def test_request_path_of_the_proxy_does_not_know_its_control_plane():
    proxy = ROOT.joinpath("api", "proxy")
    request_path = [
        path
        for path in proxy.rglob("*.py")
        if path.name != "__main__.py" and "control" not in path.relative_to(proxy).parts[0]
    ]
    assert len(request_path) > 3
    found = [
        f"{place} {name}"
        for path in request_path
        for place, name in outline(path).imports
        if name.startswith("api.proxy.control")
    ]
    assert found == []


def test_arrows_between_the_packages():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_fit_the_eye():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in SOURCES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    }
    assert long == {}


def test_functions_fit_the_eye():
    long = {
        f"{place} {name}": lines
        for path in SOURCES
        for place, name, lines in outline(path).functions
        if lines > LONGEST_FUNCTION
    }
    assert long == {}


def test_names_say_something():
    found = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        for part in path.relative_to(ROOT).parts
        if part.removesuffix(".py") in FORBIDDEN_NAMES
    ]
    found += [
        f"{place} {name}"
        for path in SOURCES
        for place, name in outline(path).named
        if name in FORBIDDEN_NAMES or FORBIDDEN_WORDS.search(name)
    ]
    assert found == []


def test_every_module_says_what_it_decides():
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if not path.is_relative_to(ROOT.joinpath("tests")) and not outline(path).documented
    ]
    assert silent == []


def test_tests_use_real_parts():
    found = [
        f"{place} {name}"
        for path in SOURCES
        for place, name in outline(path).imports
        if name.startswith(MOCKS)
    ]
    assert found == []


def test_no_address_of_an_index_is_written_down():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found: list[str] = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT.joinpath(name)
        if not path.is_file() or path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if INDEX_HOSTS.search(line.decode(errors="replace")):
                found.append(f"{name}:{number}")
    assert found == []


def test_lock_files_pin_and_hash_everything():
    for name in ("requirements.lock", "requirements-run.lock"):
        text = ROOT.joinpath(name).read_text(encoding="utf-8")
        entries = re.split(r"\n(?=\S)", text.strip())
        assert len(entries) > 20
        loose = [entry.partition("\n")[0] for entry in entries if not re.match(r"\S+==\S+", entry)]
        bare = [entry.partition("\n")[0] for entry in entries if "--hash=sha256:" not in entry]
        assert loose + bare == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-run.lock"])
def test_locks_have_the_hashes_of_all_files(name: str):
    # A version has a wheel and its source at least. One hash alone is that of the file that the
    # locking machine had at hand, and others (a newer Python, another processor) could not install.
    text = ROOT.joinpath(name).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    alone = [each.partition(" ")[0] for each in entries if each.count("--hash=sha256:") == 1]
    assert alone == []
