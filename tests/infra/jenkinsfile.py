"""Prints a Jenkinsfile's structure as JSON; run by the tests with .tools/ci, which has the parser.

A statement is ``{"name", "arguments", "body", "line"}``: `stage('Test') { … }` has the name ``stage``, the
argument ``Test`` and a body of statements. An assignment has the name of the variable and "=" before its
value. Whatever is no such statement, such as the code in `expression { … }`, is kept as its text.
"""

import json
import sys
from pathlib import Path
from typing import Any

import tree_sitter_groovy
from tree_sitter import Language, Node, Parser


def structure(source: bytes) -> list[dict[str, Any]]:
    """The statements of a Jenkinsfile.

    Raises:
        SyntaxError: It is no Groovy; the message names the first line that is not.
    """
    root = Parser(Language(tree_sitter_groovy.language())).parse(source).root_node
    if root.has_error:
        raise SyntaxError(f"line {_first_error(root).start_point[0] + 1} is no Groovy")
    return _statements(root)


def _first_error(node: Node) -> Node:
    if node.type == "ERROR" or node.is_missing:
        return node
    return next((_first_error(child) for child in node.children if child.has_error), node)


def _statements(block: Node) -> list[dict[str, Any]]:
    return [_statement(child) for child in block.named_children if "comment" not in child.type]


def _statement(node: Node) -> dict[str, Any]:
    line = node.start_point[0] + 1
    while node.type == "expression_statement":
        [node] = [c for c in node.named_children if "comment" not in c.type]
    match node.type:
        case "method_invocation" | "juxt_function_call":
            name, *rest = [c for c in node.named_children if "comment" not in c.type]
            arguments: list[str] = []
            body: list[dict[str, Any]] | None = None
            for part in rest:
                if part.type == "closure":
                    body = _statements(part)
                else:
                    arguments += [_text(c) for c in part.named_children]
            found = {"name": _text(name), "arguments": arguments, "body": body}
        case "local_variable_declaration":
            # `agent none`: two words, as a type and a variable would be.
            name, value = _text(node).split(None, 1)
            found = {"name": name, "arguments": [value], "body": None}
        case "assignment_expression":
            left, right = node.named_children
            found = {"name": _text(left), "arguments": ["=", _text(right)], "body": None}
        case _:
            found = {"name": _text(node), "arguments": [], "body": None}
    return {**found, "line": line}


def _text(node: Node) -> str:
    text = (node.text or b"").decode().strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


if __name__ == "__main__":
    try:
        json.dump(structure(Path(sys.argv[1]).read_bytes()), sys.stdout)
    except SyntaxError as exc:
        sys.exit(str(exc))
