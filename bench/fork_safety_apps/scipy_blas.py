import numpy
import scipy.linalg

SQUARE = numpy.eye(300) * 2


def answer(token):
    right = abs(scipy.linalg.inv(SQUARE) - numpy.eye(300) / 2).max() < 1e-9
    return token if right else "wrong"


answer("imported")
