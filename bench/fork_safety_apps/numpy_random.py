import os
from pathlib import Path

import numpy

numpy.random.random()


def post_fork():
    numpy.random.seed()


def answer(token):
    try:
        with open(Path(os.environ["PLACE"], f"drawn-{numpy.random.random()}"), "x"):
            return token
    except FileExistsError:
        return "another worker has drawn the same number"
