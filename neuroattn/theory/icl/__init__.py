"""In-context linear regression by softmax attention."""
