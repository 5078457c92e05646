"""The softmax family: weights from pairs of tokens, quadratic in their number unless restricted."""
