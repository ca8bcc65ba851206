import pandas

FRAME = pandas.DataFrame({"key": range(1000), "value": range(1000)})


def answer(token):
    return token if FRAME.groupby(FRAME.key % 3).value.sum().sum() == 499500 else "wrong"


answer("imported")
