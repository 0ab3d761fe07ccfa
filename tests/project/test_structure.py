"""The structure of the package, as docs/architecture.md describes it: who imports whom, and how large things may get.

Imports inside functions count as much as those at the top of a file.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "nlnet"

# Each may import what stands before it in its list, and never what stands behind.
STACK = ["ops", "layers", "models", "checkpoints", "tasks", "runs", "sweeps", "reports", "cli"]
DATA = [
    *("web", "media", "annotations", "shards", "prepare", "batches", "modules"),
    *("regions", "segmentation", "restoration", "synthetic", "verify"),
]

# What stands between files and the rest, for every part.
LOW = {"errors", "limits", "reading", "saving", "sealing", "text", "trust"}

# Beside the stack: what each of them may import of it, and of one another.
BESIDE = {
    "text": set(),
    "errors": {"text"},
    "limits": {"errors"},
    "trust": {"errors"},
    "reading": {"errors", "limits"},
    "saving": {"errors"},
    "sealing": {"reading", "saving"},
    "renamed": {"text"},
    "progress": {"text"},
    "distributed": {"errors", "text"},
    "compat": {"errors"},
    "optim": {"errors"},
    "data": {*LOW, "progress"},
    "evaluation": {*LOW, "data"},
    "config": {*LOW, "checkpoints", "data", "evaluation", "renamed"},
    "prediction": {*LOW, "checkpoints", "config", "data", "evaluation", "models", "progress"},
    "attention": {*LOW, "checkpoints", "config", "data", "layers", "prediction"},
}

MAX_MODULES, MAX_FILE, MAX_FUNCTION = 12, 350, 60


def python_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in python_files()}


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module of nlnet, name imported from it or "") for every import in a file, at any depth of the code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES:
                    yield whole, ""
                elif node.module in MODULES:
                    yield node.module, alias.name


def part(module: str) -> str:
    """The room of a module: "ops" of nlnet.ops.tiled; "errors" of nlnet.errors; "" of nlnet itself."""
    return [*module.split("."), ""][1]


def part_of_data(module: str) -> str:
    return [*module.split("."), "", ""][2]


def test_every_part_is_described() -> None:
    parts = {part(module) for module in MODULES} - {""}
    assert parts == {*STACK, *BESIDE}
    assert {part_of_data(module) for module in MODULES if part(module) == "data"} - {""} == set(DATA)


def test_no_module_imports_in_a_circle() -> None:
    graph = {module: {target for target, _ in imported(path)} - {module} for module, path in MODULES.items()}
    done: set[str] = set()
    circles: list[str] = []

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            circles.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, [*way, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    assert circles == []


def test_parts_import_one_way() -> None:
    wrong = []
    for module, path in MODULES.items():
        for target, _ in imported(path):
            here, there = part(module), part(target)
            if here not in ("", there) and not _may_import(here, there):
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def _may_import(here: str, there: str) -> bool:
    if here in BESIDE:
        return there in BESIDE[here]
    if there in STACK:
        return STACK.index(there) < STACK.index(here)
    # The low parts of the stack know nothing of data and configurations.
    return there in {*LOW, "renamed"} if here in ("ops", "layers", "models", "checkpoints") else True


def test_the_rooms_of_data_import_one_way() -> None:
    wrong = []
    for module, path in MODULES.items():
        here = part_of_data(module)
        for target, _ in imported(path):
            there = part_of_data(target)
            if part(module) == part(target) == "data" and here and there and DATA.index(there) > DATA.index(here):
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_nobody_imports_a_private_name() -> None:
    files = [*python_files(), *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
    wrong = [f"{path.relative_to(ROOT)}: {target}.{name}" for path in files for target, name in imported(path)
             if name.startswith("_") and not name.startswith("__")]  # fmt: skip
    assert wrong == []


def test_no_folder_holds_too_many_modules() -> None:
    counts: dict[Path, int] = {}
    for path in python_files():
        if path.name != "__init__.py":
            counts[path.parent] = counts.get(path.parent, 0) + 1
    assert {str(folder): count for folder, count in counts.items() if count > MAX_MODULES} == {}


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the line of `def` to the last one, without the docstring and the decorators."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        total -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return total


def test_no_file_and_no_function_is_too_long() -> None:
    long_files, long_functions = [], []
    for path in sorted(p for folder in ("src", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if len(source.splitlines()) > MAX_FILE:
            long_files.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > MAX_FUNCTION:
                long_functions.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert long_files == []
    assert long_functions == []
