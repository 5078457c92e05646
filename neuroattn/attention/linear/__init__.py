"""The linear family: a memory of fixed size that is written token by token."""
