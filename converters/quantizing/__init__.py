"""From a recipe to an int8 model: ranges, quantization, where the noise comes in, what saturates."""
