"""The steps from data to scores, and the store that keeps what they make."""
