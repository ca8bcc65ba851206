"""Two example apps whose releases differ in what they do wrong: `bench/releases.py` rolls them
out."""

ITEMS = 2000
