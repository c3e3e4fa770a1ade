"""How well speech was written down: word error rate, against NIST's form of the truth."""

from pathlib import Path

import jiwer
from whisper.normalizers import EnglishTextNormalizer


def read_stm(path: Path) -> str:
    """The words of an STM file, speakers and times left out.

    A line is: file, channel, speaker, begin, end, words; one that begins with ";" is a comment.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(line.split(None, 5)[5] for line in lines if line and not line.startswith(";"))


def word_error_rate(truth: str, heard: str) -> float:
    """Words replaced, left out and put in, over the number of true words; it can exceed 1.

    Both texts go through Whisper's own normaliser first: case, punctuation, spelling and the way a
    number is written do not count. The count is jiwer's.
    """
    plain = EnglishTextNormalizer()
    return jiwer.wer(plain(truth), plain(heard))
