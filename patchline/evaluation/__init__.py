"""How good the judgement is."""
