"""The figures and tables of the paper: numbers, drawing and notebooks."""
