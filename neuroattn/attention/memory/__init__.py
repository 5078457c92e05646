"""The memory family: associative memories whose read is an attention."""
