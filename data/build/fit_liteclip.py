"""Fit LiteCLIP's text map (`make weights`): data/weights/liteclip.safetensors, in a few minutes.

Three kinds of pairs (text, image direction) go into one kernel ridge regression:

- the 1,000 ImageNet class names, and their WordNet definitions, with the trunk's own classifier
  rows; both texts come with timm;
- everyday words that stand above them ("dog", "car", "person"), with the mean row of their classes;
- the names of toyworld's *seen* sprites, with the direction that tells each from the others in
  boxes around it. Unseen and OpenMoji sprites stay out: notebook 01 is measured on them.

A classifier's row tells a class from the others; a mean feature tells what its pictures show, their
backgrounds too. So a sprite's direction is that of linear discriminant analysis: its mean, in boxes
of composites before many backgrounds (`composites`, `scenery`), through the inverse of how features
vary within a name.

Seed 0.
"""

import logging

import numpy as np
import scenery
import torch
from composites import picture
from PIL import Image, ImageOps
from timm.data import ImageNetInfo
from timm.models import EfficientNet
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from pgvl_core import assets, toyworld
from pgvl_core.grounding.detect import crops
from pgvl_core.lite import clip

SEED = 0
PICTURES = 3000  # composites, about 2.5 things each
SHRINK = 2.0  # what is added to each feature's variance, in mean variances
TEMPLATES = ("a photo of a {}", "{}", "a picture of the {}", "a close-up of a {}")

# Words above ImageNet's classes, by class index. ImageNet has no class for a person: what people
# wear stands in for them.
WEARABLES = (
    "834 608 610 578 982 981 983 869 617 474 841 457 906 655 399 400 614 735 568 515 808 667 "
    "842 652 518 411 887 775 601 697 824 837"
)
GROUPS: dict[str, list[int]] = {
    "dog": [*range(151, 269)],
    "wolf": [*range(269, 273)],
    "fox": [*range(277, 281)],
    "cat": [*range(281, 286)],
    "bear": [*range(294, 298)],
    "monkey": [*range(369, 383)],
    "ape": [*range(365, 369)],
    "rabbit": [330, 331, 332],
    "cow": [345, 346],
    "sheep": [348, 349],
    "horse": [339],
    "elephant": [385, 386],
    "whale": [147, 148],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "duck": [97, 98],
    "owl": [24],
    "fish": [0, 1, *range(389, 398)],
    "shark": [2, 3, 4],
    "frog": [30, 31, 32],
    "turtle": [*range(33, 38)],
    "lizard": [*range(38, 49)],
    "snake": [*range(52, 69)],
    "spider": [*range(72, 78)],
    "beetle": [*range(300, 308)],
    "butterfly": [*range(321, 327)],
    "insect": [*range(300, 327)],
    "animal": [*range(151, 300), *range(330, 389)],
    "car": [407, 436, 468, 511, 609, 627, 656, 661, 751, 817],
    "truck": [555, 569, 717, 864, 867, 675],
    "van": [656, 675, 734, 757],
    "bus": [654, 779, 874],
    "bicycle": [444, 671],
    "motorcycle": [665, 670],
    "train": [466, 547, 820],
    "boat": [472, 554, 576, 625, 814, 914],
    "ship": [403, 510, 628],
    "airplane": [404, 895],
    "building": [425, 497, 663, 668, 698, 660, 762, 467, 424],
    "shop": [415, 424, 454, 467, 582, 788, 860],
    "fence": [489, 716, 912],
    "flower": [985, 986],
    "fruit": [*range(948, 958)],
    "mushroom": [*range(991, 998)],
    "ball": [429, 430, 522, 574, 722, 768, 805, 852, 890],
    "shoe": [514, 630, 770, 774],
    "hat": [439, 452, 515, 808],
    "chair": [423, 559, 765],
    "table": [532, 736],
    "mountain": [970, 979, 980],
    "beach": [978, 977],
    "person": [int(index) for index in WEARABLES.split()],
    "man": [834, 608, 982, 457, 906, 652, 617, 667],
    "woman": [578, 655, 399, 601, 689, 614, 735],
}


def name_vectors(sentences: clip.SentenceEncoder, synonyms: list[list[str]]) -> torch.Tensor:
    """One unit text vector ``[K, 384]`` a concept: the mean over its names and `TEMPLATES`."""
    prompts = [t.format(name) for names in synonyms for name in names for t in TEMPLATES]
    vectors = sentences(prompts)
    sizes = [len(names) * len(TEMPLATES) for names in synonyms]
    return normalize(torch.stack([part.mean(0) for part in vectors.split(sizes)]), dim=-1)


def held_out_accuracy(
    text: torch.Tensor,
    directions: torch.Tensor,
    owner: torch.Tensor,
    queries: torch.Tensor,
    image_centre: torch.Tensor,
    splits: int = 10,
    held_out: int = 200,
) -> dict[str, float]:
    """Zero-shot accuracy on `held_out` ImageNet classes that the map was not fitted on.

    The classifier row of a held-out class stands for its images; each of the held-out names is a
    candidate. Mean of `splits` random choices of held-out classes.
    """
    ranks = []
    for split in range(splits):
        generator = torch.Generator().manual_seed(SEED + split)
        test = torch.randperm(len(queries), generator=generator)[:held_out]
        keep = ~torch.isin(owner, test)
        fitted = clip.fit_text_map(text[keep], directions[keep], image_centre)
        scores = directions[test] @ fitted(queries[test]).T
        ranks.append((scores > scores.diagonal()[:, None]).sum(1))
    rank = torch.cat(ranks)
    return {f"top{k}": (rank < k).float().mean().item() for k in (1, 5)}


