"""Where models answer while versions change: who gets in, what is counted, how much memory they share."""
