"""Check somebody's adversarial examples: their norms, the box, and what a model says of them."""
