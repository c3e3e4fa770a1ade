"""Readers of question answering sets, on invented records in each official form."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core.assets import DATA
from pgvl_core.evaluation import qa_sets
from pgvl_core.evaluation.qa_sets import Prediction, read_predictions, write_predictions
from pgvl_core.evaluation.samples import AnnotationError
from pgvl_core.toyworld import make_clip
from pgvl_core.toyworld_formats import video_instruct, write_dataset

FORMS = DATA / "annotations"
NONE = FORMS / "no videos here"
MAPPING = FORMS / "msvd_youtube_mapping.txt"
READERS = {
    "msvd_qa.json": lambda path, videos=NONE: qa_sets.msvd_qa(path, videos, MAPPING),
    "msrvtt_qa.json": lambda path, videos=NONE: qa_sets.msrvtt_qa(path, videos),
    "tgif_frameqa.csv": lambda path, videos=NONE: qa_sets.tgif_qa(path, videos),
    "activitynet_q.json": lambda path, videos=NONE: qa_sets.activitynet_qa(
        path, FORMS / "activitynet_a.json", videos
    ),
    "videochatgpt_generic.json": lambda path, videos=NONE: qa_sets.video_chatgpt(
        path, videos, "generic"
    ),
    "videochatgpt_temporal.json": lambda path, videos=NONE: qa_sets.video_chatgpt(
        path, videos, "temporal"
    ),
    "videochatgpt_consistency.json": lambda path, videos=NONE: qa_sets.video_chatgpt(
        path, videos, "consistency"
    ),
}


@pytest.fixture
def written(tmp_path):
    """Writes a content as JSON and gives its path."""

    def write(content, name="annotations.json"):
        path = tmp_path / name
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


# ------------------------------------------------------------------------------------- each form
READ = {  # by hand, from the files: id, video, questions, answer, kind
    "msvd_qa.json": [
        ("31", "mower_10_15.avi", ("what does a woman cut?",), "grass", "what"),
        ("32", "mower_10_15.avi", ("who cuts the grass?",), "woman", "who"),
        ("33", "dogs_0_9.avi", ("how many dogs run?",), "two", "how"),
    ],
    "msrvtt_qa.json": [
        ("5", "video7010.mp4", ("where does a boat float?",), "lake", "where"),
        ("6", "video7011.mp4", ("who sings?",), "man", "who"),
    ],
    "tgif_frameqa.csv": [
        ("FRAMEQA7", "boy_kite_250.gif", ("what does the boy hold ?",), "kite", "object"),
        ("FRAMEQA8", "boy_kite_250.gif", ("what is the color of the kite ?",), "red", "colour"),
        ("FRAMEQA9", "cat_sill_400.gif", ("how many cats sit there ?",), "three", "number"),
    ],
    "activitynet_q.json": [
        ("v_skier00001_1", "v_skier00001.mp4", ("is the skier outside",), "yes", "yes/no"),
        (
            "v_skier00001_2",
            "v_skier00001.mp4",
            ("what is the color of the jacket",),
            "green",
            "colour",
        ),
        (
            "v_cook000002_1",
            "v_cook000002.mp4",
            ("what happens after the egg is cracked",),
            "it is stirred",
            "temporal relation",
        ),
    ],
    "videochatgpt_generic.json": [
        (
            "0",
            "v_kitchen.mp4",
            ("What is the man doing in the kitchen?",),
            "He peels an apple and cuts it into slices.",
            "generic",
        ),
        (
            "1",
            "v_river.mp4",
            ("What does the river look like?",),
            "It is wide and calm, and trees grow on both sides.",
            "generic",
        ),
    ],
    "videochatgpt_temporal.json": [
        (
            "0",
            "v_kitchen.mp4",
            ("What does the man do after he has peeled the apple?",),
            "He cuts it into slices.",
            "temporal",
        )
    ],
    "videochatgpt_consistency.json": [
        (
            "0",
            "v_kitchen.mp4",
            ("What fruit does the man peel?", "Which fruit is peeled in the kitchen?"),
            "An apple.",
            "consistency",
        )
    ],
}


@pytest.mark.parametrize("form", READ)
def test_each_form(form):
    samples = READERS[form](FORMS / form)
    assert [(s.id, s.video.name, s.questions, s.answer, s.kind) for s in samples] == READ[form]
    assert {s.video.parent for s in samples} == {NONE}


@pytest.mark.parametrize("form", READ)
def test_a_video_is_found_in_any_folder_and_container(form, tmp_path):
    name = READ[form][0][1]
    where = (tmp_path / "deep" / name).with_suffix(".mkv")
    where.parent.mkdir()
    where.touch()
    assert READERS[form](FORMS / form, tmp_path)[0].video == where
    official = tmp_path / name
    official.touch()
    assert READERS[form](FORMS / form, tmp_path)[0].video == official


def test_answers_of_activitynet_are_joined_by_id_and_not_by_place(written):
    """The official inference takes the answer at the question's place, whatever it belongs to."""
    turned = written(json.loads((FORMS / "activitynet_a.json").read_text())[::-1])
    samples = qa_sets.activitynet_qa(FORMS / "activitynet_q.json", turned, NONE)
    assert [s.answer for s in samples] == ["yes", "green", "it is stirred"]


