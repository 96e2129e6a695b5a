"""Readers on made-up files: what becomes of a row, and one line for a row that cannot be read."""

from __future__ import annotations

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.params import Task
from rdslib.tasks.base import READERS
from rdslib.tasks.codex import split_function
from rdslib.tasks.gsm8k import read_templates


def read(reader, *files, seed=1):
    """(queries, tests, note) of a reader."""
    return READERS[reader].read(files, Task(name="T", reader=reader, queries=1, test=1), seed)


def squad_form(*rows):
    """(title, context, id, question, answers) as SQuAD has it, a paragraph and article each."""
    data = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": context,
                    "qas": [{"id": key, "question": asked, "answers": [{"text": text} for text in answers]}],
                }
            ],
        }
        for title, context, key, asked, answers in rows
    ]
    return json.dumps({"version": "1", "data": data}).encode()


def parquet_form(*rows):
    """The same as the hub has it."""
    names = ("title", "context", "id", "question", "answers")
    dicts = [dict(zip(names, row, strict=True)) | {"answers": {"text": row[-1]}} for row in rows]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(dicts), sink)
    return sink.getvalue()


TRAIN = [
    ("A", " Passage one. ", "finnish-1-1", " Who? ", ["I", "me", "I"]),
    ("A", " Passage one. ", "finnish-1-2", "What?", ["It"]),
    ("B", "Passage two.", "korean-2-1", "Where?", ["There"]),
]
DEV = [
    ("C", "Passage three.", "korean-3-1", "When?", ["Now"]),
    ("C", "Passage three.", "finnish-3-2", "Why?", ["So", "Thus"]),
]
WHERE = {"question": "Where?", "context": "Passage two.", "response": "There"}


@pytest.mark.parametrize(("form", "ending"), [(squad_form, "json"), (parquet_form, "parquet")])
def test_tydiqa_takes_one_train_question_a_language(form, ending):
    files = {f"dev.{ending}": form(*DEV), f"goldp-train.{ending}": form(*TRAIN)}
    queries, test, _ = found = read("tydiqa_full", files)
    assert [sample.subtask for sample in queries] == ["finnish", "korean"]
    assert queries[1].id == "korean-2-1"
    assert queries[1].messages == user_assistant("Passage two.\n\nWhere?", "There")
    assert [sample.id for sample in test] == ["korean-3-1", "finnish-3-2"]
    assert test[0].exemplars == [WHERE]
    assert (test[1].context, test[1].question) == ("Passage three.", "Why?")
    assert test[1].references == ["So", "Thus"]
    # The seed draws, and the same seed draws the same.
    drawn = {read("tydiqa_full", files, seed=seed)[0][0].id for seed in range(9)}
    assert drawn == {"finnish-1-1", "finnish-1-2"}
    assert read("tydiqa_full", files) == found


def test_tydiqa_needs_both_splits_of_the_same_data():
    with pytest.raises(UserError, match="needs a file with train in its name and one without; pin both"):
        read("tydiqa_full", {"dev.json": squad_form(*DEV)})
    thai = squad_form(("D", "Passage.", "thai-1-1", "Who?", ["I"]))
    with pytest.raises(UserError, match="no question in 'thai', which thai-1-1 is in; pin both"):
        read("tydiqa_full", {"dev.json": thai, "train.json": squad_form(*TRAIN)})


def test_xquad_keeps_the_first_question_of_each_language():
    files = {f"xquad.{language}.json": squad_form(*TRAIN) for language in ("de", "th")}
    queries, test, note = read("xquad_full", files)
    assert [sample.id for sample in queries] == ["de/finnish-1-1", "th/finnish-1-1"]
    assert [sample.subtask for sample in test] == ["de", "de", "th", "th"]
    assert test[0].exemplars == [{"question": "Who?", "context": "Passage one.", "response": "I"}]
    assert "4 of 6 are tested" in note


