"""The rules that every lesson keeps; `make lint` runs them. A rule takes a notebook and gives the faults it sees."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

RULES: list[Callable] = []
LESSON = re.compile(r"^\*\*(\d+) minutes\*\* · before this: .+ · makes: (.+)$", re.M)
DRAWING = re.compile(r"```mermaid\n.*?```", re.S)
MACHINE = re.compile(r"(?<![\w.])(?:/(?:home|root|Users|tmp|work|var|private)/|[A-Z]:\\\\)")


def rule(function: Callable) -> Callable:
    RULES.append(function)
    return function


class Notebook:
    "A notebook as its rules need it: cells with their text, prose without code."

    def __init__(self, path: Path):
        self.path, self.size = path, path.stat().st_size
        self.cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        self.code = [cell for cell in self.cells if cell["cell_type"] == "code"]
        self.markdown = [text(cell) for cell in self.cells if cell["cell_type"] == "markdown"]
        self.prose = "\n".join(re.sub(r"```.*?```|`[^`]*`", "", part, flags=re.S) for part in self.markdown)
        self.headings = [(len(m[1]), m[2]) for m in re.finditer(r"^(#{1,6}) (.+)$", self.prose, re.M)]

    @property
    def appendix(self) -> bool:
        "Whether it is of the appendix: how the course is made, not what it teaches."
        return self.path.name >= "90"

    @property
    def module(self) -> str:
        "The module that it makes; empty if it makes none."
        return next((m[1] for cell in self.code if (m := re.match(r"#\| default_exp (\w+)", text(cell)))), "")

    def outputs(self) -> Iterator[dict]:
        for cell in self.code:
            yield from cell["outputs"]


def text(cell: dict) -> str:
    return "".join(cell["source"])


def length(cell: dict) -> int:
    return len(text(cell).splitlines())


def tagged(cell: dict, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def folded(cell: dict) -> bool:
    return cell["metadata"].get("jupyter", {}).get("source_hidden", False)


def exported(cell: dict) -> bool:
    return cell["cell_type"] == "code" and text(cell).startswith("#| export")


def shows(cell: dict) -> bool:
    "Whether a reader sees a cell do something."
    return cell["cell_type"] == "code" and not exported(cell) and not folded(cell) and bool(cell["outputs"])


def minutes(notebook: Notebook) -> int:
    "How long a lesson takes: 100 words a minute, 25 lines of code that are not folded, five minutes an exercise; to five minutes."
    words = len(notebook.prose.split())
    lines = sum(length(cell) for cell in notebook.code if not folded(cell) and not tagged(cell, "exercise"))
    exercises = sum(tagged(cell, "exercise") for cell in notebook.code)
    return max(10, 5 * round((words / 100 + lines / 25 + 5 * exercises) / 5))


def exercise_cells(notebook: Notebook) -> dict[str, str]:
    "The exercises' cells by name, in their order; a cell is named by the check that follows it."
    named = {}
    for cell, after in zip(notebook.code, notebook.code[1:], strict=False):
        asked = re.match(r"check\(\"([\d.]+)\"", text(after))
        if tagged(cell, "exercise") and asked:
            named[asked[1]] = text(cell)
    return named


def as_taught(path: Path) -> str:
    "The notebook without outputs and with the exercises not yet solved: what the linters see of a learner's copy."
    from mlops_course.exercises import EXERCISES

    written = json.loads(path.read_text(encoding="utf-8"))
    solved = {source: EXERCISES[name].stub for name, source in exercise_cells(Notebook(path)).items() if name in EXERCISES}
    for cell in written["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            if tagged(cell, "exercise"):
                cell["source"] = solved.get(text(cell), text(cell)).splitlines(True)
    return json.dumps(written, indent=1, ensure_ascii=False)


def bullets(block: str) -> int:
    return len(re.findall(r"^- ", block, re.M))


@rule
def one_title_first(notebook: Notebook) -> Iterator[str]:
    if [level for level, _ in notebook.headings].count(1) != 1:
        yield "must have one H1"
    if not re.match(r"# .+\n> .+\n", notebook.markdown[0] if notebook.markdown else ""):
        yield "must begin with an H1 and a one-line subtitle (`> ...`)"


@rule
def no_heading_jumps(notebook: Notebook) -> Iterator[str]:
    for (before, _), (level, title) in zip(notebook.headings, notebook.headings[1:], strict=False):
        if level > before + 1:
            yield f"heading `{title}` jumps from level {before} to {level}"


@rule
def opens_on_promises_and_closes_on_findings(notebook: Notebook) -> Iterator[str]:
    opening, closing = notebook.markdown[0], notebook.markdown[-1]
    if notebook.appendix:
        if LESSON.search(opening) or "you will" in opening or any(tagged(cell, "exercise") for cell in notebook.code):
            yield "is of the appendix: no minutes, no promises, no exercises"
        return
    if not LESSON.search(opening) or "In this lesson you will" not in opening:
        yield "must open with minutes, what comes before, what it makes, and `In this lesson you will`"
        return
    promised = bullets(opening.split("In this lesson you will")[1])
    if not 3 <= promised <= 5:
        yield f"must make three to five promises, makes {promised}"
    if "## Findings" not in closing or not 3 <= bullets(closing) <= 5 or "\nNext: " not in closing:
        yield "must close on three to five findings under `## Findings`, and a line `Next: ...`"
    elif not re.search(r"^- .*\d", closing, re.M):
        yield "must close on findings with their numbers"


@rule
def leads_to_the_next_lesson(notebook: Notebook) -> Iterator[str]:
    lessons = sorted(notebook.path.parent.glob("[0-8]*.ipynb"))
    after = next((path for path in lessons if path.name > notebook.path.name), None)
    if after and not notebook.appendix:
        title = f"{after.stem.split('_')[0]} {Notebook(after).markdown[0].splitlines()[0].removeprefix('# ')}"
        if f"\nNext: [{title}]({after.name})" not in notebook.markdown[-1]:
            yield f"must close on `Next: [{title}]({after.name})`"


@rule
def says_how_long_it_takes(notebook: Notebook) -> Iterator[str]:
    stated = LESSON.search(notebook.markdown[0])
    if stated and int(stated[1]) != minutes(notebook):
        yield f"says {stated[1]} minutes, by the rule it takes {minutes(notebook)}"


@rule
def pictures_have_words(notebook: Notebook) -> Iterator[str]:
    data = [output["data"] for output in notebook.outputs() if "data" in output]
    for part in [*notebook.markdown, *("".join(shown.get("text/html", "")) for shown in data)]:
        for picture in re.finditer(r"!\[.{0,19}\]\([^)]+\)|<img(?![^>]*\balt=\"[^\"]{20,}\")[^>]*>", part):
            yield f"picture without alt text: {picture[0][:80]}"
        for diagram in re.findall(r"```mermaid.*?```", part, re.S):
            if not re.search(r"^ *accTitle: .{20,}$", diagram, re.M):
                yield "diagram without words: give it an `accTitle`"
            if "lineColor" not in diagram:
                yield "diagram with lines that a dark theme hides: give it a `lineColor`"
    if any(kind.startswith("image/") for shown in data for kind in shown):
        yield "shows a picture without alt text: end its cell with `show_figure`"


@rule
def pictures_are_readable(notebook: Notebook) -> Iterator[str]:
    code = "\n".join(map(text, notebook.code))
    if "import matplotlib.pyplot" in code and "plt.style.use(STYLE)" not in code:
        yield "draws without `plt.style.use(STYLE)`"
    for size in re.findall(r"fontsize=([0-8]\b(?:\.\d+)?|\"[x-]*small\")", code):
        yield f"writes with {size} points in a picture, fewer than 9"


@rule
def names_pages_as_they_are(notebook: Notebook) -> Iterator[str]:
    titles = {
        path.stem.split("_")[0]: Notebook(path).markdown[0].splitlines()[0].removeprefix("# ")
        for path in notebook.path.parent.glob("[0-9]*.ipynb")
    }
    for part in notebook.markdown:
        for number, name in re.findall(r"(?<![*\w])\*(\d\d\d?) ([A-Z][^*\n]*)\*(?!\*)", part):
            if titles.get(number, name) != name:
                yield f"calls page {number} `{name}`, its title is `{titles[number]}`"


@rule
def local_links_lead_somewhere(notebook: Notebook) -> Iterator[str]:
    for part in notebook.markdown:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", part):
            if not re.match(r"[a-z]+:", link) and not (notebook.path.parent / link).exists():
                yield f"link to {link}, which is not there"


@rule
def no_stored_error(notebook: Notebook) -> Iterator[str]:
    if any(output["output_type"] == "error" for output in notebook.outputs()):
        yield "stores an error"


@rule
def no_machine_path(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.cells:
        shown = text(cell) + json.dumps([{k: v for k, v in o.items() if k != "data"} for o in cell.get("outputs", [])])
        shown += "".join(
            json.dumps(o["data"].get(kind, "")) for o in cell.get("outputs", []) if "data" in o for kind in ("text/plain", "text/html")
        )
        if path := MACHINE.search(shown):
            yield f"path of a machine: {shown[path.start() : path.start() + 40]!r}"


@rule
def small_enough(notebook: Notebook) -> Iterator[str]:
    if notebook.size > 1_000_000:
        yield f"is {notebook.size:,} bytes, more than 1 MB"
    for output in notebook.outputs():
        if (size := len(json.dumps(output))) > 300_000:
            yield f"an output of {size:,} bytes, more than 300 kB"


@rule
def cells_are_short(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        if notebook.appendix and length(cell) > 45:
            yield f"a cell of {length(cell)} lines, more than 45: {_begins(cell)}"
        if not notebook.appendix and exported(cell) and not folded(cell) and length(cell) > 30:
            yield f"an exported cell of {length(cell)} lines, more than 30: {_begins(cell)}"


def _begins(cell: dict) -> str:
    "What a cell begins with, below its directive."
    return next((line for line in text(cell).splitlines() if not line.startswith("#|")), "")


@rule
def definitions_are_shown_working(notebook: Notebook) -> Iterator[str]:
    defined = 0
    for cell in notebook.code if not notebook.appendix else ():
        if exported(cell):  # a folded one is opened by whoever wants to understand
            defined += length(cell)
            if defined > 60 >= defined - length(cell):
                yield f"more than 60 lines of definitions before a cell shows something, at: {_begins(cell)}"
        defined = 0 if shows(cell) else defined


SCREEN = 40  # lines, in JupyterLab on a laptop


def seen(cell: dict) -> int:
    "How many lines of a page a cell takes, with what it shows; a picture takes fifteen, a drawing ten, and what is long is scrolled."
    if cell["cell_type"] != "code":
        return sum(1 + len(line) // 100 for line in DRAWING.sub("\n" * 10, text(cell)).splitlines())
    return (1 if folded(cell) else length(cell)) + sum(map(_seen_output, cell["outputs"]))


def _seen_output(output: dict) -> int:
    return 15 if "text/html" in output.get("data", {}) else min(30, len(plain(output).splitlines()))


def plain(output: dict) -> str:
    "What an output says as text."
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")))


@rule
def something_to_do_comes_early(notebook: Notebook) -> Iterator[str]:
    before = 0
    for cell in notebook.cells if not notebook.appendix else ():
        if cell["cell_type"] == "code" and tagged(cell, "exercise"):
            if before > 5 * SCREEN:
                yield f"the first exercise comes after {before / SCREEN:.1f} screens, more than 5"
            return
        before += seen(cell)


@rule
def numbers_are_shown(notebook: Notebook) -> Iterator[str]:
    for output in notebook.outputs() if not notebook.appendix else ():
        if verdict := re.search(r"^.*\b(True|False)$", plain(output).rstrip(), re.M):
            yield f"an output ends in a bare {verdict[1]}, where a number or a word says more: {verdict[0].strip()}"


NUMBER = re.compile(r"(?<![\w.*/-])[-+]?\d[\d,]*(?:\.\d+)?(?![\w]|\.\d)")


def placed(drawing: str, number: str) -> str:
    "The map of lesson 00, in which the part of a lesson is marked; empty if the lesson is nowhere on it."
    part = re.search(rf"(\w+)\[\"(?:\d\d )*{number}\b[^<]*<br>([^\"]+)", drawing)
    if not part:
        return ""
    name, what = part[1], part[2].replace("<br>", " ")
    marked = re.sub(r"accTitle: .*", f"accTitle: The map of lesson 00. This lesson is of the part: {what}", drawing)
    mark = f"    classDef here stroke-width:4px,stroke:#d55e00\n    class {name} here\n"
    return f"Where we are on the map of *00 Start here*:\n\n{marked.removesuffix('```')}{mark}```"


def place(notebook: Notebook) -> str:
    "The cell of a lesson that shows where on the map it is."
    start = "\n".join(Notebook(notebook.path.with_name("00_start_here.ipynb")).markdown)
    return placed(DRAWING.search(start)[0], notebook.path.name[:2])


@rule
def shows_its_place_on_the_map(notebook: Notebook) -> Iterator[str]:
    if notebook.appendix or notebook.path.name.startswith("00") or not notebook.path.with_name("00_start_here.ipynb").exists():
        return
    if not (wanted := place(notebook)):
        yield "is on no part of the map of 00"
    elif wanted not in notebook.markdown:
        yield "does not show its place on the map as lesson 00 draws it: run `make export`"


@rule
def findings_were_seen(notebook: Notebook) -> Iterator[str]:
    if notebook.appendix:
        return
    tables = re.findall(r"^\|.*$", "\n".join(notebook.markdown), re.M)
    page = "\n".join([*map(text, notebook.code), *map(plain, notebook.outputs()), *tables]).replace(",", "").replace("_", "")
    findings = re.sub(r"`[^`]*`|\]\([^)]*\)|\*\d\d [^*]*\*", "", notebook.markdown[-1])
    for number in NUMBER.findall(findings.split("Next: ")[0]):
        value = number.replace(",", "").lstrip("+-")
        if ("." in value or int(value) > 12) and not re.search(rf"(?<![\d.]){re.escape(value)}(?!\d)", page):
            yield f"a finding says {number}, and no cell shows it"


@rule
def waits_have_an_end(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        if exported(cell) or tagged(cell, "exercise"):  # what a learner writes is hers
            continue
        for line in text(cell).splitlines():
            if (wait := re.match(r"\s*while (.+)", line)) and not re.search(r"monotonic\(\)|until|await|:=|is_active", wait[1]):
                yield f"a cell that may wait for ever: {line.strip()}"


@rule
def lines_fit_the_page(notebook: Notebook) -> Iterator[str]:
    for line in "\n".join(map(text, notebook.code)).splitlines():
        if len(line) > 100:
            yield f"a line of {len(line)} characters, more than 100: {line.strip()[:60]}"


@rule
def what_nobody_needs_to_read_is_folded(notebook: Notebook) -> Iterator[str]:
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        source = text(cell)
        if cell["cell_type"] != "code":
            continue
        if re.match(r"#\| (hide|default_exp)\b", source) and not folded(cell):
            yield f"a cell to fold: {source.splitlines()[0]}"
        if folded(cell) and not re.match(r"#\| (default_exp \w|hide (?!what (this|it) checks$)\w|export\b)|# \w", source, re.M):
            yield f"a folded cell whose first line does not say what is in it: {source.splitlines()[0]}"
        if folded(cell) and exported(cell) and before["cell_type"] != "markdown":
            yield f"a folded definition without a sentence above it: {_begins(cell)}"
        if re.search(r"\n *#\| *(export|default_exp|hide)\b", source):
            yield f"a directive that nbdev does not see, because it is not the first line: {source.splitlines()[0]}"


@rule
def imports_become_relative(notebook: Notebook) -> Iterator[str]:
    for cell in filter(exported, notebook.code):
        if broken := re.search(r"^from mlops_course\S* import \($", text(cell), re.M):
            yield f"an import that nbdev does not make relative, because it stands on several lines: {broken[0]}"


@rule
def calm_prose(notebook: Notebook) -> Iterator[str]:
    for word in re.findall(r"\b[Ss]imply\b|\w+!(?!\[)|[\U0001F300-\U0001FAFF]", notebook.prose):
        yield f"prose says {word!r}"


@rule
def clean(notebook: Notebook) -> Iterator[str]:
    allowed = ({"tags"}, {"jupyter"}, {"tags", "jupyter"}, set())
    if any(set(cell["metadata"]) not in allowed for cell in notebook.cells):
        yield "has metadata of a program: run `make export`"
    if any(cell["metadata"].get("jupyter", {"source_hidden": True}) != {"source_hidden": True} for cell in notebook.cells):
        yield "has a cell that is folded in another way than by `source_hidden`"


def faults(path: Path) -> list[str]:
    "All that the rules see in a notebook, a line each."
    notebook = Notebook(path)
    return [f"{path.name}: {fault}" for check in RULES for fault in check(notebook)]


def contents(folder: Path) -> tuple[str, str]:
    "The lessons as a Markdown table, for README, and the appendix as another, for DEVELOPERS: what each shows between its marks."
    notebooks = [Notebook(path) for path in sorted(folder.glob("[0-9]*.ipynb"), key=lambda path: path.stem.split("_"))]
    lessons = [notebook for notebook in notebooks if not notebook.appendix]
    took = sum(int(LESSON.search(lesson.markdown[0])[1]) for lesson in lessons)
    table = [
        "| lesson | what it says of itself | minutes | module |",
        "| --- | --- | ---: | --- |",
        *map(_row, lessons),
        f"\n{len(lessons)} lessons, {took / 60:.0f} hours.",
    ]
    pages = [_line(page) for page in notebooks if page.appendix]
    return "\n".join(table), "\n".join(["| page | what it says of itself | module |", "| --- | --- | --- |", *pages])


def _row(lesson: Notebook) -> str:
    title, subtitle, *_ = lesson.markdown[0].splitlines()
    number, minutes = lesson.path.stem.split("_")[0], LESSON.search(lesson.markdown[0])[1]
    named = f"[{number} {title.removeprefix('# ')}](notebooks/{lesson.path.name})"
    return f"| {named} | {subtitle.removeprefix('> ')} | {minutes} | {lesson.module and f'`{lesson.module}`'} |"


def _line(page: Notebook) -> str:
    title, subtitle, *_ = page.markdown[0].splitlines()
    number = page.path.stem.split("_")[0]
    return f"| [{number} {title.removeprefix('# ')}](notebooks/{page.path.name}) | {subtitle.removeprefix('> ')} | {page.module and f'`{page.module}`'} |"


def with_contents(text: str, mark: str, table: str) -> str:
    "A page with `table` between its marks."
    return re.sub(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.S)


def pages(folder: Path) -> dict[Path, str]:
    "README with its table of lessons, DEVELOPERS with that of the appendix, as they should be."
    both = zip(("README.md", "DEVELOPERS.md"), ("lessons", "appendix"), contents(folder / "notebooks"), strict=True)
    return {folder / name: with_contents((folder / name).read_text(encoding="utf-8"), mark, table) for name, mark, table in both}


def show_place(path: Path) -> None:
    "Write a lesson's place on the map below its opening, where it is not there as lesson 00 draws it."
    written = json.loads(path.read_text(encoding="utf-8"))
    source = place(Notebook(path)).splitlines(True)
    cells = [cell for cell in written["cells"] if cell.get("id") != "where-we-are"]
    cells.insert(1, {"cell_type": "markdown", "id": "where-we-are", "metadata": {}, "source": source})
    if cells != written["cells"]:
        path.write_text(json.dumps(written | {"cells": cells}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    # NOTEBOOK...: print the faults. --as-taught FOLDER NOTEBOOK...: write copies for ruff and typos.
    # --contents: the tables of lessons and of the appendix, and each lesson's place on the map.
    if sys.argv[1] == "--contents":
        for path in sorted(Path("notebooks").glob("[0-8]*.ipynb"))[1:]:
            show_place(path)
        for page, text in pages(Path(".")).items():
            page.write_text(text, encoding="utf-8")
        sys.exit()
    if sys.argv[1] == "--as-taught":
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for name in sys.argv[3:]:
            (folder / Path(name).name).write_text(as_taught(Path(name)), encoding="utf-8")
        sys.exit()
    faults_seen = [fault for name in sys.argv[1:] for fault in faults(Path(name))]
    print("\n".join(faults_seen) or f"{len(sys.argv) - 1} notebooks keep the {len(RULES)} rules")
    sys.exit(bool(faults_seen))
