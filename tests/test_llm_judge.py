"""A language model as the judge: its protocol, a real server, and servers that fail."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core import assets
from pgvl_core.evaluation import local_server, qa_sets
from pgvl_core.evaluation.llm_judge import AXES, LLMJudge, parse
from pgvl_core.evaluation.qa_runner import PATIENCE, judge
from pgvl_core.evaluation.qa_sets import Prediction, QASample

FORMS = assets.DATA / "annotations"
YES = "{'pred': 'yes', 'score': 4.8}"


def sample(number=0, questions=("What cuts the grass?",)):
    return QASample(str(number), Path(f"{number}.mp4"), questions, "a mower", "object", {})


TWO = sample(questions=("What cuts the grass?", "By what is the grass cut?"))


# ------------------------------------------------------------------------------------------- parse
@pytest.mark.parametrize(
    ("reply", "right", "score"),
    [
        (YES, True, 4.8),  # int() would make it 4
        ("{'pred': 'no', 'score': 0}", False, 0),
        ('{"pred": "Yes", "score": 5}', True, 5),
        ("Sure! {'score': 0.5, 'pred': 'no'}\n", False, 0.5),
        ("```python\n{'pred': 'yes', 'score': 3}\n```", True, 3),
    ],
)
def test_a_reply_is_read(reply, right, score):
    assert parse(reply, "match") == (right, score)


@given(st.floats(0, 5), st.sampled_from(sorted(AXES)))
def test_a_score_keeps_every_decimal(score, axis):
    content = {"score": score} | ({"pred": "yes"} if axis == "match" else {})
    assert parse(str(content), axis) == (True if axis == "match" else None, score)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "yes",
        "{}",
        "{''score': 4.8}",  # the official example, to the letter
        "{'pred': 'yes'}",
        "{'score': 4.8}",
        "{'pred': 'yes', 'score': '4.8'}",
        "{'pred': 'yes', 'score': 5.1}",
        "{'pred': 'yes', 'score': -1}",
        "{'pred': 'yes', 'score': 1e999}",
        "{'pred': 'yes', 'score': True}",
        "{'pred': 'yes', 'score': None}",
        "{'pred': 'yes or no', 'score': 3}",  # the official code reads a yes
        "{'pred': 'yesterday', 'score': 3}",
        "{'pred': True, 'score': 3}",
        "{'pred': 'yes', 'score': 3, 'why': 'so'}",
        "{'pred', 'score'}",
        "{'pred': 'yes', 'score': 3",
        "{[1]: 2}",
        "{'pred': 'yes', 'score': open('x')}",
        f"{YES} or {{'pred': 'no', 'score': 1}}",
    ],
)
def test_a_reply_that_is_not_what_was_asked_for_is_refused(reply):
    with pytest.raises(ValueError, match=r"dictionar|score|pred"):
        parse(reply, "match")


def test_an_axis_wants_the_score_alone():
    assert parse("{'score': 2.5}", "detail") == (None, 2.5)
    with pytest.raises(ValueError, match="dictionary of score"):
        parse(YES, "detail")


# ------------------------------------------------------------------------------ a server that fails
class Server:
    """A server whose replies a test writes: a reply for each request, the last one for all others.

    A text is the content of a chat completion, bytes are sent as they are, a number is an error of
    HTTP, and a function does what it likes with the request's handler.
    """

    def __init__(self):
        self.replies, self.requests = [YES], []

    def __call__(self, handler):
        length = int(handler.headers["Content-Length"])
        self.requests.append(json.loads(handler.rfile.read(length)))
        self.headers, self.path = dict(handler.headers), handler.path
        reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
        if callable(reply):
            return reply(handler)
        status, content = (reply, b"out of order") if isinstance(reply, int) else (200, reply)
        if isinstance(content, str):
            content = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@contextmanager
def serving(script, port=0):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            script(self)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()


@pytest.fixture
def server():
    script = Server()
    with serving(script) as script.url:
        yield script


def asking(server, **changes):
    return LLMJudge(server.url, "vicuna", **{"pause": 0.01, "timeout": 30.0} | changes)


def test_the_request_is_the_official_protocol(server):
    verdict = asking(server, seed=7, key="secret")(sample(), ["a lawn mower"])
    assert (verdict.right, verdict.score, verdict.status) == (True, 4.8, "judged")
    assert (verdict.replies, verdict.errors) == ([YES], [])
    (request,) = server.requests
    assert (request["model"], request["temperature"], request["seed"]) == ("vicuna", 0, 7)
    system, user = request["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"].splitlines()[:3] == [
        "Question: What cuts the grass?",
        "Correct Answer: a mower",
        "Predicted Answer: a lawn mower",
    ]
    assert "'pred'" in user["content"]
    assert "'score'" in user["content"]
    assert server.path == "/v1/chat/completions"
    assert server.headers["Authorization"] == "Bearer secret"


def test_both_questions_of_the_consistency_axis_are_sent(server):
    """The official code sends the first one twice."""
    server.replies = ["{'score': 3.5}"]
    verdict = asking(server, axis="consistency")(TWO, ["a mower", "a machine"])
    assert (verdict.right, verdict.score) == (None, 3.5)
    assert server.requests[0]["messages"][1]["content"].splitlines()[:5] == [
        "Question 1: What cuts the grass?",
        "Question 2: By what is the grass cut?",
        "Correct Answer: a mower",
        "Predicted Answer to Question 1: a mower",
        "Predicted Answer to Question 2: a machine",
    ]


def test_every_axis_has_instructions_of_its_own(server):
    server.replies = ["{'score': 1}"]
    for axis in AXES.keys() - {"match", "consistency"}:
        assert asking(server, axis=axis)(sample(), ["a mower"]).score == 1
    asking(server, axis="detail", system="Be brief.")(sample(), ["a mower"])
    systems = [request["messages"][0]["content"] for request in server.requests]
    assert len(set(systems)) == 5
    assert systems[-1] == "Be brief."


def test_what_tells_two_judges_apart():
    one = LLMJudge("http://here/v1", "vicuna", key="secret")
    assert LLMJudge("http://there/v1", "vicuna").setup == one.setup
    assert "secret" not in repr(one) + str(one.setup)
    for change in (
        {"model": "gpt"},
        {"axis": "detail"},
        {"system": "Be brief."},
        {"seed": 1},
        {"temperature": 1.0},
    ):
        assert LLMJudge(**{"url": "http://here/v1", "model": "vicuna"} | change).setup != one.setup


@pytest.mark.parametrize("wrong", [{"axis": "beauty"}, {"url": "localhost:8000/v1"}, {"tries": 0}])
def test_a_judge_that_cannot_work_is_refused(wrong):
    with pytest.raises(ValueError, match=r"axis|URL|tries"):
        LLMJudge(**{"url": "http://localhost/v1", "model": "vicuna"} | wrong)


def test_questions_that_an_axis_is_not_for_are_refused(server):
    for axis, asked, answers in (
        ("consistency", sample(), ["a"]),
        ("match", TWO, ["a", "b"]),
        ("match", sample(), []),
    ):
        with pytest.raises(ValueError, match=axis):
            asking(server, axis=axis)(asked, answers)
    assert server.requests == []


def test_a_reply_that_cannot_be_read_is_asked_for_again_and_kept(server):
    server.replies = ["Well.", "It depends.", YES]
    verdict = asking(server)(sample(), ["a mower"])
    assert (verdict.status, verdict.score) == ("judged", 4.8)
    assert verdict.replies == ["Well.", "It depends.", YES]
    assert len(verdict.errors) == 2
    assert [request["seed"] for request in server.requests] == [0, 1, 2]


def test_a_judge_that_never_makes_sense_is_given_up(server):
    """The official loop asks for ever."""
    server.replies = [f"Answer {i}." for i in range(100)]
    verdict = asking(server)(sample(), ["a mower"])
    assert (verdict.status, verdict.right, verdict.score) == ("unparsable", None, None)
    assert len(server.requests) == len(verdict.replies) == 3


def test_what_is_said_twice_is_not_asked_for_a_third_time(server):
    server.replies = ["Well."]
    verdict = asking(server, tries=50)(sample(), ["a mower"])
    assert (verdict.status, verdict.replies) == ("unparsable", ["Well."] * 2)


def hang_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut_short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def drip(handler):
    """A byte now and then: no wait for one is long, all of them together are."""
    handler.send_response(200)
    handler.send_header("Content-Length", "200")
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:  # nobody listens any more
        pass


def sleep(handler):
    time.sleep(5)


FAILURES = {
    "HTTP 500: out of order": 500,
    "HTTP 429": 429,
    "not a chat completion: <html>": b"<html>",
    "not a chat completion: []": b"[]",
    "not a chat completion: {}": b"{}",
    "without a text": b'{"choices": [{"message": {"content": null}}]}',
    "RemoteDisconnected|ConnectionReset": hang_up,
    "IncompleteRead": cut_short,
}


@pytest.mark.parametrize("told", FAILURES)
def test_a_request_without_a_reply_is_made_again_and_told(server, told):
    server.replies = [FAILURES[told], FAILURES[told], YES]
    verdict = asking(server)(sample(), ["a mower"])
    assert (verdict.status, verdict.replies) == ("judged", [YES])
    assert len(verdict.errors) == 2
    server.replies = [FAILURES[told]]
    verdict = asking(server)(sample(), ["a mower"])
    assert (verdict.status, verdict.right, verdict.score) == ("no reply", None, None)
    assert len(verdict.errors) == 3
    assert any(words in verdict.errors[-1] for words in told.split("|"))


@pytest.mark.parametrize("slow", [sleep, drip])
def test_a_slow_server_is_not_waited_for(server, slow):
    server.replies = [slow]
    verdict = asking(server, timeout=0.3, tries=2)(sample(), ["a mower"])
    assert verdict.status == "no reply"
    assert all("Timeout" in error or "timed out" in error for error in verdict.errors)


def test_a_request_that_the_server_refuses_is_not_made_again(server):
    server.replies = [404]
    verdict = asking(server)(sample(), ["a mower"])
    assert (verdict.status, len(server.requests)) == ("no reply", 1)
    assert "HTTP 404" in verdict.errors[0]


def test_a_server_that_dies_midway_is_counted_and_taken_up_again(tmp_path):
    samples = [sample(i) for i in range(8)]
    said = [Prediction(each.id, ["a mower"]) for each in samples]
    out, first, second = tmp_path / "out.jsonl", Server(), Server()
    with serving(first) as url:
        dying = LLMJudge(url, "vicuna", pause=0.01, tries=2)
        first.replies = [YES, YES, hang_up]
        with pytest.warns(UserWarning, match="no reply to 6 of 8 samples"):
            judged = judge(samples, said, dying, out, dying.setup)
    assert len(first.requests) == 2 + 2 * PATIENCE
    row = judged.summary()[0]
    assert (row["samples"], row["judged"], row["no reply"]) == (8, 2, 6)
    with pytest.warns(UserWarning, match=r"6 of 8 .*refused|6 of 8 .*not asked"):
        judge(samples, said, dying, out, dying.setup)  # nobody is there at all
    with serving(second) as url:  # at another place
        alive = LLMJudge(url, "vicuna")
        judged = judge(samples, said, alive, out, alive.setup)
    assert len(second.requests) == 6
    assert judged.summary()[0]["judged"] == 8
    assert judge(samples, said, None, out, alive.setup).verdicts == judged.verdicts


@pytest.mark.parametrize(
    ("reader", "record", "answers"),
    [
        ("msvd", {"id": 31, "video_id": 1301}, {"pred": "grass"}),
        ("activitynet", {"id": "v_skier00001_1"}, {"pred": "yes"}),
        ("consistency", {"video_name": "v_kitchen"}, {"pred1": "An apple", "pred2": "A pear"}),
    ],
)
def test_predictions_of_the_official_inference_are_judged(
    server, tmp_path, reader, record, answers
):
    """The official judge asks for `video_name`, `Q` and `A`, which its inference does not write."""
    samples = {
        "msvd": lambda: qa_sets.msvd_qa(
            FORMS / "msvd_qa.json", tmp_path, FORMS / "msvd_youtube_mapping.txt"
        ),
        "activitynet": lambda: qa_sets.activitynet_qa(
            FORMS / "activitynet_q.json", FORMS / "activitynet_a.json", tmp_path
        ),
        "consistency": lambda: qa_sets.video_chatgpt(
            FORMS / "videochatgpt_consistency.json", tmp_path, "consistency"
        ),
    }[reader]()
    words = {
        "msvd": {"question": "what does a woman cut?", "answer": "grass"},
        "activitynet": {"question": "is the skier outside", "answer": "yes"},
        "consistency": {
            "Q1": "What fruit does the man peel?",
            "Q2": "Which fruit is peeled in the kitchen?",
            "A": "An apple.",
        },
    }[reader]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([{**record, **words, **answers}]))
    axis = "consistency" if reader == "consistency" else "match"
    server.replies = ["{'score': 2}"] if axis == "consistency" else [YES]
    one = asking(server, axis=axis)
    said = qa_sets.read_predictions(path, samples)
    judged = judge(samples, said, one, tmp_path / "out.jsonl", one.setup)
    assert judged.summary()[0]["judged"] == 1
    assert len(judged.missing) == len(samples) - 1
    sent = server.requests[0]["messages"][1]["content"]
    assert all(text in sent for text in (*words.values(), *answers.values()))


# ------------------------------------------------------------------------------------ a real server
@pytest.mark.xdist_group("llm_server")
def test_pocket_language_model_as_a_judge_on_a_real_server(tmp_path):
    """So small a model judges poorly; what is held is that each of its replies is accounted for."""
    pytest.importorskip("fastapi", reason="transformers serve needs the extra dev")
    model = str(assets.path("smollm2"))
    samples = [sample(i) for i in range(4)]
    said = [Prediction(s.id, [text]) for s, text in zip(samples, ("mower", "a cat"), strict=False)]
    out = tmp_path / "out.jsonl"
    with local_server.serving(model, tmp_path / "log.txt") as (url, process):
        real = LLMJudge(url, model, pause=0.01)
        first = judge(samples[:2], said, real, out, real.setup)
        row = first.summary()[0]
        assert row["judged"] + row["unparsable"] == 2
        for verdict in first.verdicts:
            assert all(isinstance(reply, str) and reply for reply in verdict.replies)
            assert len(verdict.replies) == len(verdict.errors) + (verdict.status == "judged")
            if verdict.status == "judged":
                assert parse(verdict.replies[-1], "match") == (verdict.right, verdict.score)
        again = real(samples[0], said[0].texts)
        assert again == first.verdicts[0]  # greedy: the same, letter for letter
        wrong = LLMJudge(url, "somebody else")(samples[0], ["mower"])
        assert (wrong.status, len(wrong.errors)) == ("no reply", 1)
        assert "somebody else" in wrong.errors[0]
        process.kill()
        process.wait()
        dead = real(samples[2], ["mower"])
        assert (dead.status, len(dead.errors)) == ("no reply", 3)
    assert judge(samples[:2], said, None, out, real.setup).verdicts == first.verdicts
