"""How good a model is: run, measured, held against the reference and the budget."""
