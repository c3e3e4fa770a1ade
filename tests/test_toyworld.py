"""The truth of toyworld clips, recomputed from masks and words alone."""

import csv
import functools
import itertools
import json
import re
import zlib
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import masks_to_boxes

from pgvl_core import toyworld
from pgvl_core.assets import DATA
from pgvl_core.toyworld import make_clip
from pgvl_core.toyworld_formats import video_instruct, write_dataset

HEIGHT, WIDTH = 120, 160
SPLITS = ("train", "compositions", "unseen", "style")
SHIPPED = sorted((DATA / "videos").glob("*.json"))


@pytest.fixture(scope="module")
def clips():
    """A varied lot, every split and number of objects among them."""
    free = [
        make_clip(seed, split, frames=40, height=HEIGHT, width=WIDTH)
        for seed in range(8)
        for split in SPLITS
    ]
    alike = [
        make_clip(seed, frames=40, height=HEIGHT, width=WIDTH, objects=3, look_alikes=2, shots=1)
        for seed in range(100, 104)
    ]
    return free + alike


def box(mask):
    """xyxy with exclusive ends of one mask, by torchvision."""
    x1, y1, x2, y2 = masks_to_boxes(torch.from_numpy(mask[None]))[0].tolist()
    return [x1, y1, x2 + 1, y2 + 1]


# ---------------------------------------------------------------------------------------- the atlas
def test_atlas_has_the_promised_categories_and_the_splits_share_none():
    names = {
        split: {s.name for s in toyworld.atlas() if s.split == split}
        for split in ("seen", "unseen", "style")
    }
    assert len(names["seen"] | names["unseen"]) >= 150
    assert len(names["unseen"]) >= 40
    assert len(names["style"]) >= 60
    assert not names["seen"] & names["unseen"]
    assert len(names["style"] & names["seen"]) >= 40
    assert all(
        re.fullmatch(r"[a-z]+( [a-z]+)*", name) for group in names.values() for name in group
    )


def test_sprites_are_tight_cut_outs_of_the_colour_they_are_said_to_have():
    for sprite in toyworld.atlas():
        height, width, channels = sprite.image.shape
        alpha = sprite.image[..., 3]
        assert channels == 4, sprite
        assert 40 <= max(height, width) <= 128, sprite
        edges = (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
        assert min(edge.max() for edge in edges) >= 32, sprite  # it reaches every side
        red, green, blue = (sprite.image[alpha > 200][:, i].mean() for i in range(3))
        light, spread = (red + green + blue) / 3, max(red, green, blue) - min(red, green, blue)
        looks = {
            "red": red > 1.3 * max(green, blue),
            "green": green >= max(red, 1.1 * blue),
            "blue": blue > 1.1 * red,
            "yellow": min(red, green) > 1.3 * blue,
            "orange": red > green > 1.2 * blue,
            "brown": red > green > blue and light < 170,
            "purple": blue > green < red,
            "pink": red > 1.1 * green and blue > 0.4 * red,
            "black": light < 90,
            "white": light > 140 and spread < 45,
            "grey": 50 < light < 200 and spread < 40,
        }
        assert sprite.colour is None or looks[sprite.colour], sprite


def test_no_photograph_is_behind_both_train_and_test_clips():
    with (DATA / "build" / "backgrounds.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for use in ("train", "test"):
        shipped = {file.stem for file in (DATA / "backgrounds" / use).glob("*.webp")}
        assert shipped == {row["name"] for row in rows if row["use"] == use}
    sources = {use: {r["file"] for r in rows if r["use"] == use} for use in ("train", "test")}
    assert not sources["train"] & sources["test"]


# ------------------------------------------------------------------------------------ splits, seeds
def held_out(first, second):
    return zlib.crc32("+".join(sorted((first, second))).encode()) % 5 == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), split=st.sampled_from(SPLITS))
