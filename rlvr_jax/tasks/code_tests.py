"""From the tests of a row to the program that checks a completion's code with them."""

import ast
import builtins
import json
import sys
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_HEAD = """import sys as {own}sys
{own}sys.path.append({root!r})  # last: no file of ours may stand for one of Python's
from rlvr_jax.tasks.code_checker import Link as {own}Link, check as {own}check
{own}sys.path.pop()
{own}sys.set_int_max_str_digits(0)
{own}link = {own}Link({calls_fd}, {replies_fd})
"""
_TAIL = """
{own}check({own}link, [{tests}], verdicts_fd={verdicts_fd}, cpu_s={cpu_s}, memory_bytes={memory_bytes})
"""
_PLAIN_TYPES = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    list,
    tuple,
    set,
    frozenset,
    dict,
    Counter,
    OrderedDict,
)
_PLAIN_ATTRIBUTES = frozenset(name for kind in _PLAIN_TYPES for name in dir(kind))


def tests_of_row(row: dict[str, Any], field: str) -> list[str]:
    """The tests of a row as source texts, each one or more statements that raise where the code is wrong.

    The field holds one such text, a list of them, or {"fn_name": name, "inputs": [arguments, ...], "outputs":
    [value, ...]}; any of these may be JSON text.

    Raises ValueError saying what is wrong with them.
    """
    tests = row.get(field)
    if isinstance(tests, str) and tests.lstrip()[:1] in ("[", "{"):
        try:
            tests = json.loads(tests)
        except ValueError as error:
            raise ValueError(f"field {field!r} is neither tests nor JSON ({error})") from error
    if isinstance(tests, dict):
        tests = _asserts(tests, field)
    if isinstance(tests, str) and tests.strip():
        tests = [tests]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError(
            f"field {field!r} holds no tests: it must be a text, a list of texts, or fn_name, inputs, outputs"
        )
    for test in tests:
        try:
            body = ast.parse(test).body
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ValueError(f"field {field!r} has a test that is no Python ({error}): {test[:60]!r}") from error
        if fault := _fault(body):
            raise ValueError(f"field {field!r} has a test that {fault}: {test[:60]!r}")
    return tests


def _fault(body: Sequence[ast.stmt]) -> str:
    """Why right code would fail a test, or any code pass it; "" if neither is to be seen."""
    nodes = list(ast.walk(ast.Module(list(body), [])))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    if foreign := {name.split(".")[0] for name in imported} - sys.stdlib_module_names:
        return f"imports {min(foreign)!r}, and only the standard library is there"
    unknown, bases = unknown_names(body), _attribute_bases(body)
    if foreign := unknown & bases - sys.stdlib_module_names:
        return f"uses attributes of {min(foreign)!r}, which is no module of the standard library"
    functions = unknown - bases
    if not functions:  # as one of a function that is called like one of Python's, which would pass
        return "calls no function of the code's own"
    handlers = [node.type for node in nodes if isinstance(node, ast.ExceptHandler) and node.type]
    caught = {node.id for kind in handlers for node in ast.walk(kind) if isinstance(node, ast.Name)}
    if foreign := caught & functions:
        return f"catches {min(foreign)!r}, which is no exception of Python's"
    return _use_of_objects(nodes, functions)


def _use_of_objects(nodes: Sequence[ast.AST], functions: set[str]) -> str:
    """Says where a test wants of a function's value what no plain value has, as an object of the code's own would."""

    def called(node: ast.expr) -> str:
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions
        return node.func.id if is_call else ""

    maker = {
        target.id: called(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and called(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in nodes:
        if not isinstance(node, ast.Attribute):
            continue
        name = maker.get(node.value.id, "") if isinstance(node.value, ast.Name) else called(node.value)
        if name and (name[0].isupper() or node.attr not in _PLAIN_ATTRIBUTES):  # classes have capitals
            return f"uses .{node.attr} of what {name!r} gives, and only plain values can be sent"
    return ""


def _asserts(tests: dict[str, Any], field: str) -> list[str]:
    name, inputs, outputs = (tests.get(key) for key in ("fn_name", "inputs", "outputs"))
    is_usable = isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs)
    if not is_usable or not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"field {field!r} must have fn_name, and as many outputs as inputs, each input a list of arguments"
        )
    if not all(isinstance(arguments, list) for arguments in inputs):
        raise ValueError(f"field {field!r} has an input that is not a list of arguments")
    pairs = zip(inputs, outputs, strict=True)
    return [f"assert {name}({', '.join(map(repr, arguments))}) == {output!r}" for arguments, output in pairs]


def checking_program(
    tests: Sequence[str], *, calls_fd: int, replies_fd: int, verdicts_fd: int, cpu_s: int, memory_bytes: int
) -> str:
    """The source of a program that runs each test by itself; names they do not know are functions of the code's."""
    bodies = [ast.parse(test).body for test in tests]
    unknown = sorted({name for body in bodies for name in unknown_names(body)})
    own = "_checker_"  # begins all names of the program's own, and none of the tests'
    while any(own in test for test in tests):
        own = "_" + own
    lines = [_HEAD.format(own=own, root=str(ROOT), calls_fd=calls_fd, replies_fd=replies_fd)]
    modules = {base for body in bodies for base in _attribute_bases(body)} & sys.stdlib_module_names
    lines += [f"import {name}" if name in modules else f"{name} = {own}link.function({name!r})" for name in unknown]
    for i, body in enumerate(bodies):
        arguments = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        function = ast.FunctionDef(f"{own}test_{i}", arguments, body or [ast.Pass()], [], lineno=1, col_offset=0)
        if "type_params" in function._fields:  # Python 3.12 and later
            function.type_params = []
        lines.append(ast.unparse(ast.fix_missing_locations(ast.Module([function], []))))
    names = ", ".join(f"{own}test_{i}" for i in range(len(tests)))
    tail = _TAIL.format(own=own, tests=names, verdicts_fd=verdicts_fd, cpu_s=cpu_s, memory_bytes=memory_bytes)
    return "\n".join(lines) + tail


def unknown_names(body: Sequence[ast.stmt]) -> set[str]:
    """Names that statements use and neither bind themselves nor have from Python."""
    used, bound = set(), set()
    for node in ast.walk(ast.Module(list(body), [])):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return used - bound - set(dir(builtins))


def _attribute_bases(body: Sequence[ast.stmt]) -> set[str]:
    nodes = ast.walk(ast.Module(list(body), []))
    return {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
