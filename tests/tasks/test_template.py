"""Prompts out of rows."""

import pytest

from rlvr_jax.tasks.template import Template, field_text


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{q}", "2+2"),
        ("Q: {q}\nA: ", "Q: 2+2\nA: "),
        ("{q}{n}{q}", "2+232+2"),
        ("{{q}}: {q}", "{q}: 2+2"),
        ("{{{q}}}", "{2+2}"),
        ("{ q }", "2+2"),
        ("{two words}", "spaced"),
        ("{q.upper}", "dotted"),  # a field of that name, no attribute
        ("{q[0]}", "indexed"),
        ("{braces}", "{q} {{"),  # what a row holds is not filled in again
        ("{q} {yes} {x}", "2+2 True 0.5"),
    ],
)
def test_fields_in_braces_are_replaced(template, prompt):
    row = {"q": "2+2", "n": 3, "two words": "spaced", "q.upper": "dotted", "q[0]": "indexed"}
    assert Template(template).fill(row | {"braces": "{q} {{", "yes": True, "x": 0.5}) == prompt


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{q", "a lone { at character 1"),
        ("{q} }", "a lone } at character 5"),
        ("{q} {}", "a lone { at character 5"),
        ("a {{q}} b", "names no field"),
        ("", "names no field"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused(template, fault):
    with pytest.raises(ValueError, match=fault):
        Template(template)


@pytest.mark.parametrize("attribute", ["q.__class__", "q[0]", "q!r", "q:>10", "0"])
def test_nothing_but_names_of_fields_is_looked_up(attribute):
    with pytest.raises(ValueError, match=r"no field .*, which task.template names; did you mean 'q'"):
        Template("{" + attribute + "}").fill({"q": "2+2"})


def test_a_missing_field_names_the_nearest_and_all_others():
    with pytest.raises(ValueError, match=r"no field 'anwser', which task.answer_field names") as error:
        field_text({"question": "?", "answer": "!"}, "anwser", setting="task.answer_field")
    assert "did you mean 'answer'? It has 'question', 'answer'; change task.answer_field" in str(error.value)


def test_a_field_of_an_empty_row():
    with pytest.raises(ValueError, match=r"no field 'q'.*the row is empty"):
        field_text({}, "q", setting="task.template")


@pytest.mark.parametrize(("value", "found"), [(None, "null"), ([1], "a list"), ({"a": 1}, "an object")])
def test_a_field_that_is_no_text_is_refused(value, found):
    with pytest.raises(ValueError, match=f"field 'q', which task.template names, is {found}; it must be text"):
        Template("{q}").fill({"q": value})


def test_a_template_says_which_fields_it_names():
    assert Template("{q} {{no}} { two words }{q}").fields == {"q", "two words"}