def test_train_never_shows_a_held_out_composition_and_the_test_split_always_does(seed, split):
    clip = make_clip(seed, split, frames=1, height=32, width=32)
    names = [track.category for track in clip.tracks]
    pairs = [*itertools.combinations(names, 2)]
    pairs += [(track.category, track.motion) for track in clip.tracks]
    novel = any(held_out(*pair) for pair in pairs)
    if split in ("train", "compositions"):
        assert novel == (split == "compositions")
    pool = {"train": "seen", "compositions": "seen"}.get(split, split)
    assert set(names) <= {sprite.name for sprite in toyworld.atlas() if sprite.split == pool}


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    kept = []
    for folder, seeds in (("first", (3, 4)), ("again", (4, 3)), ("other", (5,))):
        clips = {seed: make_clip(seed, frames=24, height=64, width=80) for seed in seeds}
        ordered = [clips[seed] for seed in sorted(clips)]
        write_dataset(ordered, tmp_path / folder)
        files = (tmp_path / folder).rglob("*.json")
        written = {path.relative_to(tmp_path / folder): path.read_bytes() for path in files}
        kept.append(([clip.frames.tobytes() for clip in ordered], written))
    assert kept[0] == kept[1]
    assert kept[0][0][0] != kept[2][0][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "there are train"),
        ({"objects": 6}, "not 6"),
        ({"objects": ["unicorn"]}, "unicorn"),
        ({"objects": ["dog"], "motions": ["sideways"]}, "sideways"),
        ({"objects": ["dog", "car"], "motions": ["left"]}, "2 objects"),
        ({"objects": 2, "shots": 3}, "3 shots"),
        ({"objects": ["dog"], "occlusion": True}, "two in the first"),
        ({"objects": ["car", "race car"]}, "told apart"),  # a race car is a car
        ({"objects": ["dog", "dog"], "motions": ["up", "up"]}, "told apart"),
        ({"objects": ["car"], "motions": ["still"]}, "held out"),
    ],
)
def test_arguments_that_make_no_clip_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_clip(0, **arguments)


# --------------------------------------------------------------------------------- truth in pixels
def test_masks_boxes_and_visibility_agree(clips):
    for clip in clips:
        assert [track.id for track in clip.tracks] == list(range(len(clip.tracks)))
        assert (sum(track.visible.astype(int) for track in clip.tracks) <= 1).all()
        borders = [0, *clip.cuts, len(clip.frames)]
        for track in clip.tracks:
            assert not (track.visible & ~track.full).any()
            begin, end = borders[track.shot], borders[track.shot + 1]
            assert not track.full[:begin].any()
            assert not track.full[end:].any()
            for t in range(len(clip.frames)):
                full, visible = track.full[t].sum(), track.visible[t].sum()
                assert track.visibility[t] == (visible / full if full else 0)
                if visible:
                    assert track.boxes[t].tolist() == box(track.visible[t])
                else:
                    assert np.isnan(track.boxes[t]).all()
            first, last = track.span
            assert track.visible[first:last].any((1, 2)).all()


def test_nearer_objects_hide_farther_ones_and_nothing_else_does(clips):
    for clip in clips:
        for track in clip.tracks:
            nearer = np.zeros_like(track.full)
            for other in clip.tracks:
                if other.depth > track.depth and other.shot == track.shot:
                    nearer |= other.full
            np.testing.assert_array_equal(track.visible, track.full & ~nearer)


@pytest.mark.parametrize("seed", range(3, 7))
def test_a_still_object_is_drawn_over_what_it_hides_and_under_what_hides_it(seed):
    clip = make_clip(seed, motions=["left", "still"], occlusion=True, height=HEIGHT, width=WIDTH)
    mover, still = clip.tracks
    clear = clip.frames[np.argmin(mover.full.sum((1, 2)))].astype(int)  # the mover is outside
    met = np.nonzero((mover.full & still.full).any((1, 2)))[0]
    change = np.abs(clip.frames[met].astype(int) - clear).max(3)
    both = mover.full[met] & still.full[met]
    hidden = (change[both] > 8).mean()
    assert (hidden > 0.5) == (mover.depth > still.depth)  # but for blended edges


