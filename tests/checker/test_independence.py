"""The checker owes nothing to what it checks."""

import ast
import sys
from pathlib import Path


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_the_checker_imports_the_standard_library_and_itself_alone() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        for name in _imported(path):
            top, *rest = name.split(".")
            own = top == "tests" and rest[:1] == ["checker"]
            allowed = own or top in sys.stdlib_module_names or top == "pytest"
            assert allowed, f"{path.name} imports {name}"
