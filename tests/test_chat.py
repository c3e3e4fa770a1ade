import json
from dataclasses import asdict
from itertools import takewhile

import numpy as np
import pytest
import tiny
import torch

from pgvl_core.chat import Answer, Conversation
from pgvl_core.video import Video, VideoError, write_video

QUESTIONS = ("What is it?", "Why? 🐘", "And then?", "Who says so?")
LIMIT = 12  # tokens to an answer


@pytest.fixture(scope="module")
def model():
    return tiny.model(context=512)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def conversation(model, images):
    return Conversation(model, images)


def generated(conversation, question, before, limit=LIMIT):
    """What transformers' own loop answers after the same turns, with nothing computed before."""
    model = conversation.model
    turns = [(each.question, each.text) for each in before]
    video = conversation.tokens
    prompt = model.fit(
        [*turns, (question, None)], conversation.transcript, video is not None, limit
    )
    projected = None if video is None else model.project(video)[None]
    embeddings = model.embed(prompt.ids[None], projected)
    (tokens,) = model.llm.generate(
        inputs_embeds=embeddings,
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=model.tokenizer.eos_token_id,
        pad_token_id=0,
    )
    return prompt.ids.tolist(), tokens.tolist()


def decoded(conversation, tokens):
    text = conversation.model.tokenizer.decode(tokens, skip_special_tokens=True)
    # The last letter may have been cut in half: half a letter is not shown.
    return text.rstrip("\N{REPLACEMENT CHARACTER}").strip()


def assert_goes_on_as_anew(conversation, question="And now?"):
    answer = conversation.ask(question, max_new_tokens=LIMIT)
    _, tokens = generated(conversation, question, conversation.answers[:-1])
    assert answer.text == decoded(conversation, tokens)


def test_reused_keys_and_values_change_no_token(conversation):
    held = []
    for question in QUESTIONS:
        ids, tokens = generated(conversation, question, conversation.answers)
        answer = conversation.ask(question, max_new_tokens=LIMIT)
        assert answer.text == decoded(conversation, tokens)
        assert answer.prompt_tokens == len(ids)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(held, ids, strict=False))
        assert answer.reused_tokens == len(list(same))
        held = ids + tokens[:-1]  # nobody has read the last token yet
    assert answer.reused_tokens > answer.prompt_tokens / 2


def test_the_same_question_twice_has_its_last_token_computed(conversation):
    """A prompt that is held whole still needs one forward pass for its first answer token."""
    first = conversation.ask("What?", max_new_tokens=LIMIT)
    conversation.answers.clear()
    again = conversation.ask("What?", max_new_tokens=LIMIT)
    assert again.text == first.text
    assert again.reused_tokens == again.prompt_tokens - 1


def stop(conversation):
    for _ in conversation.stream("What is it?"):
        conversation.stop()


def abandon(conversation):
    for _ in conversation.stream("What is it?"):
        break


def leave_open(conversation):
    """Kept in a variable, as a notebook's cell does, so that nothing closes it."""
    conversation.left = conversation.stream("What is it?")
    next(conversation.left)


def interrupt(conversation):
    """As Ctrl-C does: in the middle of a forward pass, when one layer has gone on and one not."""

    def strike(*_):
        if len(said) == 2:
            raise KeyboardInterrupt

    said = []
    hook = conversation.model.llm.model.layers[1].register_forward_pre_hook(strike)
    pieces = conversation.stream("What is it?")
    said += [next(pieces), next(pieces)]
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
    hook.remove()


@pytest.mark.parametrize("disturb", [stop, abandon, leave_open, interrupt])
def test_an_answer_broken_off_spoils_nothing(conversation, disturb):
    conversation.ask("Hello?", max_new_tokens=LIMIT)
    disturb(conversation)
    assert_goes_on_as_anew(conversation)
    cut = conversation.answers[1]
    assert (cut.question, cut.notes) == ("What is it?", ("stopped",))
    assert 0 < len(cut.text) < 20
    assert [each.question for each in conversation.answers] == ["Hello?", "What is it?", "And now?"]
    assert_goes_on_as_anew(conversation, "More?")


def test_clear_forgets_what_was_said_and_keeps_the_video(conversation):
    first = conversation.ask("Hello?", max_new_tokens=LIMIT)
    conversation.ask("And?", max_new_tokens=LIMIT)
    leave_open(conversation)
    conversation.clear()
    assert conversation.answers == []
    again = conversation.ask("Hello?", max_new_tokens=LIMIT)
    assert (again.text, again.reused_tokens) == (first.text, 0)


def test_turns_that_no_longer_fit_are_left_out_and_noted(images):
    conversation = Conversation(tiny.model(context=256), images)
    notes = []
    for i in range(8):
        question = f"And what comes after number {i}?"
        ids, tokens = generated(conversation, question, conversation.answers)
        answer = conversation.ask(question, max_new_tokens=LIMIT)
        assert answer.text == decoded(conversation, tokens)
        assert answer.prompt_tokens == len(ids) <= 256 - LIMIT
        notes += [note for note in answer.notes if "left out" in note]
    assert notes[0] == "the conversation's first 1 turns were left out"
    assert len(conversation.answers) == 8


def test_a_long_transcript_is_cut_and_noted(images):
    conversation = Conversation(tiny.model(context=256), images, transcript="blah " * 200)
    assert_goes_on_as_anew(conversation)
    assert "of the transcript's 200 words were read" in conversation.answers[0].notes[0]