def test_pixels_change_only_where_the_masks_say_an_object_is(clips):
    for clip in clips:
        for begin, end in itertools.pairwise([0, *clip.cuts, len(clip.frames)]):
            shot = clip.frames[begin:end]
            anywhere = np.zeros((HEIGHT, WIDTH), bool)
            for track in clip.tracks:
                anywhere |= track.full[begin:end].any(0)
            near = anywhere.copy()  # blended edges lie within two pixels of a mask
            for dy, dx in itertools.product(range(-2, 3), repeat=2):
                near |= np.roll(anywhere, (dy, dx), (0, 1))
            # Parts finer than a pixel are drawn faintly and are in no mask: a lobster's feelers.
            change = np.abs(shot.astype(int) - shot[0]).max((0, 3))
            assert (change[~near] > 90).mean() < 0.001


@functools.cache
def measured_motion(track):
    """A track's motion from its full masks: centroids and areas, clear of the frame's edge."""
    area = track.full.sum((1, 2))
    cut = track.full[:, [0, -1]].any((1, 2)) | track.full[:, :, [0, -1]].any((1, 2))
    seen = np.nonzero(area * ~cut if (area * ~cut > 0).sum() > 2 else area)[0]
    ys, xs = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    x = np.array([xs[track.full[t]].mean() for t in seen])
    y = np.array([ys[track.full[t]].mean() for t in seen])
    wide, high = np.ptp(x), np.ptp(y)
    if area[seen[-1]] > 1.4 * area[seen[0]] and max(wide, high) < 15:
        return "approach"
    if max(wide, high) < 2:
        return "still"
    if wide > 4 * high:
        return "right" if x[-1] > x[0] else "left"
    if high > 4 * wide and abs(y[-1] - y[0]) > 0.8 * high:
        return "down" if y[-1] > y[0] else "up"
    if high > 4 * wide:
        return "bounce"
    return "circle" if abs(wide - high) < 0.3 * high else None


def test_motion_is_what_the_masks_do(clips):
    counted = Counter()
    for clip in clips:
        for track in clip.tracks:
            if (track.visibility > 0.5).sum() >= 8:
                assert measured_motion(track) == track.motion, (clip, track)
                counted[track.motion] += 1
    assert set(counted) == set(toyworld.MOTIONS)


# ---------------------------------------------------------------------------------- truth in words
VERBS = {
    "moves to the left": "left",
    "moves to the right": "right",
    "moves up": "up",
    "moves down": "down",
    "stays still": "still",
    "comes closer": "approach",
    "moves in a circle": "circle",
    "bounces up and down": "bounce",
}
SIDES = {
    "on the left": (0, -1),
    "on the right": (0, 1),
    "at the top": (1, -1),
    "at the bottom": (1, 1),
}
BESIDE = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}
COLOURS = re.findall(r"\w+", "red green blue yellow orange brown purple pink black white grey")


@functools.cache
def centre(track):
    """Middle of the visible box where most of the object is seen, in parts of the frame, or NaN."""
    found = np.full((len(track.visible), 2), np.nan)
    for t in np.nonzero(track.visible.sum((1, 2)) > 0.5 * track.full.sum((1, 2)))[0]:
        x1, y1, x2, y2 = box(track.visible[t])
        found[t] = (x1 + x2) / 2 / WIDTH - 0.5, (y1 + y2) / 2 / HEIGHT - 0.5
    return found


def holds(words, track, tracks):
    """Whether a verb, side, colour or relation in words is true of a track, by its masks."""
    if words in VERBS:
        return measured_motion(track) == VERBS[words]
    if words in COLOURS:
        return track.colour == words
    if words in SIDES:
        axis, sign = SIDES[words]
        return sign * np.nanmean(centre(track)[:, axis]) > 0
    relations = "|".join([*BESIDE, "in front of", "behind"])
    relation, noun = re.fullmatch(rf"({relations}) the (.*)", words).groups()
    (other,) = [each for each in tracks if each.category == noun]
    if other is track or other.shot != track.shot:
        return False
    if relation in BESIDE:
        axis, sign = BESIDE[relation]
        return sign * np.nanmean((centre(track) - centre(other))[:, axis]) > 0
    near, far = {"in front of": (track, other), "behind": (other, track)}[relation]
    return (near.visible & far.full).any()


