"""How many examples a layer of attention can memorise."""
