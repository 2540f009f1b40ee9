from __future__ import annotations

import pytest
from tapetum.backbones.generation import Generation


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_new_tokens": 16}, "written in up to 16 tokens, the likeliest token each time"),
        (
            {"strategy": "beam", "beams": 3, "min_length": 2},
            "written in 2 to 32 tokens, the best of 3 beams, length penalty 1",
        ),
        (
            {"strategy": "nucleus", "top_p": 0.5, "seed": 4, "repetition_penalty": 1.3},
            "written in up to 32 tokens, drawn from the likeliest 0.5 at temperature 1, seed 4, "
            "repetition penalty 1.3",
        ),
    ],
)
def test_how_texts_are_written_is_said_in_words(settings, said):
    assert str(Generation(**settings)) == said
