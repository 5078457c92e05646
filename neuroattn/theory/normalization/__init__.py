"""What the normaliser of attention does."""