def test_toyworld_is_read_by_the_same_face(tmp_path):
    clips = [make_clip(seed, frames=16, height=64, width=64) for seed in range(2)]
    write_dataset(clips, tmp_path)
    samples = qa_sets.video_instruct(tmp_path / "video_instruct.json", tmp_path)
    items = [item for clip in clips for item in video_instruct(clip)]
    assert [(s.video.stem, *s.questions, s.answer) for s in samples] == [
        (item["video_id"], item["q"], item["a"]) for item in items
    ]
    assert all(s.video.is_file() for s in samples)
    for clip in clips:
        told = qa_sets.from_clip(clip, tmp_path / "video")
        assert [(*s.questions, s.answer, s.kind) for s in told] == [
            (q.question, q.answer, q.kind) for q in clip.qa
        ]
        assert {s.video for s in told} == {tmp_path / "video" / f"{clip.name}.mp4"}
        assert len({s.id for s in told}) == len(told)


# ---------------------------------------------------------------------------- what is malformed
def load(form):
    if form.endswith(".csv"):
        with (FORMS / form).open(newline="") as stream:
            return list(csv.DictReader(stream, delimiter="\t"))
    return json.loads((FORMS / form).read_text(encoding="utf-8"))


def write_form(content, form, folder):
    path = folder / form
    if form.endswith(".csv"):
        with path.open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(load(form)[0]), delimiter="\t")
            table.writeheader()
            table.writerows(content)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


NEEDED = [
    ("msvd_qa.json", ["id", "video_id", "question", "answer"]),
    ("msrvtt_qa.json", ["id", "video_id", "question", "answer"]),
    ("activitynet_q.json", ["video_name", "question", "question_id"]),
    ("videochatgpt_generic.json", ["video_name", "Q", "A"]),
    ("videochatgpt_temporal.json", ["video_name", "Q", "A"]),
    ("videochatgpt_consistency.json", ["video_name", "Q1", "Q2", "A"]),
]


@pytest.mark.parametrize(("form", "key"), [(form, key) for form, keys in NEEDED for key in keys])
def test_a_record_that_lacks_something_is_named(form, key, tmp_path):
    content = load(form)
    del content[-1][key]
    path = write_form(content, form, tmp_path)
    with pytest.raises(AnnotationError, match=rf"{form}: record {len(content) - 1} .*'{key}'"):
        READERS[form](path)


@pytest.mark.parametrize("form", [form for form in READ if form != "videochatgpt_temporal.json"])
def test_an_empty_question_and_a_double_id_are_named(form, tmp_path):
    content = load(form)
    key = next(key for key in content[0] if key.lower() in ("question", "q", "q2"))
    empty = write_form([content[0] | {key: " "}, *content[1:]], form, tmp_path)
    with pytest.raises(AnnotationError, match=rf"{form}: record 0 .*' '"):
        READERS[form](empty)
    if "videochatgpt" not in form:  # which has no ids
        double = write_form([*content, content[1]], form, tmp_path)
        with pytest.raises(AnnotationError, match=rf"{form}: record {len(content)} .*another"):
            READERS[form](double)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": 3}, "record 1 .*answer of it is 3"),
        ({"answer": None}, "record 1 .*answer of it is None"),
        ({"question": 3}, "record 1 is malformed"),
        ({"video_id": 99}, "record 1 .*99"),
    ],
)
def test_a_record_of_the_wrong_types_is_named(written, change, words):
    content = load("msvd_qa.json")
    content[1] |= change
    with pytest.raises(AnnotationError, match=rf"annotations\.json: {words}"):
        READERS["msvd_qa.json"](written(content))


@pytest.mark.parametrize("change", [{"type": 4}, {"type": -1}, {"type": "x"}, {"key": ""}])
def test_a_malformed_row_of_tgif_is_named(tmp_path, change):
    rows = load("tgif_frameqa.csv")
    rows[2] |= change
    with pytest.raises(AnnotationError, match=r"csv: record 2 is malformed"):
        READERS["tgif_frameqa.csv"](write_form(rows, "tgif_frameqa.csv", tmp_path))


def test_a_row_of_another_length_is_named(tmp_path):
    lines = (FORMS / "tgif_frameqa.csv").read_text().splitlines()
    path = tmp_path / "rows.csv"
    for row in (lines[2].rsplit("\t", 1)[0], lines[2] + "\tmore"):
        path.write_text("\n".join([*lines[:2], row]) + "\n")
        with pytest.raises(AnnotationError, match=r"record 1 .*columns"):
            qa_sets.tgif_qa(path, NONE)
    path.write_text("\n".join(line.replace("\t", ",") for line in lines))
    with pytest.raises(AnnotationError, match="record 0"):
        qa_sets.tgif_qa(path, NONE)


