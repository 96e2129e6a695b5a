"""What a response scores."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.evaluation import metrics


@pytest.mark.parametrize(
    ("response", "reference", "score"),
    [
        ("So 3 + 4 = 7. The answer is 7.", "7", 1),
        ("The answer is $1,234.50", "1234.5", 1),
        ("It costs 5 dollars, not 6", "5", 0),
        ("It is -3", "-3", 1),
        ("It is .5", "0.5", 1),
        ("1,000,000.", "1000000", 1),
        ("no number at all", "5", 0),
        ("", "5", 0),
    ],
)
def test_the_last_number_counts(response, reference, score):
    assert metrics.last_number({"references": [reference]}, [response]) == {"score": score}


@pytest.mark.parametrize(
    ("response", "reference", "score"),
    [
        ("First this. So the answer is (A).", "(A)", 1),
        ("the answer is No. Wait, the answer is Yes.", "Yes", 1),
        ("So the answer is valid", "valid", 1),
        ("So the answer is ] ] ).", "] ] )", 1),
        ('The answer is "yes".', "yes", 1),
        ("(B)", "(B)", 1),
        ("So the answer is (A) or (B).", "(A)", 0),
        ("", "(A)", 0),
        ("So the answer is 4.\n\nAnd so on", "4", 1),
    ],
)
def test_what_follows_the_answer_is_counts(response, reference, score):
    assert metrics.after_the_answer_is({"references": [reference]}, [response]) == {"score": score}


# By the definitions of SQuAD 1.1's official script.
@pytest.mark.parametrize(
    ("answer", "references", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel Tower"], 1),
        ("An apple, a day!", ["apple day"], 1),
        ("Paris", ["London", "paris."], 1),
        ("in the city of Paris", ["Paris"], 2 * (1 / 4) / (1 / 4 + 1)),
        ("a cat sat", ["cat cat"], 2 * (1 / 2) * (1 / 2)),
        ("", [""], 1),
        ("", ["x"], 0),
        ("the", ["a"], 1),
        ("the", ["x"], 0),
        ("東京", ["東京"], 1),
        ("東京 都", ["東京"], 2 * (1 / 2) / (1 / 2 + 1)),
        ("東京、日本", ["東京"], 0),
        ("¿Qué?", ["Qué"], 0),
        ("theatre", ["atre"], 0),
        ("1,000", ["1000"], 1),
        ("U.S.", ["US"], 1),
        # Only the first line counts.
        ("\n Paris\n\nQuestion", ["Paris"], 1),
        ("\n", ["Paris"], 0),
    ],
)
def test_answers_are_compared_as_squad_does(answer, references, f1):
    assert metrics.f1_of_answers({"references": references}, [answer]) == {"score": pytest.approx(f1)}


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_mean_over_all_choices(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    passed = [True] * correct + [False] * (n - correct)
    drawn = [any(each) for each in itertools.combinations(passed, k)]
    assert metrics.pass_at(n, correct, k) == pytest.approx(sum(drawn) / len(drawn))


def test_pass_at_k_needs_k_programs():
    with pytest.raises(ValueError, match="pass@10 needs 10 programs, and there are 9"):
        metrics.pass_at(9, 1, 10)


def test_programs_are_run_with_their_test():
    row = {
        "program": "def double(x):\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
    wrong, right = "    return x\n", "    return 2 * x\n"
    assert metrics.pass_at_10(row, [[wrong] * 9 + [right]]) == {"score": 1}
    assert metrics.pass_at_10(row, [[wrong] * 10]) == {"score": 0}
