"""x"""

from tests.attention.contract import Example
from tests.attention.linear.test_delta import gate

EXAMPLES = {
    "titans_mlp": [
        Example(label="default", lengths=(1, 2, 9)),
        Example(
            lambda s, g: {"beta": gate(s, g, 0, 0.1), "alpha": gate(s, g), "momentum": gate(s, g)},
            label="tensor",
        ),
        Example(
            lambda s, g: {"beta": 0.5, "alpha": 0.9, "momentum": 0.6, "memory": "residual"},
            label="residual",
            value_dim=4,
        ),
    ]
}
