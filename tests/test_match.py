import numpy as np
import pytest

from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.grounding import colour
from pgvl_core.grounding.match import clauses, described, match
from pgvl_core.grounding.phrases import noun_phrases
from pgvl_core.grounding.track import Track
from pgvl_core.toyworld import make_clip
from pgvl_core.toyworld_render import atlas
from pgvl_core.toyworld_text import MOTION

SIZE = (200, 100)


@pytest.fixture(scope="module")
def encoder():
    return LiteCLIPEncoder()


def moving(number, label, centres, sides=20.0):
    """A track of a square thing, from the centres of its boxes."""
    found = Track(number, votes={label: 0.9 * 4}, looks=4)
    for frame, (x, y) in enumerate(centres):
        side = sides if np.isscalar(sides) else sides[frame]
        mask = np.zeros(SIZE[::-1], bool)
        x0, y0 = max(0, int(x - side / 2)), max(0, int(y - side / 2))
        mask[y0 : int(y + side / 2), x0 : int(x + side / 2)] = True
        found.record(frame, mask)
    return found


def still(number, label, x, y=50):
    return moving(number, label, [(x, y)] * 12)


PATHS = {
    "left": [(150 - 8 * t, 50) for t in range(12)],
    "right": [(40 + 8 * t, 50) for t in range(12)],
    "up": [(100, 80 - 4.5 * t) for t in range(12)],
    "down": [(100, 25 + 4.5 * t) for t in range(12)],
    "still": [(100, 50)] * 12,
    "circle": [
        (100 + 40 * np.cos(t * np.pi / 6), 50 + 25 * np.sin(t * np.pi / 6)) for t in range(12)
    ],
    "bounce": [(100, 50 + 25 * np.sin(t * np.pi / 2)) for t in range(12)],
}


@pytest.mark.parametrize("name", PATHS)
def test_a_motion_is_told_from_the_others(name):
    scores = {
        other: described(f"what {MOTION[name]}?", moving(1, "dog", path), SIZE, {})
        for other, path in PATHS.items()
    }
    assert max(scores, key=scores.get) == name
    assert scores[name] > 0.5


def painted(number, label, rgb, x=100):
    track = still(number, label, x)
    track.colours.append(colour.shares(np.full((50, 3), rgb, np.uint8)))
    return track


def test_a_colour_tells_two_alike_apart(encoder):
    cars = [painted(1, "car", (40, 60, 200), 50), painted(2, "car", (210, 20, 30), 150)]
    assert match(encoder, "A car.", cars, SIZE, "Which car is red?")[1].tracks == (2,)
    assert match(encoder, "The blue car.", cars, SIZE)[0][0].tracks == (1,)
    # The colour of what it stands beside is not its own.
    cup = painted(3, "cup", (210, 20, 30), 100)
    left = match(encoder, "A car.", [*cars, cup], SIZE, "Which car is to the left of the red cup?")
    assert left[1].tracks == (1,)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the red car that moves up", "red"),
        ("what is orange?", "orange"),
        ("a gray elephant", "grey"),
        ("an orange on the left", None),  # the fruit
        ("a car", None),
    ],
)
def test_a_colour_is_told_from_a_thing_of_its_name(text, name):
    assert colour.named(text) == (name and colour.COLOURS.index(name))


def test_colours_are_those_that_the_atlas_was_given_by_eye():
    right = [
        colour.COLOURS[colour.shares(s.image[s.image[..., 3] > 128][:, :3]).argmax()] == s.colour
        for s in atlas()
        if s.split == "unseen" and s.colour
    ]
    assert len(right) > 20
    assert np.mean(right) > 0.8


def test_what_comes_closer_grows():
    near = moving(1, "dog", [(100, 50)] * 12, sides=np.linspace(14, 40, 12))
    assert described("what comes closer?", near, SIZE, {}) > 0.5
    assert described("what comes closer?", still(2, "dog", 100), SIZE, {}) < 0.2


@pytest.mark.parametrize(
    ("question", "meant"),
    [
        ("which dog is on the left?", 1),
        ("which dog is on the right?", 2),
        ("what is to the left of the car?", 1),
        ("which dog is to the right of the car?", 2),
    ],
)
def test_look_alikes_are_told_apart_by_what_is_said(encoder, question, meant):
    tracks = [still(1, "dog", 40), still(2, "dog", 160), still(3, "car", 100)]
    (dog,), target = match(encoder, "A dog.", tracks, SIZE, question)
    assert dog.tracks == target.tracks == (meant,)
    (dogs,), target = match(encoder, "Two dogs.", tracks, SIZE, question)
    assert set(dogs.tracks) == {1, 2}
    assert target.tracks == (meant,)


def test_two_dogs_are_two_tracks_and_three_are_one_too_many(encoder):
    tracks = [still(1, "dog", 40), still(2, "dog", 160), still(3, "car", 100)]
    (dogs, car), _ = match(encoder, "Two dogs and a car.", tracks, SIZE)
    assert set(dogs.tracks) == {1, 2}
    assert car.tracks == (3,)
    (dogs,), _ = match(encoder, "Three dogs.", tracks, SIZE)
    assert set(dogs.tracks) == {1, 2}
    assert dogs.note == "2 of 3 found"