def referents(text, tracks):
    """Every track that a referring expression is true of."""
    text = text.removesuffix("?").lower()
    if text.startswith("the "):
        nouns = "|".join(sorted({track.category for track in tracks}, key=len, reverse=True))
        colour, noun, words = re.fullmatch(
            rf"the (?:({'|'.join(COLOURS)}) )?({nouns})(?: (?:that )?(.*))?", text
        ).groups()
    else:
        start = "on|at|to|above|below|in front|behind|moves|stays|comes|bounces|" + "|".join(
            COLOURS
        )
        pattern = rf"(?:what|which (.*?)) (?:is )?((?:{start})\b.*)"
        noun, words = re.fullmatch(pattern, text).groups()
        colour = None
    parts = [words for words in (colour, words) if words]
    return [
        track
        for track in tracks
        if noun in (None, track.category) and all(holds(part, track, tracks) for part in parts)
    ]


def test_every_expression_fits_its_target_alone(clips):
    forms = Counter()
    for clip in clips:
        for each in clip.expressions:
            assert referents(each.text, clip.tracks) == [clip.tracks[each.target_id]], each
            assert each.type == ("declarative" if each.text.startswith("the ") else "interrogative")
            forms[each.type, each.relation and each.relation[0]] += 1
        described = {each.target_id for each in clip.expressions}
        assert len(described) >= 0.5 * len(clip.tracks)
    assert len(forms) == 2 * 7  # with no relation, and with each of six


def test_look_alikes_are_told_apart():
    for seed in range(6):
        clip = make_clip(seed, objects=3, look_alikes=3, frames=32, height=HEIGHT, width=WIDTH)
        assert len({track.category for track in clip.tracks}) == 1
        named = {each.target_id for each in clip.expressions if each.type == "declarative"}
        assert named == {0, 1, 2}


IRREGULAR = {"mice": "mouse", "geese": "goose", "woodlice": "woodlouse"}
NUMBERS = ["zero", "one", "two", "three", "four", "five"]


def number_of(noun, tracks):
    """How many tracks a noun in the plural names."""
    singular = re.sub(r"^(pair|bunche?)s of", lambda m: m[1].removesuffix("e") + " of", noun)
    forms = {noun, singular, IRREGULAR.get(noun), noun.removesuffix("s"), noun.removesuffix("es")}
    forms.add(noun.removesuffix("ies") + "y")
    return sum(track.category in forms for track in tracks)


def right_answer(question, tracks):
    """The answer to a question, from masks and labels alone."""

    def asked(pattern):
        found = re.fullmatch(pattern, question)
        return found and (found.groups() or True)

    def one(phrase):
        (track,) = referents(phrase, tracks)
        return track

    def a(noun):
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"

    def verb(track):
        return next(text for text, motion in VERBS.items() if motion == measured_motion(track))

    first = {track.id: np.nonzero(track.visible.any((1, 2)))[0][0] for track in tracks}
    order = [track.category for track in sorted(tracks, key=lambda track: first[track.id])]
    if asked("how many objects are there in the video"):
        return NUMBERS[len(tracks)]
    if found := asked("how many (.*) are there"):
        return NUMBERS[number_of(found[0], tracks)]
    if found := asked("is there an? (.*) in the video"):
        return "yes" if found[0] in order else "no"
    if asked("which objects appear, in order"):
        return ", then ".join(map(a, order))
    if found := asked("what is the (first|last) object to appear"):
        return a(order[0 if found[0] == "first" else -1])
    if found := asked("what appears right after the (.*)"):
        return a(order[order.index(found[0]) + 1])
    if found := asked("what does (.*) do"):
        return f"it {verb(one(found[0]))}"
    if found := asked("which way does (.*) move"):
        return verb(one(found[0])).removeprefix("moves ")
    if found := asked("what colour is (.*)"):
        return one(found[0]).colour
    for pair in (("to the left", "to the right of"), ("above", "below"), ("in front of", "behind")):
        if found := asked(f"is (.*) {pair[0]} or {pair[1]} (the .*)"):
            relations = [pair[0].replace("left", "left of"), pair[1]]
            subject = one(found[0])
            (true,) = [each for each in relations if holds(f"{each} {found[1]}", subject, tracks)]
            return true.removesuffix(" of")
    return a(one(question).category)