def test_squad_takes_queries_from_the_front_or_from_the_train_set():
    sizes = {"A": 300, "B": 200, "C": 7}
    rows = [(name, f"{name} {at}", f"{name}/{at}", "?", ["I"]) for name in sizes for at in range(sizes[name])]
    dev = {"top/benchmark_tasks/squad_shifts/squaddev_v1.1.json": squad_form(*rows)}
    queries, test, note = read("squad_full", dev)
    assert {sample.subtask for sample in queries} == {"A", "B"}
    assert [sample.id for sample in test] == [f"C/{at}" for at in range(7)]
    assert "507 of 10570 questions" in note
    assert "(2 of 3), so that 7 are tested" in note
    assert all([each["context"] for each in s.exemplars] == ["A 0", "A 1", "A 2"] for s in test)
    queries, test, note = read("squad_full_train", dev, {"train-v1.1.json": squad_form(*TRAIN)})
    assert [sample.id for sample in queries] == ["finnish-1-1", "finnish-1-2", "korean-2-1"]
    assert queries[0].references == ["I", "me"]
    assert len(test) == 507
    assert [each["question"] for each in test[0].exemplars] == ["Who?", "Where?"]
    assert "from its train set, as the paper's are" in note


def test_the_small_squad_halves_the_articles_and_leaves_long_passages_out():
    passages = [("short", ""), ("long", "x" * 600), ("other", "")]
    rows = [
        (title, f"{title} {name}{end}", f"{title}/{name}", "?", ["I"])
        for title in "ABCDEFGH"
        for name, end in passages
    ]
    halves = set()
    for seed in range(9):
        queries, test, _ = read("squad", {"squaddev_v1.1.json": squad_form(*rows)}, seed=seed)
        titles = list(dict.fromkeys(sample.subtask for sample in queries))
        assert len(titles) == 4
        assert len(queries) == len(test) == 8
        assert set(titles).isdisjoint(sample.subtask for sample in test)
        shown = [each["context"] for each in test[0].exemplars]
        assert shown == [f"{title} short" for title in reversed(titles[:3])]
        halves.add("".join(titles))
    assert len(halves) > 1


COT = {"gsm8k-cot.yaml": yaml.safe_dump(
    {"fewshot_config": {"samples": [{"question": "1+1?", "target": "The answer is 2."}]}}
).encode()}  # fmt: skip
PROMPTS = "Canary.\n-----\nDo it.\n" + "".join(
    f"\nQ: Question {at}\nA: Let's think step by step. \nThought. So the answer is {at}.\n" for at in range(3)
)
BBH = {
    "bbh/one.json": json.dumps({"examples": [{"input": "Question 4", "target": "4"}]}).encode(),
    "cot-prompts/one.txt": PROMPTS.encode(),
}
MMLU = b'question,choice0,choice1,choice2,choice3,answer\n"Which, ""really""?", a,b,c,d,2\n'


def test_gsm8k_answers_in_sentences_without_the_calculators_marks():
    row = b'{"question": "Q?", "answer": "a\\n2*3=<<2*3=6>>6 b\\n#### 6,000"}'
    queries, (sample,), _ = read("gsm8k_full", COT, {"test.jsonl": row})
    assert sample.messages == user_assistant("Question: Q?\nAnswer:", "a. 2*3=6 b. The answer is 6000.")
    assert sample.gold == " a. 2*3=6 b. The answer is 6000."
    assert sample.references == ["6000"]
    assert sample.exemplars == [{"question": "1+1?", "context": "", "response": "The answer is 2."}]
    asked = "Answer the following question.\n\nQuestion: 1+1?"
    assert queries[0].messages == user_assistant(asked, "Answer: The answer is 2.")


TEMPLATE = b"""
import math
def generate_0(rng: Random, difficulty: float = 1.0) -> dict[str, Any]:
    def inner(a: int) -> dict:
        return {"question": f"{a:.1f}", "rest": [each ** 2 for each in range(a)]}
    from math import gcd
    BODY
    return inner(gcd(12, rng.randint(8, 8)))
"""


def test_a_template_computes_and_does_nothing_else(tmp_path):
    (function,) = read_templates(TEMPLATE.replace(b"BODY", b"a = eval('1/2')")).values()
    assert function(random.Random(1)) == {"question": "4.0", "rest": [0, 1, 4, 9]}
    # Refused when it is read, or it asks for what it has not been given.
    witness = tmp_path / "witness"
    for body in (
        "().__class__.__base__.__subclasses__()",
        "(lambda: 0)()",
        "'{0.__class__}'.format(rng)",
        "math.os",
        "rng.seed.__globals__",
        "class A: pass",
        "try: inner(1)\n    except ValueError: pass",
        "global gcd",
        "import os; os.mkdir({witness!r})",
        "open({witness!r}, 'w')",
        "__import__('os').mkdir({witness!r})",
        'eval("open({witness!r})")',
        "getattr(rng, 'seed')",
    ):
        source = TEMPLATE.replace(b"BODY", body.replace("{witness!r}", repr(str(witness))).encode())
        with pytest.raises((ValueError, NameError)):
            read_templates(source)["generate_0"](random.Random(1))
    assert not witness.exists()