def composite(sprite: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sprite at a random size and place on a square background, uint8 ``[224, 224, 3]``."""
    picture, side = Image.fromarray(sprite), len(background)
    scale = side * rng.uniform(0.4, 0.95) / max(picture.size)
    picture = picture.resize([max(1, round(edge * scale)) for edge in picture.size])
    canvas = Image.fromarray(background)
    left, top = (int(rng.integers(0, side - edge + 1)) for edge in picture.size)
    canvas.paste(picture, (left, top), picture)
    return np.asarray(canvas)


def sprite_features(
    trunk: EfficientNet, sprites: list[toyworld.Sprite], backgrounds: list[np.ndarray]
) -> torch.Tensor:
    """Mean trunk feature ``[S, 1280]`` of each sprite over all backgrounds.

    All sprites meet the same backgrounds, so that none weighs more in the centre than another.
    """
    rng = np.random.default_rng(SEED)
    means = []
    for sprite in tqdm(sprites, desc="sprites"):
        views = [composite(sprite.image, background, rng) for background in backgrounds]
        pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
        means.append(clip.trunk_map(trunk, pixels).mean(dim=(0, 2, 3)))
    return torch.stack(means)


def boxed(trunk: EfficientNet, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features ``[n, 1280]`` of boxes around sprites, a little off, and which name each shows."""
    pictures = scenery.load()
    features, shown = [], []
    for seed in tqdm(range(PICTURES), desc="boxes"):
        rng = np.random.default_rng([SEED, 2, seed])
        made = picture(rng, pictures)
        sides = np.tile(made.boxes[:, 2:] - made.boxes[:, :2], 2)
        boxes = made.boxes + sides * rng.normal(0, 0.05, made.boxes.shape).clip(-0.12, 0.12)
        height, width = made.image.shape[:2]
        boxes = boxes.clip(0, [width, height, width, height])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 4)
        pixels = torch.from_numpy(crops(made.image, boxes, 0.15)).permute(0, 3, 1, 2)
        features.append(clip.trunk_map(trunk, pixels).mean(dim=(2, 3)))
        shown += [names.index(name) for name in made.names]
    return torch.cat(features), torch.tensor(shown)


def discriminants(features: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Unit directions ``[K, D]`` of K classes by linear discriminant analysis, shrunk."""
    sums = torch.zeros(int(shown.max()) + 1, features.shape[1]).index_add_(0, shown, features)
    means = sums / shown.bincount()[:, None]
    within = features - means[shown]
    covariance = within.T @ within / len(within)
    covariance += SHRINK * covariance.diagonal().mean() * torch.eye(len(covariance))
    return normalize(torch.linalg.solve(covariance, (means - means.mean(0)).T).T, dim=-1)


def background_crops(side: int = 224) -> list[np.ndarray]:
    """The middle square of each training background, uint8 ``[side, side, 3]``."""
    files = sorted((assets.DATA / "backgrounds" / "train").iterdir())
    return [
        np.asarray(ImageOps.fit(Image.open(file).convert("RGB"), (side, side))) for file in files
    ]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    trunk, sentences = clip.load_trunk(), clip.SentenceEncoder()
    rows = trunk.get_classifier().weight.detach()
    rows = normalize(rows - rows.mean(0), dim=-1)

    info = ImageNetInfo("imagenet-1k")
    classes = range(len(rows))
    synonyms = [info.index_to_description(i).split(", ") for i in classes]
    # "tench, Tinca tinca: freshwater fish of ..." -> what stands behind the names
    details = [info.index_to_description(i, detailed=True).split(": ", 1)[-1] for i in classes]
    text = torch.cat([name_vectors(sentences, synonyms), normalize(sentences(details), dim=-1)])
    directions = torch.cat([rows, rows])

    backgrounds = background_crops()
    seen = [sprite for sprite in toyworld.atlas() if sprite.split == "seen"]
    features = sprite_features(trunk, seen, backgrounds)
    empty = clip.trunk_map(trunk, torch.from_numpy(np.stack(backgrounds)).permute(0, 3, 1, 2))
    image_centre = torch.cat([features, empty.mean(dim=(2, 3))]).mean(0)

    queries = sentences([f"a photo of a {names[0]}" for names in synonyms])
    owner = torch.tensor([*classes, *classes])
    accuracy = held_out_accuracy(text, directions, owner, queries, image_centre)
    logging.info("200 ImageNet classes held out of the fit: %s", accuracy)

    names = sorted({sprite.name for sprite in seen})
    groups = torch.stack([rows[members].mean(0) for members in GROUPS.values()])
    extra = name_vectors(sentences, [[word] for word in [*GROUPS, *names]])
    fitted = clip.fit_text_map(
        torch.cat([text, extra]),
        torch.cat([directions, normalize(groups, dim=-1), discriminants(*boxed(trunk, names))]),
        image_centre,
    )
    clip.TEXT_MAP.parent.mkdir(exist_ok=True)
    fitted.save(clip.TEXT_MAP)
    size = clip.TEXT_MAP.stat().st_size / 2**20
    logging.info("wrote %s: %d anchors, %.1f MB", clip.TEXT_MAP.name, len(fitted.anchors), size)


if __name__ == "__main__":
    main()
