"""What is told of a conversion: the parity report, its page, explanations, differences."""