def test_bbh_asks_for_the_answer_after_what_the_subtask_asks_for():
    queries, (sample,), _ = read("bbh_full", BBH)
    assert sample.messages[0]["content"] == "Do it.\n\nQ: Question 4\nA:"
    assert (sample.context, sample.references, sample.subtask) == ("Do it.", ["4"], "one")
    assert [each["response"] for each in sample.exemplars][2] == "Thought. So the answer is 2."
    assert sample.gold == " 4"
    thought = "Let's think step by step.\nThought. So the answer is 0."
    assert queries[0].messages == user_assistant("Do it.\n\nQ: Question 0", thought)
    fewer = {**BBH, "cot-prompts/one.txt": PROMPTS.replace("\nA: Let's think", "\nA: Think", 1).encode()}
    with pytest.raises(
        UserError, match=r"cot-prompts/one\.txt: .*2 exemplars with a chain of thought, not 3"
    ):
        read("bbh_full", fewer)


def test_mmlu_lists_four_choices_below_its_subject():
    files = {"dev/high_school_art_dev.csv": MMLU, "test/high_school_art_test.csv": MMLU}
    (query,), (sample,), _ = read("mmlu_full", files)
    assert sample.question == 'Which, "really"?\nA. a\nB. b\nC. c\nD. d'
    assert f"about  high school art.\n\n{sample.question}\nAnswer:" in sample.messages[0]["content"]
    assert (sample.subtask, sample.answer, sample.references) == ("high_school_art", 2, ["C"])
    assert (sample.gold, sample.messages[1]["content"]) == (" C", "C")
    assert query.messages == user_assistant(sample.messages[0]["content"], "The answer is: C")


def test_mmlus_lost_latex_commands_are_found_again():
    lost = "Has $\nactorial{n}$, $\x0crac{1}{2}$, $\nrac{1}{2}$, S \nightarrow [0\right]; new\nline, ra\nise."
    row = f"{lost}\n(A) 1 (B) $\x0crac{{1}}{{3}}$ (C) 3 (D) 4\nA: Let's think. The answer is (B)."
    text = json.dumps({"algebra": f"About algebra.\n\nQ: {row}"}).encode()
    ((sample,), _, _) = read("mmlu_dev", {"_cot_prompts.json": text})
    found = r"Has $\factorial{n}$, $\frac{1}{2}$, $\frac{1}{2}$, S \rightarrow [0\right];"
    assert sample.question == f"{found} new\nline, ra\nise.\nA. 1\nB. $\\frac{{1}}{{3}}$\nC. 3\nD. 4"


def test_a_function_is_split_at_its_docstring():
    before = "import math\n\n\ndef f(a: int, b=2) -> int:\n    import os\n"
    prompt = f'{before}    """Do it.\n\n    Well.\n    """\n'
    assert split_function(prompt, "f") == ("f(a: int, b=2) -> int", before, "Do it.\n\nWell.")


FILES = {
    "alpaca_full": lambda data: [{"model_outputs.json": data}],
    "bbh_full": lambda data: [{**BBH, "bbh/one.json": data}],
    "codex_full": lambda data: [{"HumanEval.jsonl.gz": data}],
    "gsm8k_full": lambda data: [COT, {"test.jsonl": data}],
    "mmlu_full": lambda data: [{"test/one_test.csv": data}],
    "squad_full": lambda data: [{"squaddev_v1.1.json": data}],
    "tydiqa_full": lambda data: [{"train.parquet": data}],
    "xquad_full": lambda data: [{"xquad.de.json": data}],
}
DO = b'{"instruction": "Do", "output": "ok"}'