def test_an_answer_of_activitynet_that_is_not_there_or_of_no_type_is_named(written):
    answers = load("activitynet_a.json")
    with pytest.raises(AnnotationError, match=r"activitynet_q\.json: record 1 .*v_skier00001_2"):
        qa_sets.activitynet_qa(FORMS / "activitynet_q.json", written(answers[:2]), NONE)
    for wrong in (9, "3", True):
        answers[1]["type"] = wrong
        with pytest.raises(AnnotationError, match=r"annotations\.json: record 1 .*type"):
            qa_sets.activitynet_qa(FORMS / "activitynet_q.json", written(answers), NONE)


@pytest.mark.parametrize("content", ["mower 1301 more", "mower thirteen"])
def test_a_malformed_mapping_is_named(tmp_path, content):
    path = tmp_path / "mapping.txt"
    path.write_text(f"dogs vid1302\n{content}\n")
    with pytest.raises(AnnotationError, match=r"mapping\.txt: line 2"):
        qa_sets.msvd_qa(FORMS / "msvd_qa.json", NONE, path)


@pytest.mark.parametrize("form", [form for form in READ if form.endswith("json")])
@pytest.mark.parametrize("content", [{}, [], 3, ["text"], [[1]]])
def test_a_file_of_something_else_is_refused(form, content, written):
    with pytest.raises(AnnotationError, match=r"annotations\.json"):
        READERS[form](written(content))


@pytest.mark.parametrize("form", READ)
def test_a_file_that_is_not_there_is_named(form, tmp_path):
    with pytest.raises(AnnotationError, match=r"none\.here"):
        READERS[form](tmp_path / "none.here")


def test_the_benchmark_taken_for_another_of_its_files():
    with pytest.raises(AnnotationError, match=r"consistency\.json: record 0 has no 'Q'"):
        qa_sets.video_chatgpt(FORMS / "videochatgpt_consistency.json", NONE, "generic")
    with pytest.raises(ValueError, match="temporal"):
        qa_sets.video_chatgpt(FORMS / "videochatgpt_generic.json", NONE, "detail")


# ------------------------------------------------------------------------------------ predictions
def official(form):
    """What the official inference writes for a form's first sample, which it answers "grass"."""
    first = load(form)[0]
    if form == "activitynet_q.json":
        return {
            "id": first["question_id"],
            "question": first["question"],
            "answer": "yes",
            "pred": "grass",
        }
    if form == "tgif_frameqa.csv":  # pandas reads these two as numbers
        return first | {"type": int(first["type"]), "key": int(first["key"]), "pred": "grass"}
    if form == "videochatgpt_consistency.json":
        return first | {"pred1": "grass", "pred2": "grass too"}
    return first | {"pred": "grass"}


@pytest.mark.parametrize("form", READ)
def test_predictions_are_written_and_read_in_the_official_form(form, tmp_path):
    samples = READERS[form](FORMS / form)
    first = samples[0]
    said = [Prediction(first.id, ["grass", "grass too"][: len(first.questions)])]
    said += [Prediction(each.id, [], "its video cannot be read") for each in samples[1:2]]
    path = tmp_path / "predictions.json"
    assert write_predictions(path, samples, said) == [each.id for each in samples[1:]]
    assert json.loads(path.read_text()) == [official(form)]
    assert read_predictions(path, samples) == said[:1]


@given(st.lists(st.text(), min_size=3, max_size=3))
def test_no_letter_of_a_prediction_is_lost(tmp_path_factory, texts):
    """The official inference strips the letters of "</s>" from the end: "yes" becomes "ye"."""
    path = tmp_path_factory.mktemp("predictions") / "predictions.json"
    samples = READERS["msvd_qa.json"](FORMS / "msvd_qa.json")
    said = [Prediction(s.id, [text]) for s, text in zip(samples, texts, strict=True)]
    write_predictions(path, samples, said)
    assert read_predictions(path, samples) == said


def test_predictions_of_something_else_are_named(written):
    samples = READERS["msvd_qa.json"](FORMS / "msvd_qa.json")
    right = official("msvd_qa.json")
    wrong = [
        (right | {"question": "who?"}, "none of the samples"),
        (right, "once too often"),
        ({key: value for key, value in right.items() if key != "pred"}, "'pred'"),
        (load("msvd_qa.json")[1] | {"pred": None}, "None"),
    ]
    for record, words in wrong:
        first = [] if "pred" not in record else [right]
        path = written([*first, record])
        with pytest.raises(AnnotationError, match=rf"record {len(first)} .*{words}"):
            read_predictions(path, samples)


def test_of_two_records_that_are_the_same_each_has_its_prediction(written):
    """The benchmark has no ids, and asks the same twice here and there."""
    generic = load("videochatgpt_generic.json")[:1] * 2
    samples = READERS["videochatgpt_generic.json"](written(generic, "twice.json"))
    path = written([each | {"pred": text} for each, text in zip(generic, "ab", strict=True)])
    assert [(p.id, p.texts) for p in read_predictions(path, samples)] == [
        ("0", ["a"]),
        ("1", ["b"]),
    ]
