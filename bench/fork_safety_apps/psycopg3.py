import os

import psycopg


def connect():
    global connection
    connection = psycopg.connect(os.environ["POSTGRES"], autocommit=True)


def answer(token):
    return connection.execute("SELECT %s, pg_sleep(0.005)", [token]).fetchone()[0]


post_fork = connect
if "ADVISED" not in os.environ:
    connect()
    answer("imported")
