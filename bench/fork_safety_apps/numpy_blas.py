import numpy

SQUARE = numpy.ones((400, 400))


def answer(token):
    return token if (SQUARE @ SQUARE == 400).all() else "wrong"


answer("imported")
