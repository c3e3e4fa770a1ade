import pytest

from pgvl_core.evaluation.words import read_stm, word_error_rate


@pytest.mark.parametrize(
    ("truth", "heard", "rate"),
    [
        ("It costs twenty dollars.", "it costs $20", 0),  # two words by now: "it costs $20"
        ("The dog barks, the cat sleeps.", "The log barks, cat sleeps!", 2 / 6),
        ("Hello.", "Hello you two", 2),
        ("Somebody speaks", "", 1),
    ],
)
def test_replaced_left_out_and_put_in(truth, heard, rate):
    assert word_error_rate(truth, heard) == pytest.approx(rate)


def test_stm_gives_its_words_alone(tmp_path):
    lines = [";; a comment", "call 1 anna 0.5 1.25 Hello, who is it?", "", "call 1 bob 1.3 2 Me."]
    (tmp_path / "call.stm").write_text("\n".join(lines) + "\n")
    assert read_stm(tmp_path / "call.stm") == "Hello, who is it? Me."
