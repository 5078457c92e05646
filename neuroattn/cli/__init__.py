"""The ``neuroattn`` command."""
