"""Typical wrong answers to the notebooks' exercises, which their checks have to refuse.

Name of the exercise -> sources of wrong answers, each a definition of that name.
"""

WRONG_ANSWERS: dict[str, list[str]] = {}