def test_what_is_not_there_is_said_and_not_guessed(encoder):
    (span,), target = match(encoder, "A violin.", [still(1, "dog", 40)], SIZE)
    assert span.tracks == ()
    assert span.note == "no violin was found"
    assert target is span


def test_a_wrong_answer_does_not_hide_what_the_question_describes(encoder):
    tracks = [still(1, "dog", 100), moving(2, "car", PATHS["up"])]
    _, target = match(encoder, "A violin.", tracks, SIZE, "what moves up?")
    assert target.tracks == (2,)
    assert "question" in target.note


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What belongs to Anna?", "It is not said."),
        ("Is there a whale in the video?", "No."),
        ("What costs two dollars?", "Two dollars."),
    ],
)
def test_an_answer_that_names_nothing_points_at_nothing(encoder, question, answer):
    tracks = [still(1, "dog", 40), still(2, "car", 160)]
    spans, target = match(encoder, answer, tracks, SIZE, question)
    assert target is None
    assert not any(span.tracks for span in spans)


def test_an_answer_that_names_nothing_leaves_the_question_its_words(encoder):
    tracks = [still(1, "dog", 100), moving(2, "car", PATHS["up"])]
    _, target = match(encoder, "It is not said.", tracks, SIZE, "what moves up?")
    assert target.tracks == (2,)
    assert "question" in target.note


@pytest.mark.parametrize(
    ("question", "meant"),
    [
        ("what is below the violin?", 2),
        ("what is above the violin?", 1),
        ("what is to the left of the violin?", None),  # they stand one above the other
    ],
)
def test_company_that_nothing_is_named_may_be_any_other_thing(encoder, question, meant):
    tracks = [still(1, "dog", 100, y=20), still(2, "car", 100, y=80)]
    _, target = match(encoder, "It is not said.", tracks, SIZE, question)
    scores = [
        described(question, each, SIZE, {"violin": [(track, 0.0) for track in tracks]})
        for each in tracks
    ]
    if meant is None:
        assert scores == pytest.approx([0.5, 0.5])
    else:
        assert target.tracks == (meant,)


def test_company_that_is_named_surely_is_that_alone(encoder):
    """The dog is above a car as well, but not above the cup."""
    dog, cup, car = still(1, "dog", 100, 50), still(2, "cup", 100, 20), still(3, "car", 100, 80)
    named = {"cup": [(dog, 0.0), (cup, 1.0), (car, 0.0)]}
    assert described("what is above the cup?", dog, SIZE, named) <= 0.2
    assert described("what is below the cup?", dog, SIZE, named) > 0.9
    assert described("what is below the cup?", cup, SIZE, named) <= 0.05


def test_what_is_there_longer_is_meant_rather_than_a_glimpse(encoder):
    long, glimpse = still(1, "dog", 100, y=70), moving(2, "car", [(100, 90)] * 2)
    for tracks in ([long, glimpse], [glimpse, long]):
        _, target = match(encoder, "It is not said.", tracks, SIZE, "what is at the bottom?")
        assert target.tracks == (1,)
    _, target = match(encoder, "A car.", [long, glimpse], SIZE, "which car is at the bottom?")
    assert target.tracks == (2,)


def test_without_tracks_nothing_is_meant(encoder):
    (span,), target = match(encoder, "A dog.", [], SIZE, "what moves up?")
    assert span.tracks == ()
    assert target is None


def test_each_phrase_has_its_own_clause():
    text = "A dog on the left and a car above the cup. A bird flies up."
    phrases = noun_phrases(text)
    told = clauses(text, phrases)
    assert [p.head for p in phrases] == ["dog", "car", "cup", "bird"]
    assert told[0].startswith("dog on the left")
    assert "car" not in told[0]
    assert told[1] == "car above the cup"
    assert told[3] == "bird flies up"


def test_in_front_is_who_hides_the_other():
    made = next(
        c
        for seed in range(40)
        if (c := make_clip(seed, "train", frames=16, fps=8, shots=1, objects=2)).expressions
        and any(e.relation and e.relation[0] == "in_front_of" for e in c.expressions)
    )
    said = next(e for e in made.expressions if e.relation and e.relation[0] == "in_front_of")
    tracks = []
    for truth in made.tracks:
        found = Track(truth.id, votes={truth.category: 4}, looks=4)
        for frame in np.nonzero(truth.visibility > 0)[0]:
            found.record(int(frame), truth.visible[frame])
        tracks.append(found)
    near, far = tracks[said.target_id], tracks[said.relation[1]]
    size = made.frames.shape[2], made.frames.shape[1]
    name = made.tracks[far.id].category
    clause = f"what is in front of the {name}?"
    head = noun_phrases(clause)[0].head
    company = {head: [(near, 0.0), (far, 1.0)]}
    assert described(clause, near, size, company) > 0.6
    behind = f"what is behind the {name}?"
    assert described(behind, near, size, company) < 0.4