@pytest.mark.parametrize(
    ("reader", "data", "expected"),
    [
        ("alpaca_full", b"[" + DO + b', {"instruction": "Do"}]', "row 2.*no 'output'"),
        ("alpaca_full", b'[{"instruction": " ", "output": "ok"}]', "row 1.*no instruction"),
        ("alpaca_full", b'[{"instruction": 5, "output": "ok"}]', "row 1.*instruction is not a text"),
        ("alpaca_full", b"[", r"model_outputs\.json: cannot be read \(Expecting value"),
        ("bbh_full", b'{"examples": [{"input": "x"}]}', r"bbh/one\.json: example 1: .*no 'target'"),
        ("bbh_full", b'{"rows": []}', r"bbh/one\.json: .*no 'examples'"),
        ("codex_full", b"plain", r"HumanEval\.jsonl\.gz: .*gzip"),
        ("gsm8k_full", b'{"question": "Q", "answer": "5"}', r"test\.jsonl: row 1: .*no number after ####"),
        ("gsm8k_full", b'{"question": "Q", "answer": "x #### many"}', "row 1: .*no number after ####"),
        ("gsm8k_full", b"[1]", "row 1"),
        ("mmlu_full", b"a,b\n", r"test/one_test\.csv: .*the header is not question,choice0"),
        ("mmlu_full", b"", r"test/one_test\.csv: cannot be read"),
        ("mmlu_full", b"\xff", "codec can't decode"),
        ("mmlu_full", MMLU + b"q,a,b,c,d\n", "row 2: .*not a question, four choices"),
        ("mmlu_full", MMLU + b"q,a,b,c,d,4\n", "row 2: .*'4' is not in list"),
        ("squad_full", squad_form(*DEV, ("A", "C", "2", "Q?", [])), "question 3: .*no answer"),
        ("squad_full", b'{"data": []}', "has no questions"),
        ("squad_full", b'{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "no 'answers'"),
        ("tydiqa_full", b"plain", r"train\.parquet: cannot be read"),
        ("xquad_full", b'{"data": 5}', r"xquad\.de\.json: cannot be read"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named(reader, data, expected):
    with pytest.raises(UserError, match=f"^task 'T': .*{expected}") as error:
        read(reader, *FILES[reader](data))
    assert "\n" not in str(error.value)


def test_squad_is_read_as_the_hub_has_it():
    files = {
        "plain_text/train-00000-of-00001.parquet": parquet_form(*TRAIN),
        "plain_text/validation-00000-of-00001.parquet": parquet_form(*DEV),
    }
    queries, test, _ = read("squad_hub", files)
    assert [sample.id for sample in queries] == [row[2] for row in TRAIN]
    assert [sample.id for sample in test] == [row[2] for row in DEV]
    assert [each["question"] for each in test[0].exemplars] == ["Who?", "Where?"]


def test_wildchat_gives_the_first_exchanges_that_are_not_toxic():
    def turns(*said):
        roles = ("user", "assistant") * 2
        both = zip(roles, said, strict=False)
        return [{"role": role, "content": text, "language": "English", "toxic": False} for role, text in both]

    rows = [
        {"conversation": turns(" Hi? ", "Ho.", "Really?", "Yes."), "toxic": False, "model": "gpt-4"},
        {"conversation": turns("Bad?", "Bad."), "toxic": True, "model": "gpt-4"},
        {"conversation": turns("Silent?", ""), "toxic": False, "model": "gpt-4"},
        {"conversation": turns("Alone?"), "toxic": False, "model": "gpt-4"},
        {"conversation": turns("And?", "So."), "toxic": False, "model": "gpt-4"},
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    name = "data/train-00000-of-00014.parquet"
    queries, test, _ = read("wildchat", {name: sink.getvalue()})
    assert [each.messages for each in queries] == [
        user_assistant("Hi?", "Ho."),
        user_assistant("And?", "So."),
    ]
    assert test == []
    with pytest.raises(UserError, match=r"data/train-00000-of-00014.parquet: cannot be read"):
        read("wildchat", {name: b"no Parquet"})


def test_arena_hard_joins_questions_and_answers_by_their_ids():
    def lines(rows):
        return "".join(json.dumps(each) + "\n" for each in rows).encode()

    questions = [{"uid": key, "prompt": f"{key}? ", "cluster": "c"} for key in "ab"]
    answers = [
        {"uid": key, "messages": [{"role": "user", "content": f"{key}?"},
                                  {"role": "assistant", "content": {"answer": f" {key}! "}}]}
        for key in "ba"
    ]  # fmt: skip
    files = {"question.jsonl": lines(questions), "model_answer/gpt-4-0613.jsonl": lines(answers)}
    queries, test, _ = read("arena_hard", files)
    assert [each.messages for each in queries] == [user_assistant("a?", "a!"), user_assistant("b?", "b!")]
    assert test == []
    with pytest.raises(UserError, match=r"question.jsonl: line 2: cannot be read \(no 'b'\)"):
        read("arena_hard", {**files, "model_answer/gpt-4-0613.jsonl": lines(answers[1:])})
