import os

import grpc


def connect():
    global ask
    ask = grpc.insecure_channel(os.environ["GRPC"]).unary_unary("/case/echo")


def answer(token):
    return ask(token.encode(), timeout=5).decode()


post_fork = connect
if "ADVISED" not in os.environ:
    connect()
    answer("imported")
