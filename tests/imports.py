"""Which modules of the package load which, however a source says so: relative, absolute, inside a function, or by a name in a text."""

import ast
import json
import re
from collections.abc import Iterator, Mapping

from mlops_course import project, stages

ROOT = project.root()
NAMED = re.compile(r"\bmlops_course\.(\w*)|\bfrom mlops_course import (\w*)")
Graph = dict[str, set[str]]  # each module with those that it loads


def sources() -> dict[str, str]:
    "The text of each module of the package."
    return {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("mlops_course/*.py") if not path.stem.startswith("_")}


def names(source: str) -> Iterator[str]:
    "What `source` loads of the package by its words; `` is a name that is made up while it runs."
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings load nothing
    listed = {loop.target.id for loop in ast.walk(tree) if isinstance(loop, ast.For) and _is_list_of_texts(loop)}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mlops_course."))
            case ast.ImportFrom(level=1 | 0):
                first, *rest = ("mlops_course." * node.level + (node.module or "")).rstrip(".").split(".")
                if first == "mlops_course":
                    yield from rest[:1] or (alias.name for alias in node.names)
            case ast.Attribute(value=ast.Name(id="mlops_course")):
                yield node.attr
            case ast.Constant(value=str(text)) if id(node) not in prose:
                yield from (module or imported for module, imported in NAMED.findall(text))
            case ast.Call(args=[first, *_]) if re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
                match first:
                    case ast.Constant(value=str(text)):
                        yield from [text[1:].split(".")[0]] if text.startswith(".") else []
                    case ast.Name(id=name) if name in listed:
                        pass  # the texts of its list were seen
                    case _:
                        yield ""


def _is_list_of_texts(loop: ast.For) -> bool:
    return (
        isinstance(loop.target, ast.Name)
        and isinstance(loop.iter, ast.Tuple | ast.List)
        and all(isinstance(each, ast.Constant) for each in loop.iter.elts)
    )


def loads(
    source: str,
    modules: set[str],  # of the package
) -> set[str]:
    "The modules that `source` loads. A name that is made up while it runs may be that of any stage."
    loaded = set(names(source))
    return (loaded | set(stages.tasks()) if "" in loaded else loaded) & modules


def graph(texts: Mapping[str, str]) -> Graph:
    "What each of the modules `texts` loads, itself left out."
    return {module: loads(text, set(texts)) - {module} for module, text in texts.items()}


def reached(links: Graph, first: set[str]) -> set[str]:
    "The modules `first` and all that they lead to."
    seen, new = set(), first
    while new:
        seen |= new
        new = set().union(*(links[each] for each in new)) - seen
    return seen


def of_stage(stage: str) -> set[str]:
    "All modules that a stage of pipeline.yaml loads: from the cells of its lesson that a build runs, on."
    notebook = json.loads((ROOT / stages.tasks()[stage]["source"]).read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if stages.TAGS & set(c["metadata"].get("tags", []))]
    links = graph(sources())
    return reached(links, loads("\n".join(cells), set(links)))
