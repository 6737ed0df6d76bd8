import json

import pytest

from badhands.study.prompts import load_prompts


def put(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_file_is_one_prompt_a_line_and_its_ids_do_not_move(tmp_path):
    first = load_prompts(put(tmp_path, "a.txt", "# mine\na hand\n\n  two   hands \n"))
    assert [p.text for p in first] == ["a hand", "two hands"] and first[0].axes == {}
    more = load_prompts(put(tmp_path, "b.txt", "three hands\na hand\ntwo hands\n"))
    assert [p.id for p in more[1:]] == [p.id for p in first] and len({p.id for p in more}) == 3


def test_jsonl_fields_are_axes(tmp_path):
    rows = [{"id": "x1", "prompt": "a hand", "style": "photo", "n": 2}, {"text": "b", "axes": {"style": "oil"}}]
    prompts = load_prompts(put(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert prompts[0].id == "x1" and prompts[0].axes == {"style": "photo", "n": "2"}
    assert prompts[1].axes == {"style": "oil"} and prompts[1].text == "b"


def test_csv_columns_are_axes_and_quotes_work(tmp_path):
    text = 'id,prompt,style\na,"a hand, open",photo\nb,"two\nlines",\n'
    prompts = load_prompts(put(tmp_path, "a.csv", text))
    assert [(p.id, p.text, p.axes) for p in prompts] == [
        ("a", "a hand, open", {"style": "photo"}),
        ("b", "two lines", {}),
    ]
    excel = load_prompts(put(tmp_path, "bom.csv", "\ufeffprompt\na hand\n"))
    assert excel[0].text == "a hand"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "holds no prompts"),
        ("a.txt", "a hand\nb\na hand\n", r"line 3 and .*line 1 have the same prompt"),
        ("a.jsonl", '{"id":"x","prompt":"a"}\n{"id":"x","prompt":"b"}', r"line 2 and .*line 1 have the prompt id 'x'"),
        ("a.jsonl", '{"id":"x"}', r"line 1: the field 'prompt' is missing or empty"),
        ("a.jsonl", '{"prompt":"a"}\n{"prompt":"  "}', r"line 2: the field 'prompt' is missing or empty"),
        ("a.jsonl", '{"prompt":"a"}\nnope', r"line 2: not a JSON object"),
        ("a.jsonl", '{"id":"../x","prompt":"a"}', r"line 1: '../x' cannot be an id"),
        ("a.csv", "id,style\nx,photo\n", r"line 2: the field 'prompt' is missing or empty"),
        ("a.csv", "prompt\na, b\n", r"line 2: more cells than the header has"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        load_prompts(put(tmp_path, name, text))


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.txt: there is no such file"):
        load_prompts(tmp_path / "nowhere.txt")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        load_prompts(tmp_path / "x.txt")