def test_every_answer_is_right(clips):
    kinds = Counter()
    for clip in clips:
        for each in clip.qa:
            assert each.question.endswith("?")
            assert each.answer.endswith(".")
            question, answer = each.question[:-1].lower(), each.answer[:-1].lower()
            kinds[each.kind] += 1
            if question == "what is in the video":
                parts = [part.split(" ", 1) for part in re.split(", | and ", answer)]
                for number, noun in parts:
                    category = [noun] if number in ("a", "an") else []
                    count = number_of(noun, clip.tracks) if not category else 1
                    assert NUMBERS[count] == number or category[0] in [
                        t.category for t in clip.tracks
                    ]
                told = [
                    1 if number in ("a", "an") else NUMBERS.index(number) for number, _ in parts
                ]
                assert sum(told) == len(clip.tracks)
            else:
                assert answer == right_answer(question, clip.tracks), each
    assert set(kinds) == {"object", "count", "order", "direction", "relation", "colour"}


def test_the_caption_tells_every_motion(clips):
    for clip in clips:
        parts = re.split(r"\. Then |, | and (?=an? )", clip.captions[0].rstrip("."))
        assert len(parts) == len(clip.tracks)
        for part, track in zip(parts, clip.tracks, strict=True):
            pattern = rf"(?:first |there is )*an? (.*?)(?: ({'|'.join(VERBS)}))?"
            noun, verb = re.fullmatch(pattern, part, re.IGNORECASE).groups()
            assert noun in (track.category, f"{track.colour} {track.category}")
            if verb or (track.visibility > 0.5).sum() > 20:
                assert VERBS[verb] == measured_motion(track)


# -------------------------------------------------------------------------------- what is asked for
def test_one_object_per_shot_appears_in_the_order_asked_for():
    clip = make_clip(1, objects=["camel", "guitar", "camera"], shots=3, frames=48)
    assert [track.shot for track in clip.tracks] == [0, 1, 2]
    starts = [int(np.nonzero(track.full.any((1, 2)))[0][0]) for track in clip.tracks]
    assert all(start >= cut for start, cut in zip(starts, [0, *clip.cuts], strict=True))
    answers = {each.question: each.answer for each in clip.qa}
    assert answers["Which objects appear, in order?"] == "A camel, then a guitar, then a camera."
    jumps = np.abs(np.diff(clip.frames.astype(int), axis=0)).mean((1, 2, 3))
    assert sorted(np.argsort(jumps)[-2:] + 1) == clip.cuts


def test_occlusion_hides_an_object_for_a_while():
    least = []
    for seed in range(8):
        clip = make_clip(seed, objects=2, occlusion=True, frames=48, height=HEIGHT, width=WIDTH)
        far = min(clip.tracks, key=lambda track: track.depth)
        assert far.visibility.max() == 1
        least.append(far.visibility[far.full.any((1, 2))].min())
    assert max(least) < 0.98
    assert np.median(least) < 0.6


def test_a_still_image_says_nothing_of_motion():
    clip = make_clip(2, objects=3, frames=1)
    assert clip.frames.shape == (1, 224, 224, 3)
    assert not {"direction", "order"} & {each.kind for each in clip.qa}
    said = " ".join([*clip.captions, *(each.text for each in clip.expressions)])
    assert not any(verb in said for verb in VERBS)


