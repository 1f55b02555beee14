"""An environment's file that cannot be read: the message names it, the line and the cure."""

import pytest

from mlops_course import project

GOOD = "name: x\nout: out/x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "env.odd.yaml is empty. An environment has a `name`"),
        ("# only a comment\n", "env.odd.yaml is empty"),
        ("- name\n- out\n", "env.odd.yaml holds no settings with names"),
        ("name\n", "env.odd.yaml holds no settings with names"),
        ("name: x\nworld:\n\tdrivers: 3\n", "env.odd.yaml, line 3: this cannot be read as YAML. Indent lines with blanks, not with tabs"),
        ("name: x\nout: {{x}}/y\n", "line 2: this cannot be read as YAML.*texts with any of : { [ # in quotes"),
        ("name: [x\nout: y\n", "line 2: this cannot be read as YAML"),
        (GOOD + "---\n" + GOOD, "line 3: this cannot be read as YAML"),
        (GOOD + "clock: 2026-13-45\n", "this cannot be read as YAML"),
        (GOOD + "world: " + "[" * 5000, "this cannot be read as YAML"),
        (GOOD + "out: out/y\n", "env.odd.yaml, line 3: `out` is there twice"),
        (GOOD + "data:\n  sources: {}\n  sources: {}\n", "line 5: `sources` is there twice"),
        (GOOD + "7: x\n", "7: Keys should be strings"),
        (
            GOOD + "data:\n  sources:\n    labels: {values: {done: {Yes: 1, no: 0}}}\n",
            "line 5: Yes: Keys should be strings.*in quotes: 'Yes'",
        ),
        (GOOD.encode("utf-16"), "env.odd.yaml is not text in UTF-8. Save it as UTF-8"),
        ("name: café\n".encode("latin-1"), "is not text in UTF-8"),
        (b"\x1f\x8b\x08\x00", "is not text in UTF-8"),
        (GOOD + "serving: &a\n  x: *a\n", "env.odd.yaml holds a value that contains itself"),
        (GOOD + "serving: &a {port: 8172, more: [*a]}\n", "env.odd.yaml holds a value that contains itself"),
        ("name: x\nout: ~/x\n", "out: ~/x in .*env.odd.yaml: nobody here makes a home of ~"),
        ("name:\nout: out/x\n", "name: Field required"),
        (b"name: x\x00\n", "this cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_environment_says_what_it_is(tmp_path, text, message):
    file = tmp_path / "env.odd.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(project.UserError) as refused:
        project.environment(str(file), world={"drivers": 3})

    assert all(part in str(refused.value) for part in message.split(".*"))
    assert "\n  in " not in str(refused.value)  # no library's words


def test_a_section_whose_lines_are_comments_has_the_defaults(tmp_path):
    (tmp_path / "env.odd.yaml").write_text(GOOD + "clock:\nserving:\n  # port: 8173\nworld:\n", encoding="utf-8")

    assert project.environment(str(tmp_path / "env.odd.yaml")).serving == {}


@pytest.mark.parametrize("text", [GOOD.encode("utf-8-sig"), GOOD.replace("\n", "\r\n").encode()])
def test_a_mark_at_the_beginning_and_other_line_ends_do_no_harm(tmp_path, text):
    (tmp_path / "env.yaml").write_bytes(text)

    assert project.environment(str(tmp_path / "env.yaml")).name == "x"
