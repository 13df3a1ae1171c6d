"""Rows of the data sets: their golds, solutions and categories, and the words about rows that are no use."""

import pytest

from rlvr_jax.tasks.data_files import SUFFIXES
from rlvr_jax.tasks.hub import is_hub_path
from rlvr_jax.tasks.question_rows import (
    DATA_SETS,
    OMI,
    Question,
    category_name,
    gsm8k_question,
    math_question,
    omi_question,
)
from rlvr_jax.tasks.template import Template

GSM8K_ROW = {"question": "How many?", "answer": "It is 600*2=<<600*2=1200>>1200.\n#### 1,200"}
OMI_ROW = {"problem": "p", "generated_solution": "so \\boxed{4}", "expected_answer": "4", "problem_source": "gsm8k"}
MATH_ROW = {
    "problem": "p",
    "solution": "First \\boxed{1}. So \\boxed{\\frac{1}{2}}.",
    "level": "Level 3",
    "type": "Algebra",
}


def test_a_row_of_gsm8k():
    assert gsm8k_question(GSM8K_ROW) == Question("How many?", "1,200", "It is 600*2=1200.\n#### 1,200")


def test_a_row_of_omi_or_of_gsm8k_among_them():
    assert omi_question(OMI_ROW) == Question("p", "4", "so \\boxed{4}")
    assert omi_question(GSM8K_ROW) == gsm8k_question(GSM8K_ROW)
    assert OMI.kept.field == "problem_source"


def test_a_row_of_math():
    assert math_question(MATH_ROW) == Question("p", "\\frac{1}{2}", MATH_ROW["solution"], ("level_3", "algebra"))
    assert math_question(MATH_ROW | {"answer": "0.5"}).gold == "0.5"
    row = {"problem": "p", "solution": "\\boxed{7}", "level": 5, "subject": "Counting & Probability"}
    assert math_question(row).categories == ("level_5", "counting_probability")
    assert math_question(row | {"level": "Level ?"}).categories == ("counting_probability",)
    assert math_question({"problem": "p", "solution": "s", "answer": "\\{1\\}"}).categories == ()
    assert math_question(row | {"level": 3.0}).categories == ("level_3", "counting_probability")


@pytest.mark.parametrize(
    ("read", "row", "fault"),
    [
        (gsm8k_question, {"question": "q"}, "no field 'answer', which its data set names"),
        (gsm8k_question, {"qestion": "q", "answer": "#### 1"}, "no field 'question', .* did you mean 'qestion'?"),
        (
            gsm8k_question,
            {"question": " ", "answer": "#### 1"},
            "field 'question' is empty; fill it, or remove the row",
        ),
        (gsm8k_question, {"question": None, "answer": "#### 1"}, "field 'question', .*, is null"),
        (gsm8k_question, {"question": "q", "answer": "7"}, "field 'answer' has #### nowhere; it must stand once"),
        (gsm8k_question, {"question": "q", "answer": "#### 7\n#### 8"}, "field 'answer' has #### 2 times"),
        (
            gsm8k_question,
            {"question": "q", "answer": "so\n#### "},
            "what follows #### in field 'answer' is '', which is",
        ),
        (gsm8k_question, {"question": "q", "answer": "#### seven"}, "is 'seven', which is no number"),
        (omi_question, OMI_ROW | {"expected_answer": "x+1"}, "field 'expected_answer' is 'x\\+1', which is no number"),
        (omi_question, {k: v for k, v in OMI_ROW.items() if k != "problem_source"}, "no field 'problem_source'"),
        (
            math_question,
            MATH_ROW | {"solution": "no box"},
            "neither a field 'answer' nor a \\\\boxed{} in field 'solution'",
        ),
        (math_question, MATH_ROW | {"solution": "\\boxed{}"}, "the last box of field 'solution' is empty"),
        (math_question, MATH_ROW | {"answer": " "}, "field 'answer' is empty"),
        (math_question, MATH_ROW | {"answer": "\\frac{1}{2"}, "field 'answer' is .*, whose braces do not match"),
        (math_question, MATH_ROW | {"answer": "}1{"}, "whose braces do not match"),
        (math_question, MATH_ROW | {"answer": "$\\text{}$"}, "in which nothing is left to compare with"),
        (math_question, MATH_ROW | {"level": 2.5}, "field 'level' is 2.5; it must be a number from 1 to 9"),
        (math_question, MATH_ROW | {"level": float("nan")}, "field 'level' is nan"),
        (math_question, MATH_ROW | {"level": "hard"}, "field 'level' is 'hard'; it must be a number from 1 to 9"),
        (
            math_question,
            MATH_ROW | {"type": 3},
            "field 'subject' \\(or 'type'\\) is 3; it must be the name of a subject",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_the_fix(read, row, fault):
    with pytest.raises(ValueError, match=fault):
        read(row)


@pytest.mark.parametrize("gold", ["\\{1, 2\\}", "\\left\\{1\\right.", "(-\\infty, 3]", "\\text{Evelyn}", "a \\\\ b"])
def test_golds_with_braces_of_their_own_are_fine(gold):
    assert math_question({"problem": "p", "solution": "s", "answer": gold}).gold == gold


def test_names_of_subjects_fit_metrics():
    assert category_name("Counting & Probability") == "counting_probability"
    assert category_name("intermediate_algebra") == category_name("Intermediate Algebra") == "intermediate_algebra"


def test_a_subject_in_any_script_has_a_category():
    assert category_name("Алгебра и Анализ") == "алгебра_и_анализ"
    assert category_name("代数") == "代数"
    assert math_question(MATH_ROW | {"type": "代数"}).categories == ("level_3", "代数")


@pytest.mark.parametrize("subject", ["Level 3", "level_3", "Rewards"])
def test_a_subject_is_never_taken_for_a_level_or_for_the_rewards(subject):
    name = category_name(subject)
    assert name == f"subject_{subject.lower().replace(' ', '_')}"
    assert category_name(name) == name  # a config may name it as it is shown
    assert math_question(MATH_ROW | {"type": subject}).categories == ("level_3", name)


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_templates_of_the_data_sets_name_the_question(name):
    text = "WHAT?"
    filled = Template(DATA_SETS[name].template).fill({"question": text, "problem": text})
    assert filled.startswith("WHAT?\n\nThink step by step, and give the final ")
    assert ("####" in filled) == (name != "math")
    assert ("\\boxed{}" in filled) == (name == "math")


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_data_sets_name_files_of_the_hub(name):
    for path in (DATA_SETS[name].path, DATA_SETS[name].heldout_path):
        assert is_hub_path(path)
        assert path.endswith(SUFFIXES)