# -------------------------------------------------------------------------------------- files
@pytest.fixture(scope="module")
def dataset(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toyworld")
    chosen = {clip.name: clip for clip in clips[:8]}
    write_dataset(chosen.values(), folder)
    return chosen, folder


def load(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def assert_like(decoded, frames):
    """Decoded frames are the rendered ones, in brightness but for what H.264 loses."""
    assert np.shape(decoded) == frames.shape
    assert np.abs(np.mean(decoded, axis=3) - frames.mean(3)).mean() < 8


VIDEO = {"fps": 16, "frame_count": 40, "width": WIDTH, "height": HEIGHT}


def test_mp4_has_the_clip_s_frames(dataset):
    chosen, folder = dataset
    for name, clip in chosen.items():
        with av.open(str(folder / "video" / f"{name}.mp4")) as container:
            assert container.streams.video[0].average_rate == 16
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert_like(decoded, clip.frames)


def test_vidor_trajectories_are_the_boxes_of_the_masks(dataset):
    chosen, folder = dataset
    for name, clip in chosen.items():
        record = load(folder, f"vidor/{name}.json")
        assert set(record) == {
            "version", "video_id", "video_path", "fps", "frame_count", "width", "height",
            "subject/objects", "trajectories", "relation_instances",
        }  # fmt: skip
        assert {key: record[key] for key in VIDEO} == VIDEO
        assert record["subject/objects"] == [
            {"tid": track.id, "category": track.category} for track in clip.tracks
        ]
        assert len(record["trajectories"]) == len(clip.frames)
        for t, entries in enumerate(record["trajectories"]):
            expected = {
                track.id: box(track.visible[t]) for track in clip.tracks if track.visible[t].any()
            }
            corners = {
                each["tid"]: [each["bbox"][key] for key in ("xmin", "ymin", "xmax", "ymax")]
                for each in entries
            }
            assert corners == expected
            assert all(set(each) == {"tid", "bbox", "generated", "tracker"} for each in entries)
        for each in record["relation_instances"]:
            assert set(each) == {"subject_tid", "object_tid", "predicate", "begin_fid", "end_fid"}
            for tid in (each["subject_tid"], each["object_tid"]):
                when = slice(each["begin_fid"], each["end_fid"])
                assert clip.tracks[tid].visible[when].any((1, 2)).all()


def test_vidstg_raw_records(dataset):
    chosen, folder = dataset
    records = load(folder, "vidstg_raw.json")
    texts = {name: set() for name in chosen}
    for record in records:
        assert set(record) == {
            "vid", "fps", "frame_count", "width", "height", "used_segment", "temporal_gt",
            "subject/objects", "used_relation", "captions", "questions",
        }  # fmt: skip
        assert {key: record[key] for key in VIDEO} == VIDEO
        clip = chosen[record["vid"]]
        assert record["used_segment"] == {"begin_fid": 0, "end_fid": 40}
        target = clip.tracks[record["used_relation"]["subject_tid"]]
        when = slice(record["temporal_gt"]["begin_fid"], record["temporal_gt"]["end_fid"])
        assert target.visible[when].any((1, 2)).all()
        for form, question in (("captions", False), ("questions", True)):
            for each in record[form]:
                assert set(each) == {"description", "type", "target_id"}
                assert each["description"].endswith("?") == question
                assert referents(each["description"], clip.tracks) == [target]
                assert each["target_id"] == target.id
                texts[clip.name].add(each["description"])
    assert texts == {name: {each.text for each in c.expressions} for name, c in chosen.items()}


def test_vidstg_processed_has_a_box_xywh_in_every_frame_of_a_moment(dataset):
    chosen, folder = dataset
    content = load(folder, "vidstg.json")
    assert set(content) == {"videos", "trajectories"}
    assert [video["video_id"] for video in content["videos"]] == list(range(len(content["videos"])))
    for video in content["videos"]:
        assert set(video) == {
            "original_video_id", "video_path", "frame_count", "fps", "width", "height",
            "start_frame", "end_frame", "tube_start_frame", "tube_end_frame", "caption", "type",
            "target_id", "video_id", "qtype",
        }  # fmt: skip
        clip = chosen[video["original_video_id"]]
        assert (folder / "video" / video["video_path"]).is_file()
        assert (video["start_frame"], video["end_frame"]) == (0, 40)
        target = clip.tracks[video["target_id"]]
        assert referents(video["caption"], clip.tracks) == [target]
        assert video["qtype"] == ("interrogative" if "?" in video["caption"] else "declarative")
        boxes = content["trajectories"][clip.name][str(target.id)]
        for t in range(video["tube_start_frame"], video["tube_end_frame"]):
            assert set(boxes[str(t)]) == {"bbox", "generated", "tracker", "category_id"}
            x, y, width, height = boxes[str(t)]["bbox"]
            assert [x, y, x + width, y + height] == box(target.visible[t])


def test_hcstvg_counts_frames_from_one_and_writes_xywh(dataset):
    chosen, folder = dataset
    content = load(folder, "hcstvg_v2.json")
    assert content
    for name, entry in content.items():
        clip = chosen[name.removesuffix(".mp4")]
        assert set(entry) == {
            "bbox", "st_time", "ed_time", "img_num", "English", "img_size", "st_frame",
        }  # fmt: skip
        assert entry["img_size"] == [HEIGHT, WIDTH]
        assert entry["img_num"] == 40
        (target,) = referents(entry["English"], clip.tracks)
        for t, (x, y, width, height) in enumerate(entry["bbox"], start=entry["st_frame"] - 1):
            assert [x, y, x + width, y + height] == box(target.visible[t])
        assert entry["st_time"] == (entry["st_frame"] - 1) / 16
        assert entry["ed_time"] == pytest.approx(entry["st_time"] + len(entry["bbox"]) / 16)


def test_video_instruct_alternates_the_place_of_the_video(dataset):
    chosen, folder = dataset
    items = load(folder, "video_instruct.json")
    wanted = [
        {"q": q, "a": a, "video_id": clip.name}
        for clip in chosen.values()
        for q, a in [(e.question, e.answer) for e in clip.qa]
        + [("Describe the video.", clip.captions[0])]
    ]
    assert items == wanted
    training = load(folder, "video_instruct_train.json")
    for i, (item, each) in enumerate(zip(items, training, strict=True)):
        human, gpt = each["conversations"]
        assert (each["id"], each["video"]) == (item["video_id"], f"{item['video_id']}.pkl")
        assert human["from"] == "human"
        assert (
            human["value"].split("\n")
            == [["<video>", item["q"]], [item["q"], "<video>"]][i % 2 == 0]
        )
        assert gpt == {"from": "gpt", "value": item["a"]}


def test_clips_of_one_name_are_refused(clips, tmp_path):
    with pytest.raises(ValueError, match=clips[0].name):
        write_dataset([clips[0], replace(clips[1], name=clips[0].name)], tmp_path)


# ------------------------------------------------------------------------------- the shipped clips
def test_six_clips_are_shipped():
    assert len(SHIPPED) == 6
    assert sum(path.stat().st_size for path in (DATA / "videos").iterdir()) < 4e6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_clip_is_made_again_and_is_the_video_beside_it(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    clip = replace(make_clip(**record["make_clip"]), name=path.stem)
    assert record["captions"] == clip.captions
    assert record["cuts"] == clip.cuts
    assert record["video_instruct"] == video_instruct(clip)
    kept = record["vidstg"]
    assert [video["caption"] for video in kept["videos"]] == [e.text for e in clip.expressions]
    # Another build of OpenCV may round a pixel of an edge otherwise.
    for track in clip.tracks:
        boxes = kept["trajectories"][path.stem][str(track.id)]
        seen = np.nonzero(track.visible.any((1, 2)))[0]
        assert len(set(map(int, boxes)) ^ set(seen.tolist())) <= 2
        for t in set(map(int, boxes)) & set(seen.tolist()):
            x, y, width, height = boxes[str(t)]["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(box(track.visible[t]), abs=1)
    with av.open(str(path.with_suffix(".mp4"))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert_like(decoded, clip.frames)
    assert 4 <= len(decoded) / clip.fps <= 8