def test_pieces_are_the_answer_and_never_half_a_letter(conversation):
    for question in QUESTIONS:
        pieces = list(conversation.stream(question, max_new_tokens=40))
        answer = conversation.answers[-1]
        assert "".join(pieces).strip() == answer.text
        assert not any(piece.endswith("\N{REPLACEMENT CHARACTER}") for piece in pieces)


@pytest.mark.parametrize("text", ["an 🐘 and a 👩‍🚀", "süß, 象", "🐘"])
def test_letters_of_many_tokens_come_whole(conversation, monkeypatch, text):
    """The tiny tokenizer spends a token on each byte."""
    tokens = conversation.model.tokenizer(text, add_special_tokens=False).input_ids
    monkeypatch.setattr(conversation.model, "stream", lambda *_: iter(tokens))
    pieces = list(conversation.stream("What?"))
    assert len(tokens) > len(text)
    assert "".join(pieces) == text
    assert all(piece in text for piece in pieces)


def test_an_answer_that_ends_within_a_letter_loses_it(conversation, monkeypatch):
    tokens = conversation.model.tokenizer("an 🐘", add_special_tokens=False).input_ids
    monkeypatch.setattr(conversation.model, "stream", lambda *_: iter(tokens[:-1]))
    assert conversation.ask("What?").text == "an"


def test_the_answer_ends_where_the_model_ends_it(images):
    conversation = Conversation(tiny.model(), images)
    assert conversation.ask("What?", max_new_tokens=8).notes == (
        "the answer was cut after 8 tokens",
    )
    conversation.clear()
    _, tokens = generated(conversation, "What?", [], 8)
    words = conversation.model.tokenizer
    words.eos_token = words.convert_ids_to_tokens(tokens[5])
    ended = conversation.ask("What?", max_new_tokens=8)
    assert ended.notes == ()
    assert ended.text == decoded(conversation, tokens[: tokens.index(tokens[5])]) != ""


def test_sampling_depends_on_its_seed_alone(conversation):
    def ask(seed):
        conversation.clear()
        return conversation.ask("What?", temperature=2.0, seed=seed, max_new_tokens=LIMIT).text

    assert ask(1) == ask(1) != ask(2)


def test_a_video_is_decoded_and_encoded_once(tmp_path, monkeypatch, images):
    calls = []
    features = tiny.ColourEncoder._features

    def counted(self, images):
        calls.append(len(images))
        return features(self, images)

    monkeypatch.setattr(tiny.ColourEncoder, "_features", counted)
    write_video(tmp_path / "noise.mp4", images, fps=2)
    conversation = Conversation(tiny.model(), tmp_path / "noise.mp4")
    for question in QUESTIONS:
        conversation.ask(question, max_new_tokens=2)
    conversation.clear()
    conversation.ask("Again?", max_new_tokens=2)
    assert sum(calls) == conversation.model.frames == len(conversation.frames) == 4
    assert repr(conversation) == "Conversation(noise.mp4, 1 turns)"
    opened = Conversation(conversation.model, Video(tmp_path / "noise.mp4"))
    torch.testing.assert_close(opened.tokens, conversation.tokens)


def test_without_a_video_it_is_plain_talk(model):
    conversation = Conversation(model)
    assert_goes_on_as_anew(conversation)
    assert "vid_patch" not in model.fit([("Hello?", None)], video=False).text
    assert_goes_on_as_anew(conversation, "Sure?")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "no question"),
        (" \n", "no question"),
        ("why " * 500, "too long: with the video it takes .* ask a shorter one"),
        ("What is <vid_patch>?", "for the video"),
    ],
)
def test_a_question_that_cannot_be_asked_leaves_no_turn(conversation, question, message):
    conversation.ask("Hello?", max_new_tokens=LIMIT)
    with pytest.raises(ValueError, match=message):
        conversation.ask(question)
    assert len(conversation.answers) == 1
    assert_goes_on_as_anew(conversation)


def test_a_missing_video_is_named(model, tmp_path):
    with pytest.raises(VideoError, match=r"nowhere\.mp4: there is no such file"):
        Conversation(model, tmp_path / "nowhere.mp4")


@pytest.fixture
def told(conversation):
    conversation.ask("What is it? 🐘", max_new_tokens=LIMIT)
    conversation.ask("Why?", max_new_tokens=5)
    return conversation


def test_json_holds_every_turn(told, tmp_path):
    told.save(tmp_path / "chat.json")
    read = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    turns = [Answer(**turn | {"notes": tuple(turn["notes"])}) for turn in read["turns"]]
    assert turns == told.answers
    assert (read["video"], read["transcript"], read["template"]) == ("", "", "pg-video-llava")


def test_markdown_reads_as_a_dialogue(told, tmp_path):
    told.save(tmp_path / "chat.md")
    lines = (tmp_path / "chat.md").read_text(encoding="utf-8").split("\n\n")
    assert lines[0] == "# Conversation about a video"
    assert lines[1] == "**What is it? 🐘**"
    assert lines[-1] == f"{told.answers[1].text} [the answer was cut after 5 tokens]\n"


def test_another_suffix_is_refused_before_anything_is_written(told, tmp_path):
    with pytest.raises(ValueError, match=r"chat\.txt: a conversation is saved as \.json or \.md"):
        told.save(tmp_path / "chat.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["chat.json", "chat.md"])
def test_a_save_that_fails_leaves_the_earlier_file(told, tmp_path, name):
    told.save(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    turn = asdict(told.answers[0]) | {"question": "half a letter: \ud83d"}  # not to be encoded
    told.answers.append(Answer(**turn))
    with pytest.raises(UnicodeEncodeError):
        told.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before
