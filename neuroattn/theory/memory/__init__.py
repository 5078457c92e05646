"""Memory that learns at test time: Titans and Miras."""
