"""Asking a model and a judge about many samples, with what goes wrong in between."""

import json
import math

import pytest

from pgvl_core.evaluation.judges import Verdict, exact
from pgvl_core.evaluation.qa_runner import PATIENCE, answer, judge
from pgvl_core.evaluation.qa_sets import Prediction, QASample

SETUP = {"model": "pocket"}


def question(number, folder, kind="object", questions=("what is there?",), answer="dog"):
    return QASample(
        str(number), folder / f"video{number // 2}.mp4", questions, answer, kind, {"id": number}
    )


@pytest.fixture
def samples(tmp_path):
    """Six, of three videos that are there."""
    made = [question(i, tmp_path, kind="object" if i % 2 else "count") for i in range(6)]
    for each in made:
        each.video.touch()
    return made


class Asked:
    """A model that answers with the video's name, and knows what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, video, text):
        self.calls.append((video.stem, text))
        return f"{video.stem} {text}"


def said(samples, text="dog"):
    return [Prediction(each.id, [text] * len(each.questions)) for each in samples]


# ------------------------------------------------------------------------------------------ answer
def test_every_question_is_asked_of_its_own_video(samples, tmp_path):
    both = question(6, tmp_path, questions=("what barks?", "who barks?"))
    both.video.touch()
    found = answer([*samples, both], Asked(), tmp_path / "out.jsonl", SETUP)
    assert [p.texts for p in found[:6]] == [[f"video{i // 2} what is there?"] for i in range(6)]
    assert found[6].texts == ["video3 what barks?", "video3 who barks?"]


def test_a_missing_video_is_counted_and_no_other_is_taken_for_it(samples, tmp_path):
    """The official inference goes on with the frames of the video before."""
    samples[2].video.unlink()
    asked = Asked()
    with pytest.warns(UserWarning, match=r"videos: 1 \(video1\.mp4\), and with them 2 of 6"):
        found = answer(samples, asked, tmp_path / "out.jsonl", SETUP)
    assert [video for video, _ in asked.calls] == ["video0", "video0", "video2", "video2"]
    assert [each.id for each in found] == ["0", "1", "4", "5"]
    judged = judge(samples, found, exact, tmp_path / "judged.jsonl", {})
    assert [each.id for each in judged.missing] == ["2", "3"]
    assert judged.summary()[0]["samples"] == 4
    assert "2 without a prediction" in repr(judged)


@pytest.mark.parametrize("text", ["yes", "grass", "</s>", " as is \n", "", "\N{DOG}"])
def test_an_answer_is_kept_letter_for_letter(samples, tmp_path, text):
    """The official inference strips the letters of "</s>" from the end of an answer."""
    out = tmp_path / "out.jsonl"
    first = answer(samples, lambda video, question: text, out, SETUP)
    assert first == answer(samples, None, out, SETUP) == said(samples, text)


def test_a_video_that_cannot_be_read_has_no_answer_and_counts_as_wrong(samples, tmp_path):
    def ask(video, text):
        if video.stem == "video1":
            raise ValueError(f"{video.name}: cut short")
        return "a dog"

    found = answer(samples, ask, tmp_path / "out.jsonl", SETUP)
    assert found[2] == Prediction("2", [], "video1.mp4: cut short")
    judged = judge(samples, found, exact, tmp_path / "judged.jsonl", {})
    row = judged.summary()[0]
    assert (row["samples"], row["judged"], row["no answer"]) == (6, 4, 2)
    assert row["accuracy"] == pytest.approx(4 / 6)
    assert row["score"] == pytest.approx(20 / 6)
    assert judged.verdicts[2].errors == ["video1.mp4: cut short"]


def test_a_mistake_in_the_program_ends_the_run_and_keeps_what_is_done(samples, tmp_path):
    out, asked = tmp_path / "out.jsonl", Asked()

    def ask(video, text):
        if video.stem == "video2":
            raise KeyError("frames")
        return asked(video, text)

    with pytest.raises(KeyError):
        answer(samples, ask, out, SETUP)
    rest = Asked()
    found = answer(samples, rest, out, SETUP)
    assert len(asked.calls) + len(rest.calls) >= 6
    assert ("video2", "what is there?") in rest.calls
    assert [each.id for each in found] == list("012345")


def test_answers_of_another_model_are_not_mixed_in(samples, tmp_path):
    out = tmp_path / "out.jsonl"
    answer(samples, Asked(), out, SETUP)
    with pytest.raises(ValueError, match="model was 'pocket', is 'paper'"):
        answer(samples, Asked(), out, {"model": "paper"})
    with pytest.raises(ValueError, match="samples was"):
        answer(samples[1:], Asked(), out, SETUP)


# ------------------------------------------------------------------------------------------- judge
def test_summary_by_hand(tmp_path):
    """Of video0: right, wrong; of video1: right, and one that the judge could not judge."""
    chosen = [question(i, tmp_path, kind="object" if i < 3 else "count") for i in range(4)]
    scores = {"0": (True, 4.8), "1": (False, 1.5), "2": (True, 5.0)}

    def one(sample, answers):
        if sample.id in scores:
            return Verdict(sample.id, *scores[sample.id])
        return Verdict(sample.id, None, None, "unparsable", ["yes!"], ["no dictionary"])

    judged = judge(chosen, said(chosen), one, tmp_path / "out.jsonl", {})
    overall, count, object_ = judged.summary()
    assert overall["kind"] == "all"
    assert (overall["samples"], overall["judged"], overall["unparsable"]) == (4, 3, 1)
    assert overall["accuracy"] == pytest.approx(2 / 3)
    assert overall["score"] == pytest.approx((4.8 + 1.5 + 5) / 3)  # int() would make 10 of 11.3
    assert (overall["low"], overall["high"]) == pytest.approx((0.5, 1))  # the worse video, or both
    assert (object_["kind"], object_["accuracy"]) == ("object", pytest.approx(2 / 3))
    assert (count["kind"], count["samples"], count["judged"]) == ("count", 1, 0)
    assert math.isnan(count["accuracy"])
    assert "4 samples (1 unparsable): accuracy 0.667" in repr(judged)


def test_an_axis_has_scores_and_no_accuracy(samples, tmp_path):
    judged = judge(
        samples, said(samples), lambda s, a: Verdict(s.id, None, 2.5), tmp_path / "o", {}
    )
    row = judged.summary()[0]
    assert math.isnan(row["accuracy"])
    assert (row["score"], row["judged"]) == (2.5, 6)


def test_what_is_judged_is_not_judged_again(samples, tmp_path):
    out = tmp_path / "out.jsonl"
    first = judge(samples, said(samples), exact, out, {})
    assert judge(samples, said(samples), None, out, {}).verdicts == first.verdicts
    with pytest.raises(ValueError, match="predictions was"):
        judge(samples, said(samples, "cat"), exact, out, {})


def test_a_dead_judge_is_not_asked_for_ever_and_nothing_is_lost(samples, tmp_path):
    """It dies after the first sample; three more are tried, and the others are counted."""
    out, tried = tmp_path / "out.jsonl", []

    def dies(sample, answers):
        tried.append(sample.id)
        if len(tried) == 1:
            return exact(sample, answers)
        return Verdict(sample.id, None, None, "no reply", errors=["refused"])

    with pytest.warns(UserWarning, match=r"no reply to 5 of 6 samples \(refused\)"):
        judged = judge(samples, said(samples), dies, out, {})
    assert len(tried) == 1 + PATIENCE
    assert "5 no reply" in repr(judged)
    assert [each.status for each in judged.verdicts] == ["judged"] + ["no reply"] * 5
    assert judged.summary()[0]["accuracy"] == 1

    again = []

    def alive(sample, answers):
        again.append(sample.id)
        return exact(sample, answers)

    whole = judge(samples, said(samples), alive, out, {})
    assert sorted(again) == list("12345")
    assert [each.status for each in whole.verdicts] == ["judged"] * 6
    assert whole.verdicts == judge(samples, said(samples), None, out, {}).verdicts


def test_a_judge_that_fails_now_and_then_is_not_taken_for_dead(samples, tmp_path):
    tried = []

    def flaky(sample, answers):
        tried.append(sample.id)
        if int(sample.id) % 3:
            return Verdict(sample.id, None, None, "no reply", errors=["500"])
        return exact(sample, answers)

    with pytest.warns(UserWarning, match="no reply to 4 of 6"):
        judge(samples, said(samples), flaky, tmp_path / "out.jsonl", {})
    assert tried == list("012345")


def test_the_file_has_a_line_for_each_sample_with_every_reply(samples, tmp_path):
    out = tmp_path / "out.jsonl"

    def one(sample, answers):
        return Verdict(sample.id, True, 4.5, "judged", ["what?", "{...}"], ["no dictionary"])

    judge(samples, said(samples), one, out, {"judge": "vicuna"})
    head, *lines = map(json.loads, out.read_text().splitlines())
    assert head["setup"]["judge"] == "vicuna"
    assert sorted(line["id"] for line in lines) == list("012345")
    assert all(line["replies"] == ["what?", "{...}"] for line in lines)
    assert all(line["score"] == 4.5 for line in lines)


def test_predictions_of_other_samples_are_refused(samples, tmp_path):
    with pytest.raises(ValueError, match="other samples"):
        judge(samples, [Prediction("99", ["dog"])], exact, tmp_path / "out.jsonl", {})
    with pytest.raises(ValueError, match="none"):
        judge(samples, [], exact, tmp_path / "out.jsonl", {})
