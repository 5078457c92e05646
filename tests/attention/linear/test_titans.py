"""x"""

from tests.attention.contract import Example
from tests.attention.linear.test_delta import gate

EXAMPLES = {
    "titans": [
        Example(label="default", lengths=(1, 2, 9, 64)),
        Example(
            lambda s, g: {"beta": gate(s, g), "alpha": gate(s, g), "momentum": gate(s, g)},
            label="tensor",
        ),
        Example(
            lambda s, g: {"beta": 0.5, "alpha": 0.9, "momentum": 0.6, "chunk_size": 16},
            label="number",
            lengths=(1, 15, 16, 17, 65),
        ),
        Example(
            lambda s, g: {
                "beta": gate(s, g, 0, 0.2),
                "alpha": 0.9,
                "momentum": gate(s, g),
                "gradient": "chunk start",
                "chunk_size": 8,
            },
            label="frozen",
            lengths=(1, 7, 8, 9, 65),
        ),
    ]
}
