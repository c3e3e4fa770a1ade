"""Typical wrong answers to the notebooks' exercises, which their checks have to refuse.

Name of the exercise -> sources of wrong answers, each a definition of that name.
"""

WRONG_ANSWERS: dict[str, list[str]] = {
    "middles": [
        # frames at equal steps from the first: the starts of the stretches
        "def middles(count, n): return [i * count // n for i in range(min(n, count))]",
        # ends included, as linspace does
        "def middles(count, n): return [round(i * (count - 1) / max(n - 1, 1)) for i in range(n)]",
        # right, but repeats frames of a short clip
        """
def middles(count, n):
    step = (count - 1) / n
    return [(round(i * step) + round((i + 1) * step)) // 2 for i in range(n)]
""",
    ],
    "frame_at": [
        # a constant rate, from the first two timestamps
        "def frame_at(timestamps, t): return int(t / (timestamps[1] - timestamps[0]))",
        # the nearest timestamp, which may not be on screen yet
        "def frame_at(timestamps, t): return int(abs(timestamps - t).argmin())",
        # the first frame after the moment
        "def frame_at(timestamps, t): return int((timestamps < t).sum())",
    ],
    "patch_grid": [
        # columns before rows
        """
def patch_grid(height, width, short_side):
    scale = short_side / min(height, width)
    return round(width * scale / 32), round(height * scale / 32)
""",
        # the height taken for the short side
        """
def patch_grid(height, width, short_side):
    return short_side // 32, round(width * short_side / height / 32)
""",
        # rounded up
        """
def patch_grid(height, width, short_side):
    scale = short_side / min(height, width)
    return -(-height * scale // 32), -(-width * scale // 32)
""",
    ],
    "word_map": [
        # not centred
        """
def word_map(features, image_centre, words):
    return torch.einsum("tnd,kd->tkn", normalize(features, dim=-1), words)
""",
        # centred, not normalised
        """
def word_map(features, image_centre, words):
    return torch.einsum("tnd,kd->tkn", features - image_centre, words)
""",
        # normalised over patches instead of numbers
        """
def word_map(features, image_centre, words):
    return torch.einsum("tnd,kd->tkn", normalize(features - image_centre, dim=1), words)
""",
        # words last
        """
def word_map(features, image_centre, words):
    return normalize(features - image_centre, dim=-1) @ words.T
""",
    ],
}
