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
    "pool_by_hand": [
        # each mean along the other axis
        """
def pool_by_hand(features, temporal_tokens):
    temporal, spatial = features.mean(axis=0), features.mean(axis=1)
    padding = np.zeros((temporal_tokens - len(temporal), features.shape[2]))
    return np.concatenate([temporal, padding, spatial])
""",
        # spatial tokens first
        """
def pool_by_hand(features, temporal_tokens):
    padding = np.zeros((temporal_tokens - len(features), features.shape[2]))
    return np.concatenate([features.mean(axis=0), features.mean(axis=1), padding])
""",
        # no padding
        """
def pool_by_hand(features, temporal_tokens):
    return np.concatenate([features.mean(axis=1), features.mean(axis=0)])
""",
        # the last frame repeated in place of zeros
        """
def pool_by_hand(features, temporal_tokens):
    temporal = features.mean(axis=1)
    padding = np.repeat(temporal[-1:], temporal_tokens - len(temporal), axis=0)
    return np.concatenate([temporal, padding, features.mean(axis=0)])
""",
        # padded before the means, so that the spatial tokens fade
        """
def pool_by_hand(features, temporal_tokens):
    padded = np.pad(features, ((0, temporal_tokens - len(features)), (0, 0), (0, 0)))
    return np.concatenate([padded.mean(axis=1), padded.mean(axis=0)])
""",
    ],
    "impostor": [
        # the film in reverse: other temporal tokens
        "def impostor(features): return features.flip(0)",
        # the picture mirrored: other spatial tokens
        "def impostor(features): return features.flip(1)",
        # right within a frame, not across frames
        """
def impostor(features):
    forged = features.clone()
    forged[0, 0] += 1
    forged[0, 1] -= 1
    return forged
""",
        # the film itself
        "def impostor(features): return features.clone()",
        # another film in nothing but rounding
        "def impostor(features): return features * (1 + 1e-6)",
    ],
    "pool_with_direction": [
        # the pooling of the paper
        "def pool_with_direction(features): return torch.cat([features.mean(1), features.mean(0)])",
        # every feature kept
        "def pool_with_direction(features): return features.flatten(0, 1)",
        # first and last frame alone
        "def pool_with_direction(features): return torch.cat([features[0], features[-1]])",
        # even and odd frames: two trails that are alike
        """
def pool_with_direction(features):
    return torch.cat([features[::2].mean(0), features[1::2].mean(0)])
""",
        # a difference, not a mean
        """
def pool_with_direction(features):
    middle = len(features) // 2
    before, after = features[:middle].mean(0), features[middle:].mean(0)
    return torch.cat([features.mean(1), after - before, features.mean(0)])
""",
    ],
    "project": [
        # no bend
        "def project(x, w1, b1, w2, b2): return (x @ w1.T + b1) @ w2.T + b2",
        # the bend at the end
        """
def project(x, w1, b1, w2, b2):
    return torch.nn.functional.gelu((x @ w1.T + b1) @ w2.T + b2)
""",
        # the second matrix as it is stored
        "def project(x, w1, b1, w2, b2): return torch.nn.functional.gelu(x @ w1.T + b1) @ w2 + b2",
        # no biases
        "def project(x, w1, b1, w2, b2): return torch.nn.functional.gelu(x @ w1.T) @ w2.T",
    ],
    "labels": [
        # everything is graded
        "def labels(ids, answers): return list(ids)",
        # the questions are graded in place of the answers
        """
def labels(ids, answers):
    inside = {i for begin, end in answers for i in range(begin, end)}
    return [-100 if i in inside else token for i, token in enumerate(ids)]
""",
        # shifted, which the loss does already
        """
def labels(ids, answers):
    inside = {i for begin, end in answers for i in range(begin - 1, end - 1)}
    return [ids[i + 1] if i in inside else -100 for i in range(len(ids))]
""",
        # ends included
        """
def labels(ids, answers):
    inside = {i for begin, end in answers for i in range(begin, end + 1)}
    return [token if i in inside else -100 for i, token in enumerate(ids)]
""",
    ],
    "reusable": [
        # the whole prompt
        """
def reusable(cached, prompt):
    n = 0
    while n < min(len(cached), len(prompt)) and cached[n] == prompt[n]:
        n += 1
    return n
""",
        # tokens in common, wherever they stand
        "def reusable(cached, prompt): return min(len(set(cached) & set(prompt)), len(prompt) - 1)",
        # every place where the two agree, also behind a difference
        """
def reusable(cached, prompt):
    return min(sum(a == b for a, b in zip(cached, prompt)), len(prompt) - 1)
""",
    ],
    "nucleus": [
        # not rescaled
        """
def nucleus(chances, p):
    order = np.argsort(-chances)
    kept = order[: np.searchsorted(np.cumsum(chances[order]), p - 1e-9) + 1]
    return np.where(np.isin(np.arange(len(chances)), kept), chances, 0)
""",
        # tokens likelier than p
        """
def nucleus(chances, p):
    kept = np.where(chances >= p, chances, 0)
    return kept / max(kept.sum(), 1e-9)
""",
        # stops before p is reached
        """
def nucleus(chances, p):
    order = np.argsort(-chances)
    kept = order[np.cumsum(chances[order]) <= p]
    chosen = np.where(np.isin(np.arange(len(chances)), kept), chances, 0)
    return chosen / max(chosen.sum(), 1e-9)
""",
    ],
    "word_errors": [
        # place by place
        """
def word_errors(truth, heard):
    return sum(a != b for a, b in zip(truth, heard)) + abs(len(truth) - len(heard))
""",
        # as bags of words
        "def word_errors(truth, heard): return len(set(truth) ^ set(heard))",
        # what was put in costs nothing
        """
def word_errors(truth, heard):
    row = list(range(len(heard) + 1))
    for i, true in enumerate(truth, 1):
        diagonal, row[0] = row[0], i
        for j, word in enumerate(heard, 1):
            change = diagonal + (true != word)
            diagonal, row[j] = row[j], min(change, row[j] + 1, row[j - 1])
    return row[-1]
""",
        # nothing can be left out before the first word: the first column stays zero
        """
def word_errors(truth, heard):
    row = list(range(len(heard) + 1))
    for true in truth:
        diagonal = row[0]
        for j, word in enumerate(heard, 1):
            change = diagonal + (true != word)
            diagonal, row[j] = row[j], min(change, row[j] + 1, row[j - 1] + 1)
    return row[-1]
""",
    ],
    "keeps": [
        # the strongest tag alone
        "def keeps(tags): return max(tags, key=tags.get) == 'Speech'",
        # the first three in the order of the dict
        """
def keeps(tags):
    return "Speech" in list(tags)[:3] and tags.get("Music", -np.inf) - tags["Speech"] <= 1.1
""",
        # no rule about music
        "def keeps(tags): return 'Speech' in sorted(tags, key=tags.get, reverse=True)[:3]",
        # a threshold on speech instead of its rank
        """
def keeps(tags):
    speech = tags.get("Speech", -np.inf)
    return speech > 0 and tags.get("Music", -np.inf) - speech <= 1.1
""",
    ],
    "box_of": [
        # the last row and column as the end, as the official code has it
        """
def box_of(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max(), rows.max()
""",
        # rows taken for x
        """
def box_of(mask):
    rows, columns = np.nonzero(mask)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
""",
        # width and height for the second corner
        """
def box_of(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
""",
    ],
    "pair": [
        # the best column of each row: one find for two things
        """
def pair(iou, least):
    return {i: int(row.argmax()) for i, row in enumerate(iou) if row.max() >= least}
""",
        # row after row, so that the first takes what fits the second better
        """
def pair(iou, least):
    pairs = {}
    for i, row in enumerate(iou):
        free = [j for j in np.argsort(-row) if j not in pairs.values() and row[j] >= least]
        if free:
            pairs[i] = int(free[0])
    return pairs
""",
        # pairs that hardly overlap
        """
def pair(iou, least):
    iou, pairs = iou.copy(), {}
    while iou.size and iou.max() > 0:
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        pairs[int(row)] = int(column)
        iou[row], iou[:, column] = -1, -1
    return pairs
""",
    ],
    "iou_xywh": [
        # widths and heights read as right and bottom edges
        """
def iou_xywh(a, b):
    return float(box_iou(a, b))
""",
        # the union taken for the intersection
        """
def iou_xywh(a, b):
    width = max(a[0] + a[2], b[0] + b[2]) - min(a[0], b[0])
    height = max(a[1] + a[3], b[1] + b[3]) - min(a[1], b[1])
    return width * height / (a[2] * a[3] + b[2] * b[3])
""",
        # the shared part counted twice
        """
def iou_xywh(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / (a[2] * a[3] + b[2] * b[3])
""",
        # no clip at zero: boxes apart in both directions share something
        """
def iou_xywh(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)
""",
    ],
    "tube_iou": [
        # sIoU: over the true frames alone
        """
def tube_iou(truth, found):
    return sum(box_iou(truth[t], found[t]) for t in truth.keys() & found.keys()) / len(truth)
""",
        # over the shared frames: a tube of one good frame would be perfect
        """
def tube_iou(truth, found):
    shared = truth.keys() & found.keys()
    return sum(box_iou(truth[t], found[t]) for t in shared) / max(len(shared), 1)
""",
        # the time alone
        """
def tube_iou(truth, found):
    return len(truth.keys() & found.keys()) / len(truth.keys() | found.keys())
""",
    ],
    "same_answer": [
        # punctuation and articles count
        "def same_answer(truth, said): return truth.lower() == said.lower()",
        # articles taken out letter by letter
        """
def same_answer(truth, said):
    def words(text):
        return re.findall(r"\\w+", text.lower().replace("a", "").replace("the", ""))
    return words(truth) == words(said)
""",
        # the truth anywhere in the answer
        """
def same_answer(truth, said):
    def words(text):
        found = re.findall(r"\\w+", text.lower())
        return " ".join(w for w in found if w not in ("a", "an", "the"))
    return words(truth) in words(said)
""",
        # words without their order
        """
def same_answer(truth, said):
    def words(text):
        return set(re.findall(r"\\w+", text.lower())) - {"a", "an", "the"}
    return words(truth) == words(said)
""",
    ],
    "kappa_of": [
        # agreement alone
        """
def kappa_of(first, second):
    return sum(a == b for a, b in zip(first, second)) / len(first)
""",
        # chance taken for one half
        """
def kappa_of(first, second):
    return 2 * sum(a == b for a, b in zip(first, second)) / len(first) - 1
""",
        # by chance both say yes; that both may say no is forgotten
        """
def kappa_of(first, second):
    n = len(first)
    same = sum(a == b for a, b in zip(first, second)) / n
    chance = sum(first) / n * sum(second) / n
    return (same - chance) / (1 - chance)
""",
        # Scott's pi: one pair of dice for both
        """
def kappa_of(first, second):
    n = len(first)
    same = sum(a == b for a, b in zip(first, second)) / n
    yes = (sum(first) + sum(second)) / (2 * n)
    chance = yes**2 + (1 - yes) ** 2
    return (same - chance) / (1 - chance)
""",
    ],
    "verdict_of": [
        # any yes will do
        """
def verdict_of(reply):
    try:
        found = ast.literal_eval(reply.strip())
        return "yes" in found["pred"], float(found["score"])
    except (ValueError, SyntaxError, KeyError, TypeError):
        return None
""",
        # the score loses its decimals
        """
def verdict_of(reply):
    try:
        found = ast.literal_eval(reply.strip())
    except (ValueError, SyntaxError):
        return None
    if not isinstance(found, dict) or set(found) != {"pred", "score"}:
        return None
    if found["pred"] not in ("yes", "no") or type(found["score"]) not in (int, float):
        return None
    return (found["pred"] == "yes", int(found["score"])) if 0 <= found["score"] <= 5 else None
""",
        # no bounds
        """
def verdict_of(reply):
    try:
        found = ast.literal_eval(reply.strip())
    except (ValueError, SyntaxError):
        return None
    if not isinstance(found, dict) or set(found) != {"pred", "score"}:
        return None
    if found["pred"] not in ("yes", "no") or type(found["score"]) not in (int, float):
        return None
    return found["pred"] == "yes", float(found["score"])
""",
        # crashes on what is no Python
        """
def verdict_of(reply):
    found = ast.literal_eval(reply.strip())
    return found["pred"] == "yes", float(found["score"])
""",
    ],
    "two_sided": [
        # one tail
        """
def two_sided(gained, lost):
    import math
    n, least = gained + lost, min(gained, lost)
    return sum(math.comb(n, k) for k in range(least + 1)) / 2**n
""",
        # the one split alone, not those more uneven
        """
def two_sided(gained, lost):
    import math
    n = gained + lost
    return min(1.0, 2 * math.comb(n, gained) / 2**n)
""",
        # the tail of those gained, whichever side is longer
        """
def two_sided(gained, lost):
    import math
    n = gained + lost
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(gained + 1)) / 2**n)
""",
    ],
    "flips": [
        # one-sided
        """
def flips(differences):
    import itertools
    signs = itertools.product((-1, 1), repeat=len(differences))
    means = [np.mean(np.multiply(each, differences)) for each in signs]
    return float(np.mean(np.array(means) >= np.mean(differences) - 1e-12))
""",
        # farther only, so that the true pattern is not one of them
        """
def flips(differences):
    import itertools
    signs = itertools.product((-1, 1), repeat=len(differences))
    means = [abs(np.mean(np.multiply(each, differences))) for each in signs]
    return float(np.mean(np.array(means) > abs(np.mean(differences)) + 1e-12))
""",
    ],
    "changes": [
        # the mean over places: what the whole frame has in common
        "def changes(features): return features - features.mean(1, keepdim=True)",
        # one mean of everything
        "def changes(features): return features - features.mean((0, 1))",
        # from one frame to the next: one frame fewer
        "def changes(features): return features[1:] - features[:-1]",
        # less the first frame
        "def changes(features): return features - features[:1]",
    ],
    "way": [
        # rows taken for columns
        """
def way(maps):
    rows, columns = torch.meshgrid(*map(torch.arange, maps.shape[1:]), indexing="ij")
    total = maps.sum((1, 2))
    x, y = (maps * rows).sum((1, 2)) / total, (maps * columns).sum((1, 2)) / total
    across, down = float(x[-1] - x[0]), float(y[-1] - y[0])
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"
""",
        # rows counted upwards
        """
def way(maps):
    rows, columns = torch.meshgrid(*map(torch.arange, maps.shape[1:]), indexing="ij")
    total = maps.sum((1, 2))
    x, y = (maps * columns).sum((1, 2)) / total, (maps * rows).sum((1, 2)) / total
    across, down = float(x[-1] - x[0]), float(y[-1] - y[0])
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "up" if down > 0 else "down"
""",
        # from the mean over time, as pooling has it
        """
def way(maps):
    row, column = divmod(int(maps.mean(0).argmax()), maps.shape[2])
    across, down = column - maps.shape[2] // 2, row - maps.shape[1] // 2
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"
""",
    ],
    "count_switches": [
        # a gap counted as another number
        """
def count_switches(numbers):
    return sum(a != b for a, b in zip(numbers, numbers[1:]))
""",
        # how many numbers there were, less one
        """
def count_switches(numbers):
    return max(len({n for n in numbers if n >= 0}) - 1, 0)
""",
        # only neighbours that both have a number
        """
def count_switches(numbers):
    return sum(a != b and a >= 0 and b >= 0 for a, b in zip(numbers, numbers[1:]))
""",
    ],
    "paired_difference": [
        # the wrong way round
        """
def paired_difference(first, second):
    d = np.subtract(first, second)
    return d.mean(), d.std(ddof=1) / np.sqrt(len(d))
""",
        # the population's deviation
        """
def paired_difference(first, second):
    d = np.subtract(second, first)
    return d.mean(), d.std() / np.sqrt(len(d))
""",
        # two heaps, not pairs
        """
def paired_difference(first, second):
    spread = np.var(first, ddof=1) / len(first) + np.var(second, ddof=1) / len(second)
    return np.mean(second) - np.mean(first), np.sqrt(spread)
""",
    ],
}
