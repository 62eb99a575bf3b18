"""How a model runs best on this device: measuring, choosing, preparing, remembering."""
