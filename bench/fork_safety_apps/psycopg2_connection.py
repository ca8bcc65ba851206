import os

import psycopg2


def connect():
    global connection
    connection = psycopg2.connect(os.environ["POSTGRES"])
    connection.autocommit = True


def answer(token):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s, pg_sleep(0.005)", [token])
        return cursor.fetchone()[0]


post_fork = connect
if "ADVISED" not in os.environ:
    connect()
    answer("imported")
